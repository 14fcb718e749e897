"""A GPT: pre-norm decoder blocks, learned positions, causal attention (Radford et al. 2019).

Shapes: B batch, T tokens, C width, H heads, V vocabulary, L layers.
"""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tying.config import config, setting
from tying.errors import InputError
from tying.models.base import Model, ModelConfig
from tying.randomness import derive_seed


@config
class GPTConfig(ModelConfig):
    """The shape of a GPT."""

    name: Literal["gpt"] = setting("architecture", default="gpt")
    num_heads: int = setting("attention heads per block, must divide the width [heads, >= 1]", default=4, ge=1)
    width: int = setting("size C of the residual stream [features, >= 1]", default=128, ge=1)
    dropout: float = setting("share of activations dropped while training [0 to below 1]", default=0.0, ge=0, lt=1)
    bias: bool = setting("biases in linear layers and norms, as in GPT-2", default=True)
    tie_embeddings: bool = setting("input and output embeddings share (not the tying of layers)", default=True)

    def __post_init__(self) -> None:
        if self.width % self.num_heads:
            raise InputError(f"num_heads = {self.num_heads} does not divide width = {self.width}")


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
    """The whole model; its layers are in `h`, an nn.ModuleList that a LayerBinding can bind.

    Args:
        config: The shape.
        vocab_size: V.
        seed: Determines the initial weights; the global generators are neither read nor moved.
    """

    def __init__(self, config: GPTConfig, vocab_size: int, seed: int) -> None:
        super().__init__()
        self.config = config
        self.recompute = False
        with torch.device("meta"):  # no draws from the global generator, no memory before the real weights
            self.wte = nn.Embedding(vocab_size, config.width)
            self.wpe = nn.Embedding(config.context, config.width)
            self.h = nn.ModuleList(Block(config) for _ in range(config.num_layers))
            self.ln_f = nn.LayerNorm(config.width, bias=config.bias)
            self.head = None if config.tie_embeddings else nn.Linear(config.width, vocab_size, bias=False)
        self.to_empty(device="cpu")
        self._init_weights(seed)

    def _init_weights(self, seed: int) -> None:
        """GPT-2's scheme: normal(0.02), residual projections scaled by 1/sqrt(2 L), biases 0, gains 1."""
        generator = torch.Generator().manual_seed(derive_seed(seed, "initial weights"))
        for name, parameter in self.named_parameters():
            if parameter.dim() >= 2:
                residual = name.endswith(("attn.proj.weight", "mlp.down.weight"))
                std = 0.02 / math.sqrt(2 * self.config.num_layers) if residual else 0.02
                nn.init.normal_(parameter, std=std, generator=generator)
            else:
                nn.init.constant_(parameter, 0.0 if name.endswith("bias") else 1.0)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the logits of the next token at every position: (B, T) int64 -> (B, T, V)."""
        positions = torch.arange(tokens.shape[1], device=tokens.device)
        x = self.wte(tokens) + self.wpe(positions)  # (B, T, C)
        x = F.dropout(x, self.config.dropout, self.training)
        for block in self.h:
            x = checkpoint(block, x, use_reentrant=False) if self.recompute and self.training else block(x)
        x = self.ln_f(x)
        return self.head(x) if self.head is not None else F.linear(x, self.wte.weight)

    def loss(self, tokens: Tensor, targets: Tensor) -> Tensor:
        """Return the mean negative log-likelihood in nats per token: (B, T), (B, T) -> scalar."""
        logits = self(tokens)
        loss: Tensor = F.cross_entropy(logits.flatten(0, 1), targets.flatten())
        return loss

    @torch.no_grad()
    def generate(
        self, tokens: Tensor, num_tokens: int, generator: torch.Generator, temperature: float = 1.0, top_k: int = 0
    ) -> Tensor:
        """Continue a text.

        Args:
            tokens: The prompt, (1, T) int64 with T >= 1.
            num_tokens: How many tokens to add.
            generator: Source of the draws, on the model's device.
            temperature: Divides the logits; 0 takes the likeliest token.
            top_k: Draw among the k likeliest tokens only; 0 for all.

        Returns:
            (1, T + num_tokens) int64.
        """
        for _ in range(num_tokens):
            logits = self(tokens[:, -self.config.context :])[:, -1].float()  # (1, V)
            if temperature == 0:
                new = logits.argmax(dim=-1, keepdim=True)
            else:
                logits = logits / temperature
                if 0 < top_k < logits.shape[-1]:
                    logits[logits < logits.topk(top_k).values[:, -1:]] = -math.inf
                new = torch.multinomial(logits.softmax(dim=-1), 1, generator=generator)
            tokens = torch.cat([tokens, new], dim=1)
        return tokens

    def set_recompute(self, recompute: bool) -> None:
        """Keep only the blocks' inputs for the backward pass and compute the rest again (activation checkpointing)."""
        self.recompute = recompute
