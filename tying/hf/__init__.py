"""Layer tying for the models of transformers: bind, train, save, load, resume."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tying.hf.bind import share_modules as share_modules
    from tying.hf.bind import tie as tie
    from tying.hf.bind import untied as untied
    from tying.hf.callback import TyingCallback as TyingCallback
    from tying.hf.export import from_transformers as from_transformers
    from tying.hf.export import to_transformers as to_transformers
    from tying.hf.removal import remove_layers as remove_layers
    from tying.hf.saving import from_pretrained as from_pretrained
    from tying.hf.stacks import Stack as Stack
    from tying.hf.stacks import find_stacks as find_stacks

__all__ = [
    "Stack",
    "TyingCallback",
    "find_stacks",
    "from_pretrained",
    "from_transformers",
    "remove_layers",
    "share_modules",
    "tie",
    "to_transformers",
    "untied",
]

# Imported when they are asked for: settings are read without torch, and transformers.Trainer takes seconds.
_LAZY = {
    "Stack": "stacks",
    "TyingCallback": "callback",
    "find_stacks": "stacks",
    "from_pretrained": "saving",
    "from_transformers": "export",
    "remove_layers": "removal",
    "share_modules": "bind",
    "tie": "bind",
    "to_transformers": "export",
    "untied": "bind",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_LAZY[name]}"), name)
