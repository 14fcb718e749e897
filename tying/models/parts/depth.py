"""A signal that tells positions apart whose weights are tied: it belongs to the position and never follows pointers.

Shapes: B batch, T tokens, C width.
"""

import math

import torch
from torch import Tensor, nn

STD = 0.02  # of embeddings at the start


class DepthEmbedding(nn.Module):
    """A vector added to a block's input (Dehghani et al. 2019, arXiv 1807.03819).

    Attributes:
        per_position: It stays with its layer; see `tying.binding.sharing`.

    Args:
        kind: "learned", or "sinusoid": sin(t / 10000^(2j/C)) for feature 2j and the cosine for 2j + 1, t from 1.
        position: Number of the block, from 0.
        width: C.
        std: Of the block's input at the start. The sinusoid's root mean square is the same: the paper's, 0.7, is made for
            embeddings of variance 1 and would drown smaller ones.
    """

    per_position = True
    vector: Tensor

    def __init__(self, kind: str, position: int, width: int, std: float) -> None:
        super().__init__()
        self.position, self.std = position, std
        if kind == "learned":
            self.vector = nn.Parameter(torch.empty(1, width))
        else:  # a tensor and no number, so that a compiled block serves all positions
            self.register_buffer("vector", torch.empty(1, width), persistent=False)

    @torch.no_grad()
    def start(self) -> None:
        """Compute the sinusoid; a learned vector is drawn like any other table."""
        if isinstance(self.vector, nn.Parameter):
            return
        width = self.vector.shape[1]
        pairs = torch.arange(width) // 2
        angles = (self.position + 1) / 10_000 ** (2 * pairs / width)
        signal = torch.where(torch.arange(width) % 2 == 0, angles.sin(), angles.cos())
        self.vector.copy_(math.sqrt(2) * self.std * signal)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, C) -> (B, T, C)."""
        return x + self.vector
