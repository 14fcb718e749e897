"""Greedy merging: from the untied model, the one merge of two groups that costs least, again and again.

L(L-1)/2 tries for the first merge, (L-1)(L-2)/2 for the second, and so on. For models that are trained already, where a
pattern's level does not change while others are tried (docs/compressing.md).
"""

import itertools
from collections.abc import Iterator

from agents.search import LevelSearchAgent
from tying.pointers import Pointers


class GreedyAgent(LevelSearchAgent):
    """Tries every merge of two groups, takes the best, and goes on from there, until none raises the level.

    Where layer 0 stands for nothing, to merge with its group is to remove.
    """

    def proposals(self) -> Iterator[Pointers]:
        """See LevelSearchAgent.proposals; in the end it holds the best."""
        current = Pointers.independent(self.num_layers)
        yield current
        while True:
            merged = list(filter(self.legal, merges(current)))
            yield from merged
            best = max(merged, key=self.level, default=current)
            if self.level(best) <= self.level(current):
                break
            current = best
        while True:
            yield current


def merges(pointers: Pointers) -> list[Pointers]:
    """Return every pattern in which two groups are one: G(G-1)/2 of G groups."""
    pairs = itertools.combinations(pointers.roots, 2)
    return [Pointers(first if root == second else root for root in pointers) for first, second in pairs]
