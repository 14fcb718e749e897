"""Parts: patterns over halves of layers are all those, and only those, in which halves of one kind share."""

import pytest

from tying import InputError, Pointers
from tying.parts import Parts


def pure(pointers: Pointers, parts: Parts) -> bool:
    """Return whether no group but that of nothing has attention and feed-forward halves."""
    first = int(parts.removing)
    kinds = [None] * first + [0] * parts.num_layers + [1] * parts.num_layers
    groups = [group for group in pointers.groups if not (parts.removing and group[0] == 0)]
    return all(len({kinds[layer] for layer in group}) == 1 for group in groups)


@pytest.mark.parametrize("num_layers", [1, 2, 3])
@pytest.mark.parametrize("removing", [False, True])
def test_every_pattern_of_halves_is_there_once_and_in_order(num_layers: int, removing: bool) -> None:
    parts = Parts(num_layers, "halves", removing)
    expected = [pointers for pointers in Pointers.all(parts.size) if pure(pointers, parts)]
    assert list(parts.every()) == expected
    assert parts.number == len(expected)
    assert [pointers for pointers in Pointers.all(parts.size) if parts.holds(pointers)] == expected


def test_whole_layers_are_all_pointers() -> None:
    assert list(Parts(4).every()) == list(Pointers.all(4))
    assert list(Parts(3, removing=True).every()) == list(Pointers.all(4))
    assert Parts(6).number == 203
    assert Parts(6, "halves").number == 41_209


def test_a_strategy_holds_for_both_halves() -> None:
    assert Parts(4, "halves").make("sequence:2") == (0, 0, 2, 2, 4, 4, 6, 6)
    assert Parts(3, "halves", removing=True).make("private_first") == (0, 1, 2, 2, 4, 5, 5)
    assert Parts(2, "halves").make("0 0 2 3") == (0, 0, 2, 3)
    assert Parts(3, removing=True).make("private_first") == (0, 1, 1, 1)  # of whole layers as it always was


@pytest.mark.parametrize("text", ["0 1 1 3", "0 1 2 0", "0 0 2"])
def test_halves_of_different_kinds_are_refused(text: str) -> None:
    with pytest.raises(InputError, match=r"halves have no weights to share|the model has 4"):
        Parts(2, "halves").make(text)


def test_labels_say_which_half() -> None:
    assert Parts(2, "halves", removing=True).label(1, 4) == "attention 0 and feed-forward 1"
    assert Parts(2, removing=True).label(2) == "layer 1"
    assert Parts(3).label(0, 2) == "layers 0 and 2"


def test_other_parts_are_refused_by_name() -> None:
    with pytest.raises(InputError, match="halves"):
        Parts(2, "halfs")
