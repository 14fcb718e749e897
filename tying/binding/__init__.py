"""The one primitive: blocks that obey a Pointers value, and the optimizers with them. Needs torch and nothing else."""

from tying.binding.deltas import Deltas
from tying.binding.layer_binding import GRADIENTS, LayerBinding, bindings_of, unroll

__all__ = ["GRADIENTS", "Deltas", "LayerBinding", "bindings_of", "unroll"]
