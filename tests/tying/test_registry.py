"""From names to objects: ours, and other people's by "package.module:attribute"."""

from collections.abc import Callable

import pytest

from tying import Pointers, registry, strategies
from tying.errors import InputError, nearest, unknown

KNOWN = {"gpt": "tying.models.gpt:GPT", "number": 3}


@pytest.mark.parametrize("name", ["a:b", "a.b:C", "_a.b2:c_d"])
def test_names_of_other_people(name: str) -> None:
    assert registry.is_foreign(name)


@pytest.mark.parametrize("name", ["gpt", "sequence:3", "a:", ":a", "a b:c", "a.:b", "a.b:c.d", "0:a", "a:b:c"])
def test_other_names_are_ours(name: str) -> None:
    assert not registry.is_foreign(name)


def test_ours_are_objects_or_are_imported() -> None:
    from tying.models.gpt import GPT

    assert registry.find("model", "gpt", KNOWN) is GPT
    assert registry.find("model", "number", KNOWN) == 3


def test_others_are_imported(write_module: Callable[[str, str], str]) -> None:
    write_module("stranger", "VALUE = 7\n")
    assert registry.find("thing", "stranger:VALUE", KNOWN) == 7


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("gtp", "unknown thing 'gtp': did you mean 'gpt'?"),
        ("zzzzz", "unknown thing 'zzzzz': allowed are gpt, number, or package.module:NAME"),
        (
            "no_such_module:A",
            "thing 'no_such_module:A' cannot be imported: ModuleNotFoundError: No module named 'no_such_module'",
        ),
        (
            "math:nothing",
            "thing 'math:nothing' cannot be imported: AttributeError: module 'math' has no attribute 'nothing'",
        ),
    ],
)
def test_what_cannot_be_found_is_one_line(name: str, line: str) -> None:
    with pytest.raises(InputError) as caught:
        registry.find("thing", name, KNOWN)
    assert caught.value.lines == (line,)


def test_a_module_that_fails_is_one_line(write_module: Callable[[str, str], str]) -> None:
    write_module("broken", "raise RuntimeError('first line\\nsecond line')\n")
    with pytest.raises(InputError) as caught:
        registry.find("model", "broken:Model", {})
    assert caught.value.lines == ("model 'broken:Model' cannot be imported: RuntimeError: first line",)


def test_a_hint_is_a_name_alike_and_no_guess() -> None:
    assert nearest("learning_rat", ["optim.learning_rate", "env.action_mode"]) == "optim.learning_rate"
    assert nearest("foo", ["optim.learning_rate", "env.action_mode"]) is None
    assert nearest("x", []) is None
    assert "did you mean" not in unknown("name 'foo'", "foo", ["bar", "action_mode"])


def test_a_strategy_from_outside(write_module: Callable[[str, str], str]) -> None:
    write_module(
        "patterns", "def halves(num_layers, first=2):\n    'AABB.'\n    return [i >= first for i in range(num_layers)]\n"
    )
    assert strategies.make("patterns:halves", 4) == Pointers((0, 0, 2, 2))
    assert strategies.make("patterns:halves:3", 4) == Pointers((0, 0, 0, 3))
    assert strategies.make_schedule("tie_after:50:patterns:halves:1", 3).at(0.5) == (0, 1, 1)
    with pytest.raises(InputError, match=r"strategy 'patterns:halves:x': wrong arguments"):
        strategies.make("patterns:halves:x", 4)


def test_a_registered_strategy_counts_among_the_fixed_ones_of_its_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strategies, "_STRATEGIES", {**strategies._STRATEGIES})

    @strategies.strategy
    def mirrored(num_layers: int) -> list[int]:
        """ABCCBA."""
        return [min(layer, num_layers - 1 - layer) for layer in range(num_layers)]

    assert strategies.make("mirrored", 5) == (0, 1, 2, 1, 0)
    assert Pointers((0, 1, 2, 1, 0)) in strategies.of_size(5, 3).values()
    with pytest.raises(InputError, match="did you mean 'mirrored'"):
        strategies.make("mirrord", 5)


def test_a_registered_schedule(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strategies, "_SCHEDULES", {**strategies._SCHEDULES})

    @strategies.schedule
    def swap(pattern: str) -> tuple[str, str]:
        """swap:P:PATTERN is PATTERN, then all tied."""
        return pattern, "all_tied"

    schedule = strategies.make_schedule("swap:25:cycle:2", 4)
    assert (schedule.at(0.24), schedule.at(0.25)) == ((0, 1, 0, 1), (0, 0, 0, 0))
    assert "swap" in strategies.schedule_names()
