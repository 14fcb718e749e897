"""Models: one file, one architecture, its blocks in an nn.ModuleList called `h`.

To add one, write its file and a line in `_MODELS`: configuration class -> model class.
"""

from torch import nn

from tying.models.gpt import GPT, GPTConfig

ModelConfig = GPTConfig

_MODELS: dict[type, type[GPT]] = {GPTConfig: GPT}


def build(config: ModelConfig, vocab_size: int, seed: int) -> GPT:
    """Return a new model on the CPU with initial weights that depend on the configuration and the seed alone."""
    return _MODELS[type(config)](config, vocab_size, seed)


def num_params(model: nn.Module) -> int:
    """Return the number of trainable parameters, each counted once."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


__all__ = ["GPT", "GPTConfig", "ModelConfig", "build", "num_params"]
