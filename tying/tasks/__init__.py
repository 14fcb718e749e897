"""Tasks: a model, its data, its loss and its metrics. To add one, write its file and a line in `TASKS`.

Another person's task is named "package.module:Class"; the class derives from `tying.tasks.base.Task`.
"""

from typing import TYPE_CHECKING

from tying import registry
from tying.data.corpora import DataConfig
from tying.errors import InputError
from tying.models.config import ModelConfig
from tying.tasks.config import TaskConfig

if TYPE_CHECKING:
    from tying.tasks.base import Task

TASKS = {"causal_lm": "tying.tasks.causal_lm:CausalLM"}
_CONFIGS: dict[str, type[TaskConfig]] = {"causal_lm": TaskConfig}


def config_class(name: str) -> type[TaskConfig]:
    """Return the configuration class of a task.

    Raises:
        InputError: If there is none of that name.
    """
    return _CONFIGS[name] if name in _CONFIGS else task_class(name).Config


def task_class(name: str) -> "type[Task]":
    """Return a task by name.

    Raises:
        InputError: If there is none of that name, or it cannot be imported.
    """
    found: type[Task] = registry.find("task", name, TASKS)
    if not isinstance(found, type) or not hasattr(found, "Config"):
        raise InputError(f"task {name!r} is no task: expected a class derived from tying.tasks.base.Task")
    return found


def make(task: TaskConfig, model: ModelConfig, data: DataConfig) -> "Task":
    """Return a task; nothing is read or built yet.

    Raises:
        InputError: If there is none of that name.
    """
    return task_class(task.name)(task, model, data)
