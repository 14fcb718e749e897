"""Figures about layers, and about the memory that training takes."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from tying.binding import LayerBinding


def gradient_norms(binding: LayerBinding) -> tuple[float, ...]:
    """Return the norm of every layer's shared gradient as it stands now (tied layers have one gradient in common)."""
    norms = {
        root: _norm([p.grad for p in binding.weights_of(root) if p.grad is not None]) for root in binding.pointers.roots
    }
    return tuple(norms[root] for root in binding.pointers)


def similarities(binding: LayerBinding) -> tuple[float, ...]:
    """Return the cosine of every layer's weight matrices with the layer before: 1 when the two are tied, 0 for layer 0."""
    pointers = binding.pointers
    flat = {
        root: torch.cat([p.detach().flatten() for p in binding.weights_of(root) if p.dim() >= 2] or [torch.zeros(1)])
        for root in pointers.roots
    }
    values = [0.0]
    for layer in range(1, len(pointers)):
        here, before = pointers[layer], pointers[layer - 1]
        cosine = 1.0 if here == before else float(torch.cosine_similarity(flat[here], flat[before], dim=0))
        values.append(cosine)
    return tuple(values)


def training_bytes(parameters: Iterable[nn.Parameter], optimizer: torch.optim.Optimizer) -> int:
    """Return the bytes of parameters, their gradients and their optimizer moments that exist now.

    Only tensors as large as their parameter count as moments: AdamW's step counters, 4 bytes a tensor, do not.
    """
    total = 0
    for parameter in {id(p): p for p in parameters}.values():
        total += _bytes(parameter)
        total += _bytes(parameter.grad) if parameter.grad is not None else 0
    for owner, state in optimizer.state.items():
        total += sum(_bytes(v) for v in state.values() if isinstance(v, Tensor) and v.shape == owner.shape)
    return total


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _norm(tensors: list[Tensor]) -> float:
    return float(torch.nn.utils.get_total_norm(tensors)) if tensors else 0.0
