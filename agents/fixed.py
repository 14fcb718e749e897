"""Fixed strategies and schedules as agents, so that every comparison is one code path."""

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from agents.base import Agent, Explanation
from tying import strategies
from tying.config import config, setting


@config
class FixedConfig:
    """The pattern."""

    strategy: str = setting("a strategy ('sequence:3'), pointers ('0 1 1 3') or a schedule", default="independent")


class FixedAgent(Agent):
    """Sets one pattern before anything is trained and keeps to it, or follows a schedule; needs all layers at once."""

    Config = FixedConfig
    action_spaces = (spaces.MultiDiscrete,)

    def __init__(self, env: gymnasium.Env[Any, Any], seed: int = 0, **hyperparameters: Any) -> None:
        super().__init__(env, seed, **hyperparameters)
        num_layers = len(env.action_space.nvec)  # type: ignore[attr-defined]
        self.schedule = strategies.make_schedule(self.config.strategy, num_layers)

    @classmethod
    def recommended(cls, config: FixedConfig) -> dict[str, Any]:
        """Return the settings that let it set all layers at once, at any time."""
        return {"env.action_mode": "joint", "env.freeze_after": 1.0}

    def predict(self, observation: np.ndarray, action_masks: np.ndarray | None = None, deterministic: bool = False) -> Any:
        """Return the pattern in force."""
        return np.array(self.schedule.at(self.view(observation).progress))

    def explain(self, observation: np.ndarray, action_masks: np.ndarray, action: Any) -> Explanation:
        """Return that it never explores."""
        return False, None
