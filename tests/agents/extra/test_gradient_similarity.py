"""The rule on gradients, on the instant environment, where they say which layers the best pattern ties."""

from typing import Any

import gymnasium
import pytest

import agents
import envs  # noqa: F401 (registers the environments)
from tying import Pointers, strategies
from tying.errors import InputError


def run_of(initial: str, best: str, num_decisions: int = 60, **options: Any) -> list[Pointers]:
    """Return the patterns of one run of six layers."""
    hyperparameters = options.pop("hyperparameters", {})
    env = gymnasium.make(
        "tying/FormulaTying-v0",
        num_decisions=num_decisions,
        initial_pointers=initial,
        best=best,
        **{"gradient_statistics": True, **options},
    )
    seen: list[Pointers] = []
    env.unwrapped.on_decision = lambda decision, *_: seen.append(decision.pointers)  # type: ignore[attr-defined]
    agents.make("gradient_similarity", env, **hyperparameters).learn(env, num_decisions)
    return seen


@pytest.mark.parametrize("initial", ["all_tied", "independent", "sequence:3"])
@pytest.mark.parametrize("best", ["sandwich", "independent", "0 0 0 0 4 4"])
def test_it_finds_patterns_of_neighbours(initial: str, best: str) -> None:
    seen = run_of(initial, best)
    assert seen[-1] == strategies.make(best, 6)
    assert len(set(seen[-20:])) == 1  # and keeps to them


def test_it_unties_a_layer_at_its_first_turn_after_three_windows_of_disagreement() -> None:
    seen = run_of("0 1 1 1 1 1", "sandwich", num_decisions=10)
    assert seen[:4] == [(0, 1, 1, 1, 1, 1)] * 4
    assert seen[4] == (0, 1, 1, 1, 1, 5)  # the turn of layer 5
    patient = run_of("0 1 1 1 1 1", "sandwich", num_decisions=10, hyperparameters={"patience": 5})
    assert patient[:9] == [(0, 1, 1, 1, 1, 1)] * 9
    assert patient[9] == (0, 1, 1, 1, 1, 5)


def test_thresholds_at_the_bounds_turn_the_rule_off() -> None:
    never = {"untie_below": -1.0, "tie_above": 1.0}
    for initial in ("all_tied", "independent", "0 1 0 1 0 1"):
        assert len(set(run_of(initial, "sandwich", hyperparameters=never))) == 1


def test_the_weights_may_tell_who_is_alike() -> None:
    """They say nothing in the instant environment: nothing is tied."""
    seen = run_of("independent", "sandwich", hyperparameters={"likeness": "weights"})
    assert set(seen) == {Pointers.independent(6)}


def test_a_frozen_pattern_is_left_alone() -> None:
    assert len(set(run_of("all_tied", "sandwich", num_decisions=20, freeze_after=0.1))) == 1


@pytest.mark.parametrize("num_layers", [1, 2, 9])
def test_any_number_of_layers_will_do(num_layers: int) -> None:
    assert len(run_of("all_tied", "independent", num_layers=num_layers)) == 60


def test_what_it_cannot_work_with_is_refused() -> None:
    with pytest.raises(InputError, match=r"it needs env\.gradient_statistics on"):
        run_of("all_tied", "sandwich", gradient_statistics=False)
    with pytest.raises(InputError, match=r"it needs env\.action_mode cursor"):
        run_of("all_tied", "sandwich", action_mode="pair")
