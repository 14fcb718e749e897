"""Attention against its formula, head by head."""

import math

import pytest
import torch
from torch import Tensor

from tying.models.parts.attention import Attention
from tying.models.parts.positions import alibi_bias, rotary_table, rotate

WIDTH, TOKENS = 24, 5


def by_hand(attention: Attention, x: Tensor, rotary: Tensor | None, scores_bias: Tensor) -> Tensor:
    """Return attention computed with one loop over heads."""
    size = attention.head_size
    q, k, v = attention.qkv(x).split([WIDTH, *[attention.num_kv_heads * size] * 2], dim=-1)
    heads = []
    for head in range(attention.num_heads):
        group = head * attention.num_kv_heads // attention.num_heads
        query, key, value = (part[..., i * size : (i + 1) * size] for part, i in ((q, head), (k, group), (v, group)))
        if attention.q_norm is not None:
            query, key = (y / (y.square().mean(-1, keepdim=True) + 1e-6).sqrt() for y in (query, key))
            query, key = query * attention.q_norm.weight, key * attention.k_norm.weight
        if rotary is not None:
            query, key = rotate(query, rotary), rotate(key, rotary)
        scores = query @ key.transpose(-1, -2) / math.sqrt(size) + scores_bias[head % len(scores_bias)]
        heads.append(scores.softmax(-1) @ value)
    return attention.proj(torch.cat(heads, dim=-1))


@pytest.mark.parametrize("positions", ["none", "rotary", "alibi"])
@pytest.mark.parametrize(("kv_heads", "qk_norm", "causal"), [(None, False, True), (2, True, True), (1, False, False)])
def test_attention_is_its_formula(positions: str, kv_heads: int | None, qk_norm: bool, causal: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    attention = Attention(WIDTH, 4, kv_heads, bias=True, dropout=0.0, causal=causal, qk_norm=qk_norm).double()
    for parameter in attention.parameters():
        torch.nn.init.normal_(parameter, std=0.5, generator=generator)
    x = torch.randn(2, TOKENS, WIDTH, dtype=torch.float64, generator=generator)
    rotary = rotary_table(TOKENS, attention.head_size, x) if positions == "rotary" else None
    mask = alibi_bias(TOKENS, 4, x) if positions == "alibi" else None
    later = torch.full((1, TOKENS, TOKENS), -math.inf, dtype=torch.float64).triu(1)
    bias = mask if mask is not None else later if causal else torch.zeros_like(later)
    assert torch.allclose(attention(x, rotary, mask), by_hand(attention, x, rotary, bias), rtol=0, atol=1e-12)
