"""Tasks: a model, its data, its loss and its metrics. To add one, write its file and a line in `TASKS`.

Another person's task is named "package.module:Class"; the class derives from `tying.tasks.base.Task`.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tying import models, registry
from tying.config import fields_of, nested
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


# What a model that comes with a task takes from the model of the preset.
_SIZES = ("num_layers", "num_heads", "width", "context")


def recommended(given: Mapping[str, Any], base: TaskConfig, model: BlocksConfig) -> Mapping[str, Any]:
    """Return the settings that come with a change of task, dotted names to values.

    A model that comes with the task has the sizes of the model before, as far as both have them.

    Args:
        given: Settings by section or dotted name, which may name another task.
        base: The task that they would change.
        model: The model before.
    """
    section = nested(given).get("task", {})
    name = section.get("name", base.name) if isinstance(section, Mapping) else base.name
    if name == base.name or not isinstance(name, str):
        return {}
    try:
        found = config_class(name).recommended
    except InputError:
        return {}  # reported where the name is checked
    architecture = found.get("model.name", model.name)
    own = fields_of(models.config_class(architecture)) if architecture in models.MODELS else {}
    sizes = {f"model.{field}": getattr(model, field) for field in _SIZES if field in own and hasattr(model, field)}
    return {**sizes, **found}


def make(task: TaskConfig, model: BlocksConfig, data: DataConfig) -> "Task":
    """Return a task; nothing is read or built yet.

    Raises:
        InputError: If there is none of that name.
    """
    return task_class(task.name)(task, model, data)
