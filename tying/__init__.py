"""Layer tying: pointers between the layers of a Transformer, rebound while it trains."""

from tying import strategies
from tying.binding import LayerBinding
from tying.errors import DivergenceError, InputError
from tying.pointers import Pointers
from tying.trainer import Trainer

__all__ = ["DivergenceError", "InputError", "LayerBinding", "Pointers", "Trainer", "strategies"]
