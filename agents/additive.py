"""Additive ranking: try every single tie, then the patterns whose ties add up to the most.

In a trained model the damage of a pattern is close to the sum of the damages of its ties, so that L(L-1)/2 tries rank all
patterns (docs/compressing.md). The tries that are left go down that ranking.
"""

import itertools
from collections.abc import Iterator
from statistics import fmean
from typing import Any

import numpy as np

from agents.base import Transition
from agents.search import SearchAgent, exploring, neighbours
from tying.pointers import Pointers

# Sets of roots that are ranked one by one; of deeper models, those on the greedy way from untied to all tied.
_MOST_ROOT_SETS = 2**13


class AdditiveAgent(SearchAgent):
    """Tries the untied model, every tie of two layers, and then patterns in the order of their summed gains.

    A window's reward is a change against the window before, so a pattern's level is the sum of all rewards up to its
    window. The gain of a tie is its level less the untied model's; that of a pattern is the sum of the gains of each layer
    with its root.
    """

    needs_telescoping = True

    def __init__(self, env: Any, seed: int = 0, **hyperparameters: Any) -> None:
        super().__init__(env, seed, **hyperparameters)
        self._untied = Pointers.independent(self.num_layers)
        self.forget_run()

    def forget_run(self) -> None:
        """See SearchAgent.forget_run; levels of another run say nothing of this one."""
        self._level = 0.0
        self._levels: dict[Pointers, list[float]] = {}
        self._queue = self._proposals()

    def propose(self, pointers: Pointers) -> Pointers:
        """Return the next pattern of the search."""
        return next(self._queue)

    def _proposals(self) -> Iterator[Pointers]:
        yield self._untied
        yield from (self._untied.move(layer, root) for layer in range(1, self.num_layers) for root in range(layer))
        yield from (pattern for pattern in self._ranking() if pattern not in self._levels)
        while True:
            assert self._best is not None  # a window at least is over
            fresh = [pattern for pattern in neighbours(self._best) if pattern not in self._levels]
            yield fresh[self._generator.integers(len(fresh))] if fresh else self._best

    def _ranking(self) -> list[Pointers]:
        """Return patterns, the largest sum of gains first: for every set of roots, the best root of every other layer."""
        gains = self._gains()
        return sorted({_assigned(gains, roots) for roots in self._root_sets(gains)}, key=lambda p: -_total(gains, p))

    def _gains(self) -> np.ndarray:
        """Return the gain of every tie, (L, L): row layer, column root; -inf where it was not tried or cannot be."""
        gains = np.full((self.num_layers, self.num_layers), -np.inf)
        untied = fmean(self._levels.get(self._untied, [0.0]))
        for root, layer in itertools.combinations(range(self.num_layers), 2):
            levels = self._levels.get(self._untied.move(layer, root))
            if levels:
                gains[layer, root] = fmean(levels) - untied
        return gains

    def _root_sets(self, gains: np.ndarray) -> Iterator[tuple[int, ...]]:
        layers = range(1, self.num_layers)
        if 2 ** len(layers) <= _MOST_ROOT_SETS:
            for number in range(len(layers)):
                yield from ((0, *roots) for roots in itertools.combinations(layers, number))
            return
        roots = tuple(range(self.num_layers))
        while len(roots) > 1:
            fewer = [tuple(root for root in roots if root != out) for out in roots[1:]]
            roots = max(fewer, key=lambda own: _total(gains, _assigned(gains, own)))
            yield roots

    def learn_from(self, step: Transition) -> None:
        """Add the window to the pattern's levels."""
        if not exploring(self.view(step.observation), self.config.explore):
            return
        self._level += step.reward
        self._levels.setdefault(self.view(step.next_observation).pointers, []).append(self._level)
        self._best = max(self._levels, key=lambda pattern: fmean(self._levels[pattern]))


def _assigned(gains: np.ndarray, roots: tuple[int, ...]) -> Pointers:
    """Return the pattern in which every other layer joins the earlier root with the largest gain."""
    return Pointers(
        layer if layer in roots else max((root for root in roots if root < layer), key=lambda root: gains[layer, root])
        for layer in range(len(gains))
    )


def _total(gains: np.ndarray, pattern: Pointers) -> float:
    return float(sum(gains[layer, root] for layer, root in enumerate(pattern) if layer != root))
