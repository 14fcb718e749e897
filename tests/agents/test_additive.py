"""Additive ranking: every single tie, then the patterns whose ties add up."""

import itertools
from typing import Any

import numpy as np
import pytest

import agents
from envs.compressing import CompressingEnv, QuestionSimulator
from tying import Pointers
from tying.compression import Sources

LAYERS = 4


def env_of(costs: np.ndarray, num_decisions: int, **reward: float) -> CompressingEnv:
    """Return an environment whose loss adds up over the layers; column 0 of the costs is removal."""

    def loss(sources: Sources) -> float:
        total = 1.0
        for layer, source in enumerate(sources.entries):
            total += costs[layer, 0 if source is None else 1 + source] if source != layer else 0.0
        return total

    simulator = QuestionSimulator(loss, LAYERS, set_params=1, uninformed_loss=3.0)
    return CompressingEnv(
        simulator, num_decisions=num_decisions, action_mode="joint", reward={"param_weight": 0.5, **reward}
    )


def tried(env: CompressingEnv, **settings: Any) -> tuple[list[Pointers], agents.Agent]:
    seen: list[Pointers] = []
    env.on_decision = lambda record, observation, masks: seen.append(record.pointers)
    agent = agents.make("additive", env, seed=0, explore=1.0, **settings)
    return seen, agent.learn(env, env.num_decisions)


@pytest.mark.parametrize("seed", range(4))
def test_it_finds_the_best_pattern_with_two_tries_more_than_ties(seed: int) -> None:
    costs = np.random.default_rng(seed).uniform(0, 0.4, (LAYERS, LAYERS + 1))
    env = env_of(costs, num_decisions=1 + 10 + 2)
    seen, agent = tried(env)
    untied = Pointers.independent(LAYERS + 1)
    singles = [untied.move(layer, root) for root, layer in itertools.combinations(range(LAYERS + 1), 2)]
    assert seen[0] == untied
    assert sorted(seen[1:11]) == sorted(singles)

    def objective(pointers: Pointers) -> float:
        record = env.simulator.run(env.record.__class__(0, 1, 1, pointers, pointers), 1, False)
        return record.reward_loss + 0.5 * env.simulator.param_share(pointers)

    best = min(Pointers.all(LAYERS + 1), key=objective)
    assert objective(agent.recommend()) == pytest.approx(objective(best))  # type: ignore[arg-type]


def test_once_the_ranking_is_through_it_tries_neighbours_and_then_holds() -> None:
    env = env_of(np.full((LAYERS, LAYERS + 1), 0.3), num_decisions=70)
    seen, agent = tried(env)
    assert len(set(seen)) > 16
    assert seen[-1] == agent.recommend()


def test_deep_models_follow_the_greedy_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agents.additive._MOST_ROOT_SETS", 1)
    costs = np.random.default_rng(5).uniform(0, 0.1, (LAYERS, LAYERS + 1))
    seen, _ = tried(env_of(costs, num_decisions=1 + 10 + 4))
    assert sorted(pattern.num_unique for pattern in seen[11:]) == [1, 2, 3, 4] or len(set(seen[11:])) == 4


def test_after_exploring_it_holds_the_best() -> None:
    env = env_of(np.full((LAYERS, LAYERS + 1), 0.3), num_decisions=40)
    seen: list[Pointers] = []
    env.on_decision = lambda record, observation, masks: seen.append(record.pointers)
    agent = agents.make("additive", env, seed=0, explore=0.5).learn(env, 40)
    assert set(seen[20:]) == {agent.recommend()}


@pytest.mark.parametrize("sets", [1, 2, 3])
def test_within_a_budget_it_takes_a_try_for_every_size_to_see_what_sets_cost(sets: int) -> None:
    """A charge for sets above a budget is no sum over ties: the ranking is corrected by the first try of each size."""
    costs = np.random.default_rng(3).uniform(0, 0.2, (LAYERS, LAYERS + 1))
    env = env_of(costs, num_decisions=1 + 10 + LAYERS + 1, param_weight=3.0 * LAYERS, param_free=sets / LAYERS)
    seen, agent = tried(env)
    best = min(
        (pattern for pattern in Pointers.all(LAYERS + 1) if pattern.num_unique - 1 <= sets),
        key=lambda pattern: env.simulator.run(env.record.__class__(0, 1, 1, pattern, pattern), 1, False).reward_loss,
    )
    assert agent.recommend() == best
    assert len({pattern.num_unique for pattern in seen[11:]}) > 1
