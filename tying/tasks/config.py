"""The settings of tasks, kept apart from the tasks: reading them needs no torch."""

from collections.abc import Mapping
from typing import Any, ClassVar

from tying.config import config, setting
from tying.data import corpora
from tying.data.corpora import DataConfig
from tying.errors import InputError
from tying.models.config import ModelConfig


@config
class TaskConfig:
    """The settings that every task has; tasks may add their own fields.

    Attributes:
        recommended: Settings that come with the choice of the task, by dotted name; a person's own stand above them.
    """

    name: str = setting("kind of work: causal_lm, hf, or package.module:Class", default="causal_lm")

    recommended: ClassVar[Mapping[str, Any]] = {}

    def check(self, model: ModelConfig) -> None:
        """Check that the task trains such a model.

        Raises:
            InputError: If it does not.
        """
        if model.task not in (None, self.name):
            raise InputError(f"model.name = {model.name!r}: only task {model.task!r} trains it; add --task {model.task}")

    def require_data(self, data: DataConfig) -> None:
        """Check that the data's files are there, without reading them.

        Raises:
            InputError: If there are none, or not what the task reads.
        """
        corpora.require(data)
