"""Pointers: every property is checked over all partitions, or over random chains of moves."""

import copy
import itertools
import json
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tying import Pointers
from tying.errors import InputError

BELL_NUMBERS = {1: 1, 2: 2, 3: 5, 4: 15, 5: 52, 6: 203, 7: 877, 8: 4140}


@pytest.mark.parametrize(("num_layers", "count"), BELL_NUMBERS.items())
def test_all_are_the_set_partitions(num_layers: int, count: int) -> None:
    values = list(Pointers.all(num_layers))
    assert len(set(values)) == len(values) == count
    assert values == sorted(values)


def test_groups_and_roots_say_the_same_as_the_pointers() -> None:
    for pointers in Pointers.all(6):
        assert pointers.roots == tuple(group[0] for group in pointers.groups)
        assert pointers.num_unique == len(pointers.groups)
        assert sorted(layer for group in pointers.groups for layer in group) == list(range(6))
        assert all(pointers[layer] == group[0] for group in pointers.groups for layer in group)
        assert all({layer, *pointers.others(layer)} == set(group) for group in pointers.groups for layer in group)


def test_effective_blocks_are_a_power_law_of_the_groups() -> None:
    """6 tied layers are 2.28 blocks; tying one more layer never adds any."""
    assert Pointers((0,) * 6).effective_blocks == pytest.approx(2.28, abs=0.005)
    assert Pointers((0, 1, 1, 1, 4)).effective_blocks == pytest.approx(2 + 3**0.46)
    assert Pointers.independent(6).effective_blocks == 6
    for pointers in Pointers.all(6):
        assert pointers.num_unique <= pointers.effective_blocks <= 6
        for one, other in itertools.combinations(pointers.roots, 2):
            joined = Pointers.from_labels(one if root == other else root for root in pointers)
            assert joined.effective_blocks < pointers.effective_blocks


def test_printing_and_parsing_are_inverse() -> None:
    for pointers in Pointers.all(6):
        assert Pointers.parse(str(pointers)) == pointers
        assert Pointers.parse("".join(map(str, pointers))) == pointers
        assert Pointers.parse(str(tuple(pointers))) == pointers
        assert eval(repr(pointers)) == pointers
        assert pickle.loads(pickle.dumps(pointers)) == pointers
        assert hash(Pointers(tuple(pointers))) == hash(pointers)


def _moved_by_the_book(pointers: Pointers, layer: int, target: int) -> set[frozenset[int]]:
    """Return the partition that `move` should lead to, from sets alone."""
    groups = {frozenset(group) for group in pointers.groups}
    own = next(group for group in groups if layer in group)
    if target == layer:
        return groups if min(own) == layer else (groups - {own}) | {own - {layer}, frozenset({layer})}
    joined = next(group for group in groups if target in group)
    if joined == own:
        return groups
    return {group for group in (groups - {own, joined}) | {own - {layer}, joined | {layer}} if group}


def test_move_changes_one_layer_in_every_partition() -> None:
    for pointers in Pointers.all(6):
        for layer in range(6):
            for target in range(layer + 1):
                moved = pointers.move(layer, target)
                assert {frozenset(group) for group in moved.groups} == _moved_by_the_book(pointers, layer, target)


def test_moves_reach_every_partition_from_every_other() -> None:
    start = Pointers.independent(5)
    seen, todo = {start}, [start]
    while todo:
        pointers = todo.pop()
        for layer in range(5):
            for target in range(layer + 1):
                moved = pointers.move(layer, target)
                if moved not in seen:
                    seen.add(moved)
                    todo.append(moved)
    assert len(seen) == BELL_NUMBERS[5]


@given(st.lists(st.sampled_from([*range(12), *"abAB"]), min_size=2, max_size=12))
def test_labels_between_dashes_share_exactly_when_equal(labels: list[int | str]) -> None:
    assert Pointers.parse("-".join(map(str, labels))) == Pointers.from_labels(labels)


def test_labels_are_those_of_the_literature() -> None:
    assert Pointers.parse("1-1-2-2-3-3") == (0, 0, 2, 2, 4, 4)
    assert Pointers.parse(" A-B-B-A ") == (0, 1, 1, 0)


@given(st.lists(st.integers(0, 11), min_size=1, max_size=12))
def test_labels_share_exactly_when_equal(labels: list[int]) -> None:
    pointers = Pointers.from_labels(labels)
    for i in range(len(labels)):
        for j in range(len(labels)):
            assert (pointers[i] == pointers[j]) == (labels[i] == labels[j])


def test_promotion_when_a_root_leaves() -> None:
    assert Pointers((0, 1, 1, 1)).move(1, 0) == (0, 0, 2, 2)


@pytest.mark.parametrize("values", [(), (1,), (0, 2), (0, -1), (0, 0, 1), (0, 1, 1, 2)])
def test_invalid_pointers_are_refused(values: tuple[int, ...]) -> None:
    with pytest.raises(InputError):
        Pointers(values)


@pytest.mark.parametrize("text", ["", "a b", "0 1.5", "0 2", "-1"])
def test_invalid_text_is_refused(text: str) -> None:
    with pytest.raises(InputError):
        Pointers.parse(text)


@pytest.mark.parametrize("text", ["1-", "1--1", "ab-a", "1-_", "1.5-1", "0 0-1", "1234567-1", "abba"])
def test_text_that_is_neither_pointers_nor_labels_is_told_both_forms(text: str) -> None:
    with pytest.raises(InputError, match="expected one per layer: pointers as in '0 1 1 3', labels as in '1-2-2-3'"):
        Pointers.parse(text)


@pytest.mark.parametrize(("layer", "target"), [(4, 0), (-1, 0), (1, 2), (1, -1)])
def test_impossible_moves_are_refused(layer: int, target: int) -> None:
    with pytest.raises(InputError):
        Pointers.independent(4).move(layer, target)


@pytest.mark.parametrize("values", [(0, 0.5), (0, "1"), (0, None), 3, None], ids=repr)
def test_what_is_no_list_of_whole_numbers_is_refused(values: object) -> None:
    with pytest.raises(InputError, match="expected one whole number per layer"):
        Pointers(values)  # type: ignore[arg-type]


# Ranks of deltas.


def test_ranks_are_read_as_they_are_written() -> None:
    for pointers in Pointers.all(4):
        for ranks in ([0] * 4, [3, 1, 0, 12]):
            ranked = pointers.with_ranks(ranks)
            for again in (
                Pointers.parse_ranked(str(ranked)),
                Pointers(ranked.to_list()),
                Pointers(json.loads(json.dumps(ranked.to_list()))),
                pickle.loads(pickle.dumps(ranked)),
                copy.deepcopy(ranked),
            ):
                assert again == ranked and not again != ranked
                assert (hash(again), again.ranks, tuple(again)) == (hash(ranked), ranked.ranks, tuple(pointers))
            assert ranked.groups == pointers.groups and ranked.num_unique == pointers.num_unique
            tied = [layer for layer, root in enumerate(pointers) if layer != root]
            assert [rank for layer, rank in enumerate(ranked.ranks) if layer in tied] == [ranks[layer] for layer in tied]


def test_ranks_make_another_pattern_and_where_nothing_is_tied_there_are_none() -> None:
    plain, low, high = (Pointers((0, 0, 2)), *(Pointers((0, 0, 2)).with_ranks([0, r, 0]) for r in (0, 4)))
    assert len({plain, low, high}) == 3 and plain != low and low != plain and low != high
    assert (plain.ranks, low.ranks, high.ranks) == ((), (0, 0, 0), (0, 4, 0))
    assert (str(plain), str(low), str(high)) == ("0 0 2", "0 0+0 2", "0 0+4 2")
    assert Pointers.independent(3).with_ranks([1, 1, 1]) == Pointers.independent(3)
    assert Pointers(high) == plain and high.move(1, 1) == Pointers.independent(3)
    assert str(high.move(2, 1)) == "0 0+4 0+0"
    assert str(Pointers.parse_ranked("0 0+1 0+2").move(1, 1)) == "0 1 0+2"
    assert Pointers.parse_ranked("a-a-b") == plain


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0 0+4 0", "layer 2 is tied and has no rank"),
        ("0+0 0+4", "layer 0 owns its weights and has a rank"),
        ("0 0+x", "expected one per layer, as in"),
        ("0 0+4+4", "expected one per layer, as in"),
        ("0 +4", "expected one per layer, as in"),
        ("0 0+-4", "expected one per layer, as in"),
        ("0 2+4 2", "points at itself or an earlier one"),
    ],
)
def test_wrong_ranks_are_refused(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Pointers.parse_ranked(text)
    with pytest.raises(InputError, match="expected one per layer"):
        Pointers.parse(text)


@pytest.mark.parametrize("ranks", [[1, 1], [0, 1.5, 0], [0, -1, 0], [0, True, 0], [0, "1", 0]])
def test_ranks_are_one_whole_number_per_layer(ranks: list[int]) -> None:
    with pytest.raises(InputError, match="ranks"):
        Pointers((0, 0, 2)).with_ranks(ranks)
