"""Cross-entropy in chunks of rows, with a backward pass of its own.

F.cross_entropy keeps three tables of (N, V) float32 (logits, their log-softmax, the gradient), fills the last with zeros
first, and walks over all of them. Here the forward pass writes the gradient at once, chunk by chunk while that is in the
processor's cache: half of the time on a CPU, and two tables. Loss and gradient are those of the formula, computed in
another order: the last bits differ.

N predictions, V vocabulary.
"""

from typing import Any

import torch
from torch import Tensor

_CHUNK = 2**19  # numbers: 2 MB of float32
_SMALLEST = 1e-30  # probabilities below have lost digits


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the mean negative log-likelihood: (N, V) of any float type, (N,) int64 -> scalar, float32 or wider.

    There is a first derivative with respect to the logits, and none of higher order.
    """
    loss: Tensor = _CrossEntropy.apply(logits, targets, torch.is_grad_enabled() and logits.requires_grad)
    return loss


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor, with_gradient: bool) -> Tensor:
        num_rows, rows = len(logits), max(1, _CHUNK // logits.shape[1])
        gradient = torch.empty_like(logits) if with_gradient else None
        total = torch.zeros((), dtype=torch.promote_types(logits.dtype, torch.float32), device=logits.device)
        for start in range(0, num_rows, rows):
            piece, own = logits[start : start + rows], targets[start : start + rows, None]
            probs = torch.softmax(piece, dim=1, dtype=total.dtype)
            total -= _log_probs(piece, probs, own).sum()
            if gradient is not None:  # (softmax - one-hot) / N
                probs.mul_(1 / num_rows).scatter_add_(1, own, probs.new_full((1, 1), -1 / num_rows).expand_as(own))
                gradient[start : start + rows] = probs
        if gradient is not None:
            ctx.save_for_backward(gradient)
        return total / num_rows

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, outer: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        if outer.device.type == "cpu" and float(outer) == 1:
            return gradient, None, None
        return gradient * outer.to(gradient.dtype), None, None


def _log_probs(logits: Tensor, probs: Tensor, targets: Tensor) -> Tensor:
    """Return the logarithms of the targets' probabilities, (N, 1)."""
    own = probs.gather(1, targets)
    if own.device.type == "cpu" and float(own.min()) > _SMALLEST:
        return own.log()
    top = logits.argmax(dim=1, keepdim=True)
    offset = probs.gather(1, top).log() - logits.gather(1, top)  # minus the log of the sum of exponentials
    return logits.gather(1, targets) + offset
