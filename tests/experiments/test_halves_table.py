"""Tables over halves of layers: complete, compressed, judged, and answered from by environments."""

from pathlib import Path

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env as gymnasium_check
from stable_baselines3.common.env_checker import check_env as sb3_check

from envs.table import TableTyingEnv
from experiments.tyingbench import goals, report, tables
from tests.envs.tables import FACTS, loss_of
from tying import InputError, Pointers
from tying.files import write_json
from tying.parts import Parts
from tying.tyingbench import Row, TyingBench, facts_of, write_table

HALVES = {**FACTS, "parts": "halves"}
SIZES = (10, 20)


def make_rows(num_layers: int = 3, num_seeds: int = 2) -> list[Row]:
    parts = Parts(num_layers, "halves")
    return [
        Row(
            pointers=pattern,
            seed=seed,
            budget=1.0,
            tokens=100,
            reward_loss=round(loss_of(pattern, seed, 1.0) + 0.1, 6),
            test_loss=loss_of(pattern, seed, 1.0),
            seconds=0.125,
            trainable_params=500 + sum(SIZES[root >= num_layers] for root in pattern.roots),
            block_params=sum(SIZES[root >= num_layers] for root in pattern.roots),
        )
        for pattern in parts.every()
        for seed in range(num_seeds)
    ]


@pytest.fixture(scope="module")
def bench() -> TyingBench:
    return TyingBench(make_rows(), HALVES)


def test_a_compressed_table_is_read_as_it_was_written(tmp_path: Path, bench: TyingBench) -> None:
    path = tmp_path / "own.csv.gz"
    write_table(path, bench.rows)
    write_json(facts_of(path), HALVES)
    assert facts_of(path) == tmp_path / "own.json"
    assert TyingBench.load(path).rows == bench.rows
    plain = tmp_path / "plain.csv"
    write_table(plain, bench.rows)
    assert path.stat().st_size < plain.stat().st_size / 3
    first = path.read_bytes()
    write_table(path, bench.rows)
    assert path.read_bytes() == first
    path.write_bytes(first[:-40])
    with pytest.raises(InputError, match=r"own.csv.gz: unreadable"):
        TyingBench.load(path)


def test_it_has_all_patterns_of_halves_and_no_others(bench: TyingBench) -> None:
    assert len(bench.patterns) == 25
    assert bench.parts == Parts(3, "halves")
    assert bench.query("all_tied")["param_share"] == pytest.approx(1 / 3)
    assert bench.query("0 1 2 3 3 3")["param_share"] == pytest.approx((3 * 10 + 20) / 90)
    with pytest.raises(InputError, match="halves have no weights to share"):
        bench.query("0 1 2 2 4 5")
    with pytest.raises(InputError, match="ties halves of different kinds"):
        bench.query(Pointers((0, 1, 2, 2, 4, 5)))
    rows = make_rows()
    with pytest.raises(InputError, match="25 patterns, 2 seeds"):
        TyingBench(rows[:-1], HALVES)
    with pytest.raises(InputError, match="'0 1 2 2 4 5', which ties halves of different kinds"):
        TyingBench([*rows[:-1], Row(**{**vars(rows[-1]), "pointers": Pointers((0, 1, 2, 2, 4, 5))})], HALVES)
    with pytest.raises(InputError, match="203 patterns"):  # of six whole layers
        TyingBench(rows, FACTS)


@pytest.mark.parametrize("mode", ["cursor", "pair", "joint"])
def test_both_checkers_pass(mode: str, bench: TyingBench) -> None:
    env = TableTyingEnv(bench, action_mode=mode)
    gymnasium_check(env, skip_render_check=True)
    sb3_check(env)


@pytest.mark.parametrize("mode", ["cursor", "pair"])
def test_a_batch_goes_as_single_environments_do(mode: str, bench: TyingBench) -> None:
    settings = {"table": bench, "action_mode": mode, "num_decisions": 9}
    many = gymnasium.make_vec("tying/TyingBench-v0", num_envs=3, vectorization_mode="vector_entry_point", **settings)
    one = TableTyingEnv(**settings)
    seen, _ = many.reset(seed=5)
    single, _ = one.reset(seed=5)
    generator = np.random.default_rng(0)
    for _ in range(9):
        assert np.array_equal(seen[0], single)
        assert np.array_equal(many.action_masks()[0], one.action_masks())  # type: ignore[attr-defined]
        actions = generator.integers(one.action_space.n, size=3)
        seen, rewards, *_ = many.step(actions)
        single, reward, *_ = one.step(int(actions[0]))
        assert rewards[0] == reward


def test_a_batch_has_no_joint_mode_over_halves(bench: TyingBench) -> None:
    with pytest.raises(InputError, match="over halves of layers a batch has cursor, pair"):
        gymnasium.make_vec(
            "tying/TyingBench-v0", 2, vectorization_mode="vector_entry_point", table=bench, action_mode="joint"
        )


def test_its_report_and_gate_are_made(bench: TyingBench, tmp_path: Path) -> None:
    gate = tables.gate(bench)
    bits = tables._bits(bench)
    assert len(bits) == 2 * 3 + 6  # pairs of halves of one kind, and each half alone
    pattern = bench.patterns[7]
    assert bits["attention 0 and attention 2 share"][7] == (pattern[0] == pattern[2])
    assert bits["feed-forward 1 shares with none"][7] == (not pattern.others(4))
    assert "attention" in gate["found"][1] or "feed-forward" in gate["found"][1]
    assert "`sequence:2`" in set(tables.published(bench)["strategy"])
    write_table(tmp_path / "own.csv.gz", bench.rows)
    write_json(tmp_path / "own.json", HALVES)
    assert report.main(["--table", str(tmp_path / "own.csv.gz"), "--out", str(tmp_path / "report")]).is_file()


def test_a_budget_counts_halves_by_their_parameters(bench: TyingBench) -> None:
    goal = goals.within(bench, 2)
    allowed = {pattern for pattern in bench.patterns if sum(SIZES[root >= 3] for root in pattern.roots) <= 60}
    kept = {pattern for pattern, regret in goal.regrets.items() if regret < 1}
    assert kept < allowed
    assert len(allowed - kept) == 1  # the worst of those within the budget
    assert Pointers((0, 1, 2, 3, 3, 3)) in allowed
    with pytest.raises(InputError, match="3 sets; allowed are 1 to 2"):
        goals.within(bench, 3)
