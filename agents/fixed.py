"""Fixed strategies and schedules as agents, so that every comparison is one code path."""

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from agents.base import Agent
from tying import strategies
from tying.config import config, setting
from tying.layout import View


@config
class FixedConfig:
    """Which pattern."""

    strategy: str = setting("a strategy ('sequence:3'), pointers ('0 1 1 3') or a schedule", default="independent")


class FixedAgent(Agent):
    """Sets one pattern before anything is trained and keeps to it, or follows a schedule; needs all layers at once."""

    Config = FixedConfig
    action_spaces = (spaces.MultiDiscrete,)

    def __init__(self, env: gymnasium.Env[Any, Any], seed: int = 0, **hyperparameters: Any) -> None:
        super().__init__(env, seed, **hyperparameters)
        num_layers = len(env.action_space.nvec)  # type: ignore[attr-defined]
        self.schedule = strategies.schedule(self.config.strategy, num_layers)

    @classmethod
    def wishes(cls, config: FixedConfig) -> dict[str, Any]:
        """Return what lets it set all layers at once, at any time."""
        return {"env.action_mode": "joint", "env.freeze_after": 1.0}

    def predict(self, observation: np.ndarray, action_masks: np.ndarray | None = None, deterministic: bool = False) -> Any:
        """Return the pattern in force."""
        # Rounding, since a float32 share such as 0.7 must not come out just below the 0.3 of a schedule.
        return np.array(self.schedule.at(round(1 - View(observation).scalar("remaining"), 6)))
