"""Layer tying for the models of transformers: bind, train, save, load, resume."""

from typing import Any

from tying.hf.bind import share_modules, tie, untied
from tying.hf.saving import from_pretrained
from tying.hf.stacks import Stack, find_stacks

__all__ = ["Stack", "TyingCallback", "find_stacks", "from_pretrained", "share_modules", "tie", "untied"]


def __getattr__(name: str) -> Any:
    # Importing transformers.Trainer takes seconds, which only those who train with it should wait for.
    if name == "TyingCallback":
        from tying.hf.callback import TyingCallback

        return TyingCallback
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
