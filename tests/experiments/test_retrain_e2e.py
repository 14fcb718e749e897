"""`retrain`: the pattern that a run found, from scratch and beside the fixed ones."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from experiments.run.config import load_config
from experiments.study import comparison
from tests.conftest import Finished, words
from tests.experiments.runs import call_in, read
from tying import strategies

pytestmark = pytest.mark.e2e

Call = Callable[..., Finished]

TINY = (
    "--preset tiny --trainer.iterations 16 --env.decision-interval 2 --model.width 8 --model.num-layers 3 --seed 3 "
    "--env.freeze-after 0.75 --optim.weight-decay 0.05"
).split()
CHANGING = "tie_after:50:0 1 1"  # unlike its last pattern from scratch, and the same every time


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two finished runs: one that tied on its way, and one of its last pattern from the start."""
    folder = tmp_path_factory.mktemp("retrain")
    (folder / "corpus.txt").write_text(words(6_000), encoding="utf-8")
    flags = [*TINY, "--data.path", folder / "corpus.txt"]
    assert call_in(folder, "train", *flags, "--agent", CHANGING, "--out", "changing") == 0
    assert call_in(folder, "train", *flags, "--agent", "0 1 1", "--out", "scratch") == 0
    return folder


def loss_of(run: Path) -> float:
    return float(read(run / "final" / "summary.json")["test_loss"])


def test_the_found_pattern_is_set_beside_the_run_and_the_fixed_ones(call: Call, runs: Path, tmp_path: Path) -> None:
    finished = call("retrain", runs / "changing", "--seeds", "1", "--jobs", "1")
    assert (finished.status, finished.err) == (0, "")
    folder = tmp_path / "comparisons" / "retrain__changing"
    table = pd.read_csv(folder / "runs.csv").set_index("variant")
    assert list(table.index) == [f"run: {CHANGING}", "0 1 1", "sequence:2", "cycle:2", "shallow:2", "independent"]
    assert set(table["seed"]) == {3}
    assert table["pattern"].to_dict() == {
        f"run: {CHANGING}": "0 1 1",
        "0 1 1": "0 1 1",
        "sequence:2": "0 0 2",
        "cycle:2": "0 1 0",
        "shallow:2": "0 1",
        "independent": "0 1 2",
    }
    assert set(table["num_unique_layers"].drop("independent")) == {2}
    for column in ("trainable_params", "block_params_share"):  # of the tied patterns, not of its own two layers
        assert table.loc["shallow:2", column] == table.loc["0 1 1", column]
    assert table["num_layers"].drop("shallow:2").eq(3).all() and table.loc["shallow:2", "num_layers"] == 2
    assert "shallow:" not in finished.out.partition("by reward loss")[2] and "add shallow" not in finished.out
    assert table.loc[f"run: {CHANGING}", "test_loss"] == loss_of(runs / "changing")
    assert table.loc["0 1 1", "test_loss"] == loss_of(runs / "scratch") != loss_of(runs / "changing")
    fixed = {"0 1 1": "private_first", "sequence:2": "sequence:2", "cycle:2": "cycle:2"}
    best = fixed[table.loc[list(fixed), "reward_loss"].idxmin()]
    assert f"best fixed strategy with 2 unique layers, by reward loss: {best}\n" in finished.out
    assert not (folder / "runs" / "run-tie_after-50-0-1-1__s3").exists()  # the run itself is not trained again


def test_an_unfinished_run_is_refused(call: Call, runs: Path, tmp_path: Path) -> None:
    shutil.copytree(runs / "changing", tmp_path / "run", symlinks=True)
    shutil.rmtree(tmp_path / "run" / "final")
    finished = call("retrain", "run")
    assert finished.status == 2
    assert finished.err.splitlines() == ["error: run: not finished; resume it by python -m experiments.train --resume run"]
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_run_that_cannot_be_untied_is_refused_before_anything_is_written(call: Call, runs: Path, tmp_path: Path) -> None:
    flags = [*TINY, "--data.path", runs / "corpus.txt", "--model.halting", "act"]
    assert call("train", *flags, "--agent", "all_tied", "--out", "halting").status == 0
    finished = call("retrain", "halting")
    assert finished.status == 2
    (line,) = finished.err.splitlines()
    assert line.startswith("error: model.halting = 'act': pointers '0 1 2' repeat")
    assert [path.name for path in tmp_path.iterdir()] == ["halting"]


def test_a_folder_without_a_run_is_refused(call: Call, tmp_path: Path) -> None:
    finished = call("retrain", "nothing")
    assert finished.status == 2
    assert finished.err.splitlines() == ["error: nothing: not a run directory (it has no config.json)"]
    assert not list(tmp_path.iterdir())


def test_the_settings_of_the_run_are_used_except_how_decisions_are_made(
    call: Call, runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: dict[str, Any] = {}
    monkeypatch.setattr(
        comparison.grid, "run_all", lambda specs, *_: made.update({spec.label: spec for spec in specs}) or []
    )
    finished = call("retrain", runs / "changing", "--seeds", "4", "7", "--jobs", "1", "--out", "c")
    assert finished.status == 1  # since nothing was trained
    assert list(made) == ["0 1 1", "sequence:2", "cycle:2", "shallow:2", "independent"]
    assert made.pop("shallow:2").config.model.num_layers == 2
    own = load_config(runs / "changing" / "config.json").resolved()
    for spec in made.values():
        resolved = spec.config.resolved()
        for section in ("task", "model", "data", "trainer", "optim", "binding", "reward", "preset"):
            assert resolved[section] == own[section], section
        assert resolved["env"] == {**own["env"], "action_mode": "joint", "freeze_after": 1.0}
        assert resolved["run"]["seed"] == 7


def test_a_strategy_from_outside_is_a_rival(call: Call, runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = {name: made for name, made in strategies._STRATEGIES.items() if name != "cycle"}
    monkeypatch.setattr(strategies, "_STRATEGIES", known)

    @strategies.strategy
    def mine(num_layers: int) -> list[int]:
        return [layer % 2 for layer in range(num_layers)]

    assert call("retrain", runs / "changing", "--seeds", "1", "--jobs", "1").status == 0
    table = pd.read_csv("comparisons/retrain__changing/runs.csv").set_index("variant")["pattern"]
    assert table["mine"] == "0 1 0"
    assert "cycle:2" not in table.index
