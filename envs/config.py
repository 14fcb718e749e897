"""TrainingConfig: all settings of a training environment, one section per owner."""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import SerializeAsAny

from envs import actions
from envs.base import EnvConfig, by_section
from envs.reward import RewardConfig, require_cache
from tying import models, tasks
from tying.config import by_name, config, override, setting
from tying.data.corpora import DataConfig
from tying.errors import InputError
from tying.models.config import BlocksConfig, GPTConfig
from tying.tasks.config import TaskConfig
from tying.training.config import BindingConfig, OptimConfig, TrainerConfig


@config
class TrainingConfig:
    """The sections that `tying/LayerTying-v0` reads."""

    task: Annotated[SerializeAsAny[TaskConfig], by_name("task", TaskConfig, tasks.config_class)] = setting(
        "the kind of work", default=TaskConfig()
    )
    model: Annotated[SerializeAsAny[BlocksConfig], by_name("model", BlocksConfig, models.config_class)] = setting(
        "the Transformer", default=GPTConfig()
    )
    data: DataConfig = setting("the text and its tokens", default=DataConfig())
    trainer: TrainerConfig = setting("length, batch, device", default=TrainerConfig())
    optim: OptimConfig = setting("optimizer and learning rate", default=OptimConfig())
    binding: BindingConfig = setting("the parameters that tied layers share", default=BindingConfig())
    env: EnvConfig = setting("when and how pointers are decided", default=EnvConfig())
    reward: RewardConfig = setting("the terms of the reward", default=RewardConfig())

    def __post_init__(self) -> None:
        self.task.check(self.model)
        binding = self.binding
        self.model.check_binding(binding.share, binding.norms, binding.gradient, binding.delta_rank)
        require_cache(self.reward, self.model.moves_cache)
        if not self.model.num_layers:  # not known before its folder is named
            return
        where = self.model.num_layers, self.binding.delta_rank
        mode = actions.make(self.env.action_mode, *where) if self.env.action_mode in actions.MODES else None
        try:
            pointers = actions.start(self.env.initial_pointers, mode, *where, moves=self.env.freeze_after > 0)
        except InputError as error:
            raise InputError(f"env.initial_pointers: {error}") from error
        if self.env.freeze_after == 0:
            self.model.check_tying(pointers, self.binding.share)


def with_keywords(base: TrainingConfig, keywords: Mapping[str, Any]) -> TrainingConfig:
    """Return a configuration with settings changed as `gymnasium.make` takes them.

    Args:
        base: Where to begin.
        keywords: As for `tying.config.override`; fields of `env` may go without its name (`action_mode="joint"`).

    Raises:
        InputError: With one line for every wrong name or value.
    """
    changes = by_section(keywords)
    return override(base, tasks.recommended(changes, base.task, base.model), changes)
