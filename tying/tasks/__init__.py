"""Tasks: a model, its data, its loss and its metrics. To add one, write its file and a line in `TASKS`.

Another person's task is named "package.module:Class"; the class derives from `tying.tasks.base.Task`.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tying import registry
from tying.config import nested
from tying.data.corpora import DataConfig
from tying.errors import InputError
from tying.models.config import BlocksConfig
from tying.tasks.config import (
    ImageClassificationConfig,
    MaskedLMConfig,
    PHopConfig,
    SequenceClassificationConfig,
    TaskConfig,
)

if TYPE_CHECKING:
    from tying.tasks.base import Task

# Name to the class, or to a function of the same arguments; and to the settings, where these can be read without it.
TASKS = {
    "causal_lm": "tying.tasks.causal_lm:CausalLM",
    "masked_lm": "tying.tasks.masked_lm:MaskedLM",
    "sequence_classification": "tying.tasks.sequence_classification:SequenceClassification",
    "image_classification": "tying.tasks.image_classification:ImageClassification",
    "p_hop": "tying.tasks.p_hop:PHop",
    "hf": "tying.hf.task:make",
}
_CONFIGS: dict[str, type[TaskConfig] | str] = {
    "causal_lm": TaskConfig,
    "masked_lm": MaskedLMConfig,
    "sequence_classification": SequenceClassificationConfig,
    "image_classification": ImageClassificationConfig,
    "p_hop": PHopConfig,
    "hf": "tying.hf.config:HFTaskConfig",
}


def config_class(name: str) -> type[TaskConfig]:
    """Return the configuration class of a task.

    Raises:
        InputError: If there is none of that name.
    """
    found: type[TaskConfig] = registry.find("task", name, _CONFIGS) if name in _CONFIGS else task_class(name).Config
    return found


def task_class(name: str) -> "type[Task]":
    """Return a task by name: its class, or the function in its place.

    Raises:
        InputError: If there is none of that name, or it cannot be imported.
    """
    found: type[Task] = registry.find_class("task", name, TASKS, "tying.tasks.base.Task")
    return found


def recommended(given: Mapping[str, Any], base: TaskConfig) -> Mapping[str, Any]:
    """Return the settings that come with a change of task, dotted names to values.

    Args:
        given: Settings by section or dotted name, which may name another task.
        base: The task that they would change.
    """
    section = nested(given).get("task", {})
    name = section.get("name", base.name) if isinstance(section, Mapping) else base.name
    if name == base.name or not isinstance(name, str):
        return {}
    try:
        return config_class(name).recommended
    except InputError:
        return {}  # reported where the name is checked


def make(task: TaskConfig, model: BlocksConfig, data: DataConfig) -> "Task":
    """Return a task; nothing is read or built yet.

    Raises:
        InputError: If there is none of that name.
    """
    return task_class(task.name)(task, model, data)
