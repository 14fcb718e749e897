"""The part of a block that works on every token alone.

Shapes: B batch, T tokens, C width, F inner width.
"""

import torch.nn.functional as F
from torch import Tensor, nn


class FeedForward(nn.Module):
    """Two linear layers with GELU between them.

    Args:
        width: C.
        bias: Whether the linear layers have one.
        dropout: Share of the outputs that is dropped while training.
        hidden: F; None for 4 C.
    """

    def __init__(self, width: int, *, bias: bool, dropout: float, hidden: int | None = None) -> None:
        super().__init__()
        self.dropout = dropout
        self.up = nn.Linear(width, hidden or 4 * width, bias=bias)
        self.down = nn.Linear(hidden or 4 * width, width, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, C) -> (B, T, C)."""
        # The exact GELU: on CPUs its backward pass is three times as fast as that of GPT-2's tanh approximation.
        return F.dropout(self.down(F.gelu(self.up(x))), self.dropout, self.training)


class GatedFeedForward(nn.Module):
    """SwiGLU: two linear layers, one of which gates the other through SiLU, and a third (Shazeer 2020, arXiv 2002.05202).

    Args:
        width: C.
        hidden: F.
        dropout: Share of the outputs that is dropped while training.
    """

    def __init__(self, width: int, hidden: int, *, dropout: float) -> None:
        super().__init__()
        self.dropout = dropout
        self.gate = nn.Linear(width, hidden, bias=False)
        self.up = nn.Linear(width, hidden, bias=False)
        self.down = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, C) -> (B, T, C)."""
        return F.dropout(self.down(F.silu(self.gate(x)) * self.up(x)), self.dropout, self.training)
