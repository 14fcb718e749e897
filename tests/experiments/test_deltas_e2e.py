"""Runs with low-rank deltas: comparisons, counts, the saved model, resumed runs."""

from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file

import tying.hf
from experiments import load_run
from tests.conftest import Finished
from tests.experiments.runs import SMALL, assert_same, interrupted_after, mistakes, read, weights
from tying import Pointers

pytestmark = pytest.mark.e2e

Call = Callable[..., Finished]
DELTAS = ("--binding.delta-rank", "2")
RANKED = ("--env.action-mode", "cursor_rank", *DELTAS)


def test_a_search_and_fixed_patterns_in_a_comparison(call: Call, text_file: Path, tmp_path: Path) -> None:
    arguments = ["--agents", "dqn", "local_search", "sequence:3", "independent", "--seeds", "1", *SMALL, "--jobs", "1"]
    done = call("compare", *arguments, "--data.path", text_file, *DELTAS, "--no-shallow", "--out", "c")
    assert done.status == 0, done.err
    runs = {read(path / "final" / "summary.json")["agent"]: path for path in (tmp_path / "c").glob("runs/*")}
    assert len(runs) == 4
    for path in runs.values():
        summary, stored = read(path / "final" / "summary.json"), load_file(path / "final" / "model.safetensors")
        tied = 3 - summary["num_unique_layers"]
        assert summary["trainable_params"] == sum(value.numel() for value in stored.values())
        assert sum("delta" in name for name in stored) == 2 * 4 * tied
        free = summary["independent_block_params"] // 3
        assert summary["trainable_block_params"] == (3 - tied) * free + tied * 16 * 8 * 2  # 16 d r, with d = 8
        decisions = load_run(path).decisions
        assert decisions["block_params"].iloc[-1] == summary["trainable_block_params"]
    plain = ["--agent", "independent", "--seed", read(runs["independent"] / "final" / "summary.json")["seed"], *SMALL]
    assert call("train", *map(str, plain), "--data.path", text_file, "--out", "plain").status == 0
    assert weights(runs["independent"]) == weights(tmp_path / "plain")


def test_ranks_that_an_agent_chose_are_kept_by_records_checkpoints_and_final_files(
    call: Call, text_file: Path, tmp_path: Path
) -> None:
    command = ["train", "--agent", "dqn", "--reward", "fork", *SMALL, "--data.path", text_file, *RANKED, "--out"]
    assert call(*command, "whole").status == 0
    with interrupted_after(5):
        assert call(*command, "cut").status == 130
    assert call("train", "--resume", "cut").status == 0
    assert_same(tmp_path / "cut", tmp_path / "whole")
    run = load_run(tmp_path / "whole")
    summary, stored = run.summary, load_file(tmp_path / "whole" / "final" / "model.safetensors")
    pointers = Pointers(summary["pointers"])
    records = [line.record for line in run.directory.read_decisions()]
    assert records[-1].pointers == pointers and len({record.pointers.ranks for record in records}) > 2
    assert read(tmp_path / "whole" / "final" / "pointers.json") == summary["pointers"] == pointers.to_list()
    assert read(tmp_path / "whole" / "checkpoints" / "latest" / "state.json")["pointers"] == pointers.to_list()
    assert summary["trainable_params"] == sum(value.numel() for value in stored.values())
    assert sum(v.numel() for name, v in stored.items() if "delta" in name) == 16 * 8 * sum(pointers.ranks)
    assert {name: value.shape for name, value in run.model.named_parameters()} == {n: v.shape for n, v in stored.items()}
    task = run.task
    task.require()
    batches = list(task.evaluation_batches("test", 4))
    found = task.metrics(run.model, batches)["loss"]
    assert found == pytest.approx(summary["test_loss"], abs=1e-5)
    assert task.metrics(tying.hf.untied(run.model), batches)["loss"] == pytest.approx(found, abs=1e-5)


def test_the_mode_in_a_comparison_beside_fixed_ranks_and_a_pattern_with_ranks(
    call: Call, text_file: Path, tmp_path: Path
) -> None:
    fixed = "sequence:2 --env.initial-pointers '0 0+2 2' --env.freeze-after 0"
    variants = ["dqn --env.action-mode cursor_rank", "local_search", fixed]
    arguments = ["--agents", *variants, "--seeds", "1", *SMALL, "--jobs", "1", "--data.path", text_file, *DELTAS]
    done = call("compare", *arguments, "--no-shallow", "--out", "c")
    assert done.status == 0, done.err
    found = [read(path / "final" / "summary.json")["pointers"] for path in (tmp_path / "c").glob("runs/*")]
    assert len(found) == 3 and [0, "0+2", 2] in found
    (run,) = [path for path in (tmp_path / "c" / "runs").iterdir() if "initial" in path.name]
    assert call("retrain", str(run), "--seeds", "1", "--jobs", "1", "--out", "r").status == 0
    again = [read(path / "final" / "summary.json") for path in (tmp_path / "r").glob("runs/*")]
    assert [s["test_loss"] for s in again if s["pointers"] == [0, "0+2", 2]] == [
        read(run / "final" / "summary.json")["test_loss"]
    ]


def test_what_does_not_go_with_ranks_is_refused_in_one_line() -> None:
    assert mistakes(*RANKED[:2]) == [
        "env.action_mode = 'cursor_rank' chooses ranks up to binding.delta_rank, which is 0: set it (formulas and tables "
        "have no deltas)"
    ]
    (line,) = mistakes(*RANKED, "--model.num-layers", "4", "--env.initial-pointers", "0 0+3 2 3")
    assert "env.action_mode and binding.delta_rank = 2, ranks may be 0, 1, 2" in line
