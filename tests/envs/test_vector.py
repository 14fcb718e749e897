"""A batch of table environments does, bit for bit, what single environments do."""

from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import SyncVectorEnv

from envs import TableTyingEnv, TyingBench
from tying.errors import InputError

NUM_ENVS = 5
BENCH = TyingBench.load()


def batch(num_envs: int = NUM_ENVS, **arguments: Any) -> Any:
    return gymnasium.make_vec(
        "tying/TyingBench-v0", num_envs=num_envs, vectorization_mode="vector_entry_point", table=BENCH, **arguments
    )


def singles(num_envs: int = NUM_ENVS, **arguments: Any) -> SyncVectorEnv:
    return SyncVectorEnv([lambda: TableTyingEnv(table=BENCH, **arguments)] * num_envs)


def assert_same(one: Any, other: Any) -> None:
    """Compare values of any depth, with their types and bits."""
    assert type(one) is type(other)
    if isinstance(one, (tuple, list)):
        assert len(one) == len(other)
        for left, right in zip(one, other, strict=True):
            assert_same(left, right)
    elif isinstance(one, dict):
        assert one.keys() == other.keys()
        for name in one:
            assert_same(one[name], other[name])
    else:
        assert one.dtype == other.dtype
        assert one.tolist() == other.tolist()  # infinities and signs of zero aside, equal floats have equal bits


OPTIONS: list[dict[str, Any]] = [
    {},
    {"answers": "mean", "budget": 0.5, "reward": {"param_weight": 0.3, "param_free": 0.5}},
    {"decision_interval": 3, "freeze_after": 0.55, "initial_pointers": "sandwich"},
]


@pytest.mark.parametrize("options", OPTIONS, ids=["plain", "mean", "frozen"])
@pytest.mark.parametrize("reward", ["improvement", "level", "fork"])
@pytest.mark.parametrize("mode", ["cursor", "pair", "joint"])
def test_a_batch_is_equal_to_single_environments_step_by_step(mode: str, reward: str, options: dict[str, Any]) -> None:
    terms = {"name": reward, **options.get("reward", {})}
    arguments = {"num_decisions": 13, "action_mode": mode, **options, "reward": terms}
    many, ones = batch(**arguments), singles(**arguments)
    assert many.action_space == ones.action_space and many.observation_space == ones.observation_space
    assert many.metadata["autoreset_mode"] == ones.autoreset_mode
    ones.action_space.seed(0)
    assert_same(many.reset(seed=7), ones.reset(seed=7))
    for _ in range(40):  # three episodes, the later ones of seeds that are drawn
        masks = np.stack([env.unwrapped.action_masks() for env in ones.envs])
        assert_same(many.action_masks(), masks)
        actions = ones.action_space.sample()
        assert_same(many.step(actions), ones.step(actions))
    assert_same(many.reset(), ones.reset())
    assert_same(many.reset(seed=[3, None, 1, None, 3]), ones.reset(seed=[3, None, 1, None, 3]))
    actions = ones.action_space.sample()
    assert_same(many.step(actions), ones.step(actions))


def test_what_was_returned_stays_as_it_was() -> None:
    many = batch()
    many.reset(seed=0)
    first = many.step(np.ones(NUM_ENVS, dtype=np.int64))
    kept = (first[0].copy(), first[1].copy(), first[4]["queries"].copy())
    first[4]["pointers"][0][:] = [9] * 6  # a caller may do what it wants with its lists
    for action in (0, 1, 2):
        _, _, _, _, info = many.step(np.full(NUM_ENVS, action))
    assert_same((first[0], first[1], first[4]["queries"]), kept)
    assert all(max(pointers) < 6 for pointers in info["pointers"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_envs": 0}, "num_envs = 0: expected a whole number of at least 1"),
        ({"reward": {"name": "paper"}}, "reward.name = 'paper': a batch computes improvement, level, fork"),
        ({"reward": {"param_target": 0.5}}, "reward.param_target and reward.baseline: a batch has neither"),
        ({"answers": "best"}, "allowed are 'seed' and 'mean'"),
        ({"render_mode": "ansi"}, "render_mode: a batch shows nothing"),
    ],
)
def test_what_a_batch_does_not_do_is_refused_in_one_line(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        batch(**arguments)
    assert len(caught.value.lines) == 1 and message in caught.value.lines[0]


@pytest.mark.parametrize(
    "actions", [np.zeros(4, dtype=int), np.full(5, 6), np.full(5, -1), np.zeros(5), np.zeros((5, 2), dtype=int)]
)
def test_actions_outside_the_space_are_refused(actions: np.ndarray) -> None:
    many = batch()
    many.reset(seed=0)
    with pytest.raises(InputError, match="expected one of"):
        many.step(actions)


def test_seeds_are_one_for_each() -> None:
    with pytest.raises(InputError, match="2 numbers for 5 environments"):
        batch().reset(seed=[1, 2])
    with pytest.raises(InputError, match="begin and end together"):
        batch().reset(options={"reset_mask": np.ones(5, dtype=bool)})
