"""Tiny decoders in float64 whose layers are far from each other: every kind of positions, heads and norms."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from blocks import VOCAB, batch
from torch import Tensor
from torch.func import functional_call

from tying import Pointers
from tying.models.base import Model
from tying.models.config import GPTConfig, LlamaConfig
from tying.models.gpt import GPT
from tying.models.llama import Llama
from tying.models.parts.positions import rotary_table, rotate

DECODERS: dict[str, dict[str, Any]] = {
    "gpt": {"num_heads": 2},
    "gpt, rotary, qk_norm": {"num_heads": 2, "positions": "rotary", "qk_norm": True},
    "gpt, alibi, no bias": {"num_heads": 2, "positions": "alibi", "bias": False},
    "llama": {"num_heads": 4, "num_kv_heads": 2},
}
SHARINGS = ("cla:2", "trailing:2", "yoco", "0 1 0 1", "0 1 2 3")
OPTIONS: list[dict[str, str]] = [
    {},
    *({"kv_sharing": text} for text in SHARINGS),
    *({"attention_sharing": text} for text in ("cla:2", "0 1 0 1")),
    {"kv_sharing": "tied"},
    {"attention_sharing": "tied"},
]


def make_decoder(name: str, **changes: Any) -> Model:
    """Return a model of 4 layers, width 16 and 8 tokens of context, off its initial values."""
    shape = {"num_layers": 4, "width": 16, "context": 8, **DECODERS[name], **changes}
    model = Llama(LlamaConfig(**shape), VOCAB, 0) if name == "llama" else GPT(GPTConfig(**shape), VOCAB, 0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.double().parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64) * 0.3)
    return model.eval()


def in_chunks(model: Model, tokens: Tensor, sizes: tuple[int, ...]) -> Tensor:
    """Return the logits of tokens that are shown a few at a time: (B, T) -> (B, T, V)."""
    cache = model.make_cache()
    return torch.cat([model(chunk, cache) for chunk in tokens.split(sizes, dim=1)], dim=1)


def keys_and_values_by_hand(model: Model, tokens: Tensor, sources: Pointers) -> Tensor:
    """Return the logits of the llama, with one loop over heads and full matrices of scores."""
    config, length = model.config, tokens.shape[1]
    size, ratio = config.head_size, config.num_heads // config.num_kv_heads
    x = model.embedding(tokens)
    rotary = rotary_table(length, size, x)
    later = torch.full((length, length), -math.inf, dtype=x.dtype).triu(1)
    made: dict[int, tuple[list[Tensor], list[Tensor]]] = {}
    for position, block in enumerate(model.h):
        y = block.norm_1(x)
        if sources[position] == position:
            parts = block.attn.kv(y).split(size, dim=-1)
            keys = [rotate(key, rotary) for key in parts[: config.num_kv_heads]]
            made[position] = keys, list(parts[config.num_kv_heads :])
        keys, values = made[sources[position]]
        heads = []
        for head, query in enumerate(block.attn.q(y).split(size, dim=-1)):
            scores = rotate(query, rotary) @ keys[head // ratio].transpose(-1, -2) / math.sqrt(size) + later
            heads.append(scores.softmax(-1) @ values[head // ratio])
        x = x + block.attn.proj(torch.cat(heads, dim=-1))
        x = x + block.mlp(block.norm_2(x))
    return model.norm(x) @ model.embedding.weight.T


def maps_by_hand(model: Model, tokens: Tensor, sources: Pointers) -> Tensor:
    """Return the logits of the llama, with one loop over heads."""
    config, length = model.config, tokens.shape[1]
    size, ratio = config.head_size, config.num_heads // config.num_kv_heads
    x = model.embedding(tokens)
    rotary = rotary_table(length, size, x)
    later = torch.full((length, length), -math.inf, dtype=x.dtype).triu(1)
    maps: dict[int, list[Tensor]] = {}
    for position, block in enumerate(model.h):
        y = block.norm_1(x)
        if sources[position] == position:
            parts = [rotate(part, rotary) for part in block.attn.qk(y).split(size, dim=-1)]
            queries, keys = parts[: config.num_heads], parts[config.num_heads :]
            scores = [q @ keys[h // ratio].transpose(-1, -2) / math.sqrt(size) + later for h, q in enumerate(queries)]
            maps[position] = [score.softmax(-1) for score in scores]
        values = block.attn.v(y).split(size, dim=-1)
        heads = [own @ values[head // ratio] for head, own in enumerate(maps[sources[position]])]
        x = x + block.attn.proj(torch.cat(heads, dim=-1))
        x = x + block.mlp(block.norm_2(x))
    return model.norm(x) @ model.embedding.weight.T


def check_gradient(model: Model, name: str, entries: list[tuple[int, int]]) -> None:
    """Compare entries of a matrix's gradient with finite differences of the loss: nothing may be detached on the way."""
    tokens, targets = batch()

    def loss(weight: Tensor) -> Tensor:
        return F.cross_entropy(functional_call(model, {name: weight}, (tokens,)).flatten(0, 1), targets.flatten())

    weight = model.get_parameter(name).detach()
    (found,) = torch.autograd.grad(loss(weight.requires_grad_()), weight)
    for row, column in entries:
        values = []
        for change in (1e-5, -1e-5):
            moved = weight.detach().clone()
            moved[row, column] += change
            values.append(float(loss(moved).detach()))
        assert float(found[row, column]) == pytest.approx((values[0] - values[1]) / 2e-5, rel=1e-5, abs=1e-9)


def check_recomputation(name: str, **settings: Any) -> None:
    """Check that a model whose activations are computed again has the same loss, bit by bit, and the same gradients."""
    models = [make_decoder(name, **settings).train() for _ in range(2)]
    models[1].recompute = True
    losses = []
    for model in models:
        torch.manual_seed(0)
        losses.append(model.loss(*batch()))
        losses[-1].backward()
    assert torch.equal(*losses)
    for a, b in zip(models[0].parameters(), models[1].parameters(), strict=True):
        assert a.grad is not None and float(a.grad.abs().max()) > 0
        torch.testing.assert_close(a.grad, b.grad, rtol=0, atol=1e-13)
