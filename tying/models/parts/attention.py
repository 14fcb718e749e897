"""Multi-head self-attention, as every architecture here has it.

Shapes: B batch, T tokens, C width, H heads, K heads of keys and values, D = C/H features per head.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tying.models.parts.cache import KeysValues
from tying.models.parts.norms import RMSNorm
from tying.models.parts.positions import rotate


class Attention(nn.Module):
    """Self-attention.

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
        matrices: "one" for queries, keys and values; "two": keys and values have their own; "queries": there are no others,
            and `forward` is given keys and values.
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
        matrices: Literal["one", "two", "queries"] = "one",
    ) -> None:
        super().__init__()
        self.num_heads, self.num_kv_heads = num_heads, num_kv_heads or num_heads
        self.head_size = width // num_heads
        self.dropout = dropout
        self.causal = causal
        kv_width = 2 * self.num_kv_heads * self.head_size
        if matrices == "one":
            self.qkv = nn.Linear(width, width + kv_width, bias=bias)
        else:
            self.q = nn.Linear(width, width, bias=bias)
        if matrices == "two":
            self.kv = nn.Linear(width, kv_width, bias=bias)
        self.matrices = matrices
        self.proj = nn.Linear(width, width, bias=bias)
        self.q_norm = RMSNorm(self.head_size) if qk_norm else None
        self.k_norm = RMSNorm(self.head_size) if qk_norm and matrices != "queries" else None

    def keys_values(self, x: Tensor, rotary: Tensor | None, before: KeysValues) -> KeysValues:
        """Return the keys and values that `forward` is to read, of S tokens: (B, K, S, D) each.

        Args:
            x: Hidden states, (B, T, C).
            rotary: As for `forward`.
            before: Those of earlier tokens, empty where there are none; with matrices="queries", those of all tokens.
        """
        if self.matrices == "queries":
            return before
        made = self.kv(x) if self.matrices == "two" else F.linear(x, *_rows(self.qkv, slice(x.shape[2], None)))
        k, v = made.chunk(2, dim=2)
        new = self._heads(k, self.k_norm, rotary), self._heads(v)
        return tuple(torch.cat(parts, dim=2) for parts in zip(before, new, strict=True)) if before else new

    def forward(
        self, x: Tensor, rotary: Tensor | None = None, mask: Tensor | None = None, kv: KeysValues | None = None
    ) -> Tensor:
        """(B, T, C) -> (B, T, C).

        Args:
            x: Hidden states.
            rotary: From `rotary_table`; queries and keys are turned by it.
            mask: Added to the scores, or True where a key may be seen: of a shape that fits (B, H, T, T), in place of the
                causal one.
            kv: From `keys_values`, of S >= T tokens, of which the last T are those of x; None: they are made here.
        """
        batch, tokens, width = x.shape
        if kv is None:
            sizes = [heads * self.head_size for heads in (self.num_heads, self.num_kv_heads, self.num_kv_heads)]
            q, k, v = self.qkv(x).split(sizes, dim=2)
            k, v = self._heads(k, self.k_norm, rotary), self._heads(v)
        else:
            q = F.linear(x, *_rows(self.qkv, slice(width))) if self.matrices == "one" else self.q(x)
            k, v = kv
        q = self._heads(q, self.q_norm, rotary)
        causal = self.causal and mask is None and tokens > 1  # the newest token alone sees all
        if causal and k.shape[2] > tokens:
            mask = torch.ones(tokens, k.shape[2], dtype=torch.bool, device=x.device).tril(k.shape[2] - tokens)
        y = F.scaled_dot_product_attention(
            q,
            k,
            v,
            mask,
            dropout_p=self.dropout if self.training else 0.0,
            is_causal=causal and mask is None,
            enable_gqa=self.num_kv_heads != self.num_heads,
        )
        return F.dropout(self.proj(y.transpose(1, 2).reshape(batch, tokens, width)), self.dropout, self.training)

    def _heads(self, x: Tensor, norm: RMSNorm | None = None, rotary: Tensor | None = None) -> Tensor:
        """(B, T, heads x D) -> (B, heads, T, D), normed and turned."""
        x = x.view(*x.shape[:2], -1, self.head_size).transpose(1, 2)
        x = x if norm is None else norm(x)
        return x if rotary is None else rotate(x, rotary)


def _rows(linear: nn.Linear, rows: slice) -> tuple[Tensor, Tensor | None]:
    """Return a part of a layer's outputs: its weight and its bias."""
    return linear.weight[rows], None if linear.bias is None else linear.bias[rows]
