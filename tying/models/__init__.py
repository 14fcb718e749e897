"""Models: one file, one architecture. To add one, write its file and a line in `MODELS`.

Another person's model is named "package.module:Class"; the class derives from `tying.models.base.BlockModel`
(of a causal language model: `Model`) and has a `Config`.
"""

from typing import TYPE_CHECKING

from tying import registry
from tying.models.config import BertConfig, BlocksConfig, GPTConfig, LlamaConfig, ViTConfig

if TYPE_CHECKING:
    from tying.models.base import BlockModel

# Name to the model, and to its settings where these can be read without the model.
MODELS = {
    "gpt": "tying.models.gpt:GPT",
    "llama": "tying.models.llama:Llama",
    "bert": "tying.models.bert:Bert",
    "vit": "tying.models.vit:ViT",
}
_CONFIGS: dict[str, type[BlocksConfig] | str] = {
    "gpt": GPTConfig,
    "llama": LlamaConfig,
    "bert": BertConfig,
    "vit": ViTConfig,
    "hf": "tying.hf.config:HFConfig",
}


def config_class(name: str) -> type[BlocksConfig]:
    """Return the configuration class of an architecture.

    Raises:
        InputError: If there is none of that name.
    """
    found: type[BlocksConfig] = registry.find("model", name, _CONFIGS) if name in _CONFIGS else model_class(name).Config
    return found


def model_class(name: str) -> "type[BlockModel]":
    """Return an architecture by name.

    Raises:
        InputError: If there is none of that name, or it cannot be imported.
    """
    found: type[BlockModel] = registry.find_class("model", name, MODELS, "tying.models.base.BlockModel")
    return found
