"""Agents that search inside one run: their moves, what they hold on to, and that they keep to what is legal."""

from itertools import pairwise
from typing import Any

import gymnasium
import numpy as np
import pytest

import agents
import envs  # noqa: F401 (registers the environments)
from agents.search import Baseline, neighbours
from tying import Pointers

SEARCHES = ["local_search", "evolution", "surrogate"]


def run_of(name: str, num_decisions: int, seed: int = 0, noise: float = 0.0, **options: Any) -> list[Pointers]:
    """Return the patterns of one whole run."""
    hyperparameters = options.pop("hyperparameters", {})
    env = gymnasium.make("tying/FormulaTying-v0", action_mode="joint", num_decisions=num_decisions, noise=noise, **options)
    seen: list[Pointers] = []
    env.unwrapped.on_decision = lambda decision, *_: seen.append(decision.pointers)  # type: ignore[attr-defined]
    agents.make(name, env, seed=seed, **hyperparameters).learn(env, num_decisions)
    return seen


def test_neighbours_are_one_move_away() -> None:
    assert neighbours(Pointers((0, 0, 0))) == [(0, 0, 2), (0, 1, 0)]
    assert neighbours(Pointers((0, 1, 1))) == [(0, 0, 2), (0, 1, 0), (0, 1, 2)]
    assert neighbours(Pointers((0, 1))) == [(0, 0)]
    assert neighbours(Pointers((0,))) == []


def test_neighbours_are_every_move_and_lead_everywhere() -> None:
    reached, edge = set(), {Pointers.independent(5)}
    while edge:
        reached |= edge
        edge = {other for pointers in edge for other in neighbours(pointers)} - reached
    assert reached == set(Pointers.all(5))
    for pointers in reached:
        moves = {pointers.move(layer, target) for layer in range(5) for target in range(layer + 1)}
        assert set(neighbours(pointers)) == moves - {pointers}


def test_a_baseline_is_the_mean_of_late_and_its_scatter() -> None:
    baseline = Baseline(weight=0.5)
    assert baseline.advantage(3.0) == 0
    assert baseline.deviation == np.inf
    baseline.update(1.0)
    baseline.update(2.0)
    assert baseline.mean == 1.5
    assert baseline.deviation == 1.0
    assert baseline.advantage(2.0) == 0.5


@pytest.mark.parametrize("name", SEARCHES)
@pytest.mark.parametrize("num_layers", [1, 2, 3, 9])
def test_any_number_of_layers_will_do(name: str, num_layers: int) -> None:
    assert len(run_of(name, 30, num_layers=num_layers, best="all_tied")) == 30


@pytest.mark.parametrize("name", SEARCHES)
def test_other_seeds_search_otherwise(name: str) -> None:
    assert run_of(name, 30, seed=1) != run_of(name, 30, seed=2)


@pytest.mark.parametrize("name", SEARCHES)
def test_it_explores_first_and_holds_its_best_then(name: str) -> None:
    seen = run_of(name, 100, noise=0.05, hyperparameters={"explore": 0.4})
    assert len(set(seen[:40])) > 5
    assert len(set(seen[40:])) == 1


@pytest.mark.parametrize("name", SEARCHES)
def test_it_moves_one_layer_at_a_time_from_the_pattern_at_the_start(name: str) -> None:
    seen = run_of(name, 40, initial_pointers="all_tied", hyperparameters={"explore": 1.0})
    assert seen[0] == Pointers((0,) * 6)
    if name == "local_search":
        # A trial is one move away from the incumbent, and so is the way back from it.
        near = [
            before == after or after in neighbours(before) or before in neighbours(after)
            for before, after in pairwise(seen)
        ]
        assert all(near)


@pytest.mark.parametrize("name", SEARCHES)
def test_a_frozen_pattern_is_left_alone(name: str) -> None:
    env = gymnasium.make("tying/FormulaTying-v0", action_mode="joint", num_decisions=40, freeze_after=0.5)
    inner: Any = env.unwrapped
    legal: list[bool] = []

    def check(decision: Any, _: np.ndarray, masks: np.ndarray) -> None:
        offsets = np.cumsum([0, *range(1, 6)])
        legal.append(bool(masks[offsets + decision.action].all()))

    inner.on_decision = check
    agents.make(name, env, explore=1.0).learn(env, 40)
    assert all(legal)


def test_local_search_goes_back_from_moves_that_do_not_help() -> None:
    """From the best pattern every move is a loss, so every other decision goes back to it."""
    seen = run_of("local_search", 40, initial_pointers="sandwich", hyperparameters={"explore": 0.5})
    assert set(seen[1:20:2]) == {Pointers((0, 1, 1, 1, 1, 5))}
    assert len(set(seen)) > 5


def test_local_search_tries_a_move_for_as_many_windows_as_asked() -> None:
    seen = run_of("local_search", 24, initial_pointers="sandwich", hyperparameters={"trial": 3, "explore": 1.0})
    tried = [pattern for pattern in seen if pattern != seen[0]]
    assert tried[0] == tried[1] == tried[2] != tried[3]


def test_a_search_begins_its_next_run_with_its_best() -> None:
    for name in SEARCHES:
        env = gymnasium.make("tying/FormulaTying-v0", action_mode="joint", num_decisions=50)
        agent = agents.make(name, env).learn(env, 50)
        observation, _ = env.reset()
        agent.begin_episode(observation)
        best = agent.predict(observation, deterministic=True)
        assert np.array_equal(agent.predict(observation), best)
