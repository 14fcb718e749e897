"""Rewards against hand-made windows, and what they remember within an episode."""

import itertools
import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch

from envs import FormulaTyingEnv, LayerTyingEnv
from envs.reward import Reward, RewardConfig
from tying import Pointers
from tying.binding.sharing import trainable_params
from tying.errors import InputError
from tying.training.record import StepRecord


def record(
    loss: float = 2.0, last_loss: float = 2.0, share: float = 0.1, before: float = 1.0, fork_loss: float | None = 2.1
) -> StepRecord:
    """Return a window that halves the share of parameters."""
    tied = Pointers((0, 0))
    return StepRecord(
        decision=0,
        iteration=10,
        num_iterations=10,
        pointers=tied,
        previous_pointers=tied,
        window_share=share,
        previous_loss=2.3,
        previous_share=before,
        train_loss=2.5,
        last_loss=last_loss,
        reward_loss=loss,
        fork_loss=fork_loss,
        block_params=30,
        independent_block_params=60,
    )


def terms(record: StepRecord, **settings: Any) -> Mapping[str, float]:
    return Reward(RewardConfig(**settings)).rewarded(record).reward_terms


def test_improvement_is_the_fall_of_log_perplexity_less_the_charge_for_added_parameters() -> None:
    found = terms(record(), name="improvement", param_weight=0.4)
    assert found == pytest.approx({"improvement": 0.3, "params": 0.4 * 0.5})
    assert terms(record(before=0.25), param_weight=0.4)["params"] == pytest.approx(-0.4 * 0.25)


@pytest.mark.parametrize(("free", "charged"), [(0.0, 0.5), (0.25, 0.5), (0.6, 0.4), (1.0, 0.0)])
def test_parameters_are_charged_above_the_share_that_is_free(free: float, charged: float) -> None:
    """From all to half of the parameters."""
    for name in ("improvement", "fork"):
        assert terms(record(), name=name, param_weight=0.4, param_free=free)["params"] == pytest.approx(0.4 * charged)
    level = terms(record(), name="level", param_weight=0.4, param_free=free)["params"]
    assert level == pytest.approx(-0.4 * max(free, 0.5) * 0.1)


def test_fork_is_what_the_change_made_better_than_no_change() -> None:
    found = terms(record(), name="fork", param_weight=0.4)
    assert found == pytest.approx({"fork": 0.1, "params": 0.4 * 0.5})
    assert Reward(RewardConfig(name="fork")).needs_fork
    assert not Reward(RewardConfig(name="improvement")).needs_fork


def test_level_is_the_loss_weighed_by_the_window_and_so_is_its_charge() -> None:
    found = terms(record(), name="level", param_weight=0.4)
    assert found == pytest.approx({"level": -0.2, "params": -0.4 * 0.5 * 0.1})


def test_rewards_of_a_run_add_up_to_its_whole_however_it_is_cut() -> None:
    curve = [(5.0, 60), (4.0, 30), (3.5, 60), (3.2, 10), (3.1, 20)]
    for stride in (1, 2, 4):
        reward = Reward(RewardConfig(param_weight=0.2))
        total = 0.0
        for (loss, params), (after, params_after) in itertools.pairwise(curve[::stride]):
            window = replace(record(after), previous_loss=loss, previous_share=params / 60, block_params=params_after)
            total += reward.rewarded(replace(window, window_share=stride / 4)).reward
        assert total == pytest.approx((5.0 - 3.1) - 0.2 * (20 / 60 - 1))


@pytest.mark.parametrize(("perplexity", "reward"), [(3.0, -3.0), (9.99, -9.99), (11.0, -10.0), (1e30, -10.0)])
def test_paper_is_clipped_minus_perplexity_of_the_training_batch(perplexity: float, reward: float) -> None:
    assert terms(record(last_loss=math.log(perplexity)), name="paper") == pytest.approx({"paper": reward})


def test_baseline_is_the_moving_average_of_the_rewards_before() -> None:
    reward = Reward(RewardConfig(param_weight=0.0, baseline=0.75))
    losses = [2.0, 1.9, 2.3]  # rewards 0.3, 0.4, 0.0
    for _ in range(2):
        found = [reward.rewarded(record(loss)).reward_terms for loss in losses]
        assert [terms["baseline"] for terms in found] == pytest.approx([0.0, -0.3, -0.325])
        assert [terms["improvement"] for terms in found] == pytest.approx([0.3, 0.4, 0.0])
        reward.begin()


def test_without_a_target_the_weight_stays() -> None:
    reward = Reward(RewardConfig(param_weight=0.3))
    reward.rewarded(record())
    assert reward.param_weight == 0.3


def test_the_weight_rises_above_the_target_and_falls_below_it_to_zero_at_most() -> None:
    reward = Reward(RewardConfig(param_weight=0.1, param_target=0.4, dual_rate=0.5))
    assert reward.rewarded(record()).reward_terms["params"] == pytest.approx(0.1 * 0.5)
    assert reward.param_weight == pytest.approx(0.15)
    assert reward.rewarded(record()).reward_terms["params"] == pytest.approx(0.15 * 0.5)
    reward.begin()
    assert reward.param_weight == 0.1
    low = Reward(RewardConfig(param_weight=0.1, param_target=1.0, dual_rate=0.5))
    low.rewarded(record())
    assert low.param_weight == 0.0


@pytest.mark.parametrize("settings", [{"baseline": 1.0}, {"param_target": 0.0}, {"param_target": 1.5}, {"dual_rate": -1.0}])
def test_settings_out_of_range_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(InputError, match=next(iter(settings))):
        RewardConfig(**settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("gap", [0.3, 1.0])
@pytest.mark.parametrize("param_target", [0.34, 0.5])
@pytest.mark.parametrize("num_decisions", [60, 100])
def test_the_weight_steers_a_greedy_policy_to_the_target(gap: float, param_target: float, num_decisions: int) -> None:
    """The policy takes the best reward at once. With a weight of 0.1 throughout, it would keep a share of 0.83 or 1."""
    reward = {"param_weight": 0.1, "param_target": param_target}
    env = FormulaTyingEnv(best="independent", gap=gap, num_decisions=num_decisions, action_mode="joint", reward=reward)
    env.reset(seed=0)
    losses = {pointers: env.simulator.loss(pointers, 1.0) for pointers in Pointers.all(6)}  # type: ignore[attr-defined]
    shares = []
    for _ in range(num_decisions):
        weight = env.reward.param_weight
        choice = min(losses, key=lambda p: losses[p] + weight * env.simulator.param_share(p))
        shares.append(env.step(np.array(choice))[4]["param_share"])
    assert shares[0] > 0.8
    assert np.mean(shares[-20:]) == pytest.approx(param_target, abs=0.03)


# The environment's part.


def play(env: gymnasium.Env[Any, Any], actions: list[Any]) -> list[dict[str, Any]]:
    env.reset(seed=3)
    return [env.step(np.asarray(action))[4] for action in actions]


def test_the_return_of_a_run_is_its_improvement_less_the_charge_for_its_final_share() -> None:
    env = LayerTyingEnv(initial_pointers="0 1 1 3", reward={"param_weight": 0.5}, trainer={"iterations": 12})
    infos = play(env, [0, 0, 3])
    total = sum(sum(info["reward_terms"].values()) for info in infos)
    expected = math.log(256) - infos[-1]["reward_loss"] - 0.5 * (infos[-1]["param_share"] - 0.75)
    assert infos[-1]["param_share"] != 0.75
    assert total == pytest.approx(expected)


@pytest.mark.parametrize("name", ["improvement", "fork"])
def test_a_decision_is_charged_at_once_and_once(name: str) -> None:
    env = FormulaTyingEnv(num_layers=4, reward={"name": name, "param_weight": 0.4}, freeze_after=0.15)
    infos = play(env, [0, 2, 0, 0, 0])
    assert [info["reward_terms"]["params"] for info in infos] == pytest.approx([0.1, 0.0, 0.1, 0.0, 0.0])


def test_the_weight_in_force_is_told() -> None:
    env = FormulaTyingEnv(num_layers=4, reward={"param_weight": 0.1, "param_target": 0.5, "dual_rate": 0.2})
    infos = play(env, [0, 2])
    assert [info["param_weight"] for info in infos] == pytest.approx([0.1, 0.1 + 0.2 * 0.25])
    env.reset(seed=0)
    assert env.step(0)[4]["param_weight"] == 0.1


@pytest.mark.parametrize("binding", [{}, {"share": "attention"}, {"norms": "private"}])
def test_the_share_is_known_before_anything_is_built(binding: dict[str, Any]) -> None:
    env = LayerTyingEnv(initial_pointers="0 1 1 0", binding=binding, action_mode="joint", reward={"param_weight": 1.0})
    observation, _ = env.reset(seed=0)
    assert env.simulator.trainer is None  # type: ignore[attr-defined]
    info = env.step(np.array([0, 1, 1, 0]))[4]
    assert observation[3] == pytest.approx(info["param_share"])
    assert info["reward_terms"]["params"] == 0
    made = env.simulator.trainer.binding  # type: ignore[attr-defined]
    counted = {p: trainable_params(made.blocks[0], made.shared_names, p) for p in Pointers.all(4)}
    for pointers, count in counted.items():
        made.rebind(pointers)
        assert made.trainable_params == count


# The branch without the change.

FORKED: dict[str, Any] = {
    "trainer": {"iterations": 24},
    "model": {"dropout": 0.1},
    "optim": {"tied_rate": 0.5},
    "decision_interval": 4,
    "initial_pointers": "0 0 2 2",
}


@pytest.mark.usefixtures("one_thread")
def test_forks_leave_the_run_as_it_is() -> None:
    actions = [1, 0, 3, 1, 2, 1]
    runs = [LayerTyingEnv(reward={"name": name}, **FORKED) for name in ("improvement", "fork")]
    plain, forked = (play(env, actions) for env in runs)
    keys = ("pointers", "reward_loss", "train_loss", "iteration")
    assert [[info[key] for key in keys] for info in plain] == [[info[key] for key in keys] for info in forked]
    states = [env.simulator.trainer.state_dict() for env in runs]  # type: ignore[attr-defined]
    for part in ("model", "optimizer"):
        assert states[0][part].keys() == states[1][part].keys()
        assert all(states[0][part][name].equal(states[1][part][name]) for name in states[0][part])


@pytest.mark.usefixtures("one_thread")
def test_the_fork_is_the_run_that_changed_nothing() -> None:
    changed, unchanged = (LayerTyingEnv(reward={"name": "fork", "param_weight": 0.0}, **FORKED) for _ in range(2))
    (first, tied), (same, kept) = play(changed, [1, 0]), play(unchanged, [1, 2])
    assert first == same
    assert tied["reward_terms"]["fork"] == kept["reward_loss"] - tied["reward_loss"] != 0


def test_a_decision_that_changes_nothing_earns_exactly_nothing() -> None:
    env = LayerTyingEnv(reward={"name": "fork"}, **FORKED)
    seen = []
    env.simulator.on_iteration = lambda done: seen.append(done.iteration)  # type: ignore[attr-defined]
    infos = play(env, [0, 1, 3, 0])
    assert [info["reward_terms"] == {"fork": 0.0, "params": 0.0} for info in infos] == [True, False, True, True]
    assert seen == list(range(1, 17))


def test_both_branches_of_the_formula_have_one_noise() -> None:
    env = FormulaTyingEnv(num_layers=4, best="all_tied", noise=5.0, gap=1.0, reward={"name": "fork"})
    (info,) = play(env, [0])
    assert info["reward_terms"]["fork"] == pytest.approx(1 / 6)


# The cache.


@pytest.mark.parametrize(
    ("option", "name"),
    [
        ("kv_sharing", "improvement"),
        ("kv_sharing", "level"),
        ("attention_sharing", "fork"),
        ("attention_sharing", "paper"),
    ],
)
def test_the_cache_is_charged_for_its_change_and_nothing_else_differs(option: str, name: str) -> None:
    """Random decisions: the terms add up to the change from start to end, of the bytes that a cache then has."""
    settings: dict[str, Any] = {
        "initial_pointers": "0 1 1 3",
        "action_mode": "joint",
        "model": {"num_layers": 4, "width": 16, "context": 16, option: "tied"},
        "trainer": {"iterations": 5},
        "decision_interval": 1,
        "data": {"path": __file__, "tokenizer": "byte"},
    }
    chance = np.random.default_rng(0)
    actions = [*(list(list(Pointers.all(4))[chance.integers(15)]) for _ in range(4)), [0, 0, 0, 0]]
    runs = {}
    for weight in (0.0, 0.5):
        env = LayerTyingEnv(reward={"name": name, "cache_weight": weight}, **settings)
        runs[weight] = infos = play(env, actions)
        simulator: Any = env.simulator
        model = simulator.trainer.model
        for info in infos:
            terms = dict(info["reward_terms"])
            assert ("cache" in terms) == (weight > 0)
        cache = model.make_cache()
        model(torch.zeros(1, 1, dtype=torch.long), cache)
        whole = model.config.cache_bytes_per_token(4)
        assert infos[-1]["cache_share"] == cache.num_bytes / whole
        if weight:
            total = sum(info["reward_terms"]["cache"] for info in infos)
            first = model.config.cache_share(Pointers((0, 1, 1, 3)))
            assert total == pytest.approx(-weight * (cache.num_bytes / whole - first)) and total > 0
    for without, charged in zip(runs[0.0], runs[0.5], strict=True):
        del charged["reward_terms"]["cache"]
        assert charged == without


def test_a_charge_for_a_cache_that_pointers_do_not_move_is_refused() -> None:
    for make in (FormulaTyingEnv, LayerTyingEnv):
        with pytest.raises(InputError, match=r"^reward\.cache_weight = 0\.5: pointers move no cache here"):
            make(reward={"cache_weight": 0.5})
