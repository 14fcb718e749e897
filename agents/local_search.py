"""Local search: hill climbing by moves of one layer, inside one training run.

White, Nolen & Savani 2021 ("Local Search is State of the Art for NAS Benchmarks", arXiv 2005.02960) find it the best of
the simple searches when evaluations are few and not too noisy.
"""

import math
from statistics import fmean
from typing import Any

import numpy as np

from agents.base import Diagnostics, Transition
from agents.search import Baseline, SearchAgent, SearchConfig
from tying.config import config, setting
from tying.pointers import Pointers


@config
class LocalSearchConfig(SearchConfig):
    """Hyper-parameters of LocalSearchAgent."""

    trial: int = setting("windows that a move is tried for before it is judged [>= 1]", default=1, ge=1)
    confidence: float = setting(
        "keep a move only if its advantage exceeds this many standard errors [>= 0]", default=0.25, ge=0
    )
    weight: float = setting(
        "weight of the newest window in the estimate of the reward without a move [above 0 to 1]",
        default=0.5,
        gt=0,
        le=1,
    )


class LocalSearchAgent(SearchAgent):
    """Holds an incumbent, tries one-layer moves of it, keeps those that raise the reward, and takes the others back.

    A run begins with two windows of the incumbent, which estimate the reward without a move. A move is tried for `trial`
    windows and kept if its advantage over that estimate exceeds `confidence` standard errors; otherwise the next decision
    takes it back. The mean reward of a move and its return is again the reward without a move: under a reward of changes
    the two cancel. Once all moves of an incumbent were tried, the most promising are tried again, and the mean of their
    trials counts.
    """

    Config = LocalSearchConfig

    def __init__(self, env: Any, seed: int = 0, **hyperparameters: Any) -> None:
        super().__init__(env, seed, **hyperparameters)
        self._advantages: dict[Pointers, list[float]] = {}
        self.forget_run()

    def forget_run(self) -> None:
        """See SearchAgent.forget_run; the incumbent stays, the reward without a move is estimated anew."""
        self._baseline = Baseline(self.config.weight)
        self._candidate: Pointers | None = None
        self._rewards: list[float] = []  # of the windows since the incumbent was left

    @classmethod
    def recommended(cls, config: Any) -> dict[str, Any]:
        """Return also the reward that compares a trial with the same window without it.

        While a model learns fastest, every trial seems to help: falls of the loss say more about the time than about the
        pattern (docs/results.md).
        """
        return {**super().recommended(config), "reward.name": "fork"}

    def propose(self, pointers: Pointers) -> Pointers:
        """Continue a trial, take it back, or begin one."""
        assert self._best is not None  # begin comes first
        if self._candidate is None and pointers == self._best and self._baseline.variance is not None:
            self._candidate = self._next_candidate(self._best)
        return self._candidate or self._best

    def _next_candidate(self, incumbent: Pointers) -> Pointers | None:
        """Return a random neighbour among those never tried, else the one with the highest upper bound."""
        around = self.neighbours(incumbent)
        fresh = [pattern for pattern in around if pattern not in self._advantages]
        if fresh:
            return fresh[self._generator.integers(len(fresh))]
        return max(around, key=lambda pattern: self._mean(pattern) + self._error(pattern), default=None)

    def learn_from(self, step: Transition) -> None:
        """Add the window to the trial, or to the estimate of the reward without a move."""
        before, after = self.view(step.observation).pointers, self.view(step.next_observation).pointers
        if after == self._candidate:
            self._rewards.append(step.reward)
            if len(self._rewards) == self.config.trial:
                self._judge(after)
        elif after == self._best and (before == after or self._rewards):
            self._baseline.update(fmean([*self._rewards, step.reward]))
            self._rewards = []

    def _judge(self, candidate: Pointers) -> None:
        advantage = math.fsum(self._baseline.advantage(reward) for reward in self._rewards)
        self._advantages.setdefault(candidate, []).append(advantage)
        if self._mean(candidate) > self.config.confidence * self._error(candidate):
            self._best, self._advantages, self._rewards = candidate, {}, []
        self._candidate = None

    def _mean(self, pattern: Pointers) -> float:
        return fmean(self._advantages[pattern])

    def _error(self, pattern: Pointers) -> float:
        """Return the standard error of a pattern's mean."""
        return self._baseline.deviation / math.sqrt(len(self._advantages[pattern]))

    def diagnostics(self, observation: np.ndarray, action_masks: np.ndarray) -> Diagnostics:
        """Return the reward that it expects of a window without a move."""
        return {"expected_reward": self._baseline.mean or 0.0}
