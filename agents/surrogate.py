"""Bayesian optimisation of whole patterns: a Gaussian process says what untried patterns may be worth.

Thompson sampling from a Gaussian process: Thompson 1933; Srinivas et al. 2010 (arXiv 0912.3995) and Kandasamy et al. 2018
(arXiv 1705.09236) for processes. That few evaluations go further with a model than without: White, Neiswanger & Savani 2021
("BANANAS", arXiv 1910.11858).

The process sees a pattern by a few things that make patterns alike; how much each matters is learned from the evidence.
N observed windows, C candidates, F features.
"""

import functools
import itertools
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from scipy import linalg

from agents.base import Transition
from agents.search import SearchAgent, SearchConfig, exploring, neighbours
from tying.config import config, setting
from tying.files import read_json
from tying.pointers import Pointers

# All patterns are candidates up to this many layers (877 of them); beyond it what was tried and a sample around it are.
_MOST_LAYERS = 7
_SAMPLED = 400
# Windows that are remembered: the time of a decision grows with their cube, and a model in training leaves old ones behind.
_REMEMBERED = 100
# Variance of what all patterns have in common, in units of what sets them apart: nothing is known of it.
_COMMON = 1e4
# Variances of the noise to choose from, in the same units.
_NOISES = (0.03, 0.1, 0.3, 1.0, 3.0)
# How soon likeness falls off with the share of pairs that differ.
_NEARNESS = 6.0
# What usually sets patterns apart, nats per token.
_USUAL = 0.03


@config
class SurrogateConfig(SearchConfig):
    """Hyper-parameters of SurrogateAgent."""

    features: Literal["pairs", "rule"] = setting(
        "what makes patterns alike; rule: whether layer 0 is private and how many layers are unique; pairs: also which "
        "layers are tied",
        default="pairs",
    )
    trend: int = setting(
        "highest degree of the polynomial in time that windows may be seen against, by the evidence [0 to 3]",
        default=2,
        ge=0,
        le=3,
    )


@dataclass(frozen=True)
class Posterior:
    """What is believed of candidates: mean (C,) and covariance (C, C) of their levels, up to what all have in common."""

    candidates: list[Pointers]
    mean: np.ndarray
    covariance: np.ndarray

    @property
    def best(self) -> Pointers:
        """The candidate with the highest mean."""
        return self.candidates[int(self.mean.argmax())]

    def draw(self, generator: np.random.Generator) -> Pointers:
        """Return the candidate that is best under one draw."""
        size = len(self.mean)
        # Patterns that are almost alike make the covariance singular but for rounding.
        jitter = 1e-6 * float(np.diag(self.covariance).mean()) + 1e-18
        factor = linalg.cholesky(self.covariance + jitter * np.eye(size), lower=True)
        return self.candidates[int((self.mean + factor @ generator.standard_normal(size)).argmax())]


class Kernel:
    """How alike patterns of L layers are: a weighted sum of three parts.

    Args:
        num_layers: L.
        features: "rule" or "pairs".
    """

    def __init__(self, num_layers: int, features: str) -> None:
        self._pairs = list(itertools.combinations(range(num_layers), 2))
        mixed = [(1.0, 0.0, 0.0), (0.8, 0.15, 0.05), (0.5, 0.4, 0.1), (0.2, 0.7, 0.1), (0.3, 0.3, 0.4)]
        # Weights of the rule, of each pair by itself, and of nearness, to choose from.
        self._weights = [(1.0, 0.0, 0.0)] if features == "rule" else mixed

    def posterior(
        self, candidates: list[Pointers], tried: list[Pointers], levels: np.ndarray, trends: np.ndarray
    ) -> Posterior:
        """Return what is believed of candidates under the weights and the noise with the most evidence.

        Args:
            candidates: Patterns, C of them.
            tried: Patterns that were seen, N of them.
            levels: How good each was, (N,).
            trends: What else levels may depend on: 1, the time, its square and so on, (N, degree + 1).
        """
        known, cross, own = self.parts(tried, tried), self.parts(candidates, tried), self.parts(candidates, candidates)
        commons = [_COMMON * trends[:, :count] @ trends[:, :count].T for count in sorted({1, trends.shape[1]})]
        choices = itertools.product(self._weights, commons, _NOISES)
        fits = [
            (weights, _fit(np.tensordot(weights, known, 1) + common, levels, noise)) for weights, common, noise in choices
        ]
        weights, fit = max(fits, key=lambda pair: pair[1].evidence)
        between = np.tensordot(weights, cross, 1)
        covariance = np.tensordot(weights, own, 1) - between @ linalg.cho_solve(fit.factor, between.T)
        return Posterior(candidates, between @ fit.solved, fit.scale * covariance)

    def parts(self, patterns: list[Pointers], others: list[Pointers]) -> np.ndarray:
        """Return the likeness of patterns (rows) and others (columns) by every part, shape (3, rows, columns)."""
        rule, ties = self._features(patterns)
        other_rule, other_ties = self._features(others)
        alike = ties @ other_ties.T / max(1, len(self._pairs))
        return np.stack([rule @ other_rule.T / 2, alike, np.exp(_NEARNESS * (alike - 1))])

    def _features(self, patterns: list[Pointers]) -> tuple[np.ndarray, np.ndarray]:
        """Return the rule's two variables and the ties of all pairs, each as -1 to 1: (rows, 2) and (rows, pairs)."""
        rules, ties = zip(*(self._of(pattern) for pattern in patterns), strict=True)
        return np.array(rules), np.array(ties).reshape(len(patterns), len(self._pairs))

    @functools.lru_cache(maxsize=10_000)  # noqa: B019 (a kernel lives as long as its agent)
    def _of(self, pattern: Pointers) -> tuple[tuple[float, float], tuple[float, ...]]:
        private = 1.0 if len(pattern.groups[0]) == 1 else -1.0
        unique = 2 * (pattern.num_unique - 1) / max(1, len(pattern) - 1) - 1
        return (private, unique), tuple(1.0 if pattern[i] == pattern[j] else -1.0 for i, j in self._pairs)


@dataclass(frozen=True)
class _Fit:
    """A process fitted to levels: the factor of its covariance in units of `scale`, the solved levels, the log evidence."""

    factor: Any
    solved: np.ndarray
    scale: float
    evidence: float


def _fit(kernel: np.ndarray, levels: np.ndarray, noise: float) -> _Fit:
    """Fit a process whose scale is unknown too: its evidence is that of Student's t with two degrees of freedom more."""
    size = len(levels)
    factor = linalg.cho_factor(kernel + noise * np.eye(size), lower=True)
    solved = linalg.cho_solve(factor, levels)
    # An inverse-gamma prior of the scale with a mean of some hundredths of a nat, and the weight of two observations.
    squares = float(levels @ solved) + 2 * _USUAL**2
    half_determinant = float(np.log(np.diag(factor[0])).sum())
    return _Fit(factor, solved, squares / (size + 2), -half_determinant - (size + 2) / 2 * math.log(squares))


class SurrogateAgent(SearchAgent):
    """Trains the pattern that is best under one draw from the posterior; would keep the one with the best mean.

    A window's reward is a change against the window before, so a pattern's level is the sum of all rewards up to its
    window, seen against a polynomial in time.
    """

    Config = SurrogateConfig
    resumable = True
    needs_telescoping = True

    def __init__(self, env: Any, seed: int = 0, **hyperparameters: Any) -> None:
        super().__init__(env, seed, **hyperparameters)
        num_layers = len(env.action_space.nvec)
        self._kernel = Kernel(num_layers, self.config.features)
        self._all = list(Pointers.all(num_layers)) if num_layers <= _MOST_LAYERS else None
        self._forget_run()

    def _forget_run(self) -> None:
        self._candidates: list[Pointers] = []
        self._tried: list[Pointers] = []
        self._levels: list[float] = []
        self._times: list[float] = []
        self._total = 0.0
        self._best: Pointers | None = None
        self._posterior: Posterior | None = None

    @property
    def best(self) -> Pointers | None:
        """The candidate with the highest posterior mean."""
        return self._best

    def begin(self, pointers: Pointers) -> None:
        """Begin with the best pattern of the run before, or else the one in force."""
        best = self._best or pointers
        self._forget_run()
        self._best = best

    def propose(self, pointers: Pointers) -> Pointers:
        """Return the best pattern under a draw from the posterior; first of all, the one that the run begins with."""
        assert self._best is not None  # begin comes first
        return self._best if self._posterior is None else self._posterior.draw(self._generator)

    def learn_from(self, step: Transition) -> None:
        """Add the window to what was seen, forget the oldest of many, and look for the best again."""
        if not exploring(self.view(step.observation), self.config.explore):
            return
        view = self.view(step.next_observation)
        self._total += step.reward
        self._tried.append(view.pointers)
        self._levels.append(self._total)
        self._times.append(1 - view.scalar("remaining"))
        for seen in (self._tried, self._levels, self._times):
            del seen[:-_REMEMBERED]
        self._candidates = self._choose_candidates()
        self._posterior = self._believe()
        self._best = self._posterior.best

    def _believe(self) -> Posterior:
        trends = np.array(self._times)[:, None] ** np.arange(self.config.trend + 1)
        return self._kernel.posterior(self._candidates, self._tried, np.array(self._levels), trends)

    def _choose_candidates(self) -> list[Pointers]:
        if self._all is not None:
            return self._all
        tried = sorted(set(self._tried))  # always among them: the best may be one
        around = sorted({pattern for one in tried for pattern in neighbours(one)}.difference(tried))
        index = self._generator.permutation(len(around))[: max(0, _SAMPLED - len(tried))]
        return [*tried, *(around[i] for i in index)]

    def save_state(self, folder: Path) -> None:
        """Write the best pattern, all that was seen, and the generator."""
        state = {
            "best": self._best,
            "candidates": self._candidates,
            "tried": self._tried,
            "levels": self._levels,
            "times": self._times,
            "total": self._total,
            "generator": self._generator.bit_generator.state,
        }
        (folder / "search.json").write_text(json.dumps(state))

    def load_state(self, folder: Path) -> None:
        """Read them; what is believed follows from what was seen."""
        state = read_json(folder / "search.json")
        self._best = state["best"] and Pointers(state["best"])
        self._candidates = [Pointers(pattern) for pattern in state["candidates"]]
        self._tried = [Pointers(pattern) for pattern in state["tried"]]
        self._levels, self._times, self._total = state["levels"], state["times"], float(state["total"])
        self._generator.bit_generator.state = state["generator"]
        self._posterior = self._believe() if self._tried else None
