"""Compiled blocks."""

import secrets
from collections.abc import Sequence

import torch
from torch import nn

from tying.errors import InputError


def compile_blocks(blocks: Sequence[nn.Module], device: torch.device) -> None:
    """Compile each block's forward.

    The blocks run the same code, so one graph serves them all, and pointers are no part of it: rebinding never
    recompiles. Hooks (LayerBinding's "root_only") stay outside the graph.

    Raises:
        InputError: If nothing can be compiled for the device.
    """
    _require_compiler(device)
    for block in blocks:
        block.forward = torch.compile(block.forward)


def compile_loss(model: nn.Module) -> None:
    """Compile the cross-entropy of a model of `tying.models`: a GPU then keeps no float32 copy of all logits."""
    compute = getattr(model, "cross_entropy", None)
    if compute is not None:
        model.cross_entropy = torch.compile(compute)  # type: ignore[assignment]


def _require_compiler(device: torch.device) -> None:
    """Compile something small and new, so that a missing compiler is known before anything else is done.

    Raises:
        InputError: If that fails.
    """
    number = secrets.randbits(24)  # otherwise a cache could answer
    try:
        torch.compile(lambda x: x * 2 + number)(torch.zeros(8, device=device))
    except Exception as error:  # every backend raises its own types
        reason = next((line for line in str(error).splitlines() if line.strip()), "")
        raise InputError(
            f"trainer.compile: nothing can be compiled for {device} here ({type(error).__name__}: {reason}): install a "
            "compiler, or leave out --trainer.compile"
        ) from error
