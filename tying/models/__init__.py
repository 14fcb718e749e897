"""Models: one file, one architecture. To add one, write its file and a line in `_MODELS`."""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator, SerializeAsAny
from torch import nn

from tying.config import build as build_config
from tying.config import unknown
from tying.errors import InputError
from tying.models.base import Model, ModelConfig
from tying.models.gpt import GPT, GPTConfig

_MODELS: dict[str, tuple[type[ModelConfig], type[Model]]] = {"gpt": (GPTConfig, GPT)}


def names() -> tuple[str, ...]:
    """Return the names of the architectures."""
    return tuple(_MODELS)


def config_class(name: str) -> type[ModelConfig]:
    """Return the configuration class of an architecture.

    Raises:
        InputError: If there is none of that name.
    """
    if name not in _MODELS:
        raise InputError(unknown(f"model {name!r}", name, list(_MODELS)))
    return _MODELS[name][0]


def _config_from(values: Any) -> Any:
    if not isinstance(values, Mapping):
        return values
    return build_config(config_class(values.get("name", "gpt")), dict(values), "model.")


# A field of any architecture's configuration: in JSON, its "name" says which.
AnyModelConfig = Annotated[SerializeAsAny[ModelConfig], BeforeValidator(_config_from)]


def build(config: ModelConfig, vocab_size: int, seed: int) -> Model:
    """Return a new model on the CPU with initial weights that depend on the configuration and the seed alone."""
    return _MODELS[config.name][1](config, vocab_size, seed)


def num_params(model: nn.Module) -> int:
    """Return the number of trainable parameters, each counted once."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


__all__ = ["GPT", "AnyModelConfig", "GPTConfig", "Model", "ModelConfig", "build", "config_class", "names", "num_params"]
