"""The random agent: the baseline of chance."""

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from agents.base import Agent, Explanation


class RandomAgent(Agent):
    """Takes a legal action, each with the same probability."""

    def __init__(self, env: gymnasium.Env[Any, Any], seed: int = 0, **hyperparameters: Any) -> None:
        super().__init__(env, seed, **hyperparameters)
        self._generator = np.random.default_rng(seed)

    def predict(self, observation: np.ndarray, action_masks: np.ndarray | None = None, deterministic: bool = False) -> Any:
        """Return a random legal action; it knows no best one, so `deterministic` changes nothing."""
        space = self.env.action_space
        sizes = np.array([space.n]) if isinstance(space, spaces.Discrete) else space.nvec  # type: ignore[attr-defined]
        masks = np.ones(sizes.sum(), dtype=bool) if action_masks is None else action_masks
        parts = np.split(masks, np.cumsum(sizes)[:-1])
        choices = np.array([self._generator.choice(np.flatnonzero(part)) for part in parts])
        return int(choices[0]) if isinstance(space, spaces.Discrete) else choices

    def explain(self, observation: np.ndarray, action_masks: np.ndarray, action: Any) -> Explanation:
        """Return that it always explores."""
        return True, None
