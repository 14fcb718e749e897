"""A GPT: pre-norm decoder blocks, learned positions, causal attention (Radford et al. 2019).

Shapes: B batch, T tokens, C width, H heads, V vocabulary, L layers.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tying.models.base import Model
from tying.models.config import GPTConfig


class Attention(nn.Module):
    """Causal multi-head self-attention."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.dropout = config.dropout
        self.qkv = nn.Linear(config.width, 3 * config.width, bias=config.bias)
        self.proj = nn.Linear(config.width, config.width, bias=config.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, C) -> (B, T, C)."""
        batch, tokens, width = x.shape
        q, k, v = (
            part.view(batch, tokens, self.num_heads, width // self.num_heads).transpose(1, 2)  # (B, H, T, C/H)
            for part in self.qkv(x).split(width, dim=2)
        )
        y = F.scaled_dot_product_attention(q, k, v, dropout_p=self.dropout if self.training else 0.0, is_causal=True)
        y = y.transpose(1, 2).reshape(batch, tokens, width)
        return F.dropout(self.proj(y), self.dropout, self.training)


class FeedForward(nn.Module):
    """Two linear layers with GELU between them, four times as wide inside."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.dropout = config.dropout
        self.up = nn.Linear(config.width, 4 * config.width, bias=config.bias)
        self.down = nn.Linear(4 * config.width, config.width, bias=config.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, C) -> (B, T, C)."""
        # The exact GELU: on CPUs its backward pass is three times as fast as that of GPT-2's tanh approximation.
        return F.dropout(self.down(F.gelu(self.up(x))), self.dropout, self.training)


class Block(nn.Module):
    """One layer: attention and feed-forward, each behind a norm and beside a residual path."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(config.width, bias=config.bias)
        self.attn = Attention(config)
        self.ln_2 = nn.LayerNorm(config.width, bias=config.bias)
        self.mlp = FeedForward(config)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, C) -> (B, T, C)."""
        x = x + self.attn(self.ln_1(x))
        x = x + self.mlp(self.ln_2(x))
        return x


class GPT(Model):
    """The whole model."""

    Config = GPTConfig
    config: GPTConfig
    residual_outputs = ("attn.proj.weight", "mlp.down.weight")

    def build(self, vocab_size: int) -> None:
        """See Model.build."""
        self.wte = nn.Embedding(vocab_size, self.config.width)
        self.wpe = nn.Embedding(self.config.context, self.config.width)
        self.h = nn.ModuleList(Block(self.config) for _ in range(self.config.num_layers))
        self.ln_f = nn.LayerNorm(self.config.width, bias=self.config.bias)
        self.head = None if self.config.tie_embeddings else nn.Linear(self.config.width, vocab_size, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """See Model.forward."""
        positions = torch.arange(tokens.shape[1], device=tokens.device)
        x = self.wte(tokens) + self.wpe(positions)  # (B, T, C)
        x = self.ln_f(self.run_blocks(F.dropout(x, self.config.dropout, self.training)))
        return F.linear(x, self.wte.weight if self.head is None else self.head.weight)
