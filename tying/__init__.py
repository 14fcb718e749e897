"""Layer tying: pointers between the layers of a Transformer, rebound while it trains."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from tying import strategies
from tying.errors import DivergenceError, InputError
from tying.pointers import Pointers

if TYPE_CHECKING:
    from tying.binding import LayerBinding as LayerBinding
    from tying.training.trainer import Trainer as Trainer

__version__ = "0.2.0"
__all__ = ["DivergenceError", "InputError", "LayerBinding", "Pointers", "Trainer", "strategies"]

# Imported when they are asked for: command lines answer before torch is there.
_LAZY = {"LayerBinding": "tying.binding", "Trainer": "tying.training.trainer"}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'tying' has no attribute {name!r}")
    return getattr(import_module(_LAZY[name]), name)
