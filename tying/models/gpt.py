"""A GPT: pre-norm decoder blocks with causal attention (Radford et al. 2019).

Shapes: B batch, T tokens, C width, V vocabulary, L layers.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tying.models.base import Model
from tying.models.config import GPTConfig
from tying.models.parts.attention import Attention, MapAttention
from tying.models.parts.cache import Cache, MapCache, Read
from tying.models.parts.feed_forward import FeedForward
from tying.models.parts.positions import alibi_bias, rotary_table


class Block(nn.Module):
    """One layer: attention and feed-forward, each behind a norm and beside a residual path."""

    def __init__(self, config: GPTConfig, position: int) -> None:
        super().__init__()
        bias, dropout = config.bias, config.dropout
        self.ln_1 = nn.LayerNorm(config.width, bias=bias)
        self.attn = (Attention if config.map_sources is None else MapAttention)(
            config.width,
            config.num_heads,
            bias=bias,
            dropout=dropout,
            causal=True,
            qk_norm=config.qk_norm,
            matrices=config.matrices(position),
        )
        self.ln_2 = nn.LayerNorm(config.width, bias=bias)
        self.mlp = FeedForward(config.width, bias=bias, dropout=dropout)

    def forward(
        self, x: Tensor, rotary: Tensor | None = None, bias: Tensor | None = None, before: Read | None = None
    ) -> Tensor | tuple[Tensor, Read]:
        """(B, T, C) -> (B, T, C); the others are what `Attention` takes, `before` as `run_blocks` says."""
        y = self.ln_1(x)
        read = None if before is None else self.attn.read(y, rotary, bias, before)
        x = x + self.attn(y, rotary, bias, read)
        x = x + self.mlp(self.ln_2(x))
        return x if read is None else (x, read)


class GPT(Model):
    """The whole model."""

    Config = GPTConfig
    config: GPTConfig
    residual_outputs = ("attn.proj.weight", "mlp.down.weight")

    def build(self, vocab_size: int) -> None:
        """See Model.build."""
        config = self.config
        self.wte = nn.Embedding(vocab_size, config.width)
        self.wpe = nn.Embedding(config.context, config.width) if config.positions == "learned" else None
        self.h = nn.ModuleList(Block(config, position) for position in range(config.num_layers))
        self.ln_f = nn.LayerNorm(config.width, bias=config.bias)
        self.head = None if config.tie_embeddings else nn.Linear(config.width, vocab_size, bias=False)

    def make_cache(self) -> Cache:
        """See Model.make_cache."""
        maps = self.config.map_sources
        return Cache(self.config.kv_sources) if maps is None else MapCache(maps)

    def forward(self, tokens: Tensor, cache: Cache | None = None) -> Tensor:
        """See Model.forward."""
        config = self.config
        if cache is None and config.shares_activations:
            cache = self.make_cache()
        start = 0 if cache is None else cache.num_tokens
        length = start + tokens.shape[1]
        x = self.wte(tokens)  # (B, T, C)
        if self.wpe is not None:
            x = x + self.wpe(torch.arange(start, length, device=tokens.device))
        rotary = rotary_table(length, config.head_size, x, start=start) if config.positions == "rotary" else None
        bias = alibi_bias(length, config.num_heads, x, start) if config.positions == "alibi" else None
        x = self.run_blocks(F.dropout(x, config.dropout, self.training), rotary, bias, cache=cache)
        x = self.ln_f(x)
        return F.linear(x, self.wte.weight if self.head is None else self.head.weight)
