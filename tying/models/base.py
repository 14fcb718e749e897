"""Model: all that architectures have in common, so that a model's file is its architecture alone.

Shapes: B batch, T tokens, C width, V vocabulary.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tying.isolation import isolated
from tying.models.config import BlocksConfig, DecoderConfig, ModelConfig
from tying.models.parts.cache import Cache, MapCache
from tying.models.parts.in_force import pointers_in_force
from tying.seeding import derive_seed


class BlockModel(nn.Module, ABC):
    """A model with L equal blocks in `h`; subclasses define `build` and `forward`.

    Args:
        config: Its shape.
        size: What the data determine, such as the vocabulary V; `build` takes it.
        seed: Determines the initial weights; the global generators are neither read nor moved. None: the model stays on
            the meta device, with shapes and without values.

    Attributes:
        Config: Its configuration class.
        residual_outputs: Ends of the names of the matrices that write to the residual stream; they start smaller.
        h: The blocks, which a LayerBinding can bind.
    """

    Config: ClassVar[type[BlocksConfig]] = BlocksConfig
    residual_outputs: tuple[str, ...] = ()
    h: nn.ModuleList

    @isolated()
    def __init__(self, config: BlocksConfig, size: Any, seed: int | None) -> None:
        super().__init__()
        self.config = config
        self.recompute = False
        self.cross_entropy: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy
        with torch.device("meta"):  # no draws from the global generator, no memory before the real weights
            self.build(size)
        if seed is not None:
            self.draw_weights(seed)

    @isolated()
    def draw_weights(self, seed: int, spare: Collection[nn.Parameter] = ()) -> None:
        """Leave the meta device: make the weights of a seed.

        Args:
            seed: As for the class.
            spare: Parameters that the caller is going to replace at once. They get a memory in common, which is all that
                they cost; the others' values are those that they would have without.
        """
        ids = set(map(id, spare))
        places = [(m._parameters, key) for m in self.modules() for key, p in m._parameters.items() if id(p) in ids]
        shapes = [parameters[key].shape for parameters, key in places]  # type: ignore[union-attr]
        for parameters, key in places:
            parameters[key] = None
        self.to_empty(device="cpu")
        common = {shape: torch.empty(shape) for shape in shapes}
        for (parameters, key), shape in zip(places, shapes, strict=True):
            parameters[key] = nn.Parameter(common[shape])
        self.init_weights(torch.Generator().manual_seed(derive_seed(seed, "initial weights")))

    @abstractmethod
    def build(self, size: Any) -> None:
        """Make the modules; `self.config` is there already."""

    def init_weights(self, generator: torch.Generator) -> None:
        """Draw the weights by GPT-2's scheme: normal(0.02), `residual_outputs` scaled by 1/sqrt(2 L), biases 0, gains 1."""
        for name, parameter in self.named_parameters():
            if parameter.dim() >= 2:
                residual = bool(self.residual_outputs) and name.endswith(self.residual_outputs)
                std = 0.02 / math.sqrt(2 * len(self.h)) if residual else 0.02
                nn.init.normal_(parameter, std=std, generator=generator)
            else:
                nn.init.constant_(parameter, 0.0 if name.endswith("bias") else 1.0)

    def run_blocks(
        self, x: Tensor, *others: Tensor | None, cache: Cache | None = None, blocks: Iterable[nn.Module] | None = None
    ) -> Tensor:
        """Run all blocks: (B, T, C) -> (B, T, C); with `recompute`, only their inputs are kept for the backward pass.

        Args:
            x: What the first block reads.
            *others: What every block takes besides, such as positions.
            cache: With it, a block takes two things more, `Cache.before` and `Cache.reads`, and returns what its attention
                has read. These go through checkpoints as inputs and outputs, so that gradients reach their maker.
            blocks: Some of them instead; without a cache.
        """
        for position, block in enumerate(self.h if blocks is None else blocks):
            given = others if cache is None else (*others, cache.before(position), cache.reads(position))
            if self.recompute and self.training:
                x = checkpoint(block, x, *given, use_reentrant=False)
            else:
                x = block(x, *given)
            if cache is not None:
                x, read = x
                cache.keep(position, read)
        return x


class Model(BlockModel):
    """A causal language model."""

    Config: ClassVar[type[BlocksConfig]] = ModelConfig
    config: ModelConfig

    @abstractmethod
    def forward(self, tokens: Tensor) -> Tensor:
        """Return the logits of the next token at every position: (B, T) int64 -> (B, T, V)."""

    def make_cache(self) -> Cache | None:
        """Return an empty cache for `forward(tokens, cache)`, which fills it: the tokens follow those that it has seen.

        None, where `forward` takes no cache: generation computes every token anew.
        """
        return None

    def loss(self, tokens: Tensor, targets: Tensor) -> Tensor:
        """Return the mean negative log-likelihood in nats per token: (B, T), (B, T) int64 -> scalar."""
        return self.cross_entropy(self(tokens).flatten(0, 1), targets.flatten())

    @torch.no_grad()
    def generate(
        self, tokens: Tensor, num_tokens: int, generator: torch.Generator, temperature: float = 1.0, top_k: int = 0
    ) -> Tensor:
        """Continue a text.

        As long as prompt and continuation fit into the context, only new tokens are computed. Beyond it, the window is
        computed as a whole for every token: once its first token is gone, none of the others is as it was.

        Args:
            tokens: The prompt, (1, T) int64 with T >= 1.
            num_tokens: How many tokens to add.
            generator: Source of the draws, on the model's device.
            temperature: Divides the logits; 0 takes the most probable token.
            top_k: Draw among the k most probable tokens only; 0 for all.

        Returns:
            (1, T + num_tokens) int64.
        """
        cache = self.make_cache()
        for _ in range(num_tokens):
            if cache is None or tokens.shape[1] > self.config.context:
                logits = self(tokens[:, -self.config.context :])[:, -1]  # (1, V)
            else:
                logits = self(tokens[:, cache.num_tokens :], cache)[:, -1]
            tokens = torch.cat([tokens, draw(logits, generator, temperature, top_k)], dim=1)
        return tokens


class Decoder(Model):
    """A causal language model whose positions can read the keys and values, or the maps, of others."""

    config: DecoderConfig

    def make_cache(self) -> Cache | None:
        """See Model.make_cache; where the sources follow the pointers, they are those in force now."""
        config = self.config
        sources = pointers_in_force(list(self.h), *config.makers) if config.makers else config.sources
        return Cache(sources) if config.map_sources is None else MapCache(sources)


def draw(logits: Tensor, generator: torch.Generator, temperature: float, top_k: int) -> Tensor:
    """Return tokens drawn by their logits, (B, V) -> (B, 1); see `Model.generate`."""
    if temperature == 0:
        return logits.argmax(dim=-1, keepdim=True)
    logits = logits.float() / temperature
    if 0 < top_k < logits.shape[-1]:
        logits[logits < logits.topk(top_k).values[:, -1:]] = -math.inf
    return torch.multinomial(logits.softmax(dim=-1), 1, generator=generator)


def num_params(model: nn.Module) -> int:
    """Return the number of trainable parameters, each counted once."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
