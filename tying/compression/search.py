"""The search for the sources of least damage at K sets of weights, by questions to a BlockWalk alone.

Up to EXHAUSTIVE_LAYERS layers every pattern is asked. Beyond, the loss of every single change (position i runs layer d, or
is removed) is asked, L^2 questions, and patterns are ranked by the sum of their changes; the first of that ranking and all
rules (fixed, and `tying.compression.informed`) are asked, and local search begins from the best of them. What is asked is
in `Questions`, in its order.
"""

import heapq
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from tying.compression import informed, rules
from tying.compression.sources import Sources, in_order
from tying.compression.walk import BlockWalk
from tying.pointers import Pointers

EXHAUSTIVE_LAYERS = 8
# Sets of donors that are ranked one by one; beyond, they are improved by exchanges.
_MOST_SETS = 50_000
_RANKED = 20


class Questions:
    """Losses that were asked for, each once, in the order in which they were.

    Args:
        walk: Answers.
        known: Answers of before, as after an interruption; they are counted when they are asked for again.
        on_answer: Called with every new answer.

    Attributes:
        asked: Sources to loss.
    """

    def __init__(
        self,
        walk: BlockWalk,
        known: dict[Sources, float] | None = None,
        on_answer: Callable[[Sources, float], None] | None = None,
    ) -> None:
        self.walk = walk
        self.asked: dict[Sources, float] = {}
        self._known = dict(known or {})
        self._on_answer = on_answer

    def __call__(self, sources: Sources) -> float:
        """Return a loss."""
        if sources not in self.asked:
            if sources in self._known:
                self.asked[sources] = self._known[sources]
            else:
                self.asked[sources] = self.walk.loss(sources)
                if self._on_answer is not None:
                    self._on_answer(sources, self.asked[sources])
        return self.asked[sources]

    def best(self, many: Iterable[Sources]) -> list[Sources]:
        """Ask for many, and return them from the best to the worst."""
        losses = {sources: self(sources) for sources in in_order(many)}
        return sorted(losses, key=losses.__getitem__)


@dataclass(frozen=True)
class Found:
    """What a search found at K sets, each list from the best to the worst.

    Attributes:
        best: Of everything, donors and removals included.
        tied: Of patterns that remove no layer.
        removed: Of patterns that remove layers and tie none.
        rules: Name to sources of the fixed rules.
        informed: The same of the rules that look at the model.
        median: The median loss of all patterns of this size that were asked.
    """

    best: list[Sources]
    tied: list[Sources]
    removed: list[Sources]
    rules: dict[str, Sources]
    informed: dict[str, Sources]
    median: float


def search(ask: Questions, num_sets: int, removing: bool = True, patterns: Iterable[Sources] | None = None) -> Found:
    """Return the best sources with K sets of weights.

    Args:
        ask: The questions.
        num_sets: K, 1 to L - 1.
        removing: Whether layers may be removed.
        patterns: Where to look beside the fixed rules; None: the default search.
    """
    num_layers = ask.walk.num_layers
    by_rule = {**rules.tyings(num_layers, num_sets), **(rules.removals(num_layers, num_sets) if removing else {})}
    by_model = informed.rules(ask, num_sets, removing) if patterns is None else {}
    named = {*by_rule.values(), *by_model.values()}
    if patterns is None:
        patterns = _measured(ask, num_sets, named, removing)
    ranked = ask.best({*patterns, *named})
    # With other donors, the order changes: the first few are asked with all of them.
    first = [*ranked[:_RANKED], *[sources for sources in ranked if None not in sources][:1]]
    ranked = ask.best({*ranked, *(best_donors(ask, sources) for sources in first)})
    return Found(
        ranked,
        [sources for sources in ranked if None not in sources],
        [sources for sources in ranked if sources.num_sets == len(sources.kept)],
        by_rule,
        by_model,
        float(np.median([ask(sources) for sources in ranked])),
    )


def _measured(ask: Questions, num_sets: int, begin: Iterable[Sources], removing: bool) -> list[Sources]:
    """Return the candidates of the default search; `begin` has others that local search may begin from."""
    num_layers = ask.walk.num_layers
    if num_layers <= EXHAUSTIVE_LAYERS:
        return list(every(num_layers, num_sets, removing))
    found = additive(ask, num_sets, _RANKED, removing)
    return [*found, *local(ask, ask.best([*found, *begin])[0], num_sets, removing)]


def every(num_layers: int, num_sets: int, removing: bool = True) -> Iterator[Sources]:
    """Yield every way to tie layers with K sets, or also to remove some; groups have the values of their first layers."""
    for pointers in Pointers.all(num_layers + removing):
        if pointers.num_unique == num_sets + removing:
            yield Sources.of(pointers, removing)


def best_donors(ask: Callable[[Sources], float], sources: Sources) -> Sources:
    """Return the same groups with the values of the best of their members, one group after another."""
    for group in sources.groups:
        sources = min(in_order(sources.with_donor(group, donor) for donor in group), key=ask)
    return sources


def local(ask: Questions, start: Sources, num_sets: int, removing: bool = True) -> list[Sources]:
    """Change one position at a time as long as that lowers the loss; return the steps taken."""
    steps = [start]
    while True:
        best = ask.best([steps[-1], *_neighbours(steps[-1], num_sets, removing)])[0]
        if best == steps[-1]:
            return steps
        steps.append(best)


def _neighbours(sources: Sources, num_sets: int, removing: bool) -> Iterator[Sources]:
    choices: list[int | None] = [*range(len(sources)), *([None] if removing else [])]
    for layer, source in itertools.product(range(len(sources)), choices):
        changed = [source if i == layer else s for i, s in enumerate(sources)]
        used = {s for s in changed if s is not None}
        if source != sources[layer] and 0 < len(used) <= num_sets:
            yield Sources(changed)


def single_changes(ask: Questions) -> np.ndarray:
    """Return the damage of every single change, (L, L + 1): row i, column d: position i runs layer d; column L: removed."""
    num_layers = ask.walk.num_layers
    original = Sources.original(num_layers)
    choices: Sequence[int | None] = [*range(num_layers), None]
    changes = {
        (layer, column): Sources(source if i == layer else i for i in range(num_layers))
        for layer in range(num_layers)
        for column, source in enumerate(choices)
    }
    ask.best(changes.values())  # in the order in which prefixes are shared
    damages = np.full((num_layers, num_layers + 1), np.inf)
    for where, sources in changes.items():
        damages[where] = ask(sources) - ask(original)
    return damages


def additive(ask: Questions, num_sets: int, count: int, removing: bool = True) -> list[Sources]:
    """Return the first of all patterns with K sets by the sum of the damages of their changes.

    For given K donors the best choice of every other position is its cheapest: to run one of the donors, or to be removed.
    The best donors are those of a p-median problem; all sets of them are tried where these are few.

    Args:
        ask: The questions: L^2 of them.
        num_sets: K.
        count: How many patterns, one per set of donors.
        removing: Whether layers may be removed.
    """
    damages = single_changes(ask)
    num_layers = len(damages)
    if not removing:
        damages[:, num_layers] = np.inf
    sets = _donor_sets(damages, num_sets)
    scores = np.minimum(damages[:, sets].min(axis=2), damages[:, num_layers][:, None]).sum(axis=0)
    first = heapq.nsmallest(count, range(len(sets)), key=scores.__getitem__)
    found = []
    for donors in sets[first]:
        columns = [*donors.tolist(), num_layers]
        choice = damages[:, columns].argmin(axis=1)
        found.append(Sources(None if columns[c] == num_layers else columns[c] for c in choice))
    return [sources for sources in found if sources.kept]  # removing a layer may do good


def _donor_sets(damages: np.ndarray, num_sets: int) -> np.ndarray:
    """Return sets of K donors, (number, K): all of them where that is possible, else those that exchanges lead to."""
    num_layers = len(damages)
    total = 1
    for k in range(num_sets):
        total = total * (num_layers - k) // (k + 1)
    if total <= _MOST_SETS:
        return np.array(list(itertools.combinations(range(num_layers), num_sets)))
    removed = damages[:, num_layers]

    def score(donors: tuple[int, ...]) -> float:
        return float(np.minimum(damages[:, list(donors)].min(axis=1), removed).sum())

    current = tuple(round(i) for i in np.linspace(0, num_layers - 1, num_sets))
    seen = {current: score(current)}
    while True:
        exchanges = {
            tuple(sorted({*current} - {out} | {new})) for out in current for new in range(num_layers) if new not in current
        }
        seen |= {donors: score(donors) for donors in exchanges - seen.keys()}
        best = min(seen, key=seen.__getitem__)
        if best == current:
            return np.array(sorted(seen))
        current = best
