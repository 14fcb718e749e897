"""The settings of tasks, kept apart from the tasks: reading them needs no torch."""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from tying.config import config, setting
from tying.data import corpora, images, labelled
from tying.data.corpora import DataConfig
from tying.errors import InputError
from tying.models.config import BertConfig, BlocksConfig, GPTConfig
from tying.registry import is_foreign


@config
class TaskConfig:
    """The settings that every task has; tasks may add their own fields.

    Attributes:
        recommended: Settings that come with the choice of the task, by dotted name; a person's own stand above them.
        models: The only models of ours that it trains; none: all that are not kept to other tasks.
    """

    name: str = setting(
        "kind of work: causal_lm, masked_lm, sequence_classification, image_classification, p_hop, hf, or "
        "package.module:Class",
        default="causal_lm",
    )

    recommended: ClassVar[Mapping[str, Any]] = {}
    models: ClassVar[tuple[str, ...]] = ()

    def check(self, model: BlocksConfig) -> None:
        """Check that the task trains such a model.

        Raises:
            InputError: If it does not.
        """
        if model.tasks and self.name not in model.tasks:
            only = " or ".join(map(repr, model.tasks))
            raise InputError(f"model.name = {model.name!r}: only task {only} trains it; add --task {model.tasks[0]}")
        if self.models and model.name not in self.models and not is_foreign(model.name):
            raise InputError(f"model.name = {model.name!r}: task {self.name!r} trains {' or '.join(self.models)}")

    def require_data(self, data: DataConfig) -> None:
        """Check that the data's files are there, without reading them.

        Raises:
            InputError: If there are none, or not what the task reads.
        """
        corpora.require(data)


@config
class MaskedLMConfig(TaskConfig):
    """Settings of the task `masked_lm`."""

    name: str = setting("kind of work: masked_lm", default="masked_lm")
    whole_words: bool = setting("hide all tokens of a word or none", default=False)

    recommended: ClassVar[Mapping[str, Any]] = {"model.name": "bert", "optim.learning_rate": 1e-3}
    models: ClassVar[tuple[str, ...]] = ("bert",)

    def check(self, model: BlocksConfig) -> None:
        """See TaskConfig.check."""
        super().check(model)
        if isinstance(model, BertConfig) and model.init_from is not None:
            raise InputError(f"model.init_from = {model.init_from!r}: task 'masked_lm' begins anew; it is for fine-tuning")


@config
class SequenceClassificationConfig(TaskConfig):
    """Settings of the task `sequence_classification`."""

    name: str = setting("kind of work: sequence_classification", default="sequence_classification")

    recommended: ClassVar[Mapping[str, Any]] = {
        "model.name": "bert",
        "data.corpus": "python-functions",
        "data.max_chars": None,  # a preset's is for running text
        "optim.learning_rate": 1e-3,
    }
    models: ClassVar[tuple[str, ...]] = ("bert",)

    def require_data(self, data: DataConfig) -> None:
        """See TaskConfig.require_data."""
        labelled.require(data)


@config
class ImageClassificationConfig(TaskConfig):
    """Settings of the task `image_classification`."""

    name: str = setting("kind of work: image_classification", default="image_classification")

    recommended: ClassVar[Mapping[str, Any]] = {
        "model.name": "vit",
        "data.corpus": "digits",
        "data.max_chars": None,  # a preset's is for text
        "optim.learning_rate": 1e-3,
    }
    models: ClassVar[tuple[str, ...]] = ("vit",)

    def require_data(self, data: DataConfig) -> None:
        """See TaskConfig.require_data."""
        images.require(data)


@config
class PHopConfig(TaskConfig):
    """Settings of the task `p_hop`, which generates its data."""

    name: Literal["p_hop"] = setting("kind of work: p_hop", default="p_hop")
    hops: int = setting("p: steps from a position to its answer, one after another [hops, >= 1]", default=4, ge=1)
    alphabet: int = setting("different tokens V [tokens, 2 to 65536]", default=4, ge=2, le=65_536)
    eval_sequences: int = setting("size of the reward split, and of the test split [sequences, >= 1]", default=1024, ge=1)

    def check(self, model: BlocksConfig) -> None:
        """See TaskConfig.check."""
        super().check(model)
        if isinstance(model, GPTConfig) and model.halting != "none":
            raise InputError(f"model.halting = {model.halting!r}: its cost is no part of the loss of task 'p_hop'")

    def require_data(self, data: DataConfig) -> None:
        """Check that no text is named, since none is read."""
        for name in ("path", "hf"):
            if getattr(data, name) is not None:
                raise InputError(f"data.{name} = {getattr(data, name)!r}: task 'p_hop' generates its data; leave it out")
