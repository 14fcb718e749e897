"""Results of a grid: paired differences, equal time, and the figures of one run."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from experiments.run.directory import Line, RunDirectory
from experiments.run.intervals import student_interval
from experiments.study.results import Run, missing_depths, run_table, variant_table
from tests.experiments.runs import write_summary
from tying.pointers import Pointers
from tying.training.record import StepRecord


def make_run(label: str, seed: int, **columns: list[float]) -> Run:
    """Return a finished run with a curve of four decisions; columns replace those of the curve."""
    curve = {
        "iteration": [2, 4, 6, 8],
        "tokens": [20, 40, 60, 80],
        "reward_loss": [4.0, 3.0, 2.0, 1.0],
        "evaluated": [True] * 4,
        "wall_s": [1.0, 2.0, 3.0, 4.0],
        "cpu_s": [1.0, 2.0, 3.0, 4.0],
        "param_share": [1.0, 1.0, 1.0, 1.0],
        **columns,
    }
    summary = {
        "agent": "dqn",
        "pointers": [0, 1, 1],
        "changes": 2,
        "test_loss": 1.5,
        "reward_loss": curve["reward_loss"][-1],
        "num_layers": 3,
        "num_unique_layers": 2,
        "trainable_params": 300,
        "trainable_block_params": 200,
        "independent_block_params": 300,
        "tokens": 80,
        "decisions": 4,
        "decision_s": 0.75,
        "evaluate_s": 0.25,
        "wall_s": 5.0,
    }
    return Run(label, seed, summary, pd.DataFrame(curve), [])


def make_table(**test_losses: dict[int, float]) -> pd.DataFrame:
    """Return a table of runs from variant to seed to test loss; the loss at equal time is twice the test loss."""
    rows = [
        {
            "variant": variant,
            "decides": True,
            "seed": seed,
            "test_loss": loss,
            "reward_loss": loss + 0.5,
            "test_bits_per_byte": 2 * loss,
            "equal_time_reward_loss": 2 * loss,
            "num_layers": 3,
            "num_unique_layers": 2,
            "effective_blocks": 2.375,
            "trainable_params": 100 + seed,
            "block_params_share": 0.5,
            "mean_block_params_share": 0.75,
            "changes": 3,
            "tokens_per_s": 10.0,
            "decision_share": 0.1,
        }
        for variant, of_seed in test_losses.items()
        for seed, loss in of_seed.items()
    ]
    return pd.DataFrame(rows)


def row_of(table: pd.DataFrame, variant: str) -> dict[str, Any]:
    (row,) = table[table["variant"] == variant].to_dict("records")
    return row


# Paired differences.


def test_differences_are_paired_by_seed() -> None:
    table = make_table(a={0: 1.0, 1: 2.0, 2: 9.0}, b={2: 9.5, 0: 0.5, 1: 2.25})  # in another order
    row = row_of(variant_table(table, "a"), "b")
    assert row["difference"] == pytest.approx(np.mean([-0.5, 0.25, 0.5]))
    assert (row["better_in"], row["pairs"], row["seeds"]) == (1, 3, 3)
    assert row["equal_time_difference"] == pytest.approx(2 * row["difference"])


def test_a_seed_that_is_missing_on_one_side_makes_no_pair() -> None:
    table = make_table(a={0: 1.0, 1: 2.0, 2: 50.0, 4: 1.0}, b={0: 0.5, 1: 2.25, 3: -70.0, 4: 1.75})
    row = row_of(variant_table(table, "a"), "b")
    pairs = np.array([-0.5, 0.25, 0.75])
    assert row["difference"] == pytest.approx(pairs.mean())
    assert (row["low"], row["high"]) == pytest.approx(student_interval(pairs))
    assert (row["better_in"], row["pairs"], row["seeds"]) == (1, 3, 4)
    assert row["test_loss"] == pytest.approx((0.5 + 2.25 + 1.75 - 70) / 4)  # its own mean has all of its seeds


def test_without_a_common_seed_there_is_no_difference() -> None:
    row = row_of(variant_table(make_table(a={0: 1.0}, b={1: 1.0}), "a"), "b")
    assert np.isnan([row[name] for name in ("difference", "low", "high")]).all()
    assert (row["better_in"], row["pairs"]) == (0, 0)


@pytest.mark.parametrize("seeds", [1, 2])
def test_below_three_pairs_there_is_a_difference_and_no_interval(seeds: int) -> None:
    table = make_table(a=dict.fromkeys(range(seeds), 1.0), b={seed: 3.0 + seed for seed in range(seeds)})
    row = row_of(variant_table(table, "a"), "b")
    assert row["difference"] == 2.0 + (seeds - 1) / 2
    assert np.isnan([row[name] for name in ("low", "high")]).all()


def test_a_run_that_ended_before_equal_time_makes_no_pair_there() -> None:
    table = make_table(a={0: 1.0, 1: 1.0}, b={0: 2.0, 1: 4.0})
    table.loc[3, "equal_time_reward_loss"] = float("nan")
    row = row_of(variant_table(table, "a"), "b")
    assert (row["difference"], row["equal_time_difference"]) == (2.0, 2.0)
    assert np.isnan(row["equal_time_low"])


def test_the_baseline_differs_from_itself_by_nothing() -> None:
    row = row_of(variant_table(make_table(a={0: 1.0, 1: 2.0, 2: 4.0}), "a"), "a")
    assert {row[name] for name in ("difference", "low", "high", "better_in")} == {0}


def test_rows_come_in_the_order_of_the_runs_with_means_over_seeds() -> None:
    table = variant_table(make_table(b={0: 1.0, 1: 3.0}, a={0: 1.0}), "a")
    assert list(table["variant"]) == ["b", "a"]
    row = row_of(table, "b")
    assert (row["test_loss"], row["test_ppl"]) == (2.0, pytest.approx(np.exp(2.0)))
    assert (row["reward_loss"], row["trainable_params"]) == (2.5, 100.5)


# One run.


def test_reward_loss_is_interpolated_in_time() -> None:
    run = make_run("a", 0, wall_s=[1.0, 2.0, 4.0, 8.0], cpu_s=[10.0, 20.0, 40.0, 80.0], reward_loss=[4.0, 3.0, 2.0, 0.0])
    assert run.reward_loss_at(2.0, "wall_s") == 3.0
    assert run.reward_loss_at(3.0, "wall_s") == 2.5
    assert run.reward_loss_at(7.0, "wall_s") == 0.5
    assert run.reward_loss_at(30.0, "cpu_s") == 2.5
    assert run.reward_loss_at(0.1, "wall_s") == 4.0  # before the first evaluation


def test_windows_without_evaluation_are_left_out_of_the_interpolation() -> None:
    run = make_run("a", 0, reward_loss=[4.0, 4.0, 4.0, 1.0], evaluated=[True, False, False, True])
    assert [run.reward_loss_at(seconds, "wall_s") for seconds in (1.0, 2.0, 3.0, 4.0)] == [4.0, 3.0, 2.0, 1.0]


def test_reward_loss_after_the_end_is_unknown() -> None:
    run = make_run("a", 0)
    assert run.reward_loss_at(4.0, "wall_s") == run.reward_loss_at(4.0 * (1 + 1e-12), "wall_s") == 1.0
    assert np.isnan(run.reward_loss_at(4.001, "wall_s"))


def test_equal_time_is_when_the_first_run_of_a_seed_ends() -> None:
    runs = [
        make_run("slow", 0, wall_s=[2.0, 4.0, 6.0, 8.0], cpu_s=[2.0, 4.0, 6.0, 8.0]),
        make_run("fast", 0, wall_s=[1.0, 2.0, 3.0, 5.0], cpu_s=[1.0, 2.0, 3.0, 4.8]),
        make_run("slow", 1, wall_s=[1.0, 2.0, 3.0, 4.0]),
    ]
    by_wall = run_table(runs, "wall_s", runs[0].label)["equal_time_reward_loss"]
    assert list(by_wall) == [2.5, 1.0, 1.0]  # seed 1 has no other run
    by_cpu = run_table(runs, "cpu_s", runs[0].label)["equal_time_reward_loss"]
    assert list(by_cpu) == pytest.approx([2.6, 1.0, 1.0])


def test_equal_time_is_left_out_where_runs_of_a_seed_were_made_under_different_load() -> None:
    calm, busy = [1.0, 2.0, 3.0, 4.0], [1.2, 2.4, 3.6, 4.8]
    runs = [
        make_run("a", 0, wall_s=calm),
        make_run("b", 0, wall_s=busy),  # a fifth more wall time for the same processor time
        make_run("a", 1, wall_s=busy),
        make_run("b", 1, wall_s=[1.1 * second for second in busy]),
    ]
    by_wall = run_table(runs, "wall_s", "a")
    assert by_wall["equal_time_reward_loss"].isna().tolist() == [True, True, False, False]
    assert run_table(runs, "cpu_s", runs[0].label)["equal_time_reward_loss"].notna().all()
    row = row_of(variant_table(by_wall, "a"), "b")
    assert row["equal_time_difference"] == pytest.approx(by_wall["equal_time_reward_loss"].diff().iloc[3])
    assert (np.isfinite(row["equal_time_difference"]), row["pairs"]) == (True, 2)


def test_fixed_patterns_and_schedules_do_not_decide() -> None:
    agents = {"dqn": True, "random": True, "sequence:3": False, "0 1 1": False, "tie_after:50:0 1 1": False, "a.b:C": True}
    for agent, decides in agents.items():
        run = make_run("shown under another name", 0)
        assert replace(run, summary={**run.summary, "agent": agent}).decides is decides, agent


def test_seconds_are_those_of_the_clock() -> None:
    table = run_table([make_run("a", 0, cpu_s=[1.0, 2.0, 3.0, 16.0])], "cpu_s", "a")
    assert (table["seconds"][0], table["tokens_per_s"][0]) == (16.0, 5.0)


def test_mean_share_is_weighted_by_the_length_of_windows() -> None:
    run = make_run("a", 0, iteration=[2, 4, 5, 15], param_share=[1.0, 0.5, 0.25, 0.1])
    row = run_table([run], "wall_s", "a").to_dict("records")[0]
    assert row["effective_blocks"] == pytest.approx(1 + 2**0.46)
    assert row["mean_block_params_share"] == pytest.approx((2 * 1.0 + 2 * 0.5 + 1 * 0.25 + 10 * 0.1) / 15)
    assert row["block_params_share"] == pytest.approx(2 / 3)
    assert (row["pattern"], row["decision_share"]) == ("0 1 1", 0.2)


def test_shares_are_of_the_baselines_untied_model() -> None:
    shallow = make_run("shallow", 0)
    summary = {**shallow.summary, "trainable_block_params": 50, "independent_block_params": 100}
    table = run_table([make_run("deep", 0), replace(shallow, summary=summary)], "wall_s", "deep").set_index("variant")
    assert table["block_params_share"].to_dict() == {"deep": 2 / 3, "shallow": 50 / 300}
    assert table["mean_block_params_share"].to_dict() == {"deep": 1.0, "shallow": pytest.approx(100 / 300)}


def test_sizes_without_an_untied_model_beside_them_are_named() -> None:
    def run(num_layers: int, num_unique: int) -> Run:
        made = make_run("a", 0)
        return replace(made, summary={**made.summary, "num_layers": num_layers, "num_unique_layers": num_unique})

    tied = [run(6, size) for size in (6, 3, 2, 2)]
    assert missing_depths(tied) == [2, 3]
    assert missing_depths([*tied, run(3, 3)]) == [2]
    assert missing_depths([*tied, run(3, 2), run(3, 3)]) == [2]
    assert missing_depths([*tied, run(2, 2), run(3, 3)]) == []
    assert missing_depths(tied[:1]) == []
    assert missing_depths([replace(each, summary={**each.summary, "task": "hf"}) for each in tied]) == []


def line(number: int, pointers: tuple[int, ...], block_params: int) -> Line:
    """Return a line of decisions.jsonl as far as results need it."""
    record = StepRecord(
        decision=number,
        iteration=2 + 2 * number,
        num_iterations=2,
        tokens=20 + 20 * number,
        pointers=Pointers(pointers),
        previous_pointers=Pointers.independent(3),
        reward_loss=2.0 - number,
        block_params=block_params,
        independent_block_params=200,
    )
    return Line(record, wall_s=1.0 + number, cpu_s=0.5 + number, decision_s=0.1, agent={})


def write_run(folder: Path, lines: list[Line]) -> RunDirectory:
    run = RunDirectory(folder)
    write_summary(folder, seed=7, pointers=[0, 1, 2])
    run.rewrite_decisions(lines)
    return run


def test_a_run_is_read_from_its_folder(tmp_path: Path) -> None:
    run = Run.load("mine", write_run(tmp_path, [line(0, (0, 0, 2), 50), line(1, (0, 1, 2), 200)]))
    assert (run.label, run.seed) == ("mine", 7)
    assert run.curve.to_dict("list") == {
        "iteration": [2, 4],
        "tokens": [20, 40],
        "reward_loss": [2.0, 1.0],
        "evaluated": [True, True],
        "param_share": [0.25, 1.0],
        "wall_s": [1.0, 2.0],
        "cpu_s": [0.5, 1.5],
    }
    assert run.history == [(2, Pointers((0, 0, 2))), (4, Pointers((0, 1, 2)))]
