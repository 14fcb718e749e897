"""`retrain`: the pattern that a run found, from scratch and beside the fixed ones."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tests.conftest import Finished, single_thread, words

pytestmark = pytest.mark.e2e

Retrain = Callable[..., Finished]

TINY = (
    "--preset tiny --trainer.iterations 16 --env.decision-interval 2 --model.width 8 --model.num-layers 3 --seed 3 "
    "--env.freeze-after 0.75"
).split()
JOINT = "tie_after:50:0 1 1"  # unlike its last pattern from scratch, and the same every time


def loss_of(run: Path) -> float:
    loss: float = json.loads((run / "final" / "summary.json").read_text())["test_loss"]
    return loss


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two finished runs: one that tied on its way, and one of its last pattern from the start."""
    from experiments import cli
    from experiments.train import main

    folder = tmp_path_factory.mktemp("retrain")
    (folder / "corpus.txt").write_text(words(6_000), encoding="utf-8")
    flags = [*TINY, "--data.path", str(folder / "corpus.txt")]
    with pytest.MonkeyPatch.context() as patch, single_thread():
        patch.chdir(folder)
        assert cli.status(main, [*flags, "--agent", JOINT, "--out", "joint"]) == 0
        assert cli.status(main, [*flags, "--agent", "0 1 1", "--out", "scratch"]) == 0
    return folder


@pytest.fixture
def retrain(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], one_thread: None
) -> Retrain:
    """Call `experiments.retrain` inside this process, in the test's own folder."""
    from experiments import cli
    from experiments.retrain import main

    monkeypatch.chdir(tmp_path)

    def call(*arguments: Any) -> Finished:
        capsys.readouterr()
        status = cli.status(main, [*map(str, arguments), "--jobs", "1"])
        return Finished(status, *capsys.readouterr())

    return call


def test_the_found_pattern_is_set_beside_the_run_and_the_fixed_ones(retrain: Retrain, runs: Path, tmp_path: Path) -> None:
    finished = retrain(runs / "joint", "--seeds", "1")
    assert (finished.status, finished.err) == (0, "")
    folder = tmp_path / "comparisons" / "retrain__joint"
    table = pd.read_csv(folder / "runs.csv").set_index("entry")
    assert list(table.index) == [f"joint: {JOINT}", "0 1 1", "sequence:2", "cycle:2", "independent"]
    assert set(table["seed"]) == {3}
    assert table["pattern"].to_dict() == {
        f"joint: {JOINT}": "0 1 1",
        "0 1 1": "0 1 1",
        "sequence:2": "0 0 2",
        "cycle:2": "0 1 0",
        "independent": "0 1 2",
    }
    assert set(table["num_unique_layers"].drop("independent")) == {2}
    assert table.loc[f"joint: {JOINT}", "test_loss"] == loss_of(runs / "joint")
    assert table.loc["0 1 1", "test_loss"] == loss_of(runs / "scratch") != loss_of(runs / "joint")
    fixed = {"0 1 1": "private_first", "sequence:2": "sequence:2", "cycle:2": "cycle:2"}
    best = fixed[table.loc[list(fixed), "reward_loss"].idxmin()]
    assert f"best fixed strategy with 2 unique layers, by reward loss: {best}\n" in finished.out
    assert not (folder / "runs" / "joint__s3").exists()  # the run itself is not trained again


def test_an_unfinished_run_is_refused(retrain: Retrain, runs: Path, tmp_path: Path) -> None:
    shutil.copytree(runs / "joint", tmp_path / "run", symlinks=True)
    shutil.rmtree(tmp_path / "run" / "final")
    finished = retrain("run")
    assert finished.status == 2
    assert finished.complaints == ["error: run: not finished; go on with it by python -m experiments.train --resume run"]
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_folder_without_a_run_is_refused(retrain: Retrain, tmp_path: Path) -> None:
    finished = retrain("nothing")
    assert finished.status == 2
    assert finished.complaints == ["error: nothing: not a run directory (it has no config.json)"]
    assert not list(tmp_path.iterdir())
