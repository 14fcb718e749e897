"""The search, on questions whose answers are known in closed form."""

import itertools

import numpy as np
import pytest
import torch

from tying import Pointers
from tying.compression import Sources
from tying.compression.informed import greedy_removal
from tying.compression.search import (
    Questions,
    additive,
    best_donors,
    every,
    local,
    search,
    single_changes,
)


class Costs:
    """A walk whose loss is the sum of a cost per position, and of one for pairs of neighbours that share."""

    def __init__(self, num_layers: int, seed: int = 0, pairs: float = 0.0) -> None:
        generator = np.random.default_rng(seed)
        self.num_layers = num_layers
        self.costs = generator.uniform(0.1, 1, (num_layers, num_layers + 1))
        np.fill_diagonal(self.costs, 0)
        self.pairs = pairs
        self.count = 0
        self._hidden = torch.randn(num_layers + 1, 1, 3, 8, generator=torch.Generator().manual_seed(seed))

    def weights_of(self, layer: int) -> list[torch.Tensor]:
        return [self._hidden[layer, 0]]

    def activations(self) -> list[list[torch.Tensor]]:
        return [list(self._hidden)]

    def loss(self, sources: Sources) -> float:
        self.count += 1
        costs = sum(self.costs[i, self.num_layers if s is None else s] for i, s in enumerate(sources))
        return float(costs) + self.pairs * sum(a == b for a, b in itertools.pairwise(sources))


def ask_of(walk: Costs) -> Questions:
    return Questions(walk)  # type: ignore[arg-type]


def everything(num_layers: int, num_sets: int) -> list[Sources]:
    found = map(Sources, itertools.product([*range(num_layers), None], repeat=num_layers))
    return [sources for sources in found if sources.num_sets == num_sets]


@pytest.mark.parametrize("num_sets", [1, 2, 3])
def test_additive_finds_the_best_of_all_where_costs_add_up(num_sets: int) -> None:
    walk = Costs(4)
    found = additive(ask_of(walk), num_sets, 1)[0]
    assert walk.count == 4 * 4 + 1  # each change once, and the original, which is its own change
    assert walk.loss(found) == pytest.approx(min(walk.loss(s) for s in everything(4, num_sets) if s.num_sets <= num_sets))


def test_single_changes_are_damages() -> None:
    walk = Costs(4)
    assert single_changes(ask_of(walk)) == pytest.approx(walk.costs)


def test_without_removal_no_layer_is_removed() -> None:
    walk = Costs(9)
    walk.costs[:, 9] = 0.0  # removing costs nothing
    for sources in additive(ask_of(walk), 3, 5, removing=False):
        assert None not in sources
    found = search(ask_of(walk), 3, removing=False)
    assert all(None not in sources for sources in found.best)


@pytest.mark.parametrize(("num_sets", "count"), [(1, 1), (2, 31), (3, 90), (4, 65), (6, 1)])
def test_every_pattern_is_there_once(num_sets: int, count: int) -> None:
    tied = list(every(6, num_sets, removing=False))
    assert len(tied) == len(set(tied)) == count  # Stirling numbers of the second kind
    both = list(every(6, num_sets))
    assert len(both) == len(set(both)) == sum(p.num_unique == num_sets + 1 for p in Pointers.all(7))


def test_the_search_of_few_layers_asks_every_pattern() -> None:
    walk = Costs(5, pairs=-0.3)
    ask = ask_of(walk)
    found = search(ask, 2)
    assert set(every(5, 2)) <= ask.asked.keys()
    assert walk.count == len(ask.asked)  # nothing is asked twice
    assert found.best[0] == min(ask.asked.keys() & set(found.best), key=ask)
    assert found.tied[0] == min((s for s in found.best if None not in s), key=ask)
    assert all(s.num_sets == len(s.kept) for s in found.removed)


def test_the_search_of_many_layers_is_no_worse_than_its_parts() -> None:
    walk = Costs(10, seed=3, pairs=-0.2)
    ask = ask_of(walk)
    found = search(ask, 5)
    best = ask(found.best[0])
    assert best <= min(ask(s) for s in found.rules.values())
    assert best <= ask(greedy_removal(ask, 5))
    assert best <= ask(additive(ask, 5, 1)[0])
    assert all(sources.num_sets <= 5 for sources in found.best)


def test_layers_that_do_harm_are_not_all_removed() -> None:
    walk = Costs(9)
    walk.costs[:, 9] = -0.1  # the fewer layers, the better
    assert all(sources.kept for sources in search(ask_of(walk), 2).best)


def test_donors_are_chosen_among_the_members_of_a_group() -> None:
    walk = Costs(4)
    found = best_donors(ask_of(walk), Sources.parse("0 0 0 3"))
    best = min(range(3), key=lambda donor: walk.costs[:3, donor].sum())
    assert found == Sources([best] * 3 + [3])


def test_local_search_ends_where_no_change_helps() -> None:
    walk = Costs(5, pairs=-0.5)
    ask = ask_of(walk)
    last = local(ask, Sources.parse("0 0 0 0 0"), 2)[-1]
    for layer, source in itertools.product(range(5), [*range(5), None]):
        other = Sources(source if i == layer else s for i, s in enumerate(last))
        if 0 < other.num_sets <= 2:
            assert walk.loss(other) >= walk.loss(last)


def test_deep_models_are_ranked_by_exchanges() -> None:
    walk = Costs(26)
    found = additive(ask_of(walk), 13, 3)
    assert [sources.num_sets <= 13 for sources in found] == [True] * 3
    assert walk.loss(found[0]) < walk.loss(Sources(i // 2 * 2 for i in range(26)))


def test_known_answers_are_not_asked_again_and_count() -> None:
    walk = Costs(4)
    first = ask_of(walk)
    search(first, 2)
    noted: list[Sources] = []
    again = Questions(walk, first.asked, lambda sources, loss: noted.append(sources))  # type: ignore[arg-type]
    walk.count = 0
    search(again, 2)
    assert again.asked == first.asked
    assert walk.count == 0
    assert noted == []
