"""Bayesian optimisation of whole patterns: a Gaussian process says what untried patterns may be worth.

Thompson sampling from a Gaussian process: Thompson 1933; Srinivas et al. 2010 (arXiv 0912.3995) and Kandasamy et al. 2018
(arXiv 1705.09236) for processes. That few evaluations go further with a model than without: White, Neiswanger & Savani 2021
("BANANAS", arXiv 1910.11858).

The process sees a pattern by a few things that make patterns alike; how much each matters is learned from the evidence.
N observed windows, C candidates, F features.
"""

import json
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, Literal

import numpy as np
from scipy import linalg

from agents.search import SearchAgent, SearchConfig, exploring, neighbours
from tying.config import config, setting
from tying.files import read_json
from tying.layout import View
from tying.pointers import Pointers

# All patterns are candidates up to this many layers (877 of them); beyond it a sample around the best is.
_MOST_LAYERS = 7
_SAMPLED = 400
# Variance of what all patterns have in common, in units of what sets them apart: nothing is known of it.
_COMMON = 1e4


@config
class SurrogateConfig(SearchConfig):
    """Hyper-parameters of SurrogateAgent."""

    features: Literal["pairs", "rule"] = setting(
        "what makes patterns alike; rule: whether layer 0 is private and how many layers are unique; pairs: also which "
        "layers are tied",
        default="pairs",
    )
    trend: int = setting(
        "degree of the polynomial in time that windows are seen against; 0 for patterns from scratch [0 to 3]",
        default=2,
        ge=0,
        le=3,
    )


@dataclass(frozen=True)
class Posterior:
    """What is believed of candidates: mean (C,), covariance (C, C), and the log evidence of the kernel."""

    mean: np.ndarray
    covariance: np.ndarray
    evidence: float


class Kernel:
    """How alike patterns of L layers are: a weighted sum of parts, each 1 on average for a pattern with itself.

    Args:
        num_layers: L.
        features: "rule" or "pairs".
    """

    def __init__(self, num_layers: int, features: str) -> None:
        self.pairs = list(combinations(range(num_layers), 2))
        # Weights of the rule, of each pair by itself, and of what is left (near patterns alike), to choose from.
        mixed = [(0.8, 0.15, 0.05), (0.5, 0.4, 0.1), (0.2, 0.7, 0.1), (0.3, 0.3, 0.4)]
        self.weights = [(1.0, 0.0, 0.0)] if features == "rule" else mixed
        self.noises = (0.03, 0.1, 0.3, 1.0, 3.0)

    def parts(self, patterns: list[Pointers], others: list[Pointers]) -> np.ndarray:
        """Return the likeness of patterns (rows) and others (columns) by every part, shape (3, rows, columns)."""
        rule, other_rule = self._rule(patterns), self._rule(others)
        ties, other_ties = self._ties(patterns), self._ties(others)
        both = ties @ other_ties.T / max(1, len(self.pairs))
        return np.stack([rule @ other_rule.T / 2, both, np.exp(-6 * (1 - both))])

    def _rule(self, patterns: list[Pointers]) -> np.ndarray:
        """Return (rows, 2): whether layer 0 is private, and the share of unique layers, both as -1 to 1."""
        return np.array(
            [[1.0 if len(p.groups[0]) == 1 else -1.0, 2 * (p.num_unique - 1) / max(1, len(p) - 1) - 1] for p in patterns]
        )

    def _ties(self, patterns: list[Pointers]) -> np.ndarray:
        """Return (rows, pairs): 1 where two layers are tied, -1 elsewhere."""
        return np.array([[1.0 if p[i] == p[j] else -1.0 for i, j in self.pairs] for p in patterns]).reshape(
            len(patterns), -1
        )


class SurrogateAgent(SearchAgent):
    """Trains the pattern that is best under one draw from the posterior; would keep the one with the best mean.

    A window's pay is a change against the window before, so a pattern's level is the sum of all pays up to its window, seen
    against a polynomial in time.
    """

    Config = SurrogateConfig

    def __init__(self, env: Any, seed: int = 0, **hyperparameters: Any) -> None:
        super().__init__(env, seed, **hyperparameters)
        num_layers = len(env.action_space.nvec)
        self._kernel = Kernel(num_layers, self.config.features)
        self._all = list(Pointers.all(num_layers)) if num_layers <= _MOST_LAYERS else None
        self._forget_run()

    def _forget_run(self) -> None:
        self._tried: list[Pointers] = []
        self._levels: list[float] = []
        self._times: list[float] = []
        self._total = 0.0
        self._best: Pointers | None = None

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
        if not self._tried:
            return self._best
        candidates = self._candidates()
        posterior = self._posterior(candidates)
        drawn = self._generator.multivariate_normal(posterior.mean, posterior.covariance, method="eigh")
        return candidates[int(drawn.argmax())]

    def learn_from(
        self, observation: np.ndarray, action: Any, reward: float, following: np.ndarray, terminated: bool
    ) -> None:
        """Add the window to what was seen, and look for the best again."""
        if not exploring(View(observation), self.config.explore):
            return
        view = View(following)
        self._total += reward
        self._tried.append(view.pointers)
        self._levels.append(self._total)
        self._times.append(1 - view.scalar("remaining"))
        candidates = self._candidates()
        self._best = candidates[int(self._posterior(candidates).mean.argmax())]

    def _candidates(self) -> list[Pointers]:
        if self._all is not None:
            return self._all
        around = [pattern for tried in {*self._tried, self._best} if tried for pattern in (tried, *neighbours(tried))]
        around = sorted(set(around))
        index = self._generator.permutation(len(around))[:_SAMPLED]
        return [around[i] for i in index]

    def _posterior(self, candidates: list[Pointers]) -> Posterior:
        """Return what is believed of candidates under the kernel with the most evidence."""
        known = self._kernel.parts(self._tried, self._tried)
        cross = self._kernel.parts(candidates, self._tried)
        own = self._kernel.parts(candidates, candidates)
        levels = np.array(self._levels)
        trends = np.array(self._times)[:, None] ** np.arange(self.config.trend + 1)
        common = _COMMON * trends @ trends.T
        choices = [(w, noise) for w in self._kernel.weights for noise in self._kernel.noises]
        fits = [_fit(np.tensordot(w, known, 1), common, levels, noise) for w, noise in choices]
        (weights, _), fit = max(zip(choices, fits, strict=True), key=lambda pair: pair[1].evidence)
        between = np.tensordot(weights, cross, 1)
        covariance = np.tensordot(weights, own, 1) - between @ linalg.cho_solve(fit.factor, between.T)
        return Posterior(between @ fit.solved, fit.scale * covariance, fit.evidence)

    def _save_state(self, folder: Path) -> None:
        (folder / "search.json").write_text(json.dumps({"best": self._best}))

    def _load_state(self, folder: Path) -> None:
        best = read_json(folder / "search.json")["best"]
        self._best = best and Pointers(best)


@dataclass(frozen=True)
class _Fit:
    """A process fitted to levels: the factor of its covariance in units of `scale`, the solved levels, the log evidence."""

    factor: Any
    solved: np.ndarray
    scale: float
    evidence: float


def _fit(kernel: np.ndarray, common: np.ndarray, levels: np.ndarray, noise: float) -> _Fit:
    """Fit a process whose scale is unknown too: its evidence is that of Student's t with two degrees of freedom more."""
    size = len(levels)
    factor = linalg.cho_factor(kernel + common + noise * np.eye(size), lower=True)
    solved = linalg.cho_solve(factor, levels)
    # An inverse-gamma prior of the scale with a mean of some hundredths of a nat, and the weight of two observations.
    squares = float(levels @ solved) + 2 * 0.03**2
    half_determinant = float(np.log(np.diag(factor[0])).sum())
    return _Fit(factor, solved, squares / (size + 2), -half_determinant - (size + 2) / 2 * np.log(squares))
