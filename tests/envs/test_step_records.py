"""One record per step: what rewards, observations, infos and listeners read."""

import itertools
from typing import Any

import gymnasium
import numpy as np
import pytest

from envs import FormulaTyingEnv, LayerTyingEnv, TableTyingEnv
from envs.base import TyingEnv
from tying.interface import ObservationView
from tying.training.record import StepRecord

ENVS: list[Any] = [
    lambda **o: LayerTyingEnv(trainer={"iterations": 10}, decision_interval=4, **o),
    lambda **o: FormulaTyingEnv(num_layers=4, num_decisions=3, **o),
    lambda **o: TableTyingEnv(num_decisions=3, **o),
]
Heard = list[tuple[StepRecord, np.ndarray, np.ndarray]]


def listen(env: TyingEnv) -> Heard:
    heard: Heard = []
    env.on_decision = lambda *arguments: heard.append(arguments)
    return heard


@pytest.mark.parametrize("mode", ["cursor", "pair", "joint"])
@pytest.mark.parametrize("make", ENVS)
def test_everybody_reads_the_one_record(make: Any, mode: str) -> None:
    env = make(action_mode=mode, reward={"name": "fork"})
    heard = listen(env)
    observation, _ = env.reset(seed=0)
    env.action_space.seed(0)
    assert env.record.decision == -1
    for decision in range(3):
        masks, before = env.action_masks(), env.pointers
        action = env.action_space.sample()
        next_observation, reward, terminated, _, info = env.step(action)
        record, seen, legal = heard[decision]
        assert record is env.record
        assert seen is observation
        assert np.array_equal(legal, masks)
        assert (record.decision, record.previous_pointers) == (decision, before)
        assert np.array_equal(record.action, action)
        assert (record.reward, dict(record.reward_terms)) == (reward, info["reward_terms"])
        assert reward == pytest.approx(sum(record.reward_terms.values()))
        assert info["pointers"] == list(record.pointers)
        for name in ("reward_loss", "train_loss", "iteration", "frozen", "param_share", "param_weight"):
            assert info[name] == getattr(record, name), name
        view = ObservationView(next_observation)
        assert view.pointers == record.pointers
        assert view.progress == round(record.iteration / env.simulator.num_iterations, 6)
        assert view.scalar("param_share") == pytest.approx(record.param_share)
        observation = next_observation
    assert terminated
    assert len(heard) == 3


@pytest.mark.parametrize("make", ENVS)
def test_a_record_begins_where_the_one_before_ended(make: Any) -> None:
    env = make()
    heard = listen(env)
    env.reset(seed=0)
    for _ in range(3):
        env.step(env.action_space.sample())
    records = [record for record, *_ in heard]
    assert records[0].previous_loss == env.simulator.uninformed_loss()
    for before, after in itertools.pairwise(records):
        assert after.previous_loss == before.reward_loss
        assert after.previous_pointers == before.pointers
        assert after.previous_share == pytest.approx(before.param_share)
        assert after.iteration == before.iteration + after.num_iterations
    assert sum(record.window_share for record in records) == pytest.approx(1)


def test_a_fork_is_measured_only_where_the_decision_changes_something() -> None:
    env = FormulaTyingEnv(num_layers=4, num_decisions=6, freeze_after=0.5, reward={"name": "fork"})
    heard, asked = listen(env), []
    run = env.simulator.run
    env.simulator.run = lambda record, n, fork: asked.append(fork) or run(record, n, fork)  # type: ignore[method-assign]
    env.reset(seed=0)
    for action in (0, 2, 0, 0, 0, 0):  # layer 1 joins 0; 2 stays; 3 joins 0; frozen from there on
        env.step(action)
    assert asked == [record.changed for record, *_ in heard] == [True, False, True, False, False, False]
    assert [record.fork_loss == record.reward_loss for record, *_ in heard] == [not changed for changed in asked]


def test_no_fork_is_measured_where_no_reward_reads_it() -> None:
    env = FormulaTyingEnv(num_layers=4, num_decisions=1)
    env.reset(seed=0)
    env.step(0)
    assert env.record.fork_loss is None


def test_what_the_agent_says_of_its_action_is_in_the_record() -> None:
    env = FormulaTyingEnv(num_layers=4, num_decisions=2)
    asked: list[tuple[Any, ...]] = []
    observation, _ = env.reset(seed=0)
    env.step(1)
    assert (env.record.explored, env.record.action_value) == (None, None)
    observation = env._observation
    masks = env.action_masks()

    def explain(*arguments: Any) -> tuple[bool, float]:
        asked.append((*arguments, env.record.decision))
        return True, 0.25

    env.explain = explain
    env.step(0)
    assert (env.record.explored, env.record.action_value) == (True, 0.25)
    ((seen, legal, action, decision),) = asked
    assert seen is observation
    assert np.array_equal(legal, masks)
    assert (action, decision) == (0, 0)  # asked before the action had its effect


def test_layer_and_action_are_those_decided() -> None:
    layers = {"cursor": [1, 2, 3], "pair": [2, 2, 2], "joint": [None] * 3}
    for mode, expected in layers.items():
        env: gymnasium.Env[Any, Any] = FormulaTyingEnv(num_layers=4, num_decisions=3, action_mode=mode)
        heard = listen(env)  # type: ignore[arg-type]
        env.reset(seed=0)
        action: Any = np.array([0, 0, 0, 0]) if mode == "joint" else {"cursor": 0, "pair": 4}[mode]
        for _ in range(3):
            env.step(action)
        assert [record.layer for record, *_ in heard] == expected
        assert [record.action for record, *_ in heard] == [np.asarray(action).tolist()] * 3


@pytest.mark.parametrize(
    ("reward", "evaluated"), [("improvement", [0, 1, 2, 3, 7, 11, 15, 19, 21]), ("level", [*range(22)])]
)
def test_once_pointers_stand_still_few_windows_are_evaluated_and_rewards_still_add_up(
    reward: str, evaluated: list[int]
) -> None:
    """Rewards that do not telescope need every loss."""
    options = {"trainer": {"iterations": 22, "batch_size": 2}, "decision_interval": 1, "freeze_after": 3 / 22}
    env = LayerTyingEnv(**options, reward={"name": reward, "frozen_interval": 4, "param_weight": 0.0})
    full = LayerTyingEnv(**options, reward={"name": reward, "frozen_interval": 1, "param_weight": 0.0})
    records: list[list[StepRecord]] = [[], []]
    for one, seen in zip((env, full), records, strict=True):
        one.reset(seed=0)
        for _ in range(22):
            one.step(one.action_space.n - 1)
            seen.append(one.record)
    some, every = records
    assert all(record.evaluated for record in every)
    assert [record.decision for record in some if record.evaluated] == evaluated
    for record, known in zip(some, every, strict=True):
        assert record.reward_loss == (known.reward_loss if record.evaluated else record.previous_loss)
    assert sum(record.reward for record in some) == pytest.approx(sum(record.reward for record in every))
