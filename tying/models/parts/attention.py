"""Multi-head self-attention, as every architecture here has it.

Shapes: B batch, T tokens, C width, H heads, K heads of keys and values, D = C/H features per head.
"""

import math
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tying.models.parts.cache import Read
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
            and `forward` is given keys and values. Of a MapAttention: "map", or "values" alone.
    """

    # Those that there are, by `matrices`, with the heads of queries and of keys and values that they make.
    _MATRICES: ClassVar = {
        "one": {"qkv": (1, 2)},
        "two": {"q": (1, 0), "kv": (0, 2)},
        "queries": {"q": (1, 0)},
        "map": {"qk": (1, 1), "v": (0, 1)},
        "values": {"v": (0, 1)},
    }
    qkv: nn.Linear
    q: nn.Linear
    kv: nn.Linear
    qk: nn.Linear
    v: nn.Linear

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
        matrices: Literal["one", "two", "queries", "map", "values"] = "one",
    ) -> None:
        super().__init__()
        self.num_heads, self.num_kv_heads = num_heads, num_kv_heads or num_heads
        self.head_size = width // num_heads
        self.dropout = dropout
        self.causal = causal
        self.matrices = matrices
        for name, (queries, others) in self._MATRICES[matrices].items():
            heads = queries * num_heads + others * self.num_kv_heads
            self.add_module(name, nn.Linear(width, heads * self.head_size, bias=bias))
        self.proj = nn.Linear(width, width, bias=bias)
        self.q_norm = RMSNorm(self.head_size) if qk_norm and matrices != "values" else None
        self.k_norm = RMSNorm(self.head_size) if qk_norm and matrices not in ("queries", "values") else None

    def read(self, x: Tensor, rotary: Tensor | None, mask: Tensor | None, before: Read, reads: bool = False) -> Read:
        """Return what `forward` is to read: keys and values of S >= T tokens, (B, K, S, D) each.

        Args:
            x: Hidden states of the last T of them, (B, T, C).
            rotary: As for `forward`.
            mask: As for `forward`.
            before: Those of earlier tokens, empty where there are none.
            reads: Whether another position made what this one reads, whatever matrices it has: `before` is of all tokens.
        """
        if reads:
            return before
        made = self.kv(x) if self.matrices == "two" else F.linear(x, *_rows(self.qkv, slice(x.shape[2], None)))
        k, v = made.chunk(2, dim=2)
        new = self._heads(k, self.k_norm, rotary), self._heads(v)
        return _behind(before, new)

    def forward(
        self, x: Tensor, rotary: Tensor | None = None, mask: Tensor | None = None, read: Read | None = None
    ) -> Tensor:
        """(B, T, C) -> (B, T, C).

        Args:
            x: Hidden states.
            rotary: From `rotary_table`; queries and keys are turned by it.
            mask: Added to the scores, or True where a key may be seen: of a shape that fits (B, H, T, T), in place of the
                causal one.
            read: From the method of that name; None: keys and values are those of x.
        """
        batch, tokens, width = x.shape
        if read is None:
            sizes = [heads * self.head_size for heads in (self.num_heads, self.num_kv_heads, self.num_kv_heads)]
            q, k, v = self.qkv(x).split(sizes, dim=2)
            k, v = self._heads(k, self.k_norm, rotary), self._heads(v)
        else:
            q = F.linear(x, *_rows(self.qkv, slice(width))) if self.matrices == "one" else self.q(x)
            k, v = read
        q = self._heads(q, self.q_norm, rotary)
        causal = self.causal and mask is None and tokens > 1  # the newest token alone sees all
        if causal and k.shape[2] > tokens:
            mask = _seen(tokens, k)
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


class MapAttention(Attention):
    """Self-attention that keeps its map, the probabilities, for later positions to read: no dropout falls on it.

    With matrices="map" it makes a map and values, with "values" it is given a map (LazyFormer, Ying et al. 2021, arXiv
    2102.12702; Xiao et al. 2019, arXiv 1906.11024). The arguments are those of Attention.
    """

    def read(self, x: Tensor, rotary: Tensor | None, mask: Tensor | None, before: Read, reads: bool = False) -> Read:
        """Return a map, (B, H, T, S), keys if they made it, and values.

        Args:
            x: As for Attention.
            rotary: As for `forward`.
            mask: As for `forward`.
            before: Keys and values of earlier tokens; where it reads, a map and values of earlier tokens.
            reads: Whether another position made the map, whatever matrices this one has.
        """
        values = self._heads(self.v(x))
        if reads:
            return before[0], *_behind(before[1:], (values,))
        q, k = self.qk(x).split([x.shape[2], self.num_kv_heads * self.head_size], dim=2)
        q, k = self._heads(q, self.q_norm, rotary), self._heads(k, self.k_norm, rotary)
        keys, values = _behind(before, (k, values))
        scores = q @ self._for_queries(keys).transpose(-1, -2) / math.sqrt(self.head_size)
        if mask is not None:
            scores = scores + mask
        elif self.causal:
            scores = scores.masked_fill(~_seen(x.shape[1], keys), -math.inf)
        return scores.softmax(dim=-1), keys, values

    def forward(
        self, x: Tensor, rotary: Tensor | None = None, mask: Tensor | None = None, read: Read | None = None
    ) -> Tensor:
        """(B, T, C) -> (B, T, C), from what `read` returns."""
        read = self.read(x, rotary, mask, ()) if read is None else read
        y = read[0] @ self._for_queries(read[-1])
        output: Tensor = self.proj(y.transpose(1, 2).reshape(x.shape))
        return output

    def _for_queries(self, x: Tensor) -> Tensor:
        """(B, K, S, D) -> (B, H, S, D)."""
        return x.repeat_interleave(self.num_heads // self.num_kv_heads, dim=1)


def _behind(before: Read, new: Read) -> Read:
    """Put new tokens behind earlier ones."""
    return tuple(torch.cat(parts, dim=2) for parts in zip(before, new, strict=True)) if before else new


def _seen(tokens: int, keys: Tensor) -> Tensor:
    """Return which of S keys each of the last T tokens sees: (T, S)."""
    total = keys.shape[2]
    return torch.ones(tokens, total, dtype=torch.bool, device=keys.device).tril(total - tokens)


def _rows(linear: nn.Linear, rows: slice) -> tuple[Tensor, Tensor | None]:
    """Return a part of a layer's outputs: its weight and its bias."""
    return linear.weight[rows], None if linear.bias is None else linear.bias[rows]
