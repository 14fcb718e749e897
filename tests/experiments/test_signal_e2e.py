"""`signal`: rewards of decisions in a run, beside losses of the same patterns from scratch."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from tests.conftest import Finished, single_thread, words

pytestmark = pytest.mark.e2e

Signal = Callable[..., Finished]

NUM_STEPS = 7
CHOSEN = [0, 1, 2, 3, 5, 6]  # two at the beginning, two in the middle, two at the end
FLAGS = (
    f"--seeds 2 --decisions 6 --preset tiny --trainer.iterations {2 * NUM_STEPS} --env.decision-interval 2 "
    "--model.width 8 --model.num-layers 3 --jobs 1 --out s"
).split()


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def files(folder: Path) -> dict[str, int]:
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module", autouse=True)
def few_resamples() -> Any:
    """Resample only a few times: intervals are the slow part."""
    from experiments import signal

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(signal, "_RESAMPLES", 20)
        yield


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory, few_resamples: None) -> Path:
    """A finished measurement, `s`, and the text that it was made with."""
    from experiments import cli
    from experiments.signal import main

    folder = tmp_path_factory.mktemp("signal")
    (folder / "corpus.txt").write_text(words(6_000), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch, single_thread():
        patch.chdir(folder)
        assert cli.status(main, [*FLAGS, "--data.path", "corpus.txt"]) == 0
    return folder


@pytest.fixture
def signal(
    measured: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], one_thread: None
) -> Signal:
    """Call `experiments.signal` inside this process, in a copy of the finished measurement."""
    from experiments import cli
    from experiments.signal import main

    shutil.copytree(measured, tmp_path, symlinks=True, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str) -> Finished:
        capsys.readouterr()
        status = cli.status(main, [*FLAGS, "--data.path", "corpus.txt", *arguments])
        return Finished(status, *capsys.readouterr())

    return call


def walk(measured: Path, reward: str, seed: int) -> list[dict[str, Any]]:
    steps: list[dict[str, Any]] = read(measured / "s" / "walks" / f"{reward}__s{seed}.json")["steps"]
    return steps


def test_every_artefact_is_there(measured: Path) -> None:
    folder = measured / "s"
    names = {path.name for path in folder.iterdir()}
    assert names == {"comparison.json", "logs", "runs", "signal.csv", "signal.json", "signal.md", "signal.png", "walks"}
    assert (folder / "signal.png").read_bytes().startswith(b"\x89PNG")
    table = pd.read_csv(folder / "signal.csv")
    assert len((folder / "signal.md").read_text().splitlines()) == len(table) + 2
    assert table["reward"].nunique() * 4 == len(table)
    assert table.groupby("block")["decisions"].unique().map(list).to_dict() == {
        "all": [6],
        "early": [2],
        "middle": [2],
        "late": [2],
    }
    facts = read(folder / "signal.json")
    steps = [walk(measured, "fork", 0)[index] for index in CHOSEN]
    patterns = {tuple(step[name]) for step in steps for name in ("before", "pointers")}
    assert (facts["decisions"], facts["seeds"], facts["patterns"]) == (6, 2, len(patterns))
    assert len(list((folder / "runs").iterdir())) == 2 * len(patterns)
    assert facts["fork_cost"] > 0 and -1 <= facts["split_half_tau"] <= 1


def test_runs_of_all_seeds_and_rewards_take_the_same_decisions(measured: Path) -> None:
    walks = [walk(measured, reward, seed) for reward in ("fork", "improvement") for seed in (0, 1)]
    paths = [[(step["before"], step["pointers"]) for step in steps] for steps in walks]
    assert len(paths[0]) == NUM_STEPS
    assert all(path == paths[0] for path in paths)
    assert all(before != after for before, after in paths[0])  # a change every time
    assert [before for before, _ in paths[0][1:]] == [after for _, after in paths[0][:-1]]
    losses = [[step["window"]["reward_loss"] for step in steps] for steps in walks]
    assert losses[0] == losses[2] != losses[1] == losses[3]  # a fork leaves no trace in its run; seeds differ


def test_interrupted_walks_are_taken_up(measured: Path, signal: Signal, tmp_path: Path) -> None:
    lost = tmp_path / "s" / "walks" / "fork__s1.json"
    lost.unlink()
    for path in (tmp_path / "s").glob("signal.*"):
        path.unlink()
    before = files(tmp_path / "s")
    assert signal().status == 0
    after = files(tmp_path / "s")
    made = {"walks/fork__s1.json", "comparison.json", *(f"signal.{end}" for end in ("csv", "md", "json", "png"))}
    assert {name: moment for name, moment in after.items() if name not in made} == {
        name: moment for name, moment in before.items() if name != "comparison.json"
    }
    assert read(lost)["steps"] == walk(measured, "fork", 1)
    for name in ("signal.csv", "signal.md"):
        assert (tmp_path / "s" / name).read_bytes() == (measured / "s" / name).read_bytes()


def test_a_constant_reward_ranks_nothing(measured: Path) -> None:
    table = pd.read_csv(measured / "s" / "signal.csv")
    constant = table[table["reward"] == "paper"]  # the perplexity of so short a run is above 10
    assert len(constant) == 4
    columns = [name for name in table if name.startswith(("pattern_", "change_", "noise_", "signal_"))]
    assert len(columns) == 10
    assert (constant[columns] == 0).all(axis=None)


@pytest.mark.parametrize("reward", ["improvement", "level", "fork"])
def test_tau_is_scipys_of_what_was_written_down(measured: Path, reward: str) -> None:
    losses: dict[tuple[int, ...], list[float]] = {}
    for path in (measured / "s" / "runs").glob("*/final/summary.json"):
        summary = read(path)
        losses.setdefault(tuple(summary["pointers"]), []).append(summary["test_loss"])
    mean = {pattern: np.mean(values) for pattern, values in losses.items()}
    taus: dict[str, list[float]] = {"pattern": [], "change": []}
    for seed in (0, 1):
        steps = [walk(measured, "fork", seed)[index] for index in CHOSEN]
        paid = {
            "improvement": [step["previous_loss"] - step["window"]["reward_loss"] for step in steps],
            "level": [-step["window"]["reward_loss"] * 2 / (2 * NUM_STEPS) for step in steps],
            "fork": [step["window"]["fork_loss"] - step["window"]["reward_loss"] for step in steps],
        }[reward]
        worth = [mean[tuple(step["before"])] - mean[tuple(step["pointers"])] for step in steps]
        taus["pattern"].append(stats.kendalltau(paid, [-mean[tuple(step["pointers"])] for step in steps]).statistic)
        taus["change"].append(stats.kendalltau(paid, worth).statistic)
    table = pd.read_csv(measured / "s" / "signal.csv").set_index(["reward", "block"])
    row = table.loc[(reward, "all")]
    for name, values in taus.items():
        assert row[f"{name}_tau"] == pytest.approx(np.mean(values), abs=1e-12)
        assert row[f"{name}_low"] <= row[f"{name}_high"]


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["--out", "new", "--decisions", "9"], "--decisions 9: a run has 7"),
        (["--out", "new", "--seed", "3"], "--seed is for single runs"),
        (["--out", "new", "--agent", "dqn"], "--agent is for single runs"),
        (["--out", "new", "--model.widht", "8"], "unknown flag --model.widht"),
        (["--model.dropout", "0.5"], "s/walks/fork__s0.json: made with other settings"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_made(signal: Signal, tmp_path: Path, arguments: list[str], part: str) -> None:
    before = files(tmp_path)
    finished = signal(*arguments)
    assert finished.status == 2
    (line,) = finished.complaints
    assert line.startswith("error: ") and part in line
    assert files(tmp_path) == before
