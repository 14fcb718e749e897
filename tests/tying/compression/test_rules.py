"""Fixed rules: every one has K sets, and stands there once."""

import itertools

import pytest

from tying import Pointers
from tying.compression import Sources, rules


@pytest.mark.parametrize(("num_layers", "num_sets"), [(6, k) for k in range(1, 7)] + [(12, 6), (5, 4), (24, 8)])
def test_rules_have_k_sets_each_pattern_once(num_layers: int, num_sets: int) -> None:
    tyings, removals = rules.tyings(num_layers, num_sets), rules.removals(num_layers, num_sets)
    for sources in itertools.chain(tyings.values(), removals.values()):
        assert len(sources) == num_layers
        assert sources.num_sets == num_sets
    assert all(None not in sources for sources in tyings.values())
    assert all(sources.num_sets == len(sources.kept) for sources in removals.values())
    assert len(set(tyings.values())) == len(tyings)
    assert len(set(removals.values())) == len(removals)
    assert bool(removals) == (num_sets < num_layers)


def test_the_rules_of_three_sets_of_six_layers() -> None:
    tyings = {name: str(sources) for name, sources in rules.tyings(6, 3).items()}
    assert tyings["sequence:3"] == "0 0 2 2 4 4"
    assert tyings["sandwich"] == "0 1 1 1 1 5"
    assert Sources.parse("0 0 0 0 4 5") in rules.tyings(6, 3).values()  # one block at the beginning
    assert tyings["last_block"] == "0 1 2 2 2 2"
    removals = {name: str(sources) for name, sources in rules.removals(6, 3).items()}
    assert removals["drop_first"] == "- - - 3 4 5"
    assert removals["drop_last"] == "0 1 2 - - -"
    assert removals["drop_alternate"] == "0 - 2 - 4 -"


def test_pairs_stand_at_either_end_and_in_the_middle() -> None:
    tyings = {name: str(sources) for name, sources in rules.tyings(6, 5).items()}
    assert {tyings[name] for name in ("block@1", "block@2", "block@3", "cycle_rev:5")} == {
        "0 1 1 3 4 5",
        "0 1 2 2 4 5",
        "0 1 2 3 3 5",
        "0 1 2 3 4 4",
    }
    assert str(rules.tyings(8, 6)["pairs_middle"]) == "0 1 2 2 4 4 6 7"
    assert all(Pointers.from_labels(sources) for sources in rules.tyings(8, 6).values())
