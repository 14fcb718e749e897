"""Figures about layers, and about the memory that training takes.

What a *position* contributes to a gradient is the gradient of the loss with respect to the weights that one layer uses,
as if no other layer used them. The gradient of a group is the sum over its positions. L layers.
"""

import math
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn

from tying.binding import LayerBinding
from tying.pointers import Pointers

_PIECE = 2**16  # numbers: little beside a layer that is large, and whole matrices of one that is small


def gradient_norms(binding: LayerBinding) -> tuple[float, ...]:
    """Return the norm of every layer's shared gradient as it stands now (tied layers have one gradient in common)."""
    norms = {
        root: _norm([p.grad for p in binding.weights_of(root) if p.grad is not None]) for root in binding.pointers.roots
    }
    return tuple(norms[root] for root in binding.pointers)


def similarities(binding: LayerBinding) -> tuple[float, ...]:
    """Return the cosine of every layer's weight matrices with the layer before: 1 when the two are tied, 0 for layer 0."""
    pointers = binding.pointers
    pieces = {root: _pieces(p.detach() for p in binding.weights_of(root) if p.dim() >= 2) for root in pointers.roots}
    # Bit by bit torch.cosine_similarity of two layers, each in one row, with one row for all of them.
    row = torch.cat(pieces[0])
    norms = {
        root: torch.linalg.vector_norm(torch.cat(own, out=row), dim=0, keepdim=True).clamp_(min=1e-8)
        for root, own in pieces.items()
    }
    parts = row.split([len(piece) for piece in pieces[0]])
    values = [0.0]
    for here, before in zip(pointers[1:], pointers, strict=False):
        if here == before:
            values.append(1.0)
            continue
        for part, one, other in zip(parts, pieces[here], pieces[before], strict=True):
            torch.div(one, norms[here], out=part).mul_(other / norms[before])
        values.append(float(row.sum()))
    return tuple(values)


def _pieces(matrices: Iterable[Tensor]) -> list[Tensor]:
    """Return the numbers of matrices in views of at most `_PIECE`, for what is computed from them to be small."""
    return [piece for matrix in matrices for piece in matrix.flatten().split(_PIECE)] or [torch.zeros(1)]


def position_gradients(binding: LayerBinding, loss: Callable[[], Tensor]) -> list[list[Tensor]]:
    """Return what every position contributes to the gradient of a loss, whatever the tying and the `gradient` option.

    No `.grad`, parameter or optimizer state is touched.

    Args:
        binding: Of the model.
        loss: Computes the loss, with its graph; draws no random numbers.

    Returns:
        Per layer, a gradient for each of its shared parameters that train.
    """
    with binding.separated() as leaves:
        trained = [[leaf for leaf in own if leaf.requires_grad] for own in leaves]
        flat = [leaf for own in trained for leaf in own]
        found = torch.autograd.grad(loss(), flat, allow_unused=True, materialize_grads=True) if flat else ()
    gradients = iter(found)
    return [[next(gradients) for _ in own] for own in trained]


def inner_products(gradients: Sequence[Sequence[Tensor]]) -> Tensor:
    """Return the inner products of all pairs of positions, (L, L) float64 on the CPU: all that cosines need to know."""
    products = torch.zeros(len(gradients), len(gradients), dtype=torch.float64)
    for tensors in zip(*gradients, strict=True):
        rows = torch.stack([tensor.flatten() for tensor in tensors])  # (L, parameters)
        products += (rows @ rows.T).cpu().double()
    return products


def gradient_similarities(products: Tensor) -> tuple[float, ...]:
    """Return the cosine of every position's gradient with that of the layer before; 0 for layer 0.

    Args:
        products: From `inner_products`.
    """
    eye = torch.eye(len(products), dtype=products.dtype)
    return (0.0, *(_cosine(products, eye[layer], eye[layer - 1]) for layer in range(1, len(products))))


def agreements(products: Tensor, pointers: Pointers) -> tuple[float, ...]:
    """Return the cosine of every position's gradient with the sum of the others in its group; 1 for a layer alone.

    Positions that disagree pull their common weights apart: share, then unshare those (Yang et al. 2021, arXiv
    2110.03848).

    Args:
        products: From `inner_products`.
        pointers: The tying in force.
    """
    eye = torch.eye(len(products), dtype=products.dtype)
    groups = [list(pointers.others(layer)) for layer in range(len(pointers))]
    return tuple(
        _cosine(products, eye[layer], eye[others].sum(dim=0)) if others else 1.0 for layer, others in enumerate(groups)
    )


def _cosine(products: Tensor, left: Tensor, right: Tensor) -> float:
    """Return the cosine of two weighted sums of positions; 0 where there is none, as of a gradient that is 0."""
    lengths = (left @ products @ left) * (right @ products @ right)
    cosine = float(left @ products @ right) / max(float(lengths), 0.0) ** 0.5 if lengths > 0 else 0.0
    return min(1.0, max(-1.0, cosine)) if math.isfinite(cosine) else 0.0


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
