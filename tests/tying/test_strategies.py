"""Strategies against the examples of their papers."""

import itertools
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
    ("cycle_rev:4", 6): "ABCDDC",
    ("sandwich", 6): "ABBBBC",
    ("sandwich", 2): "AB",
    ("sandwich", 1): "A",
    ("private_first", 6): "ABBBBB",
    ("middle_cycle:4", 6): "ABCBCD",
    ("immediate_repeat", 6): "AABBCC",
    ("immediate_repeat:3", 6): "AAABBB",
    ("front_loaded:4,2,1,1", 8): "AAAABBCD",
    ("0 1 1 3", 4): "ABBC",
    ("1-2-2-3", 4): "ABBC",
    ("a-b-b-c", 4): "ABBC",
}


@pytest.mark.parametrize(("text", "num_layers", "letters"), [(*key, value) for key, value in EXAMPLES.items()])
def test_examples_of_the_literature(text: str, num_layers: int, letters: str) -> None:
    assert strategies.make(text, num_layers=num_layers) == Pointers.from_labels(letters)


@pytest.mark.parametrize("name", ["sequence", "cycle", "cycle_rev"])
def test_as_many_unique_layers_as_asked(name: str) -> None:
    for num_layers in range(1, 13):
        for unique in range(1, num_layers + 1):
            assert strategies.make(f"{name}:{unique}", num_layers).num_unique == unique


def test_cycle_rev_is_the_published_loop() -> None:
    """The first M layers are new; whole passes follow from the first one; the rest descends from the last one."""
    for num_layers in range(1, 13):
        for unique in range(1, num_layers + 1):
            labels = list(range(unique))
            for number in range(num_layers - 2 * unique):
                labels.append(number % unique)
            for number in range(num_layers - len(labels)):
                labels.append(labels[:unique][-(number % unique + 1)])
            assert strategies.make(f"cycle_rev:{unique}", num_layers) == Pointers.from_labels(labels)


def test_sequence_is_alberts_groups() -> None:
    """Both of ALBERT's codes compute floor(i G / L) in floats: equal, or one too low at the first layer of a group."""
    shapes = [(num_layers, groups) for num_layers in range(1, 65) for groups in range(1, num_layers + 1)]
    wrong: dict[str, set[tuple[int, int]]] = {"google": set(), "transformers": set()}
    for num_layers, groups in shapes:
        ours = Pointers.from_labels(layer * groups // num_layers for layer in range(num_layers))
        assert strategies.make(f"sequence:{groups}", num_layers) == ours
        for layer in range(num_layers):
            exact, rest = divmod(layer * groups, num_layers)
            theirs = {"google": int(layer / num_layers * groups), "transformers": int(layer / (num_layers / groups))}
            for name, group in theirs.items():
                assert group == exact or (group == exact - 1 and rest == 0)
                wrong[name] |= {(num_layers, groups)} if group != exact else set()
    assert (len(shapes), len(wrong["google"]), len(wrong["transformers"])) == (2080, 18, 39)


def test_middle_cycle_has_as_many_unique_layers_as_asked() -> None:
    for num_layers in range(3, 13):
        for unique in range(3, num_layers + 1):
            assert strategies.make(f"middle_cycle:{unique}", num_layers).num_unique == unique


MISFITS = """
sequence | sequence:0 | sequence:7 | sequence:x | sequence:2,3 | cycle:0 | cycle_rev:0 | cycle_rev:7 | middle_cycle:2
front_loaded:1,5
front_loaded:4,3 | front_loaded | immediate_repeat:0 | all_tied:2 | 0 1 1 | 1-2-2 | a-b-b | 0 2 1 1 1 1
"""


@pytest.mark.parametrize("text", [text.strip() for text in MISFITS.replace("\n", "|").split("|") if text.strip()])
def test_arguments_that_do_not_fit_are_refused(text: str) -> None:
    with pytest.raises(InputError):
        strategies.make(text, num_layers=6)


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(InputError, match="did you mean 'sandwich'"):
        strategies.make("sandwhich", 6)


def test_every_name_has_an_example() -> None:
    assert {text.partition(":")[0] for text, _ in EXAMPLES} - {"0 1 1 3", "1-2-2-3", "a-b-b-c"} == set(strategies.names())
    assert set("".join(EXAMPLES.values())) <= set(string.ascii_uppercase)


def test_share_then_unshare_unties_at_its_share_of_the_run() -> None:
    schedule = strategies.make_schedule("share_then_unshare:30", 4)
    assert schedule.at(0.0) == schedule.at(0.29) == (0, 0, 0, 0)
    assert schedule.at(0.3) == schedule.at(1.0) == (0, 1, 2, 3)


def test_a_pattern_is_a_schedule_of_one_stage() -> None:
    schedule = strategies.make_schedule("cycle:2", 4)
    assert schedule.at(0.0) == schedule.at(1.0) == (0, 1, 0, 1)


def test_tie_after_ties_at_its_share_of_the_run() -> None:
    schedule = strategies.make_schedule("tie_after:25:sequence:2", 4)
    assert schedule.at(0.0) == schedule.at(0.249) == (0, 1, 2, 3)
    assert schedule.at(0.25) == schedule.at(1.0) == (0, 0, 2, 2)


def test_untie_after_unties_at_its_share_of_the_run() -> None:
    schedule = strategies.make_schedule("untie_after:75:0 1 0 1", 4)
    assert schedule.at(0.0) == schedule.at(0.749) == (0, 1, 0, 1)
    assert schedule.at(0.75) == schedule.at(1.0) == (0, 1, 2, 3)


def test_share_then_unshare_is_untie_after_from_all_tied() -> None:
    assert strategies.make_schedule("share_then_unshare:40", 5) == strategies.make_schedule("untie_after:40:all_tied", 5)


@pytest.mark.parametrize("time", ["", ":0", ":100", ":x", ":-3", ":1.5"])
@pytest.mark.parametrize(
    ("name", "pattern"), [("share_then_unshare", ""), ("tie_after", ":cycle:2"), ("untie_after", ":cycle:2")]
)
def test_schedules_without_a_time_are_refused(name: str, pattern: str, time: str) -> None:
    with pytest.raises(InputError):
        strategies.make_schedule(f"{name}{time}{pattern}", 4)


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("tie_after:50", "tie_after:P:PATTERN is independent, then PATTERN"),
        ("untie_after:50", "untie_after:P:PATTERN is PATTERN, then independent"),
        ("share_then_unshare:50:all_tied", "share_then_unshare:P is all tied, then independent"),
        ("tie_after:50:", "unknown strategy ''"),
        ("tie_after:50:sandwhich", "did you mean 'sandwich'"),
        ("tie_after:50:sequence:9", "sequence:9 needs 1 to 4 unique layers"),
        ("untie_after:50:0 1 1", "are for 3 layers, the model has 4"),
        ("tie_after:50:untie_after:60:all_tied", "untie_after is a schedule, and one pattern is needed here"),
    ],
)
def test_schedules_of_wrong_arguments_say_what_is_wrong(text: str, part: str) -> None:
    with pytest.raises(InputError) as caught:
        strategies.make_schedule(text, 4)
    (line,) = caught.value.lines
    assert part in line


def test_a_schedule_is_no_pattern() -> None:
    with pytest.raises(InputError, match="share_then_unshare is a schedule"):
        strategies.make("share_then_unshare:30", 4)


def all_fixed(num_layers: int) -> set[Pointers]:
    """Return every pattern that a strategy makes with any arguments."""
    numbers = range(1, num_layers + 1)
    runs = (cut for size in numbers for cut in itertools.product(numbers, repeat=size) if sum(cut) == num_layers)
    arguments = ["", *(f":{n}" for n in numbers), *(":" + ",".join(map(str, cut)) for cut in runs)]
    found = set()
    for name, argument in itertools.product(strategies.names(), arguments):
        try:
            found.add(strategies.make(name + argument, num_layers))
        except InputError:
            continue
    return found


@pytest.mark.parametrize("num_layers", range(1, 7))
def test_of_size_is_every_pattern_that_a_strategy_makes(num_layers: int) -> None:
    everything = all_fixed(num_layers)
    for unique in range(1, num_layers + 1):
        found = set(strategies.of_size(num_layers, unique).values())
        assert found == {pattern for pattern in everything if pattern.num_unique == unique}


@pytest.mark.parametrize("num_layers", range(1, 9))
def test_patterns_of_a_size_are_distinct_and_made_by_their_texts(num_layers: int) -> None:
    for unique in range(1, num_layers + 1):
        found = strategies.of_size(num_layers, unique)
        assert len(set(found.values())) == len(found)
        for text, pattern in found.items():
            assert pattern.num_unique == unique
            assert strategies.make(text, num_layers) == pattern
        for text in (f"sequence:{unique}", f"cycle:{unique}"):
            assert strategies.make(text, num_layers) in found.values()
