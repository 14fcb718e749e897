"""The environment that looks results up: the contract of all environments, and its answers against the table's rows."""

import functools
import math
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env as gymnasium_check
from stable_baselines3.common.env_checker import check_env as sb3_check

import envs
from envs import FormulaTyingEnv, TableTyingEnv, TyingBench
from tests.envs.tables import FACTS, make_rows, write_table
from tying import Pointers
from tying.errors import InputError
from tying.training.record import StepRecord

ID = "tying/TyingBench-v0"
MODES = ["cursor", "pair", "joint"]
ROWS = make_rows()
WALK = [(0, 1, 1), (0, 0, 0), (0, 0, 0), (0, 1, 0), (0, 1, 2)]


@functools.cache
def bench() -> TyingBench:
    """Return a table of 5 patterns, 3 seeds and 3 budgets."""
    return TyingBench(ROWS, FACTS)


def walking(**options: Any) -> TableTyingEnv:
    """Return an environment that takes whole patterns, one decision for each of WALK."""
    return TableTyingEnv(bench(), **{"num_decisions": len(WALK), "action_mode": "joint", **options})


def walk(env: TableTyingEnv, seed: int = 0) -> list[tuple[float, dict[str, Any]]]:
    """Return the reward and the info of every step along WALK."""
    env.reset(seed=seed)
    steps = [env.step(np.array(pattern)) for pattern in WALK]
    assert [terminated for _, _, terminated, _, _ in steps] == [False] * 4 + [True]
    return [(reward, info) for _, reward, _, _, info in steps]


def rows_of(pattern: Any, budget: float = 1.0) -> list[Any]:
    """Return a pattern's rows, one for each seed."""
    return [row for row in ROWS if (row.pointers, row.budget) == (tuple(pattern), budget)]


# The contract of all environments.


@pytest.mark.parametrize(
    "settings",
    [{}, {"answers": "mean", "budget": 0.25}, {"reward": {"name": "fork", "baseline": 0.9}, "freeze_after": 0.5}],
)
@pytest.mark.parametrize("mode", MODES)
def test_both_checkers_pass(mode: str, settings: dict[str, Any]) -> None:
    env = gymnasium.make(ID, table=bench(), action_mode=mode, render_mode="ansi", **settings)
    gymnasium_check(env.unwrapped)
    sb3_check(env.unwrapped)
    assert env.unwrapped.action_masks().dtype == bool  # type: ignore[attr-defined]


def test_it_is_registered() -> None:
    assert ID in gymnasium.registry
    assert "TableTyingEnv" in envs.__all__


@pytest.mark.parametrize("mode", MODES)
def test_what_is_seen_is_what_the_formula_shows(mode: str) -> None:
    """All but the loss: parameters of the small table are as many as there are unique layers."""
    table, formula = (
        env(num_decisions=9, action_mode=mode, freeze_after=0.7, initial_pointers="0 1 0", **options)
        for env, options in ((TableTyingEnv, {"table": bench()}), (FormulaTyingEnv, {"num_layers": 3}))
    )
    assert table.observation_space == formula.observation_space
    assert table.action_space == formula.action_space
    seen = [env.reset(seed=1)[0] for env in (table, formula)]
    table.action_space.seed(0)
    losses = []
    for _ in range(9):
        assert np.array_equal(np.delete(seen[0], [1, 2]), np.delete(seen[1], [1, 2]))
        assert np.array_equal(table.action_masks(), formula.action_masks())
        action = table.action_space.sample()
        before = losses[-1] if losses else math.log(256)
        (observation, *_, info), (other, *_) = (env.step(action) for env in (table, formula))
        losses.append(info["reward_loss"])
        assert observation[1] == pytest.approx(losses[-1] / math.log(256), rel=1e-6)
        assert observation[2] == pytest.approx(max(-1.0, losses[-1] - before), abs=1e-6)
        seen = [observation, other]
    assert len(set(losses)) > 1


def test_a_table_can_be_named_by_its_path(tmp_path: Path) -> None:
    path = write_table(tmp_path / "mine.csv", make_rows(num_layers=4))
    env = gymnasium.make(ID, table=str(path)).unwrapped
    assert env.observation_space.shape == (5 + 7 * 4,)
    assert env.num_decisions == 60  # type: ignore[attr-defined]


# Answers and rewards.


def test_a_reward_is_the_fall_of_the_objective() -> None:
    env = walking(answers="mean", budget=0.5, reward={"param_weight": 0.3})
    values = dict(zip(bench().patterns, bench().objectives(0.3, 0.5, "reward"), strict=True))
    before = math.log(256) + 0.3 * 1.0  # knows nothing, and is untied
    for pattern, (reward, info) in zip(WALK, walk(env), strict=True):
        assert reward == pytest.approx(before - values[Pointers(pattern)])
        assert (
            info["reward_loss"]
            == info["train_loss"]
            == pytest.approx(np.mean([r.reward_loss for r in rows_of(pattern, 0.5)]))
        )
        before = values[Pointers(pattern)]


def test_the_mean_is_the_same_every_time() -> None:
    assert walk(walking(answers="mean"), seed=1) == walk(walking(answers="mean"), seed=2)


@pytest.mark.parametrize("budget", [0.25, 1.0])
def test_answers_are_rows_of_random_seeds(budget: float) -> None:
    env = TableTyingEnv(bench(), num_decisions=150, budget=budget, action_mode="joint")
    env.reset(seed=0)
    seen: dict[Pointers, list[float]] = {}
    for _ in range(150):
        info = env.step(env.action_space.sample())[4]
        seen.setdefault(Pointers(info["pointers"]), []).append(info["reward_loss"])
    assert len(seen) == 5
    for pattern, losses in seen.items():
        assert set(losses) == {row.reward_loss for row in rows_of(pattern, budget)}


def test_every_seed_is_drawn_about_as_often() -> None:
    env = TableTyingEnv(bench(), num_decisions=600, action_mode="joint")
    env.reset(seed=0)
    losses = [env.step(np.array((0, 1, 2)))[4]["reward_loss"] for _ in range(600)]
    counts = [losses.count(row.reward_loss) for row in rows_of((0, 1, 2))]
    assert sum(counts) == 600
    assert min(counts) > 150


def test_equal_seeds_have_equal_answers() -> None:
    env = walking()
    first, again, other = (walk(env, seed) for seed in (3, 3, 4))
    assert first == again == walk(walking(), seed=3)
    assert [info["reward_loss"] for _, info in first] != [info["reward_loss"] for _, info in other]


@pytest.mark.parametrize("answers", ["seed", "mean"])
def test_both_branches_of_a_fork_are_of_one_seed(answers: str) -> None:
    env = walking(answers=answers, reward={"name": "fork", "param_weight": 0.0})
    before = (0, 1, 2)
    for pattern, (reward, info) in zip(WALK, walk(env, seed=5), strict=True):
        pairs = [(row.reward_loss, other.reward_loss) for row, other in zip(rows_of(pattern), rows_of(before), strict=True)]
        if answers == "mean":
            pairs = [(sum(row for row, _ in pairs) / 3, sum(other for _, other in pairs) / 3)]
        (fork,) = [other - row for row, other in pairs if row == pytest.approx(info["reward_loss"], abs=1e-9)]
        assert reward == pytest.approx(fork)
        before = pattern


def test_a_fork_draws_the_seeds_that_its_run_without_forks_has() -> None:
    plain, forked = (walk(walking(reward={"name": name}), seed=2) for name in ("improvement", "fork"))
    assert [info["reward_loss"] for _, info in plain] == [info["reward_loss"] for _, info in forked]


# What an info tells.


def test_a_fork_is_two_queries_where_something_changes() -> None:
    queries = [info["queries"] for _, info in walk(walking(reward={"name": "fork"}))]
    assert queries == [2, 4, 5, 7, 9]  # the third decision changes nothing
    assert [info["queries"] for _, info in walk(walking())] == [1, 2, 3, 4, 5]


def test_simulated_seconds_are_those_of_the_rows_looked_up() -> None:
    seconds = {pattern: np.mean([row.seconds for row in rows_of(pattern, 0.25)]) for pattern in WALK}
    plain = [info["simulated_seconds"] for _, info in walk(walking(answers="mean", budget=0.25))]
    assert plain == pytest.approx(np.cumsum([seconds[pattern] for pattern in WALK]).tolist())
    forked = walking(answers="mean", budget=0.25, reward={"name": "fork"})
    others = [seconds[0, 1, 2], seconds[0, 1, 1], 0.0, seconds[0, 0, 0], seconds[0, 1, 0]]
    expected = np.cumsum([seconds[pattern] + other for pattern, other in zip(WALK, others, strict=True)])
    assert [info["simulated_seconds"] for _, info in walk(forked)] == pytest.approx(expected.tolist())


def test_seconds_of_a_seed_are_of_the_row_that_answered() -> None:
    before = 0.0
    for pattern, (_, info) in zip(WALK, walk(walking(), seed=3), strict=True):
        (row,) = [row for row in rows_of(pattern) if row.reward_loss == info["reward_loss"]]
        assert info["simulated_seconds"] == pytest.approx(before + row.seconds)
        before = info["simulated_seconds"]


@pytest.mark.parametrize(("weight", "budget"), [(0.0, 1.0), (0.4, 0.25)])
def test_regret_is_by_mean_test_loss_whatever_was_answered(weight: float, budget: float) -> None:
    def objective(pattern: Any) -> float:
        losses = [row.test_loss for row in rows_of(pattern, budget)]
        return float(np.mean(losses)) + weight * len(set(pattern)) / 3

    values = [objective(pattern) for pattern in Pointers.all(3)]
    low, high = min(values), max(values)
    for pattern, (_, info) in zip(WALK, walk(walking(budget=budget, reward={"param_weight": weight})), strict=True):
        assert info["pointers"] == list(pattern)
        assert info["regret"] == pytest.approx(objective(pattern) - low)
        assert info["normalised_regret"] == pytest.approx((objective(pattern) - low) / (high - low))


def test_regret_is_at_the_weight_in_force() -> None:
    env = walking(answers="mean", reward={"param_weight": 0.1, "param_target": 0.5, "dual_rate": 0.4})
    for pattern, (_, info) in zip(WALK, walk(env), strict=True):
        assert info["regret"] == bench().regret(pattern, info["param_weight"])
    assert info["param_weight"] != 0.1


def test_reset_begins_to_count_again() -> None:
    env = walking(answers="mean")
    first = walk(env)
    assert walk(env) == first
    env.reset()
    info = env.step(np.array(WALK[0]))[4]
    assert (info["queries"], info["iteration"]) == (1, 1)
    assert info["simulated_seconds"] == first[0][1]["simulated_seconds"]


def test_a_window_knows_its_tokens_and_parameters() -> None:
    env = walking(budget=0.5)
    windows: list[StepRecord] = []
    env.on_decision = lambda record, *_: windows.append(record)
    infos = [info for _, info in walk(env)]
    assert [window.tokens for window in windows] == [2000, 4000, 6000, 8000, 10_000]
    assert [(window.block_params, window.independent_block_params) for window in windows] == [
        (1000 * len(set(pattern)), 3000) for pattern in WALK
    ]
    assert [info["param_share"] for info in infos] == [len(set(pattern)) / 3 for pattern in WALK]


# What is refused.


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_decisions": 0}, "num_decisions = 0: expected a whole number of at least 1"),
        ({"answers": "median"}, "answers = 'median': allowed are 'seed' and 'mean'"),
        ({"budget": 0.3}, r"budget 0\.3 is not in the table: allowed are 0\.25, 0\.5, 1"),
        ({"table": "nothing"}, "unknown table 'nothing'"),
        ({"action_mod": "pair"}, "did you mean 'action_mode'"),
        ({"action_mode": "par"}, "action_mode = 'par': did you mean 'pair'"),
        ({"reward": {"name": "levl"}}, r"reward\.name = 'levl': did you mean 'level'"),
        ({"initial_pointers": "0 1 1 3"}, "are for 4 layers, the model has 3"),
        ({"render_mode": "human"}, "allowed are None, 'ansi' and 'rgb_array'"),
        ({"gradient_statistics": True}, "gradient_statistics: a table has no gradients"),
    ],
)
def test_wrong_arguments_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        TableTyingEnv(**{"table": bench(), **options})
    assert len(caught.value.lines) == 1


@pytest.mark.parametrize("name", ["improvement", "fork"])
def test_ten_thousand_decisions_build_and_read_nothing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    env = TableTyingEnv(bench(), num_decisions=5_000, action_mode="joint", reward={"name": name})
    env.reset(seed=0)
    bench().losses()
    for owner, forbidden in (
        ("torch.nn.Module", "__init__"),
        ("tying.models.base.Model", "__init__"),
        ("tying.training.trainer.Trainer", "__init__"),
        ("tying.tyingbench.TyingBench", "__init__"),
        ("tying.tyingbench", "read_rows"),
        ("pathlib.Path", "open"),
        ("builtins", "open"),
    ):
        monkeypatch.setattr(f"{owner}.{forbidden}", lambda *_, what=f"{owner}.{forbidden}", **__: pytest.fail(what))
    env.action_space.seed(0)
    for index in range(5_000):
        terminated = env.step(env.action_space.sample())[2]
        assert terminated == (index == 4_999)
