"""Models: one file, one architecture. To add one, write its file and a line in `MODELS`.

Another person's model is named "package.module:Class"; the class derives from `tying.models.base.Model` and has a `Config`.
"""

from typing import TYPE_CHECKING

from tying import registry
from tying.models.config import GPTConfig, ModelConfig

if TYPE_CHECKING:
    from tying.models.base import Model

# Name to the model, and to its settings where these can be read without the model.
MODELS = {"gpt": "tying.models.gpt:GPT"}
_CONFIGS: dict[str, type[ModelConfig] | str] = {"gpt": GPTConfig, "hf": "tying.hf.config:HFConfig"}


def config_class(name: str) -> type[ModelConfig]:
    """Return the configuration class of an architecture.

    Raises:
        InputError: If there is none of that name.
    """
    found: type[ModelConfig] = registry.find("model", name, _CONFIGS) if name in _CONFIGS else model_class(name).Config
    return found


def model_class(name: str) -> "type[Model]":
    """Return an architecture by name.

    Raises:
        InputError: If there is none of that name, or it cannot be imported.
    """
    found: type[Model] = registry.find_class("model", name, MODELS, "tying.models.base.Model")
    return found
