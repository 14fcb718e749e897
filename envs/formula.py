"""FormulaTyingEnv: an instant environment with a closed-form loss and a known best pattern.

The loss after a share t of the run, under pointers p, is

    floor + (uniform - floor) * exp(-5 t) + gap * distance(p, best)

where distance is the share of layer pairs that p ties and `best` does not, or the other way round (1 - Rand index).
It is 0 for `best` alone, so `best` is the one pattern with the lowest loss at every time. With `gradient_statistics`,
gradients agree (1) where `best` ties two layers and oppose (-1) where it does not.
"""

import functools
import math
from itertools import pairwise
from typing import Any

import numpy as np

from envs.base import TyingEnv, instant_sections
from tying import strategies
from tying.errors import InputError
from tying.pointers import Pointers
from tying.training.record import StepRecord

_UNIFORM_LOSS = math.log(256)
_FLOOR = 1.0


@functools.lru_cache(maxsize=1 << 14)
def distance(pointers: Pointers, other: Pointers) -> float:
    """Return the share of layer pairs, 0 to 1, that are tied in one pattern and not in the other."""
    num_layers = len(pointers)
    pairs = [(i, j) for i in range(num_layers) for j in range(i)]
    return sum((pointers[i] == pointers[j]) != (other[i] == other[j]) for i, j in pairs) / max(1, len(pairs))


class FormulaSimulator:
    """The formula as a simulator; the arguments are FormulaTyingEnv's."""

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
        self._generator = np.random.default_rng(seed)

    def uninformed_loss(self) -> float:
        """Return the loss at the start."""
        return _UNIFORM_LOSS

    def loss(self, pointers: Pointers, share: float) -> float:
        """Return the formula's value, nats per token."""
        learned = _FLOOR + (_UNIFORM_LOSS - _FLOOR) * math.exp(-5 * share)
        return learned + self.gap * distance(pointers, self.best)

    def param_share(self, pointers: Pointers) -> float:
        """Return the share of unique layers."""
        return pointers.num_unique / self.num_layers

    def run(self, record: StepRecord, num_batches: int, fork: bool) -> StepRecord:
        """Answer at once; both branches have the same noise."""
        share = record.iteration / self.num_iterations
        loss = self.loss(record.pointers, share)
        noise = self.noise * float(self._generator.standard_normal())
        return record.having(
            train_loss=loss,
            last_loss=loss,
            reward_loss=loss + noise,
            fork_loss=self.loss(record.previous_pointers, share) + noise if fork else None,
            block_params=record.pointers.num_unique,
            independent_block_params=self.num_layers,
            gradient_similarities=self._gradient_similarities() if self.gradient_statistics else (),
            agreements=self._agreements(record.pointers) if self.gradient_statistics else (),
        )

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
        render_mode: None, "ansi" or "rgb_array".
        overrides: Settings of `env` and `reward`, as LayerTyingEnv takes them; reward.param_weight is 0 unless given, so
            that `best` has the highest reward.
    """

    def __init__(
        self,
        num_layers: int = 6,
        num_decisions: int = 20,
        best: str = "sandwich",
        gap: float = 1.0,
        noise: float = 0.0,
        render_mode: str | None = None,
        **overrides: Any,
    ) -> None:
        _check(num_layers=num_layers, num_decisions=num_decisions, gap=gap, noise=noise)
        config, reward = instant_sections(overrides, param_weight=0.0)
        simulator = FormulaSimulator(
            num_layers, num_decisions, strategies.make(best, num_layers), gap, noise, config.gradient_statistics
        )
        super().__init__(simulator, config, reward, render_mode)

    @property
    def best(self) -> Pointers:
        """The best pattern."""
        simulator: FormulaSimulator = self.simulator  # type: ignore[assignment]
        return simulator.best


def _check(**values: Any) -> None:
    """Check the formula's numbers.

    Raises:
        InputError: With one line for each wrong one.
    """
    lines = []
    for name, value in values.items():
        whole = name.startswith("num_")
        right = isinstance(value, int if whole else (int, float)) and not isinstance(value, bool)
        if not right or not math.isfinite(value) or value < (1 if whole else 0):
            lines.append(
                f"{name} = {value!r}: expected a {'whole number of at least 1' if whole else 'number of at least 0'}"
            )
    if lines:
        raise InputError(lines)
