"""Additive ranking: try every single tie, then the patterns whose ties add up to the most.

In a trained model the damage of a pattern is close to the sum of the damages of its ties, so that L(L-1)/2 tries rank all
patterns (docs/compressing.md). The tries that are left go down that ranking.
"""

import itertools
from collections.abc import Iterator
from statistics import fmean

import numpy as np

from agents.search import LevelSearchAgent
from tying.pointers import Pointers

# Sets of roots that are ranked one by one; of deeper models, those on the greedy way from untied to all tied.
_MOST_ROOT_SETS = 2**13


class AdditiveAgent(LevelSearchAgent):
    """Tries the untied model, every tie of two layers, and then patterns in the order of their predicted levels.

    The gain of a tie is its level less the untied model's; a pattern is predicted to gain the sum of the gains of each
    layer with its root, and what patterns with as many groups gained above their sums: a charge for the number of sets
    need not be a sum over ties.
    """

    def proposals(self) -> Iterator[Pointers]:
        """See LevelSearchAgent.proposals."""
        untied = Pointers.independent(self.num_layers)
        yield untied
        ties = (untied.move(layer, root) for layer in range(1, self.num_layers) for root in range(layer))
        yield from filter(self.legal, ties)
        yield from self._ranked(untied)
        while True:
            assert self._best is not None  # a window at least is over
            fresh = [pattern for pattern in self.neighbours(self._best) if not self.tried(pattern)]
            yield fresh[self._generator.integers(len(fresh))] if fresh else self._best

    def _ranked(self, untied: Pointers) -> Iterator[Pointers]:
        """Yield patterns, the best by prediction first: for every set of roots, the best root of every other layer."""
        gains = self._gains(untied)
        patterns = set(filter(self.legal, (_assigned(gains, roots) for roots in self._root_sets(gains))))
        sums = {pattern: _total(gains, pattern) for pattern in sorted(patterns) if not self.tried(pattern)}
        errors: dict[int, list[float]] = {}

        def predicted(pattern: Pointers) -> float:
            return sums[pattern] + fmean(errors.get(pattern.num_unique, [0.0]))

        while sums:
            pattern = max(sums, key=predicted)
            yield pattern
            error = self.level(pattern) - self.level(untied) - sums.pop(pattern)
            errors.setdefault(pattern.num_unique, []).append(error)

    def _gains(self, untied: Pointers) -> np.ndarray:
        """Return the gain of every tie, (L, L): row layer, column root; -inf where it was not tried or cannot be."""
        gains = np.full((self.num_layers, self.num_layers), -np.inf)
        for root, layer in itertools.combinations(range(self.num_layers), 2):
            tie = untied.move(layer, root)
            if self.tried(tie):
                gains[layer, root] = self.level(tie) - self.level(untied)
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


def _assigned(gains: np.ndarray, roots: tuple[int, ...]) -> Pointers:
    """Return the pattern in which every other layer joins the earlier root with the largest gain."""
    return Pointers(
        layer if layer in roots else max((root for root in roots if root < layer), key=lambda root: gains[layer, root])
        for layer in range(len(gains))
    )


def _total(gains: np.ndarray, pattern: Pointers) -> float:
    return float(sum(gains[layer, root] for layer, root in enumerate(pattern) if layer != root))
