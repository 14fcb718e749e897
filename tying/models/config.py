"""The settings of models, kept apart from the models: reading them needs no torch."""

from typing import ClassVar, Literal

from tying.config import config, setting
from tying.errors import InputError


@config
class ModelConfig:
    """The settings that every model has; architectures add their own fields.

    Attributes:
        task: The only task that trains it; None: every task that builds its model from these settings.
    """

    name: str = setting("architecture: gpt, hf (under task hf), or package.module:Class", default="gpt")
    num_layers: int = setting("blocks L [layers, >= 1]", default=6, ge=1)
    context: int = setting("tokens T that the model sees at once [tokens, >= 1]", default=128, ge=1)

    task: ClassVar[str | None] = None

    def require(self) -> None:
        """Check that files which the model begins with are there; nothing is read.

        Raises:
            InputError: If they are not.
        """


@config
class GPTConfig(ModelConfig):
    """The shape of a GPT."""

    name: Literal["gpt"] = setting("architecture: gpt, or package.module:Class", default="gpt")
    num_heads: int = setting("attention heads per block, must divide the width [heads, >= 1]", default=4, ge=1)
    width: int = setting("size C of the residual stream [features, >= 1]", default=128, ge=1)
    dropout: float = setting("share of activations dropped while training [0 to below 1]", default=0.0, ge=0, lt=1)
    bias: bool = setting("biases in linear layers and norms, as in GPT-2", default=True)
    tie_embeddings: bool = setting("input and output embeddings share (not the tying of layers)", default=True)

    def __post_init__(self) -> None:
        if self.width % self.num_heads:
            raise InputError(f"model.num_heads = {self.num_heads}: must divide model.width = {self.width}")
