"""Runs with low-rank deltas: comparisons, counts, the saved model, resumed runs."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import tying.hf
from experiments import load_run
from tests.conftest import Finished
from tests.experiments.runs import SMALL, assert_same, interrupted_after, read, weights

pytestmark = pytest.mark.e2e

Call = Callable[..., Finished]
DELTAS = ("--binding.delta-rank", "2", "--binding.delta-start")


def test_a_search_and_fixed_patterns_in_a_comparison(call: Call, text_file: Path, tmp_path: Path) -> None:
    arguments = ["--agents", "dqn", "local_search", "sequence:3", "independent", "--seeds", "1", *SMALL, "--jobs", "1"]
    done = call("compare", *arguments, "--data.path", text_file, *DELTAS, "svd", "--out", "c")
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


def test_a_run_is_resumed_bit_by_bit_and_its_model_is_the_one_that_was_measured(
    call: Call, text_file: Path, tmp_path: Path
) -> None:
    command = ["train", "--agent", "dqn", "--reward", "fork", *SMALL, "--data.path", text_file, *DELTAS, "svd", "--out"]
    assert call(*command, "whole").status == 0
    with interrupted_after(5):
        assert call(*command, "cut").status == 130
    assert call("train", "--resume", "cut").status == 0
    assert_same(tmp_path / "cut", tmp_path / "whole")
    run = load_run(tmp_path / "whole")
    task = run.task
    task.require()
    batches = list(task.evaluation_batches("test", 4))
    found = task.metrics(run.model, batches)["loss"]
    assert found == pytest.approx(run.summary["test_loss"], abs=1e-5)
    assert task.metrics(tying.hf.untied(run.model), batches)["loss"] == pytest.approx(found, abs=1e-5)
    assert not any(torch.isnan(value).any() for value in run.model.state_dict().values())
