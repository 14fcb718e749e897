"""The action mode `cursor_rank`: targets and ranks, through the environment and its training."""

import functools
import itertools
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env as gymnasium_check
from stable_baselines3.common.env_checker import check_env as sb3_check

import agents
from envs import FormulaTyingEnv, LayerTyingEnv, TableTyingEnv, actions
from tying import Pointers
from tying.errors import InputError
from tying.interface import ObservationView, num_ranks, size
from tying.training.record import StepRecord

SETTINGS: dict[str, Any] = {"action_mode": "cursor_rank", "binding": {"delta_rank": 4}}
# Every pattern of four layers with every choice of the ranks 0, 1 and 2.
STATES = [
    pointers.with_ranks(ranks) if pointers.num_unique < 4 else pointers
    for pointers in Pointers.all(4)
    for ranks in itertools.product(*([0] if layer == root else [0, 1, 2] for layer, root in enumerate(pointers)))
]


def make(**overrides: Any) -> LayerTyingEnv:
    return LayerTyingEnv("tiny", **{**SETTINGS, **overrides})


@pytest.mark.parametrize(("highest", "ranks"), [(1, (0, 1)), (2, (0, 1, 2)), (3, (0, 1, 3)), (8, (0, 2, 4, 8))])
def test_ranks_are_shares_of_the_highest(highest: int, ranks: tuple[int, ...]) -> None:
    mode = actions.make("cursor_rank", 5, highest)
    assert isinstance(mode, actions.CursorRank)
    assert (mode.ranks, mode.space.n) == (ranks, 1 + 5 * len(ranks))


def test_masks_leave_one_action_for_each_pattern_and_all_others_are_legal() -> None:
    mode = actions.make("cursor_rank", 4, 2)
    for pointers, cursor in itertools.product(STATES, range(1, 4)):
        legal = mode.masks(pointers, cursor).nonzero()[0]
        reached = [mode.decode(action, pointers, cursor) for action in legal]
        everything = {mode.decode(action, pointers, cursor) for action in range(mode.space.n)}  # type: ignore[attr-defined]
        assert len(set(reached)) == len(reached)
        assert set(reached) == everything
        for new in reached:
            assert new == Pointers(pointers).move(cursor, new[cursor]).with_ranks(
                [rank if layer != cursor else (new.ranks or [0] * 4)[cursor] for layer, rank in rank_of(pointers)]
            )


def rank_of(pointers: Pointers) -> enumerate[int]:
    return enumerate(pointers.ranks or [0] * len(pointers))


def test_unchanged_masks_change_nothing() -> None:
    mode = actions.make("cursor_rank", 4, 2)
    for pointers, cursor in itertools.product(STATES, range(1, 4)):
        (action,) = mode.unchanged(pointers, cursor).nonzero()[0]
        assert mode.masks(pointers, cursor)[action]
        assert mode.decode(action, pointers, cursor) == pointers


def test_the_size_of_the_space_tells_the_modes_apart() -> None:
    for layers, ranks in itertools.product(range(2, 60), range(2, 5)):
        assert num_ranks(layers, 1 + layers * ranks) == ranks
        assert num_ranks(layers, layers) == num_ranks(layers, layers * (layers + 1) // 2) == 0


def test_both_checkers_pass() -> None:
    small = {"model": {"num_layers": 3, "width": 8}, "trainer": {"iterations": 12, "batch_size": 2}, "decision_interval": 1}
    for check in (functools.partial(gymnasium_check, skip_render_check=True), sb3_check):
        check(make(**small, initial_pointers="0 0+4 0+0", freeze_after=0.5))  # type: ignore[operator]


def test_parameters_are_counted_and_rewarded_and_ranks_are_told() -> None:
    env = make(reward={"param_weight": 2.0}, initial_pointers="all_tied", trainer={"iterations": 50})
    env.reset(seed=0)
    assert env.pointers == Pointers.parse_ranked("0 0+4 0+4 0+4")
    layers, width = env.simulator.num_layers, env.training_config.model.width  # type: ignore[attr-defined]
    shares = {}
    for action in (1, 1 + 1, 1 + 2 * 4 + 3, 0, 1):  # ranks 0 and 1; layer 3 joins that of 2 at 4; 1 owns; 2 has rank 0
        before = env.simulator.param_share(env.pointers)
        observation, _, _, _, info = env.step(action)
        share = shares[str(env.pointers)] = env.simulator.param_share(env.pointers)
        assert info["reward_terms"]["params"] == pytest.approx(-2 * (share - before))
        assert info["ranks"] == [rank for _, rank in rank_of(env.pointers)]
        view = ObservationView(observation)
        assert view.pointers == tuple(env.pointers) and observation.shape == (size(layers),)
        told = [1.0 if env.pointers[layer] == layer else rank / 8 for layer, rank in rank_of(env.pointers)]
        assert view.layers("root").tolist() == told
        trainer = env.simulator.trainer  # type: ignore[attr-defined]
        deltas = [p for name, p in trainer.model.named_parameters() if "delta" in name]
        assert sum(p.numel() for p in deltas) == 16 * width * sum(info["ranks"])
        counted = sum(p.numel() for p in trainer.model.h.parameters())
        assert trainer.binding.trainable_params == env.record.block_params == counted
    assert list(shares) == ["0 0+0 0+4 0+4", "0 0+0 0+1 0+4", "0 1 0+1 0+4", "0 1 0+0 0+4"]
    assert len(set(shares.values())) == 4


def test_records_survive_json() -> None:
    for pointers in STATES:
        record = StepRecord(0, 1, 1, pointers, STATES[7], block_params=1)
        again = StepRecord.from_dict(record.to_dict())
        assert again == record and again.pointers.ranks == pointers.ranks
        assert again.changed == (pointers != STATES[7])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"binding": {"delta_rank": 0}}, r"env\.action_mode = 'cursor_rank' .* binding\.delta_rank"),
        (
            {"initial_pointers": "0 0+3 2 3"},
            r"env\.initial_pointers: .* env\.action_mode and binding\.delta_rank = 4, .*0, 1, 2, 4",
        ),
        ({"initial_pointers": "0 0+4 2 3", "action_mode": "pair"}, r"with env\.freeze_after 0 those up to 4"),
        ({"initial_pointers": "0 0+8 2 3", "action_mode": "pair", "freeze_after": 0}, "those up to 4"),
        ({"initial_pointers": "0 0+4 2"}, "are for 3 layers, the model has 4"),
        ({"initial_pointers": "0 0+4 0 3"}, "layer 2 is tied and has no rank"),
    ],
)
def test_what_does_not_go_together_is_refused_in_one_line(overrides: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        make(**overrides)
    assert len(caught.value.lines) == 1


@pytest.mark.parametrize("made", [FormulaTyingEnv, TableTyingEnv])
def test_environments_without_deltas_refuse_it(made: Any) -> None:
    with pytest.raises(InputError, match=r"env\.action_mode = 'cursor_rank'"):
        made(action_mode="cursor_rank")


def test_a_pattern_with_ranks_that_never_moves_needs_no_mode() -> None:
    env = make(action_mode="joint", initial_pointers="0 0+3 2 2+0", freeze_after=0)
    env.reset(seed=0)
    env.step(np.zeros(4, dtype=np.int64))
    assert str(env.simulator.trainer.pointers) == "0 0+3 2 2+0"  # type: ignore[attr-defined]


@pytest.mark.parametrize("reward", ["improvement", "fork"])
def test_the_first_window_does_not_depend_on_a_trainer_that_was_shown_before(reward: str) -> None:
    """`start` builds the model with the pattern at the start, whose ranks are too low to remember what follows needs."""
    losses = []
    for shown in (False, True):
        env = make(initial_pointers="0 0+0 2 2+1", reward={"name": reward})
        env.reset(seed=3)
        if shown:
            env.simulator.start(env.pointers)  # type: ignore[attr-defined]
        env.step(1 + 3)
        assert str(env.pointers) == "0 0+4 2 2+1"
        losses.append((env.record.train_loss, env.record.reward_loss))
    assert losses[0] == losses[1]


DECIDE = ["dqn", "double_dqn", "ppo", "maskable_ppo", "random", "qrdqn", "recurrent_ppo", "a2c"]


@pytest.mark.parametrize("name", DECIDE)
def test_agents_that_value_actions_by_number_decide(name: str) -> None:
    env = make(model={"width": 8}, trainer={"iterations": 13, "batch_size": 2}, decision_interval=1)
    seen: set[Pointers] = set()
    env.on_decision = lambda record, observation, masks: seen.add(record.pointers)
    agents.make(name, env, seed=1).learn(env, decisions=12)
    assert len({pointers.ranks for pointers in seen}) > 2


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("thompson", {}, "needs env.action_mode cursor or pair"),
        ("ucb", {}, "needs env.action_mode cursor or pair"),
        ("double_dqn", {"network": "per_layer"}, "needs env.action_mode cursor or pair"),
        ("gradient_similarity", {}, "needs env.action_mode cursor"),
        ("paper", {}, "needs env.action_mode cursor"),
        ("local_search", {}, "decides in MultiDiscrete"),
        ("sequence:2", {}, "decides in MultiDiscrete"),
    ],
)
def test_agents_that_read_actions_are_refused_in_one_line(name: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        agents.make(name, gymnasium.make("tying/LayerTying-v0", **SETTINGS), **settings)
    (line,) = caught.value.lines
    assert f"agents that fit: {', '.join(DECIDE)}; or set another" in line
