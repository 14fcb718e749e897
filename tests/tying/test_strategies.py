"""Strategies against the examples of their papers."""

import string

import pytest

from tying import Pointers, strategies
from tying.errors import InputError

EXAMPLES = {
    ("independent", 6): "ABCDEF",
    ("all_tied", 6): "AAAAAA",
    ("sequence:3", 6): "AABBCC",
    ("sequence:4", 9): "AAABBCCDD",
    ("cycle:3", 6): "ABCABC",
    ("cycle:4", 9): "ABCDABCDA",
    ("cycle_rev:3", 6): "ABCCBA",
    ("cycle_rev:6", 18): "ABCDEFABCDEFFEDCBA",
    ("sandwich", 6): "ABBBBC",
    ("sandwich", 2): "AB",
    ("sandwich", 1): "A",
    ("middle_cycle:4", 6): "ABCBCD",
    ("immediate_repeat", 6): "AABBCC",
    ("immediate_repeat:3", 6): "AAABBB",
    ("front_loaded:4,2,1,1", 8): "AAAABBCD",
    ("0 1 1 3", 4): "ABBC",
}


@pytest.mark.parametrize(("text", "num_layers", "letters"), [(*key, value) for key, value in EXAMPLES.items()])
def test_examples_of_the_literature(text: str, num_layers: int, letters: str) -> None:
    assert strategies.make(text, num_layers=num_layers) == Pointers.from_labels(letters)


@pytest.mark.parametrize("name", ["sequence", "cycle"])
def test_as_many_unique_layers_as_asked(name: str) -> None:
    for num_layers in range(1, 13):
        for unique in range(1, num_layers + 1):
            assert strategies.make(f"{name}:{unique}", num_layers).num_unique == unique


def test_middle_cycle_has_as_many_unique_layers_as_asked() -> None:
    for num_layers in range(3, 13):
        for unique in range(3, num_layers + 1):
            assert strategies.make(f"middle_cycle:{unique}", num_layers).num_unique == unique


MISFITS = """
sequence | sequence:0 | sequence:7 | sequence:x | sequence:2,3 | cycle:0 | cycle_rev:4 | middle_cycle:2 | front_loaded:1,5
front_loaded:4,3 | front_loaded | immediate_repeat:0 | all_tied:2 | 0 1 1 | 0 2 1 1 1 1
"""


@pytest.mark.parametrize("text", [text.strip() for text in MISFITS.replace("\n", "|").split("|") if text.strip()])
def test_arguments_that_do_not_fit_are_refused(text: str) -> None:
    with pytest.raises(InputError):
        strategies.make(text, num_layers=6)


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(InputError, match="did you mean 'sandwich'"):
        strategies.make("sandwhich", 6)


def test_every_name_has_an_example() -> None:
    assert {text.partition(":")[0] for text, _ in EXAMPLES} - {"0 1 1 3"} == set(strategies.names())
    assert set("".join(EXAMPLES.values())) <= set(string.ascii_uppercase)


def test_share_then_unshare_unties_at_its_share_of_the_run() -> None:
    schedule = strategies.schedule("share_then_unshare:30", 4)
    assert schedule.at(0.0) == schedule.at(0.29) == (0, 0, 0, 0)
    assert schedule.at(0.3) == schedule.at(1.0) == (0, 1, 2, 3)


def test_a_pattern_is_a_schedule_of_one_stage() -> None:
    schedule = strategies.schedule("cycle:2", 4)
    assert schedule.at(0.0) == schedule.at(1.0) == (0, 1, 0, 1)


@pytest.mark.parametrize("time", ["", ":0", ":100", ":x"])
def test_schedules_without_a_time_are_refused(time: str) -> None:
    with pytest.raises(InputError):
        strategies.schedule(f"share_then_unshare{time}", 4)
