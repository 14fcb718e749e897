"""The bandits: a posterior over differences, and what follows from it."""

import math
from typing import Any

import gymnasium
import numpy as np
import pytest

import agents
import envs  # noqa: F401 (registers the environments)
from agents.base import Transition, masks_of
from agents.extra.bandit import Change, Worth
from tying import Pointers

BANDITS = ["thompson", "ucb"]


def instant(mode: str, **options: Any) -> gymnasium.Env[Any, Any]:
    return gymnasium.make("tying/FormulaTying-v0", action_mode=mode, **options)


def gaps(worth: Worth, layer: int) -> np.ndarray:
    """Return the standard deviation of each target's worth above target 0's, for one layer."""
    return worth.deviations(np.zeros(len(worth.mean), dtype=int))[layer]


def test_differences_are_learned_and_add_up() -> None:
    worth = Worth(num_layers=4, prior_std=1.0)
    for _ in range(50):
        worth.observe(Change(3, source=0, target=1), 0.3, deviation=0.1)
        worth.observe(Change(3, source=1, target=2), 0.2, deviation=0.1)
    mean = worth.mean[3]
    assert mean[1] - mean[0] == pytest.approx(0.3, abs=0.01)
    assert mean[2] - mean[0] == pytest.approx(0.5, abs=0.01)  # never seen together
    assert mean[3] == 0
    assert not worth.mean[:3].any()  # other layers learn nothing of it


def test_one_observation_shrinks_the_deviation_as_bayes_says() -> None:
    worth = Worth(num_layers=2, prior_std=1.0)
    assert gaps(worth, 1) == pytest.approx([0, math.sqrt(2)])
    worth.observe(Change(1, source=0, target=1), 1.0, deviation=math.sqrt(2))
    assert worth.mean[1] == pytest.approx([-0.25, 0.25])
    assert gaps(worth, 1) == pytest.approx([0, 1.0])
    assert gaps(worth, 0) == pytest.approx([0, math.sqrt(2)])


def test_forgetting_leads_back_to_the_prior_and_keeps_the_means() -> None:
    worth = Worth(num_layers=2, prior_std=1.0)
    worth.observe(Change(1, source=0, target=1), 1.0, deviation=0.1)
    mean = worth.mean.copy()
    for _ in range(500):
        worth.forget(0.05)
    assert worth.covariance == pytest.approx(np.tile(np.eye(2), (2, 1, 1)), abs=1e-6)
    assert np.array_equal(worth.mean, mean)


def test_draws_have_the_posteriors_mean_and_covariance() -> None:
    worth = Worth(num_layers=3, prior_std=0.5)
    worth.observe(Change(2, source=0, target=1), 0.4, deviation=0.2)
    generator = np.random.default_rng(0)
    draws = np.array([worth.sample(generator) for _ in range(20_000)])[:, 2]
    assert draws.mean(axis=0) == pytest.approx(worth.mean[2], abs=0.02)
    assert np.cov(draws.T) == pytest.approx(worth.covariance[2], abs=0.02)


def test_what_changes_nothing_or_cannot_be_judged_teaches_nothing() -> None:
    worth = Worth(num_layers=2, prior_std=1.0)
    worth.observe(Change(1, source=1, target=1), 1.0, deviation=0.1)
    worth.observe(Change(1, source=0, target=1), 1.0, deviation=math.inf)
    assert not worth.mean.any()
    assert np.array_equal(worth.covariance, np.tile(np.eye(2), (2, 1, 1)))


@pytest.mark.parametrize("name", BANDITS)
@pytest.mark.parametrize("mode", ["cursor", "pair"])
@pytest.mark.parametrize("num_layers", [1, 2, 3, 9])
def test_any_number_of_layers_will_do(name: str, mode: str, num_layers: int) -> None:
    env = instant(mode, num_layers=num_layers, best="all_tied", num_decisions=30)
    agents.make(name, env).learn(env, 30)
    assert env.unwrapped.pointers.num_layers == num_layers  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", BANDITS)
@pytest.mark.parametrize("mode", ["cursor", "pair"])
def test_who_knows_nothing_and_does_not_explore_changes_nothing(name: str, mode: str) -> None:
    env = instant(mode, initial_pointers="0 0 2 2 0 5")
    agent = agents.make(name, env, explore=0.0).learn(env, 1)
    assert env.unwrapped.pointers == Pointers((0, 0, 2, 2, 0, 5))  # type: ignore[attr-defined]
    observation, _ = env.reset()
    env.step(agent.predict(observation, None, deterministic=True))
    assert env.unwrapped.pointers == Pointers((0, 0, 2, 2, 0, 5))  # type: ignore[attr-defined]


def test_without_masks_an_action_means_what_the_environment_makes_of_it() -> None:
    """Target 3 of layer 4 is tied to 0 here, so joining it is joining 0."""
    env = instant("pair", initial_pointers="0 1 2 0 4 5")
    agent: Any = agents.make("thompson", env)
    observation, _ = env.reset(seed=0)
    action = 4 * 5 // 2 + 3
    before = agent.diagnostics(observation, masks_of(env))["gain"]
    for _ in range(3):
        agent._baseline.update(0.0)
    next_observation, *_ = env.step(action)
    agent.learn_from(Transition(observation, action, 1.0, next_observation, False, None))
    after = agent.diagnostics(observation, masks_of(env))["gain"]
    assert before[action] == 0 < after[action] == after[action - 3]
