"""What search agents have in common: moves between patterns, and the reward of a window when nothing is changed.

They search inside one training run. There is one model, and it keeps training: a pattern is judged by the windows that
were trained with it, and a bad one costs something. So they move one layer at a time, explore for the first share
`explore` of a run, and then hold the best pattern that they know.

Under a reward of changes, a window is rewarded for the fall of a loss that falls anyway, quickly at first. So a change is
worth its window's reward minus the reward of a window without a change at that time, which `Baseline` estimates.
"""

import functools
import json
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean
from typing import Any, ClassVar

import numpy as np
from gymnasium import spaces

from agents.base import Agent, Explanation, Transition
from agents.environment import masks_of
from tying.config import config, setting
from tying.files import read_json
from tying.interface import ObservationView
from tying.pointers import Pointers

# Of a saved search.
STATE_FILE = "search.json"


def neighbours(pointers: Pointers) -> list[Pointers]:
    """Return every pattern that one move of a layer leads to: it joins another group, or leaves its own to be alone.

    Layer 0 does not move: tying it would overwrite the other group's weights, a change that a run does not recover from.
    """
    layers = range(1, len(pointers))
    return sorted({pointers.move(layer, target) for layer in layers for target in range(layer + 1)} - {pointers})


class Baseline:
    """Running estimate of a window's reward when nothing is changed, and of its scatter.

    Args:
        weight: Of the newest window, above 0 to 1; a small one averages noise away, a large one adapts to a steep start.
    """

    def __init__(self, weight: float) -> None:
        self.weight = weight
        self.mean: float | None = None
        self.variance: float | None = None

    def advantage(self, reward: float) -> float:
        """Return a reward above the estimate, 0 where there is none yet."""
        return 0.0 if self.mean is None else reward - self.mean

    def update(self, reward: float) -> None:
        """Take in the reward of a window without a change."""
        advantage = self.advantage(reward)
        if self.mean is None:
            self.mean = reward
            return
        self.mean += self.weight * advantage
        squared = advantage**2
        self.variance = squared if self.variance is None else self.variance + self.weight * (squared - self.variance)

    @property
    def deviation(self) -> float:
        """Standard deviation of a reward around the estimate; infinite before two windows."""
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


def exploring(view: ObservationView, share: float) -> bool:
    """Return whether less than a share of the run is over."""
    return view.progress < share


class SearchAgent(Agent, ABC):
    """A search over whole patterns; subclasses propose patterns and say which is the best that they know."""

    Config: ClassVar[type] = SearchConfig
    action_spaces = (spaces.MultiDiscrete,)

    def __init__(self, env: Any, seed: int = 0, **hyperparameters: Any) -> None:
        super().__init__(env, seed, **hyperparameters)
        self._generator = np.random.default_rng(seed)
        self._best: Pointers | None = None

    @classmethod
    def recommended(cls, config: Any) -> dict[str, Any]:
        """Return the setting that lets it set a whole pattern at once."""
        return {"env.action_mode": "joint"}

    @functools.cached_property
    def targets(self) -> np.ndarray:
        """Which targets a layer may have, (L, L) bool: of halves of layers, those of its kind."""
        allowed = np.tri(self.num_layers, dtype=bool)
        masks = masks_of(self.env)
        if masks is not None and not masks.all():
            allowed[np.tril_indices(self.num_layers)] = masks
        return allowed

    def legal(self, pointers: Pointers) -> bool:
        """Return whether the environment has a pattern."""
        return bool(self.targets[range(len(pointers)), pointers].all())

    def neighbours(self, pointers: Pointers) -> list[Pointers]:
        """Return every legal pattern that one move of a layer leads to; see the function of that name."""
        return list(filter(self.legal, neighbours(pointers)))

    def begin_episode(self, observation: np.ndarray) -> None:
        """Begin a search from the pattern at the start."""
        self.begin(self.view(observation).pointers)

    def predict(self, observation: np.ndarray, action_masks: np.ndarray | None = None, deterministic: bool = False) -> Any:
        """Return a pattern to try, or the best one known: when `deterministic`, and after the share `explore`."""
        view = self.view(observation)
        if self.best is None:  # asked before a run has begun
            self.begin(view.pointers)
        if view.frozen:
            return np.array(view.pointers)
        if deterministic or not exploring(view, self.config.explore):
            return np.array(self.best or view.pointers)
        return np.array(self.propose(view.pointers))

    def explain(self, observation: np.ndarray, action_masks: np.ndarray, action: Any) -> Explanation:
        """Return whether the pattern is another than the best known."""
        return self.best is not None and tuple(action) != self.best, None

    def recommend(self) -> Pointers | None:
        """See Agent.recommend."""
        return self.best

    @property
    def best(self) -> Pointers | None:
        """The best pattern known, of the run before until this one has a better; None before there is one."""
        return self._best

    def begin(self, pointers: Pointers) -> None:
        """Prepare for a new run that starts with a pattern, unless a run before found a better one."""
        self._best = self._best or pointers
        self.forget_run()

    @abstractmethod
    def forget_run(self) -> None:
        """Drop all that holds for one run alone."""

    @abstractmethod
    def propose(self, pointers: Pointers) -> Pointers:
        """Return the pattern to train the next window with, while exploring; `pointers` is in force."""

    def save_state(self, folder: Path) -> None:
        """Write the best pattern."""
        (folder / STATE_FILE).write_text(json.dumps({"best": self._best}))

    def load_state(self, folder: Path) -> None:
        """Read the best pattern."""
        best = read_json(folder / STATE_FILE)["best"]
        self._best = best and Pointers(best)


class LevelSearchAgent(SearchAgent, ABC):
    """A search whose next proposal follows from the levels of the patterns tried.

    A window's reward is a change against the window before, so a pattern's level is the sum of all rewards up to its
    window. Levels of different times are compared, as is right where nothing is trained.
    """

    needs_telescoping = True

    def __init__(self, env: Any, seed: int = 0, **hyperparameters: Any) -> None:
        super().__init__(env, seed, **hyperparameters)
        self.forget_run()

    @abstractmethod
    def proposals(self) -> Iterator[Pointers]:
        """Yield patterns without end; the levels of those before are known at each."""

    def forget_run(self) -> None:
        """See SearchAgent.forget_run; levels of another run say nothing of this one."""
        self._sum = 0.0
        self._levels: dict[Pointers, list[float]] = {}
        self._queue = self.proposals()

    def level(self, pointers: Pointers) -> float:
        """Return the mean level of a pattern; -inf where it was not tried."""
        return fmean(self._levels.get(pointers, [-math.inf]))

    def tried(self, pointers: Pointers) -> bool:
        """Return whether a pattern has a level."""
        return pointers in self._levels

    def propose(self, pointers: Pointers) -> Pointers:
        """Return the next pattern of the search."""
        return next(self._queue)

    def learn_from(self, step: Transition) -> None:
        """Add the window to the pattern's levels."""
        if not exploring(self.view(step.observation), self.config.explore):
            return
        self._sum += step.reward
        self._levels.setdefault(self.view(step.next_observation).pointers, []).append(self._sum)
        self._best = max(self._levels, key=self.level)
