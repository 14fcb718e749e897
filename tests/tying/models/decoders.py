"""Tiny decoders in float64 whose layers are far from each other: every kind of positions, heads and norms."""

from typing import Any

import torch
from blocks import VOCAB
from torch import Tensor

from tying.models.base import Model
from tying.models.config import GPTConfig, LlamaConfig
from tying.models.gpt import GPT
from tying.models.llama import Llama

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
