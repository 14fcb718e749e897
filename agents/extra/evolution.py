"""Regularised evolution inside one training run.

Real, Aggarwal, Huang & Le 2019 ("Regularized Evolution for Image Classifier Architecture Search", arXiv 1802.01548): the
best of a random sample of the population has a child, and the oldest dies, however good it is. Here that has a second
use: the model keeps training, so an old score says little of the present.
"""

from collections import defaultdict, deque
from statistics import fmean
from typing import Any

import numpy as np

from agents.base import Transition
from agents.search import SearchAgent, SearchConfig, exploring
from tying.config import config, setting
from tying.pointers import Pointers


@config
class EvolutionConfig(SearchConfig):
    """Hyper-parameters of EvolutionAgent."""

    population: int = setting("patterns of the newest windows that are kept [>= 3]", default=16, ge=3)
    sample: int = setting("of them that compete to be the parent [>= 1]", default=10, ge=1)


class EvolutionAgent(SearchAgent):
    """Each window trains a child of the best of a few recent patterns.

    A window's reward is a change against the window before, so a pattern's level is the sum of all rewards up to its
    window. That sum rises as the model learns; a pattern's score is its height above the line through the population's.
    """

    Config = EvolutionConfig
    needs_telescoping = True

    def __init__(self, env: Any, seed: int = 0, **hyperparameters: Any) -> None:
        super().__init__(env, seed, **hyperparameters)
        self.forget_run()

    def forget_run(self) -> None:
        """See SearchAgent.forget_run; a population begins with the best pattern of the run before."""
        self._population: deque[tuple[Pointers, float]] = deque(maxlen=self.config.population)
        self._total = 0.0

    def propose(self, pointers: Pointers) -> Pointers:
        """Return a child of the winner of a tournament; first of all, the pattern that the population begins with."""
        assert self._best is not None  # begin comes first
        if not self._population:
            return self._best
        size = min(self.config.sample, len(self._population))
        entrants = self._generator.choice(len(self._population), size, replace=False)
        scores = self._scores()
        parent, _ = self._population[max(entrants, key=lambda index: scores[index])]
        children = self.neighbours(parent)
        return children[self._generator.integers(len(children))] if children else parent

    def learn_from(self, step: Transition) -> None:
        """Add the window's pattern to the population; the oldest dies."""
        if not exploring(self.view(step.observation), self.config.explore):
            return
        self._total += step.reward
        self._population.append((self.view(step.next_observation).pointers, self._total))
        scores = defaultdict(list)
        for (pattern, _), score in zip(self._population, self._scores(), strict=True):
            scores[pattern].append(score)
        self._best = max(scores, key=lambda pattern: fmean(scores[pattern]))

    def _scores(self) -> np.ndarray:
        """Return each member's height above the line through all, oldest first."""
        totals = np.array([total for _, total in self._population])
        ages = np.arange(len(totals)) - (len(totals) - 1) / 2
        slope = ages @ totals / max(ages @ ages, 1)
        heights: np.ndarray = totals - totals.mean() - slope * ages
        return heights
