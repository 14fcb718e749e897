"""Multi-head self-attention, as every architecture here has it.

Shapes: B batch, T tokens, C width, H heads, K heads of keys and values, D = C/H features per head.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from tying.models.parts.norms import RMSNorm
from tying.models.parts.positions import rotate


class Attention(nn.Module):
    """Self-attention whose queries, keys and values are one matrix.

    Args:
        width: C.
        num_heads: H, which divides C.
        num_kv_heads: K, which divides H: each head of keys and values serves H/K heads of queries (Ainslie et al. 2023,
            arXiv 2305.13245); None for H.
        bias: Whether the linear layers have one.
        dropout: Share of attention weights and of outputs that is dropped while training.
        causal: Whether a token sees itself and earlier ones alone.
        qk_norm: Whether queries and keys are normed per head before they are turned (Henry et al. 2020, arXiv 2010.04245),
            with a gain per feature, as in Qwen3.
    """

    def __init__(
        self,
        width: int,
        num_heads: int,
        num_kv_heads: int | None = None,
        *,
        bias: bool,
        dropout: float,
        causal: bool,
        qk_norm: bool = False,
    ) -> None:
        super().__init__()
        self.num_heads, self.num_kv_heads = num_heads, num_kv_heads or num_heads
        self.head_size = width // num_heads
        self.dropout = dropout
        self.causal = causal
        self.qkv = nn.Linear(width, (num_heads + 2 * self.num_kv_heads) * self.head_size, bias=bias)
        self.proj = nn.Linear(width, width, bias=bias)
        self.q_norm = RMSNorm(self.head_size) if qk_norm else None
        self.k_norm = RMSNorm(self.head_size) if qk_norm else None

    def forward(self, x: Tensor, rotary: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """(B, T, C) -> (B, T, C).

        Args:
            x: Hidden states.
            rotary: From `rotary_table`; queries and keys are turned by it.
            mask: Added to the scores, or True where a key may be seen: of a shape that fits (B, H, T, T), in place of the
                causal one.
        """
        batch, tokens, width = x.shape
        sizes = [heads * self.head_size for heads in (self.num_heads, self.num_kv_heads, self.num_kv_heads)]
        q, k, v = (
            part.view(batch, tokens, -1, self.head_size).transpose(1, 2)  # (B, H or K, T, D)
            for part in self.qkv(x).split(sizes, dim=2)
        )
        if self.q_norm is not None and self.k_norm is not None:
            q, k = self.q_norm(q), self.k_norm(k)
        if rotary is not None:
            q, k = rotate(q, rotary), rotate(k, rotary)
        y = F.scaled_dot_product_attention(
            q,
            k,
            v,
            mask,
            dropout_p=self.dropout if self.training else 0.0,
            is_causal=self.causal and mask is None,
            enable_gqa=self.num_kv_heads != self.num_heads,
        )
        return F.dropout(self.proj(y.transpose(1, 2).reshape(batch, tokens, width)), self.dropout, self.training)
