"""Norms that torch has not, or not in every precision."""

import torch.nn.functional as F
from torch import Tensor, nn


class RMSNorm(nn.RMSNorm):
    """Division by the root mean square, and a gain (Zhang & Sennrich 2019, arXiv 1910.07467); in the gain's precision.

    Args:
        size: Features.
        eps: Added to the mean square.
    """

    def __init__(self, size: int, eps: float = 1e-6) -> None:
        super().__init__(size, eps)

    def forward(self, x: Tensor) -> Tensor:
        """(..., size) -> (..., size), of the precision of what comes in."""
        return F.rms_norm(x.to(self.weight.dtype), self.normalized_shape, self.weight, self.eps).to(x.dtype)
