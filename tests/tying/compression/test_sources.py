"""Sources: values, text, groups."""

import pytest

from tying import InputError, Pointers
from tying.compression import Sources


def test_text_is_read_as_it_is_printed() -> None:
    for text in ("0 1 2 3", "0 0 - 5 5 5", "- - 2", "-"):
        assert str(Sources.parse(text)) == text


@pytest.mark.parametrize("text", ["", "0 x", "0 -1 2", "3 0 0", "1234567 0"])
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(InputError):
        Sources.parse(text)


@pytest.mark.parametrize("values", [[0, 2], [0, -1], [0, 1.0], [0, "1"], []])
def test_other_values_are_refused(values: list) -> None:
    with pytest.raises(InputError):
        Sources(values)


def test_groups_sets_and_pointers() -> None:
    sources = Sources.parse("5 1 - 5 - 1")
    assert sources.kept == (0, 1, 3, 5)
    assert sources.num_sets == 2
    assert sources.groups == ((0, 3), (1, 5))
    assert sources.pointers == Pointers((0, 1, 0, 1))
    assert sources.entries == [0, 1, None, 0, None, 1]
    assert sources.with_donor((1, 5), 2) == Sources.parse("5 2 - 5 - 2")


def test_a_group_of_layer_nought_is_removed_where_layers_may_be() -> None:
    assert Sources.of(Pointers((0, 1, 1, 3)), removing=False) == Sources.parse("0 1 1 3")
    assert Sources.of(Pointers((0, 1, 1, 0, 4)), removing=True) == Sources.parse("0 0 - 3")
    nothing = Sources.of(Pointers((0, 0, 0)), removing=True)
    assert nothing.num_sets == 0
    assert nothing.groups == ()
    assert nothing.entries == [None, None]
