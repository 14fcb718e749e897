"""A Llama: RMSNorm, rotary positions, SwiGLU, fewer heads of keys and values than of queries (Touvron et al. 2023).

Shapes: B batch, T tokens, C width, V vocabulary, L layers.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from tying.models.base import Decoder
from tying.models.config import LlamaConfig
from tying.models.parts.attention import Attention, MapAttention
from tying.models.parts.cache import Cache, Read
from tying.models.parts.feed_forward import GatedFeedForward
from tying.models.parts.norms import RMSNorm
from tying.models.parts.positions import rotary_table


class Block(nn.Module):
    """One layer: attention and gated feed-forward, each behind a norm and beside a residual path."""

    def __init__(self, config: LlamaConfig, position: int) -> None:
        super().__init__()
        self.check_training = config.check_training
        dropout = config.dropout
        self.norm_1 = RMSNorm(config.width, config.norm_eps)
        self.attn = (Attention if config.map_sources is None else MapAttention)(
            config.width,
            config.num_heads,
            config.num_kv_heads,
            bias=False,
            dropout=dropout,
            causal=True,
            matrices=config.matrices(position),
        )
        self.norm_2 = RMSNorm(config.width, config.norm_eps)
        self.mlp = GatedFeedForward(config.width, config.feed_forward_width, dropout=dropout)

    def forward(
        self, x: Tensor, rotary: Tensor, before: Read | None = None, reads: bool = False
    ) -> Tensor | tuple[Tensor, Read]:
        """(B, T, C) -> (B, T, C); `rotary` is what `rotary_table` returns, the others as `run_blocks` says."""
        y = self.norm_1(x)
        read = None if before is None else self.attn.read(y, rotary, None, before, reads)
        x = x + self.attn(y, rotary, None, read)
        x = x + self.mlp(self.norm_2(x))
        return x if read is None else (x, read)


class Llama(Decoder):
    """The whole model."""

    Config = LlamaConfig
    config: LlamaConfig
    residual_outputs = ("attn.proj.weight", "mlp.down.weight")

    def build(self, vocab_size: int) -> None:
        """See Model.build."""
        config = self.config
        self.embedding = nn.Embedding(vocab_size, config.width)
        self.h = nn.ModuleList(Block(config, position) for position in range(config.num_layers))
        self.norm = RMSNorm(config.width, config.norm_eps)
        self.head = None if config.tie_embeddings else nn.Linear(config.width, vocab_size, bias=False)

    def forward(self, tokens: Tensor, cache: Cache | None = None) -> Tensor:
        """See Model.forward."""
        config = self.config
        if cache is None and config.shares_activations:
            cache = self.make_cache()
        start = 0 if cache is None else cache.num_tokens
        x = F.dropout(self.embedding(tokens), config.dropout, self.training)  # (B, T, C)
        rotary = rotary_table(start + tokens.shape[1], config.head_size, x, config.rotary_base, start)
        x = self.norm(self.run_blocks(x, rotary, cache=cache))
        return F.linear(x, self.embedding.weight if self.head is None else self.head.weight)
