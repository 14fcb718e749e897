"""What search agents have in common: moves between patterns, and what a window pays when nothing is changed.

They search inside one training run. There is one model, and it goes on training: a pattern is judged by how the windows
went that were trained with it, and a bad one has cost something. So they move one layer at a time, look for the first
share `explore` of a run, and then hold the best pattern that they know.

A window's pay is the fall of a loss that falls anyway, quickly at first. What a change is worth is therefore its window's
pay minus what windows pay without a change at that time, which is what `Baseline` estimates.
"""

import math
from abc import ABC, abstractmethod
from typing import Any, ClassVar

import numpy as np
from gymnasium import spaces

from agents.base import Agent
from tying.config import config, setting
from tying.layout import View
from tying.pointers import Pointers


def neighbours(pointers: Pointers) -> list[Pointers]:
    """Return every pattern that one move of a layer leads to: it joins another group, or leaves its own to be alone.

    Layer 0 does not move. It is always a root, so for it to join a group is for that group to take its weights and to lose
    those it has: of all moves the one that a run does not get over.
    """
    layers = range(1, len(pointers))
    return sorted({pointers.move(layer, target) for layer in layers for target in range(layer + 1)} - {pointers})


class Baseline:
    """Running estimate of a window's pay when nothing is changed, and of how much it scatters.

    Args:
        weight: Of the newest window, above 0 to 1; a small one averages noise away, a large one follows a steep start.
    """

    def __init__(self, weight: float) -> None:
        self.weight = weight
        self.mean: float | None = None
        self.variance: float | None = None

    def advantage(self, pay: float) -> float:
        """Return a pay above the estimate, 0 where there is none yet."""
        return 0.0 if self.mean is None else pay - self.mean

    def update(self, pay: float) -> None:
        """Take in the pay of a window without a change."""
        surprise = self.advantage(pay)
        if self.mean is None:
            self.mean = pay
            return
        self.mean += self.weight * surprise
        squared = surprise**2
        self.variance = squared if self.variance is None else self.variance + self.weight * (squared - self.variance)

    @property
    def deviation(self) -> float:
        """Standard deviation of a pay around the estimate; infinite before two windows."""
        return math.inf if self.variance is None else math.sqrt(self.variance)


@config
class SearchConfig:
    """Hyper-parameters that all searches have."""

    # Short, since a window that tries a pattern is lost to the one that is kept (docs/results.md).
    explore: float = setting(
        "share of the run in which patterns are tried, then the best is held; keep it below env.freeze_after [0 to 1]",
        default=0.1,
        ge=0,
        le=1,
    )


def exploring(view: View, share: float) -> bool:
    """Return whether less than a share of the run is over."""
    return round(1 - view.scalar("remaining"), 6) < share


class SearchAgent(Agent, ABC):
    """A search over whole patterns; subclasses propose patterns and say which is the best that they know."""

    Config: ClassVar[type] = SearchConfig
    action_spaces = (spaces.MultiDiscrete,)

    def __init__(self, env: Any, seed: int = 0, **hyperparameters: Any) -> None:
        super().__init__(env, seed, **hyperparameters)
        self._generator = np.random.default_rng(seed)

    @classmethod
    def wishes(cls, config: Any) -> dict[str, Any]:
        """Return what lets it set a whole pattern at once."""
        return {"env.action_mode": "joint"}

    def predict(self, observation: np.ndarray, action_masks: np.ndarray | None = None, deterministic: bool = False) -> Any:
        """Return a pattern to try, or the best one known: when `deterministic`, and after the share `explore`."""
        view = View(observation)
        if view.scalar("frozen"):
            return np.array(view.pointers)
        if deterministic or not exploring(view, self.config.explore):
            return np.array(self.best or view.pointers)
        if view.scalar("remaining") == 1:
            self.begin(view.pointers)
        return np.array(self.propose(view.pointers))

    def recommend(self) -> Pointers | None:
        """See Agent.recommend."""
        return self.best

    @property
    @abstractmethod
    def best(self) -> Pointers | None:
        """The best pattern known; None before there is one."""

    @abstractmethod
    def begin(self, pointers: Pointers) -> None:
        """Prepare for a new run that starts with a pattern."""

    @abstractmethod
    def propose(self, pointers: Pointers) -> Pointers:
        """Return the pattern to train the next window with, while exploring; `pointers` is in force."""
