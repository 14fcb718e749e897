"""A run that is killed before any one of its changes of files is resumed to the very result of an uninterrupted one."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from tests.conftest import ROOT, words
from tests.experiments.run.warm import CHANGES, OUTPUT
from tests.experiments.runs import assert_same, names

pytestmark = [pytest.mark.e2e, pytest.mark.skipif(not hasattr(os, "fork"), reason="needs a system that forks")]

Train = Callable[[Path, Sequence[str], int], int]

# Six decisions with three checkpoints, of which the first is removed.
BASE = (
    "--preset tiny --trainer.iterations 6 --env.decision-interval 1 --model.width 8 --model.num-layers 2 "
    "--trainer.batch-size 2 --reward.num-batches 1 --model.dropout 0.1 --checkpoint-interval 2 "
    "--data.path corpus.txt --out run"
).split()
# One that is restored from snapshots, one that is shown its record again.
AGENTS = {"dqn": "--agent dqn --agent.learning-starts 2", "local_search": "--agent local_search --agent.explore 1"}


@pytest.fixture(scope="module")
def train() -> Iterator[Train]:
    """Call `train` in a process forked from a warm one; see warm.py."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "tests.experiments.run.warm"]
    with subprocess.Popen(
        command, env=environment, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdin is not None and parent.stdout is not None

        def call(folder: Path, arguments: Sequence[str], number: int) -> int:
            print(json.dumps([str(folder), arguments, number]), file=parent.stdin, flush=True)
            return int(parent.stdout.readline())

        yield call
        parent.stdin.close()


@pytest.fixture(scope="module", params=AGENTS)
def whole(request: pytest.FixtureRequest, train: Train, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an uninterrupted run; what it was begun with is beside it."""
    folder = tmp_path_factory.mktemp("whole")
    (folder / "corpus.txt").write_text(words(3_000), encoding="utf-8")
    (folder / "command.json").write_text(json.dumps([*BASE, *AGENTS[request.param].split()]))
    assert train(folder, command(folder), 0) == 0, (folder / OUTPUT).read_text()
    return folder


def command(folder: Path) -> list[str]:
    """Return the call that resumes the run in a folder, or begins it where it has not begun."""
    if (folder / "run" / "config.json").is_file():
        return ["--resume", "run"]
    found: list[str] = json.loads((folder / "command.json").read_text())
    return found


def changes(folder: Path) -> list[str]:
    """Return the changes of files that the last process in a folder made; killed, it did not make the last one."""
    return (folder / CHANGES).read_text().splitlines()


def survive(train: Train, whole: Path, folder: Path, *numbers: int, torn: bool = False) -> None:
    """Begin the same run elsewhere, kill its processes before changes of files, and let another end it.

    Args:
        train: See there.
        whole: The run.
        folder: A new one.
        numbers: Process after process, the change that it is killed before; a process that makes fewer ends the run.
        torn: Whether the first one is killed while it writes to the record.
    """
    folder.mkdir()
    for name in ("corpus.txt", "command.json"):
        shutil.copy(whole / name, folder)
    for index, number in enumerate((*numbers, 0)):
        status = train(folder, command(folder), number)
        known = changes(folder)
        print(f"process {index}: killed before change {number} {known[-1:]}: status {status}")
        assert status == (-signal.SIGKILL if number and len(known) == number else 0), (folder / OUTPUT).read_text()
        assert status or index
        if torn and not index:
            record = folder / "run" / "decisions.jsonl"
            record.write_bytes(record.read_bytes()[:-9])
    assert_same(folder / "run", whole / "run")
    assert names(folder / "run" / "snapshots") == names(whole / "run" / "snapshots")
    shutil.rmtree(folder)


def test_what_the_runs_have_to_lose(whole: Path) -> None:
    known = " ".join(changes(whole))
    for change in (
        "mkdir run",
        "rename run/.config.json",
        "open run/decisions.jsonl",
        "symlink 000004",
        "rmdir run/checkpoints/000002",
        "rename run/.final",
    ):
        assert change in known
    assert ("rename run/snapshots" in known) == ("dqn" in (whole / "command.json").read_text())


def test_a_run_killed_before_a_change_of_files_ends_as_if_it_had_not_been(
    train: Train, whole: Path, tmp_path: Path
) -> None:
    """Some changes, spread over the run and the processes that resume it; all of them are in the slow test below."""
    for number in range(5, len(changes(whole)) + 1, 37):
        survive(train, whole, tmp_path / "again", number, 1 + 7 * number % 60)


def test_a_run_killed_while_it_writes_to_its_record(train: Train, whole: Path, tmp_path: Path) -> None:
    appends = [number for number, change in enumerate(changes(whole), 1) if change == "open run/decisions.jsonl"]
    assert len(appends) == 6
    survive(train, whole, tmp_path / "again", appends[2] + 1, torn=True)


@pytest.mark.slow
@pytest.mark.skipif("TYING_KILLS" not in os.environ, reason="takes ten minutes: TYING_KILLS=1")
def test_every_change_of_files_can_be_the_last(train: Train, whole: Path, tmp_path: Path) -> None:
    """Every change of a run, and of the process that resumes it somewhere."""
    for number in range(1, len(changes(whole)) + 1):
        survive(train, whole, tmp_path / "again", number, 1 + 37 * number % 101)
