"""`signal_study`: rewards of decisions in a run, beside losses of the same patterns from scratch."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from experiments.run import cli
from experiments.run.directory import RunDirectory
from experiments.signal_study import main
from experiments.study import reward_signal
from tests.conftest import Finished, single_thread, words
from tying import Pointers
from tying.errors import InputError
from tying.training.record import StepRecord

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
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reward_signal, "_RESAMPLES", 20)
        yield


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory, few_resamples: None) -> Path:
    """A finished measurement, `s`, and the text that it was made with."""
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
    """Call `experiments.signal_study` inside this process, in a copy of the finished measurement."""
    shutil.copytree(measured, tmp_path, symlinks=True, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str) -> Finished:
        capsys.readouterr()
        status = cli.status(main, [*FLAGS, "--data.path", "corpus.txt", *arguments])
        return Finished(status, *capsys.readouterr())

    return call


def walk(folder: Path, reward: str, seed: int) -> list[StepRecord]:
    """Return the records of a walk."""
    (path,) = (folder / "s" / "runs").glob(f"*Walker*{reward}__s{seed}")
    return [line.record for line in RunDirectory(path).read_decisions()]


def from_scratch(folder: Path) -> dict[Pointers, list[float]]:
    """Return the test losses of every pattern that was trained from scratch."""
    losses: dict[Pointers, list[float]] = {}
    for path in sorted((folder / "s" / "runs").glob("[0-9]*/final/summary.json")):
        losses.setdefault(Pointers(read(path)["pointers"]), []).append(read(path)["test_loss"])
    return losses


def test_every_artefact_is_there(measured: Path) -> None:
    folder = measured / "s"
    names = {path.name for path in folder.iterdir()}
    figures = {"decisions.csv", "signal.csv", "signal.json", "signal.md", "signal.png"}
    assert names == {"comparison.json", "logs", "runs", *figures}
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
    patterns = {pattern for step in steps for pattern in (step.previous_pointers, step.pointers)}
    assert (facts["decisions"], facts["seeds"], facts["patterns"]) == (6, 2, len(patterns))
    assert from_scratch(measured).keys() == patterns
    assert all(len(losses) == 2 for losses in from_scratch(measured).values())
    assert facts["fork_cost"] > 0
    assert facts["command"].startswith("python -m experiments.signal_study --seeds 2 ")
    columns = np.array(list(from_scratch(measured).values())).T
    assert facts["seed_tau"] == pytest.approx(stats.kendalltau(*columns).statistic)


def test_decisions_are_told_one_by_one(measured: Path) -> None:
    table = pd.read_csv(measured / "s" / "decisions.csv")
    assert table["decision"].tolist() == CHOSEN * 2
    assert table["seed"].tolist() == [0] * 6 + [1] * 6
    steps = walk(measured, "fork", 1)
    own = table[table["seed"] == 1].set_index("decision")
    for index in CHOSEN:
        assert own.loc[index, "pointers"] == str(steps[index].pointers)
        assert own.loc[index, "fork"] == steps[index].reward
        assert own.loc[index, "improvement"] == steps[index].previous_loss - steps[index].reward_loss


def test_runs_of_all_seeds_and_rewards_take_the_same_decisions(measured: Path) -> None:
    walks = [walk(measured, reward, seed) for reward in ("fork", "improvement") for seed in (0, 1)]
    paths = [[(step.previous_pointers, step.pointers) for step in steps] for steps in walks]
    assert len(paths[0]) == NUM_STEPS
    assert all(path == paths[0] for path in paths)
    assert all(before != after for before, after in paths[0])  # a change every time
    losses = [[step.reward_loss for step in steps] for steps in walks]
    assert losses[0] == losses[2] != losses[1] == losses[3]  # a fork leaves no trace in its run; seeds differ


def test_interrupted_studies_are_resumed(measured: Path, signal: Signal, tmp_path: Path) -> None:
    (lost,) = (tmp_path / "s" / "runs").glob("*Walker*fork__s1")
    shutil.rmtree(lost / "final")
    for path in (tmp_path / "s").glob("signal.*"):
        path.unlink()
    before = files(tmp_path / "s")
    assert signal().status == 0
    after = files(tmp_path / "s")
    made = {"comparison.json", "decisions.csv", *(f"signal.{end}" for end in ("csv", "md", "json", "png"))}
    changed = {name for name, moment in after.items() if before.get(name) != moment and name not in made}
    assert changed and all(name.startswith((f"runs/{lost.name}/", f"logs/{lost.name}")) for name in changed)
    assert walk(tmp_path, "fork", 1)[-1].reward_loss == walk(measured, "fork", 1)[-1].reward_loss
    for name in ("decisions.csv", "signal.csv", "signal.md"):
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
    mean = {pattern: np.mean(values) for pattern, values in from_scratch(measured).items()}
    taus: dict[str, list[float]] = {"pattern": [], "change": []}
    for seed in (0, 1):
        steps = [walk(measured, "fork", seed)[index] for index in CHOSEN]
        rewards = {
            "improvement": [step.previous_loss - step.reward_loss for step in steps],
            "level": [-step.reward_loss * 2 / (2 * NUM_STEPS) for step in steps],
            "fork": [(step.fork_loss or 0) - step.reward_loss for step in steps],
        }[reward]
        falls = [mean[step.previous_pointers] - mean[step.pointers] for step in steps]
        taus["pattern"].append(stats.kendalltau(rewards, [-mean[step.pointers] for step in steps]).statistic)
        taus["change"].append(stats.kendalltau(rewards, falls).statistic)
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
        (["--out", "new", "--seeds", "1"], "seeds = '1'"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_made(signal: Signal, tmp_path: Path, arguments: list[str], part: str) -> None:
    before = files(tmp_path)
    finished = signal(*arguments)
    assert finished.status == 2
    (line,) = finished.err.splitlines()
    assert line.startswith("error: ") and part in line
    assert files(tmp_path) == before


def test_other_settings_in_the_folder_are_refused(signal: Signal, tmp_path: Path) -> None:
    before = files(tmp_path)
    finished = signal("--model.dropout", "0.5")
    assert finished.status == 2
    *lines, last = finished.err.splitlines()
    assert len(lines) == 4  # two walks of two seeds
    assert all("made with other settings (model.dropout = 0.0, now 0.5)" in line for line in lines)
    assert last == "error: s holds another comparison: name a new folder with --out"
    assert files(tmp_path) == before


# The parts.


def test_blocks_are_of_equal_size_and_leave_the_beginning_out() -> None:
    blocks = reward_signal.blocks_of(40, 9)
    assert blocks == {
        **dict.fromkeys((4, 5, 6), "early"),
        **dict.fromkeys((20, 21, 22), "middle"),
        **dict.fromkeys((37, 38, 39), "late"),
    }
    with pytest.raises(InputError, match="--decisions 39: a run has 40, and the first 4 are left out"):
        reward_signal.blocks_of(40, 39)


def test_seeds_that_rank_alike_agree_wholly() -> None:
    patterns = list(Pointers.all(3))
    losses = {pattern: np.array([1.0, 5.0, 3.0]) + number for number, pattern in enumerate(patterns)}
    assert reward_signal.seed_tau(losses) == pytest.approx(1)
    losses[patterns[0]] = np.array([1.0, 5.0, 9.0])  # the best of two seeds, the worst of the third
    assert reward_signal.seed_tau(losses) == pytest.approx((1 + 0.2 + 0.2) / 3)
