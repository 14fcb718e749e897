"""Results of a grid: paired differences, their intervals, the front, and equal time."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from experiments.results import Run, bootstrap_interval, entry_table, on_front, run_table, student_interval
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from tying.records import RunDirectory

from tying.errors import InputError
from tying.files import write_json
from tying.pointers import Pointers

losses = st.floats(-10, 10, allow_nan=False, width=32)


def make_run(label: str, seed: int, **columns: list[float]) -> Run:
    """Return a finished run with a curve of four decisions; columns replace those of the curve."""
    curve = {
        "iteration": [2, 4, 6, 8],
        "tokens": [20, 40, 60, 80],
        "reward_loss": [4.0, 3.0, 2.0, 1.0],
        "wall_s": [1.0, 2.0, 3.0, 4.0],
        "cpu_s": [1.0, 2.0, 3.0, 4.0],
        "param_share": [1.0, 1.0, 1.0, 1.0],
        **columns,
    }
    summary = {
        "pointers": [0, 1, 1],
        "test_loss": 1.5,
        "reward_loss": curve["reward_loss"][-1],
        "num_unique_layers": 2,
        "trainable_params": 300,
        "trainable_block_params": 200,
        "independent_block_params": 300,
        "tokens": 80,
        "decisions": 4,
        "decision_s": 1.0,
        "wall_s": 5.0,
    }
    return Run(label, seed, summary, pd.DataFrame(curve), [])


def make_table(**test_losses: dict[int, float]) -> pd.DataFrame:
    """Return a table of runs from entry to seed to test loss; the loss at equal time is twice the test loss."""
    rows = [
        {
            "entry": entry,
            "seed": seed,
            "test_loss": loss,
            "reward_loss": loss + 0.5,
            "equal_time_reward_loss": 2 * loss,
            "num_unique_layers": 2,
            "trainable_params": 100 + seed,
            "block_params_share": 0.5,
            "mean_block_params_share": 0.75,
            "changes": 3,
            "tokens_per_s": 10.0,
            "decision_share": 0.1,
        }
        for entry, of_seed in test_losses.items()
        for seed, loss in of_seed.items()
    ]
    return pd.DataFrame(rows)


def row_of(table: pd.DataFrame, entry: str) -> dict[str, Any]:
    (row,) = table[table["entry"] == entry].to_dict("records")
    return row


# Paired differences.


def test_differences_are_paired_by_seed() -> None:
    table = make_table(a={0: 1.0, 1: 2.0, 2: 9.0}, b={2: 9.5, 0: 0.5, 1: 2.25})  # in another order
    row = row_of(entry_table(table, "a"), "b")
    assert row["difference"] == pytest.approx(np.mean([-0.5, 0.25, 0.5]))
    assert (row["better_in"], row["pairs"], row["seeds"]) == (1, 3, 3)
    assert row["equal_time_difference"] == pytest.approx(2 * row["difference"])


def test_a_seed_that_is_missing_on_one_side_makes_no_pair() -> None:
    table = make_table(a={0: 1.0, 1: 2.0, 2: 50.0}, b={0: 0.5, 1: 2.25, 3: -70.0})
    row = row_of(entry_table(table, "a"), "b")
    pairs = np.array([-0.5, 0.25])
    assert row["difference"] == pairs.mean()
    assert (row["low"], row["high"]) == bootstrap_interval(pairs)
    assert (row["t_low"], row["t_high"]) == student_interval(pairs)
    assert (row["better_in"], row["pairs"], row["seeds"]) == (1, 2, 3)
    assert row["test_loss"] == pytest.approx((0.5 + 2.25 - 70) / 3)  # its own mean has all of its seeds


def test_without_a_common_seed_there_is_no_difference() -> None:
    row = row_of(entry_table(make_table(a={0: 1.0}, b={1: 1.0}), "a"), "b")
    assert np.isnan([row[name] for name in ("difference", "low", "high", "t_low", "t_high")]).all()
    assert (row["better_in"], row["pairs"]) == (0, 0)


def test_one_pair_has_a_difference_and_no_interval() -> None:
    row = row_of(entry_table(make_table(a={0: 1.0}, b={0: 3.0}), "a"), "b")
    assert row["difference"] == 2.0
    assert np.isnan([row[name] for name in ("low", "high", "t_low", "t_high")]).all()


def test_a_run_that_ended_before_equal_time_makes_no_pair_there() -> None:
    table = make_table(a={0: 1.0, 1: 1.0}, b={0: 2.0, 1: 4.0})
    table.loc[3, "equal_time_reward_loss"] = float("nan")
    row = row_of(entry_table(table, "a"), "b")
    assert (row["difference"], row["equal_time_difference"]) == (2.0, 2.0)
    assert np.isnan(row["equal_time_low"])


def test_the_baseline_differs_from_itself_by_nothing() -> None:
    row = row_of(entry_table(make_table(a={0: 1.0, 1: 2.0, 2: 4.0}), "a"), "a")
    assert {row[name] for name in ("difference", "low", "high", "t_low", "t_high", "better_in")} == {0}


def test_rows_come_in_the_order_of_the_runs_with_means_over_seeds() -> None:
    table = entry_table(make_table(b={0: 1.0, 1: 3.0}, a={0: 1.0}), "a")
    assert list(table["entry"]) == ["b", "a"]
    row = row_of(table, "b")
    assert (row["test_loss"], row["test_ppl"]) == (2.0, pytest.approx(np.exp(2.0)))
    assert (row["reward_loss"], row["trainable_params"]) == (2.5, 100.5)


# Intervals.


@pytest.mark.parametrize(
    ("values", "low", "high"),
    [
        ([1.0, 2.0], 1.0, 2.0),  # both draws are the smaller one in a quarter of all samples
        ([1.0, 2.0, 6.0], 1.0, 6.0),  # all draws are the smallest in 3.7 % of them
        ([0.0, 0.0, 0.0, 1.0], 0.0, 0.75),  # a quarter of Binomial(4, 1/4): 94.9 % are at most 2, 99.6 % at most 3
    ],
)
def test_bootstrap_interval_where_it_is_known_exactly(values: list[float], low: float, high: float) -> None:
    assert bootstrap_interval(np.array(values)) == pytest.approx((low, high))


def test_bootstrap_interval_agrees_with_plain_resampling() -> None:
    generator = np.random.default_rng(1)
    values = generator.normal(2.0, 3.0, 12)
    means = [values[generator.integers(0, 12, 12)].mean() for _ in range(20_000)]
    low, high = bootstrap_interval(values)
    expected = np.quantile(means, [0.025, 0.975])
    assert (low, high) == pytest.approx(tuple(expected), abs=0.03 * (high - low))


@settings(max_examples=25, deadline=None)
@given(st.lists(losses, min_size=2, max_size=8))
def test_bootstrap_interval_holds_the_mean_and_is_the_same_every_time(values: list[float]) -> None:
    array = np.array(values)
    low, high = bootstrap_interval(array)
    assert low - 1e-9 <= array.mean() <= high + 1e-9
    assert array.min() - 1e-9 <= low <= high <= array.max() + 1e-9
    assert bootstrap_interval(array) == (low, high)


@settings(max_examples=25, deadline=None)
@given(st.lists(losses, min_size=2, max_size=5))
def test_with_few_seeds_students_interval_is_the_wider(values: list[float]) -> None:
    low, high = bootstrap_interval(np.array(values))
    t_low, t_high = student_interval(np.array(values))
    assert t_high - t_low >= high - low - 1e-9


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(losses, losses), min_size=2, max_size=9))
def test_student_interval_is_that_of_the_paired_t_test(pairs: list[tuple[float, float]]) -> None:
    one, two = np.array(pairs).T
    differences = one - two
    if np.ptp(differences) < 1e-6:  # scipy warns of lost precision there
        return
    expected = stats.ttest_rel(one, two).confidence_interval(0.95)
    assert student_interval(differences) == pytest.approx((expected.low, expected.high))


@pytest.mark.parametrize("interval", [bootstrap_interval, student_interval])
@pytest.mark.parametrize("values", [[], [1.0]])
def test_fewer_than_two_values_have_no_interval(interval: Any, values: list[float]) -> None:
    assert np.isnan(interval(np.array(values))).all()


@pytest.mark.parametrize("interval", [bootstrap_interval, student_interval])
@pytest.mark.parametrize("value", [0.0, 0.1])
def test_constant_values_have_an_interval_of_no_width(interval: Any, value: float) -> None:
    assert interval(np.full(5, value)) == pytest.approx((value, value))


# The front.


@given(st.lists(st.tuples(st.integers(1, 4), st.integers(1, 4)), min_size=1, max_size=9))
def test_front_is_what_nobody_beats(points: list[tuple[int, int]]) -> None:
    index = [10 + 3 * i for i in range(len(points))]
    table = pd.DataFrame(points, columns=["block_params_share", "test_loss"], index=index)
    expected = []
    for point in points:
        others = [other for other in points if other != point]  # who is equal does not beat
        expected.append(not any(other[0] <= point[0] and other[1] <= point[1] for other in others))
    front = on_front(table)
    assert list(front) == expected
    assert list(front.index) == index
    assert front.any()


# One run.


def test_reward_loss_is_interpolated_in_time() -> None:
    run = make_run("a", 0, wall_s=[1.0, 2.0, 4.0, 8.0], cpu_s=[10.0, 20.0, 40.0, 80.0], reward_loss=[4.0, 3.0, 2.0, 0.0])
    assert run.reward_loss_at(2.0, "wall_s") == 3.0
    assert run.reward_loss_at(3.0, "wall_s") == 2.5
    assert run.reward_loss_at(7.0, "wall_s") == 0.5
    assert run.reward_loss_at(30.0, "cpu_s") == 2.5
    assert run.reward_loss_at(0.1, "wall_s") == 4.0  # before the first evaluation


def test_reward_loss_after_the_end_is_unknown() -> None:
    run = make_run("a", 0)
    assert run.reward_loss_at(4.0, "wall_s") == run.reward_loss_at(4.0 * (1 + 1e-12), "wall_s") == 1.0
    assert np.isnan(run.reward_loss_at(4.001, "wall_s"))


def test_equal_time_is_when_the_first_run_of_a_seed_ends() -> None:
    runs = [
        make_run("slow", 0, wall_s=[2.0, 4.0, 6.0, 8.0]),
        make_run("fast", 0, wall_s=[1.0, 2.0, 3.0, 5.0]),
        make_run("slow", 1, wall_s=[1.0, 2.0, 3.0, 4.0]),
    ]
    by_wall = run_table(runs, "wall_s")["equal_time_reward_loss"]
    assert list(by_wall) == [2.5, 1.0, 1.0]  # seed 1 has no other run
    by_cpu = run_table(runs, "cpu_s")["equal_time_reward_loss"]
    assert list(by_cpu) == [1.0, 1.0, 1.0]


def test_seconds_are_those_of_the_clock() -> None:
    table = run_table([make_run("a", 0, cpu_s=[1.0, 2.0, 3.0, 16.0])], "cpu_s")
    assert (table["seconds"][0], table["tokens_per_s"][0]) == (16.0, 5.0)


def test_mean_share_is_weighted_by_the_length_of_windows() -> None:
    run = make_run("a", 0, iteration=[2, 4, 5, 15], param_share=[1.0, 0.5, 0.25, 0.1])
    row = run_table([run], "wall_s").to_dict("records")[0]
    assert row["mean_block_params_share"] == pytest.approx((2 * 1.0 + 2 * 0.5 + 1 * 0.25 + 10 * 0.1) / 15)
    assert row["block_params_share"] == pytest.approx(2 / 3)
    assert (row["pattern"], row["decision_share"]) == ("0 1 1", 0.2)


def line(number: int, **values: Any) -> dict[str, Any]:
    """Return a line of decisions.jsonl as far as results need it."""
    return {
        "decision": number,
        "iteration": 2 + 2 * number,
        "tokens": 20 + 20 * number,
        "pointers": [0, 0, 2],
        "train_loss": 3.0,
        "last_loss": 3.0,
        "reward_loss": 2.0 - number,
        "block_params": 50,
        "independent_block_params": 200,
        "wall_s": 1.0 + number,
        "cpu_s": 0.5 + number,
        **values,
    }


def write_run(folder: Path, lines: list[dict[str, Any]]) -> RunDirectory:
    run = RunDirectory(folder)
    run.final.mkdir(parents=True)
    write_json(run.final / "summary.json", {"seed": 7})
    run.rewrite_decisions(lines)
    return run


def test_a_run_is_read_from_its_folder(tmp_path: Path) -> None:
    run = Run.load("mine", write_run(tmp_path, [line(0), line(1, pointers=[0, 1, 2], block_params=200)]))
    assert (run.label, run.seed) == ("mine", 7)
    assert run.curve.to_dict("list") == {
        "iteration": [2, 4],
        "tokens": [20, 40],
        "reward_loss": [2.0, 1.0],
        "wall_s": [1.0, 2.0],
        "cpu_s": [0.5, 1.5],
        "param_share": [0.25, 1.0],
    }
    assert run.history == [(2, Pointers((0, 0, 2))), (4, Pointers((0, 1, 2)))]


def test_a_record_without_a_clock_is_refused_in_one_line(tmp_path: Path) -> None:
    old = json.loads(json.dumps(line(0)))
    del old["cpu_s"]
    with pytest.raises(InputError, match="cpu_s is missing") as caught:
        Run.load("old", write_run(tmp_path, [old]))
    assert len(caught.value.lines) == 1


def test_changes_are_windows_under_other_pointers_than_the_window_before() -> None:
    patterns = [(0, 1, 2), (0, 0, 2), (0, 0, 2), (0, 1, 2)]
    history = [(4 * (index + 1), Pointers(pattern)) for index, pattern in enumerate(patterns)]
    table = run_table([replace(make_run("a", 0), history=history)], "wall_s")
    assert table["changes"][0] == 2
