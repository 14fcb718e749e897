"""Greedy merging against a loop that asks for the same patterns by hand."""

import itertools
from typing import Any

import numpy as np
import pytest

import agents
from agents.greedy import merges
from envs.compressing import CompressingEnv, QuestionSimulator
from tying import Pointers
from tying.compression import Sources

LAYERS = 4
ALL = list(Pointers.all(LAYERS + 1))


def losses(seed: int) -> dict[Sources, float]:
    values = np.random.default_rng(seed).uniform(0, 1, len(ALL))
    return {Sources.of(pattern, removing=True): float(value) for pattern, value in zip(ALL, values, strict=True)}


def env_of(known: dict[Sources, float], sets: int, num_decisions: int) -> CompressingEnv:
    """Return an environment in which a set above the budget costs more than any loss."""
    simulator = QuestionSimulator(known.__getitem__, LAYERS, set_params=1, uninformed_loss=1.0)
    reward: Any = {"param_weight": 1.5 * LAYERS, "param_free": sets / LAYERS}
    return CompressingEnv(simulator, num_decisions=num_decisions, action_mode="joint", reward=reward)


def by_hand(known: dict[Sources, float], sets: int) -> tuple[list[Pointers], Pointers]:
    """Return what is asked and what is found, by the sets of layers of every group."""

    def loss(groups: list[set[int]]) -> float:
        return known[Sources.of(of(groups), removing=True)]

    def of(groups: list[set[int]]) -> Pointers:
        return Pointers.from_labels(next(min(g) for g in groups if layer in g) for layer in range(LAYERS + 1))

    current = [{layer} for layer in range(LAYERS + 1)]
    asked = [of(current)]
    while len(current) > 1:
        pairs = itertools.combinations(range(len(current)), 2)
        many = [
            [*(g for k, g in enumerate(current) if k not in pair), current[pair[0]] | current[pair[1]]] for pair in pairs
        ]
        asked += map(of, many)
        best = min(many, key=loss)
        if len(current) - 1 <= sets and loss(best) >= loss(current):
            break
        current = best
    return asked, of(current)


@pytest.mark.parametrize(("seed", "sets"), [(0, 1), (1, 2), (2, 3), (3, 4)])
def test_it_asks_for_every_merge_of_the_best_one_before(seed: int, sets: int) -> None:
    known = losses(seed)
    asked, found = by_hand(known, sets)
    env = env_of(known, sets, len(asked) + 3)
    seen: list[Pointers] = []
    env.on_decision = lambda record, observation, masks: seen.append(record.pointers)
    agent = agents.make("greedy", env, explore=1.0).learn(env, env.num_decisions)
    assert sorted(seen[: len(asked)]) == sorted(asked)
    assert seen[len(asked) :] == [found] * 3
    assert agent.recommend() == found


def test_merges_are_all_patterns_with_one_group_fewer_that_two_groups_make() -> None:
    def coarser(fine: Pointers, coarse: Pointers) -> bool:
        pairs = itertools.combinations(range(len(fine)), 2)
        return all(coarse[i] == coarse[j] for i, j in pairs if fine[i] == fine[j])

    for pattern in ALL:
        found = merges(pattern)
        assert sorted(found) == [p for p in ALL if p.num_unique == pattern.num_unique - 1 and coarser(pattern, p)]
