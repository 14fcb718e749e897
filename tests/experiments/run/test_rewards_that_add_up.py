"""Agents that add rewards up rank patterns only under rewards that telescope: others are refused."""

from collections.abc import Callable

import pytest

import agents
from envs.reward import REWARDS
from experiments.run.config import resolve
from tying.errors import InputError

ADDING = ["evolution", "surrogate", "cross_entropy", "additive", "greedy"]


def test_who_adds_rewards_up() -> None:
    found = {name for name in agents.names() if agents.agent_class(name)[0].needs_telescoping}
    assert found == set(ADDING)


@pytest.mark.parametrize("name", ADDING)
@pytest.mark.parametrize("reward", REWARDS)
def test_rewards_that_do_not_add_up_are_refused_in_one_line(name: str, reward: str) -> None:
    choices = {"preset": "tiny", "agent.name": name, "reward.name": reward}
    if REWARDS[reward].telescopes:
        assert resolve(choices).reward.name == reward
        return
    with pytest.raises(InputError, match=f"reward.name = '{reward}'.*'{name}'.*improvement, fork") as caught:
        resolve(choices)
    assert len(caught.value.lines) == 1


@pytest.mark.parametrize("reward", REWARDS)
def test_others_take_any_reward(reward: str) -> None:
    assert resolve({"preset": "tiny", "agent.name": "dqn", "reward.name": reward}).reward.name == reward


def test_a_reward_from_outside_says_so_itself(write_module: Callable[[str, str], str]) -> None:
    write_module(
        "rewards_outside", "def plain(c, r):\n    return {}\ndef sums(c, r):\n    return {}\nsums.telescopes = True\n"
    )
    choices = {"preset": "tiny", "agent.name": "surrogate"}
    assert resolve({**choices, "reward.name": "rewards_outside:sums"}).reward.name == "rewards_outside:sums"
    with pytest.raises(InputError, match="adds rewards up"):
        resolve({**choices, "reward.name": "rewards_outside:plain"})
