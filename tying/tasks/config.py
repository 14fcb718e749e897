"""The settings of tasks, kept apart from the tasks: reading them needs no torch."""

from tying.config import config, setting


@config
class TaskConfig:
    """The settings that every task has; tasks may add their own fields."""

    name: str = setting("kind of work: causal_lm, or package.module:Class", default="causal_lm")
