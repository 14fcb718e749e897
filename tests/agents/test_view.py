"""An observation is decoded once, actions are valued without a loop over them, and agents say what they thought."""

import sys
from typing import Any

import gymnasium
import numpy as np
import pytest

import agents
import envs  # noqa: F401 (registers the environments)
from agents import base
from agents.base import masks_of
from tying.interface import ObservationView

OWN = [
    "paper",
    "double_dqn",
    "random",
    "thompson",
    "ucb",
    "gradient_similarity",
    "local_search",
    "evolution",
    "surrogate",
    "cross_entropy",
    "additive",
    "greedy",
]
OWN += ["sequence:3", "tie_after:50:cycle:2"]


def environment(name: str, **settings: Any) -> gymnasium.Env[Any, Any]:
    return agents.make_env(name, env_id="tying/FormulaTying-v0", **{"num_decisions": 20, **settings})


@pytest.mark.parametrize("name", OWN)
def test_an_observation_is_decoded_once(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two runs of 20 decisions have 42 observations, though an agent is asked to decide, to explain and to learn."""
    decoded: list[np.ndarray] = []

    class Counting(ObservationView):
        def __init__(self, observation: np.ndarray) -> None:
            decoded.append(observation)
            super().__init__(observation)

    monkeypatch.setattr(base, "ObservationView", Counting)
    env = environment(name)
    agent = agents.make(name, env)
    inner: Any = env.unwrapped
    inner.explain = agent.explain
    inner.on_decision = lambda record, observation, masks: agent.diagnostics(observation, masks)
    agent.learn(40)
    assert len({id(observation) for observation in decoded}) == len(decoded) <= 42
    if name not in ("double_dqn", "random"):  # these read the numbers as they are
        assert len(decoded) >= 40


def executed(function: Any) -> int:
    """Return how many lines of Python a call executes, each turn of a loop or a comprehension included."""
    count = 0

    def trace(frame: Any, event: str, argument: Any) -> Any:
        nonlocal count
        count += event == "line"
        return trace

    sys.settrace(trace)
    try:
        function()
    finally:
        sys.settrace(None)
    return count


def lines_of_a_decision(name: str, num_layers: int) -> int:
    """Return how many lines masks, the decision, what the agent says of it and its effect take in `pair` mode."""
    env = environment(name, num_layers=num_layers, action_mode="pair", best="all_tied")
    agent = agents.make(name, env)
    inner: Any = env.unwrapped
    inner.explain = agent.explain
    observation, _ = env.reset(seed=0)
    agent.begin_episode(observation)

    def decide() -> None:
        masks = masks_of(env)
        action = agent.predict(observation, masks)
        agent.diagnostics(observation, masks)
        inner._decide(action, observation, masks)

    decide()  # imports and the like happen the first time
    return executed(decide)


@pytest.mark.parametrize("name", ["dqn", "qrdqn", "double_dqn", "ppo", "maskable_ppo", "thompson", "ucb", "random"])
def test_deciding_among_the_actions_of_48_layers_needs_no_loop_over_them(name: str) -> None:
    """With 6 layers there are 21 actions, with 48 there are 1,176: one line more for each would be 1,155 lines more."""
    assert lines_of_a_decision(name, 48) - lines_of_a_decision(name, 6) < 1_155


def test_the_count_sees_loops() -> None:
    assert executed(lambda: [index for index in range(1_176)]) >= 1_176


# What an agent says of its actions.


def explained(name: str, decisions: int = 40, **hyperparameters: Any) -> tuple[Any, list[tuple[Any, Any]]]:
    """Return the agent after some decisions, and per decision the record and the agent's diagnostics."""
    env = environment(name)
    agent = agents.make(name, env, seed=1, **hyperparameters)
    inner: Any = env.unwrapped
    inner.explain = agent.explain
    seen: list[tuple[Any, Any]] = []
    inner.on_decision = lambda record, observation, masks: seen.append((record, agent.diagnostics(observation, masks)))
    agent.learn(decisions)
    return agent, seen


@pytest.mark.parametrize("name", ["dqn", "qrdqn", "double_dqn", "paper"])
def test_value_learners_tell_explored_from_greedy_and_the_value_of_the_action(name: str) -> None:
    _, seen = explained(name)
    assert {type(record.explored) for record, _ in seen} == {bool}
    for record, diagnostics in seen:
        values = diagnostics["q"]
        taken = min(record.action, record.layer) if name == "paper" else record.action
        assert record.action_value == pytest.approx(values[taken], rel=1e-5)
        if name != "double_dqn":  # its greedy action is the best of the legal ones
            assert record.explored == (taken != int(np.argmax(values)))
    assert 0 < sum(record.explored for record, _ in seen) < len(seen)


@pytest.mark.parametrize(
    ("name", "hyperparameters"),
    [
        ("double_dqn", {"exploration_final_eps": 0.0, "exploration_fraction": 0.3}),
        ("paper", {"epsilon": 0.0, "epsilon_min": 0.0}),
    ],
)
def test_a_greedy_agent_does_not_explore(name: str, hyperparameters: dict[str, float]) -> None:
    _, seen = explained(name, **hyperparameters)
    assert not any(record.explored for record, _ in seen[20:])


@pytest.mark.parametrize("name", ["thompson", "ucb"])
def test_bandits_tell_the_gain_that_they_expect(name: str) -> None:
    _, seen = explained(name, explore=0.5)
    assert all(record.action_value == pytest.approx(diagnostics["gain"][record.action]) for record, diagnostics in seen)
    assert any(record.explored for record, _ in seen)
    assert not any(record.explored for record, _ in seen[10:20])  # it holds what it knows


@pytest.mark.parametrize("name", ["ppo", "maskable_ppo", "a2c", "recurrent_ppo"])
def test_policies_tell_whether_another_action_was_more_probable(name: str) -> None:
    _, seen = explained(name)
    for record, diagnostics in seen:
        assert record.explored == (record.action != int(np.argmax(diagnostics["probability"])))
        assert record.action_value == pytest.approx(diagnostics["value"], rel=1e-5)


@pytest.mark.parametrize(("name", "explored"), [("random", True), ("all_tied", False), ("sequence:2", False)])
def test_chance_always_explores_and_a_fixed_strategy_never(name: str, explored: bool) -> None:
    _, seen = explained(name)
    assert {(record.explored, record.action_value) for record, _ in seen} == {(explored, None)}


def test_searches_explore_where_they_leave_the_best_that_they_know() -> None:
    _, seen = explained("local_search", explore=0.5)
    assert {type(record.explored) for record, _ in seen} == {bool}
    assert any(record.explored for record, _ in seen[:10])
    assert not any(record.explored for record, _ in seen[10:20])
