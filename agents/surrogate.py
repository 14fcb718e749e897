"""Bayesian optimisation of whole patterns: a Gaussian process predicts how good untried patterns are.

Thompson sampling with Gaussian processes: Srinivas et al. 2010 (arXiv 0912.3995), Kandasamy et al. 2018 (arXiv 1705.09236).
A model makes the most of few evaluations: White, Neiswanger & Savani 2021 ("BANANAS", arXiv 1910.11858).
"""

import itertools
import json
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from agents.base import Transition
from agents.search import STATE_FILE, SearchAgent, exploring
from tying.files import read_json
from tying.pointers import Pointers

# Two bounds on the cost of a decision: the newest windows count, and 203 candidates are all patterns of six layers.
MAX_WINDOWS = 100
MAX_CANDIDATES = 203
_MAX_LAYERS = 6
# To choose from by the evidence: weights of the shape, of tied pairs and of nearness; degrees of the polynomial in time;
# variances of the noise. Variances are in units of the patterns' own.
_WEIGHTS = ((1.0, 0.0, 0.0), (0.5, 0.4, 0.1), (0.2, 0.7, 0.1))
_DEGREES = (0, 2)
_NOISES = (0.05, 0.2, 0.8, 3.0)
_TREND_VARIANCE = 1e4  # nothing is known of the polynomial
_NEARNESS = 6.0  # how fast nearness falls with the distance of two patterns
_TYPICAL_SCALE = 0.03  # standard deviation of levels between patterns, nats per token


def encode(patterns: Sequence[Pointers], times: Any) -> np.ndarray:
    """Return a row per pattern: the time, its shape in L + 1 columns, and the ties of all P pairs of layers.

    The shape is the number of unique layers, and for each of the L layers whether it shares with no other. The shapes of
    two patterns have an inner product of -1 to 1, and so have their ties.

    Args:
        patterns: N patterns.
        times: Share of the run that is over, one for each pattern or one for all.

    Returns:
        (N, 2 + L + P).
    """
    pointers = np.array(patterns)
    num_layers = pointers.shape[1]
    first, second = np.triu_indices(num_layers, 1)
    ties = np.where(pointers[:, first] == pointers[:, second], 1, -1) / max(1, len(first)) ** 0.5
    alone = np.where((pointers[:, :, None] == pointers[:, None]).sum(axis=2) == 1, 1, -1)
    num_unique = (pointers == np.arange(num_layers)).sum(axis=1)
    unique = 2 * (num_unique - 1) / max(1, num_layers - 1) - 1
    shape = np.column_stack([unique, alone / num_layers**0.5]) / 2**0.5
    return np.column_stack([np.broadcast_to(times, len(pointers)), shape, ties])


def processes(num_layers: int) -> list[Any]:
    """Return the Gaussian processes to choose from, not fitted yet, of rows that `encode` makes of L layers."""
    # Imported late: scikit-learn takes a second, which --help need not wait for.
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import Kernel

    class PatternKernel(Kernel):
        def __init__(self, weights: tuple[float, float, float], degree: int) -> None:
            self.weights, self.degree = weights, degree

        def __call__(self, X: np.ndarray, Y: np.ndarray | None = None) -> np.ndarray:
            columns = slice(0, 1), slice(1, num_layers + 2), slice(num_layers + 2, None)
            time, shape, ties = (X[:, part] @ (X if Y is None else Y)[:, part].T for part in columns)
            near = np.exp(_NEARNESS * (ties - 1))
            alike = np.tensordot(self.weights, [shape, ties, near], 1)
            return np.asarray(alike + _TREND_VARIANCE * (1 + time) ** self.degree)

        def diag(self, X: np.ndarray) -> np.ndarray:
            return np.diag(self(X))

        def is_stationary(self) -> bool:
            return False

    choices = itertools.product(_WEIGHTS, _DEGREES, _NOISES)
    return [GaussianProcessRegressor(PatternKernel(w, degree), alpha=a, optimizer=None) for w, degree, a in choices]


def scale(process: Any) -> float:
    """Return the estimated variance of a fitted process; its inverse gamma prior has the weight of two windows."""
    return (float(process.y_train_ @ process.alpha_) + 2 * _TYPICAL_SCALE**2) / (len(process.alpha_) + 2)


def evidence(process: Any) -> float:
    """Return the log marginal likelihood of a fitted process, up to a constant: Student's t, since its scale is unknown."""
    return float(-np.log(np.diag(process.L_)).sum() - (len(process.alpha_) + 2) / 2 * np.log(scale(process)))


class SurrogateAgent(SearchAgent):
    """Trains the pattern that is best under one draw from the posterior, and recommends the one with the best mean.

    A window's reward is a change against the window before, so a pattern's level is the sum of all rewards up to its
    window, judged against a polynomial in time.
    """

    needs_telescoping = True
    resumable = True

    def __init__(self, env: Any, seed: int = 0, **hyperparameters: Any) -> None:
        super().__init__(env, seed, **hyperparameters)
        self._all = list(Pointers.all(self.num_layers)) if self.num_layers <= _MAX_LAYERS else None
        self.forget_run()

    def forget_run(self) -> None:
        """See SearchAgent.forget_run."""
        self._next = self._best
        self._windows: deque[tuple[Pointers, float, float]] = deque(maxlen=MAX_WINDOWS)  # pattern, time, level
        self._level = 0.0
        self._due = 0  # windows until the process is chosen again
        self._chosen = 0  # its place among `processes`
        self._process: Any = None

    def propose(self, pointers: Pointers) -> Pointers:
        """Return the best pattern under a draw from the posterior; at first, the pattern that the run begins with."""
        return self._next or pointers

    def learn_from(self, step: Transition) -> None:
        """Add the window to the evidence, and draw the next pattern from the posterior."""
        if not exploring(self.view(step.observation), self.config.explore):
            return
        view = self.view(step.next_observation)
        self._level += step.reward
        self._windows.append((view.pointers, view.progress, self._level))
        candidates = self._candidates()
        mean, covariance = self._predict(candidates)
        # Almost equal patterns make the covariance singular but for rounding.
        covariance += (1e-6 * np.diag(covariance).mean() + 1e-18) * np.eye(len(mean))
        draw = self._generator.multivariate_normal(mean, covariance, method="cholesky")
        self._best, self._next = candidates[int(mean.argmax())], candidates[int(draw.argmax())]

    def _predict(self, candidates: list[Pointers]) -> tuple[np.ndarray, np.ndarray]:
        """Return mean (C,) and covariance (C, C) of the levels of C candidates now."""
        tried, times, levels = zip(*self._windows, strict=True)
        data = encode(tried, times), np.array(levels)
        if self._due == 0:
            fitted = [process.fit(*data) for process in processes(self.num_layers)]
            self._chosen = int(np.argmax([evidence(process) for process in fitted]))
            self._process = fitted[self._chosen]
            self._due = 1 + len(levels) // 5
        self._due -= 1
        if self._process is None:  # after loading
            self._process = processes(self.num_layers)[self._chosen]
        mean, covariance = self._process.fit(*data).predict(encode(candidates, times[-1]), return_cov=True)
        return mean, scale(self._process) * covariance

    def _candidates(self) -> list[Pointers]:
        """Return all patterns where they are few, otherwise those tried and random moves of them."""
        if self._all is not None:
            return list(filter(self.legal, self._all))
        tried = sorted({pattern for pattern, *_ in self._windows})
        candidates = dict.fromkeys(tried)
        for index in self._generator.integers(len(tried), size=MAX_CANDIDATES - len(tried)):
            layer = int(self._generator.integers(1, self.num_layers))  # layer 0 does not move: see neighbours
            candidates[tried[index].move(layer, int(self._generator.integers(layer + 1)))] = None
        return list(filter(self.legal, candidates))

    def save_state(self, folder: Path) -> None:
        """Write the best pattern, the evidence, and the generator."""
        state = {name: getattr(self, f"_{name}") for name in ("best", "next", "level", "due", "chosen")}
        state |= {"windows": list(self._windows), "generator": self._generator.bit_generator.state}
        (folder / STATE_FILE).write_text(json.dumps(state))

    def load_state(self, folder: Path) -> None:
        """Read them."""
        state = read_json(folder / STATE_FILE)
        self.forget_run()
        self._best, self._next = (state[name] and Pointers(state[name]) for name in ("best", "next"))
        self._level, self._due, self._chosen = float(state["level"]), int(state["due"]), int(state["chosen"])
        self._windows.extend((Pointers(pattern), time, level) for pattern, time, level in state["windows"])
        self._generator.bit_generator.state = state["generator"]
