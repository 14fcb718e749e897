"""A GPT: decoder blocks with causal attention, norms before their parts (Radford et al. 2019) or behind them.

Shapes: B batch, T tokens, C width, V vocabulary, L layers.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tying.models.base import Decoder
from tying.models.config import GPTConfig
from tying.models.parts.attention import Attention, MapAttention
from tying.models.parts.cache import Cache, Read
from tying.models.parts.depth import STD, DepthEmbedding
from tying.models.parts.feed_forward import FeedForward
from tying.models.parts.halting import Halting
from tying.models.parts.in_force import pointers_in_force
from tying.models.parts.positions import alibi_bias, rotary_table
from tying.models.parts.residual import RESIDUALS, follow_pointers, scale_weights


class Block(nn.Module):
    """One layer: attention and feed-forward, each with a norm and beside a residual path."""

    def __init__(self, config: GPTConfig, position: int) -> None:
        super().__init__()
        self.check_training = config.check_training
        norm_first = config.norm_place == "pre"
        std = STD if norm_first or position == 0 else 1.0  # of the input: embeddings, or what a norm returns
        kind = config.depth_embedding
        self.depth = None if kind == "none" else DepthEmbedding(kind, position, config.width, std)
        self.residual = RESIDUALS[config.residual](config.width, config.num_layers, norm_first)
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
        self,
        x: Tensor,
        rotary: Tensor | None = None,
        bias: Tensor | None = None,
        before: Read | None = None,
        reads: bool = False,
    ) -> Tensor | tuple[Tensor, Read]:
        """(B, T, C) -> (B, T, C); the others are what `Attention` takes, `before` and `reads` as `run_blocks` says."""
        read: Read | None = None

        def attend(y: Tensor) -> Tensor:
            nonlocal read
            read = None if before is None else self.attn.read(y, rotary, bias, before, reads)
            return self.attn(y, rotary, bias, read)  # type: ignore[no-any-return]

        x = x if self.depth is None else self.depth(x)
        x = self.residual(x, (self.ln_1, attend), (self.ln_2, self.mlp))
        return x if read is None else (x, read)


class GPT(Decoder):
    """The whole model."""

    Config = GPTConfig
    config: GPTConfig
    residual_outputs: tuple[str, ...] = ("attn.proj.weight", "mlp.down.weight")

    def build(self, vocab_size: int) -> None:
        """See Model.build."""
        config = self.config
        if config.norm_place == "post" or config.residual != "plain":
            self.residual_outputs = ()  # norms, or scales, keep the stream from growing
        self.wte = nn.Embedding(vocab_size, config.width)
        self.wpe = nn.Embedding(config.context, config.width) if config.positions == "learned" else None
        self.h = nn.ModuleList(Block(config, position) for position in range(config.num_layers))
        self.ln_f = nn.LayerNorm(config.width, bias=config.bias) if config.norm_place == "pre" else None
        self.halting = Halting(config.width) if config.halting == "act" else None
        self.head = None if config.tie_embeddings else nn.Linear(config.width, vocab_size, bias=False)

    def init_weights(self, generator: torch.Generator) -> None:
        """See BlockModel.init_weights."""
        super().init_weights(generator)
        scale_weights(self.h, generator)
        for part in self.modules():
            if isinstance(part, (DepthEmbedding, Halting)):
                part.start()

    def make_cache(self) -> Cache | None:
        """See Model.make_cache; tokens that halt leave no keys and values behind for steps that they do not take."""
        return super().make_cache() if self.halting is None else None

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
        x = F.dropout(x, config.dropout, self.training)
        follow_pointers(self.h)
        if self.halting is None:
            x = self.run_blocks(x, rotary, bias, cache=cache)
        else:
            x = self._run_until_halted(x, rotary, bias)
        x = x if self.ln_f is None else self.ln_f(x)
        return F.linear(x, self.wte.weight if self.head is None else self.head.weight)

    def _run_until_halted(self, x: Tensor, *others: Tensor | None) -> Tensor:
        """Run the group of layers that is repeated until all tokens have halted: (B, T, C) -> (B, T, C)."""
        assert self.halting is not None
        blocks = list(self.h)
        pointers = pointers_in_force(blocks, *type(self).residual_outputs)
        self.config.check_tying(pointers)
        groups = [blocks[first : first + pointers.num_unique] for first in range(0, len(blocks), pointers.num_unique)]
        steps = [lambda x, group=group: self.run_blocks(x, *others, blocks=group) for group in groups]
        result: Tensor = self.halting(x, steps)[0]
        return result

    def loss(self, tokens: Tensor, targets: Tensor) -> Tensor:
        """See Model.loss; while training, with the cost of steps."""
        if self.halting is None or not self.training:
            return super().loss(tokens, targets)
        with self.halting.watched() as passes:
            loss = super().loss(tokens, targets)
        return loss + self.config.halting_cost * passes[0].ponder
