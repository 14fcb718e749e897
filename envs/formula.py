"""FormulaTyingEnv: an instant environment with a closed-form loss and a known best pattern.

The loss after a share t of the run, under pointers p, is

    floor + (uniform - floor) * exp(-5 t) + gap * distance(p, best)

where distance is the share of layer pairs that p ties and `best` does not, or the other way round (1 - Rand index).
It is 0 for `best` alone, so `best` is the one pattern with the lowest loss at every time. With `gradient_statistics`,
gradients agree (1) where `best` ties two layers and oppose (-1) where it does not.
"""

import math
from itertools import pairwise
from typing import Any

import numpy as np

from envs.base import EnvConfig, Trained, TyingEnv
from envs.reward import RewardConfig
from tying import strategies
from tying.config import build
from tying.errors import InputError
from tying.pointers import Pointers
from tying.records import Window

_UNIFORM_LOSS = math.log(256)
_FLOOR = 1.0


def distance(pointers: Pointers, other: Pointers) -> float:
    """Return the share of layer pairs, 0 to 1, that are tied in one pattern and not in the other."""
    num_layers = len(pointers)
    pairs = [(i, j) for i in range(num_layers) for j in range(i)]
    return sum((pointers[i] == pointers[j]) != (other[i] == other[j]) for i, j in pairs) / max(1, len(pairs))


class FormulaBackend:
    """The formula as a backend; the arguments are FormulaTyingEnv's."""

    def __init__(
        self,
        num_layers: int,
        num_iterations: int,
        best: Pointers,
        gap: float,
        noise: float,
        gradient_statistics: bool = False,
    ) -> None:
        self.num_layers = num_layers
        self.num_iterations = num_iterations
        self.best = best
        self.gap = gap
        self.noise = noise
        self.gradient_statistics = gradient_statistics
        self.reset(0)

    def reset(self, seed: int) -> None:
        """Begin again."""
        self._iteration = 0
        self._generator = np.random.default_rng(seed)

    def uniform_loss(self) -> float:
        """Return the loss at the start."""
        return _UNIFORM_LOSS

    def loss(self, pointers: Pointers, share: float) -> float:
        """Return the formula's value, nats per token."""
        learned = _FLOOR + (_UNIFORM_LOSS - _FLOOR) * math.exp(-5 * share)
        return learned + self.gap * distance(pointers, self.best)

    def param_share(self, pointers: Pointers) -> float:
        """Return the share of unique layers."""
        return pointers.num_unique / self.num_layers

    def train(
        self, pointers: Pointers, num_iterations: int, num_batches: int, alternative: Pointers | None = None
    ) -> Trained:
        """Answer at once; both branches have the same noise."""
        self._iteration += num_iterations
        share = self._iteration / self.num_iterations
        loss = self.loss(pointers, share)
        noise = self.noise * float(self._generator.standard_normal())
        window = Window(
            iteration=self._iteration,
            tokens=0,
            train_loss=loss,
            last_loss=loss,
            reward_loss=loss + noise,
            block_params=pointers.num_unique,
            independent_block_params=self.num_layers,
            fork_loss=None if alternative is None else self.loss(alternative, share) + noise,
            gradient_similarities=self._gradient_similarities() if self.gradient_statistics else (),
            agreements=self._agreements(pointers) if self.gradient_statistics else (),
        )
        return Trained(window)

    def _gradient_similarities(self) -> tuple[float, ...]:
        """Return per layer 1 where `best` ties it with the layer before, -1 elsewhere, 0 for layer 0."""
        return (0.0, *(1.0 if here == before else -1.0 for before, here in pairwise(self.best)))

    def _agreements(self, pointers: Pointers) -> tuple[float, ...]:
        """Return per layer which share of the others in its group `best` ties it with, as -1 to 1; 1 for a layer alone."""
        values = []
        for layer in range(len(pointers)):
            others = pointers.others(layer)
            agreeing = sum(self.best[other] == self.best[layer] for other in others)
            values.append(2 * agreeing / len(others) - 1 if others else 1.0)
        return tuple(values)


class FormulaTyingEnv(TyingEnv):
    """A tying environment without training; `tying/FormulaTying-v0`. Spaces and rewards are those of TyingEnv.

    Arguments:
        num_layers: L.
        num_decisions: Decisions in an episode.
        best: The best pattern, a strategy or pointers.
        gap: Loss of the pattern farthest from the best, nats per token.
        noise: Standard deviation of the reward loss, nats per token.
        reward: Fields of RewardConfig; by default parameters cost nothing, so that `best` is what pays most.
        render_mode: None or "ansi".
        overrides: Fields of EnvConfig.
    """

    def __init__(
        self,
        num_layers: int = 6,
        num_decisions: int = 20,
        best: str = "sandwich",
        gap: float = 1.0,
        noise: float = 0.0,
        reward: dict[str, Any] | None = None,
        render_mode: str | None = None,
        **overrides: Any,
    ) -> None:
        if num_layers < 1 or num_decisions < 1:
            raise InputError(f"num_layers = {num_layers}, num_decisions = {num_decisions}: both are at least 1")
        config = build(EnvConfig, {"decision_interval": 1, **overrides})
        backend = FormulaBackend(
            num_layers, num_decisions, strategies.make(best, num_layers), gap, noise, config.gradient_statistics
        )
        super().__init__(
            backend, config, build(RewardConfig, {"param_weight": 0.0, **(reward or {})}, "reward."), render_mode
        )

    @property
    def best(self) -> Pointers:
        """The best pattern."""
        backend: FormulaBackend = self.backend  # type: ignore[assignment]
        return backend.best
