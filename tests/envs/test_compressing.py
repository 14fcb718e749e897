"""tying/Compressing-v0: a trained model, compressed decision by decision."""

import math
from typing import Any

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env as gymnasium_check
from stable_baselines3.common.env_checker import check_env as sb3_check

import agents
import envs  # noqa: F401 (registers)
from envs.compressing import CompressingEnv, QuestionSimulator, num_sets
from tying import InputError, Pointers
from tying.compression import Sources

COSTS = (0.0, 0.5, 0.1, 0.05, 0.7)  # what it costs to remove layer 1 to 4, or to tie it to an earlier one at half the price


def loss(sources: Sources) -> float:
    """Return a loss that adds up: a removed layer costs its own, a tied one half of it."""
    first = sources.entries
    return 1 + sum(
        COSTS[layer + 1] * (1 if source is None else 0.5 if source != layer else 0) for layer, source in enumerate(first)
    )


def make(num_decisions: int = 12, **settings: Any) -> CompressingEnv:
    simulator = QuestionSimulator(loss, 4, set_params=10, uninformed_loss=math.log(9))
    return CompressingEnv(simulator, num_decisions=num_decisions, **settings)


@pytest.mark.parametrize("mode", ["cursor", "pair", "joint"])
def test_both_checkers_pass(mode: str) -> None:
    gymnasium_check(make(action_mode=mode), skip_render_check=True)
    sb3_check(make(action_mode=mode))


def test_layer_nought_stands_for_nothing() -> None:
    env = make(action_mode="joint", num_sets=None)
    env.reset(seed=0)
    _, _, _, _, info = env.step(np.array([0, 1, 0, 2, 4]))
    assert info["sources"] == [0, None, None, 3]
    assert info["num_sets"] == 2
    assert info["param_share"] == 0.5
    assert info["reward_loss"] == loss(Sources.parse("0 - - 3"))
    assert env.record.block_params == 20
    assert env.record.independent_block_params == 40


def test_rewards_are_the_fall_of_the_loss_and_of_the_share() -> None:
    env = make(reward={"param_weight": 0.3}, action_mode="joint")
    env.reset(seed=0)
    before, total = math.log(9), 0.0
    for action in ([0, 1, 2, 3, 4], [0, 1, 1, 3, 4], [0, 1, 1, 0, 4]):
        _, reward, _, _, info = env.step(np.array(action))
        total += reward
    assert total == pytest.approx(before - info["reward_loss"] + 0.3 * (1 - info["param_share"]))


def test_an_episode_ends_at_its_budget_of_sets() -> None:
    env = make(num_sets=2)
    env.reset(seed=0)
    ended = []
    for action in (0, 1, 2, 3):  # remove layer 1; join it; keep; remove: three sets are left after two, and two at last
        action = action if env.action_masks()[action] else int(np.flatnonzero(env.action_masks())[0])
        *_, terminated, _, info = env.step(action)
        ended.append((terminated, info["num_sets"]))
        if terminated:
            break
    assert ended[-1] == (True, 2)
    assert all(sets > 2 for over, sets in ended if not over)
    with pytest.raises(InputError, match="after the end"):
        env.step(0)
    env.reset()
    assert env.pointers == Pointers.independent(5)


def env_settings(name: str) -> dict[str, Any]:
    """Return what an agent recommends for `env`."""
    return {key: value for key, value in agents.registry.recommended(name).items() if key.startswith("env.")}


@pytest.mark.parametrize("name", ["dqn", "local_search", "surrogate", "thompson", "maskable_ppo", "random"])
def test_agents_of_every_kind_decide(name: str) -> None:
    env = make(20, num_sets=2, reward={"param_weight": 2.0}, **env_settings(name))
    searches = name in ("local_search", "surrogate", "thompson")
    agent = agents.make(name, env, seed=0, **({"explore": 1.0} if searches else {}))
    seen: list[int] = []
    env.on_decision = lambda record, observation, masks: seen.append(num_sets(record.pointers))
    agent.learn(env, 30)
    assert len(seen) == 30
    assert min(seen) <= 3


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"num_sets": 5}, "from 1 to 4"),
        ({"num_sets": 0}, "from 1 to 4"),
        ({"gradient_statistics": True}, "nothing is trained"),
        ({"nonsense": 1}, "nonsense"),
    ],
)
def test_wrong_settings_are_one_line(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        make(**settings)


def test_a_table_of_training_from_scratch_is_refused() -> None:
    with pytest.raises(InputError, match="trained from scratch"):
        CompressingEnv("shakespeare-6")


def test_wrong_numbers_of_decisions_are_refused() -> None:
    simulator = QuestionSimulator(loss, 4, 10, 1.0)
    with pytest.raises(InputError, match="at least 1"):
        CompressingEnv(simulator, num_decisions=0)
