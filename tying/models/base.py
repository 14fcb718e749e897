"""What every model is to the rest of the project."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from tying.config import config, setting


@config
class ModelConfig:
    """What every model's configuration says; architectures add their own fields."""

    name: str = setting("architecture", default="gpt")
    num_layers: int = setting("blocks L [layers, >= 1]", default=6, ge=1)
    context: int = setting("tokens T that the model sees at once [tokens, >= 1]", default=128, ge=1)


class Model(nn.Module, ABC):
    """A language model with L equal blocks in `h`.

    Its constructor takes (config, vocab_size, seed) and neither reads nor moves the global generators.
    """

    h: nn.ModuleList

    @abstractmethod
    def loss(self, tokens: Tensor, targets: Tensor) -> Tensor:
        """Return the mean negative log-likelihood in nats per token: (B, T), (B, T) int64 -> scalar."""

    @abstractmethod
    def generate(
        self, tokens: Tensor, num_tokens: int, generator: torch.Generator, temperature: float = 1.0, top_k: int = 0
    ) -> Tensor:
        """Continue a text: (1, T) int64 -> (1, T + num_tokens)."""

    @abstractmethod
    def set_recompute(self, recompute: bool) -> None:
        """Keep only the blocks' inputs for the backward pass and compute the rest again (activation checkpointing)."""
