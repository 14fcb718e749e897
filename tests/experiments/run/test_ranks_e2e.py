"""Several processes under one run: equal to one, written by one, ended by one, and resumed bit by bit."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import PATIENCE_S, ROOT, Finished
from tests.conftest import words as text
from tests.experiments.runs import assert_same, contents, decisions, read, summary
from tests.launch import Launch, train_script

pytestmark = pytest.mark.e2e

SMALL = (
    "--preset tiny --trainer.iterations 16 --env.decision-interval 2 --model.width 8 --model.num-layers 3 "
    "--trainer.batch-size 4 --trainer.device cpu"
).split()
# Both branches of a fork are trained together, and the masks of dropout have to come back on every rank.
FAULTY = [
    *SMALL,
    *"--reward fork --model.dropout 0.1 --checkpoint-interval 3 --agent random".split(),
    *"--task faulty:Faulty --data.path corpus.txt".split(),
]
FAULT = 13  # the iteration in which a rank meets what is in the file of its name

MODULE = f"""
import os, pathlib, signal
from tying.tasks.causal_lm import CausalLM

class Faulty(CausalLM):
    def batch(self, seed, index, batch_size):
        file = pathlib.Path("fault-" + os.environ.get("RANK", ""))
        if index == {FAULT} and file.exists():
            fault = file.read_text()
            file.unlink()
            if fault == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            raise OSError(fault)
        return super().batch(seed, index, batch_size)

    def facts(self):
        other = pathlib.Path("other-text-" + os.environ.get("RANK", "")).exists()
        return super().facts() | ({{"corpus_sha256": "0"}} if other else {{}})
"""


def prepare(folder: Path) -> None:
    """Write the module and the text that `FAULTY` names."""
    (folder / "faulty.py").write_text(MODULE)
    (folder / "corpus.txt").write_text(text(6_000), encoding="utf-8")


def launched(folder: Path, *words: str | Path, size: int = 2) -> list[Finished]:
    """Return how the ranks end."""
    return Launch(folder, size, train_script, *words).wait()


def names_of(run: Path) -> set[str]:
    """Return the files of a run; those of TensorBoard have the process's number in their names."""
    return {str(path.relative_to(run)) for path in contents(run) if path.parent.name != "tb"}


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an uninterrupted run of two ranks."""
    folder = tmp_path_factory.mktemp("reference")
    prepare(folder)
    first, second = launched(folder, *FAULTY, "--out", "run")
    assert (first.status, second.status) == (0, 0), (first, second)
    assert "device cpu, 2 processes; agent random" in first.out and first.err == ""
    assert (second.out, second.err) == ("", "")
    assert (folder / "run" / "command.txt").read_text().startswith("torchrun --nproc-per-node 2 -m experiments.train ")
    assert len({tuple(line["pointers"]) for line in decisions(folder / "run")}) > 2
    return folder / "run"


def test_torchrun_trains_as_one_process_does(
    train: Callable[..., Finished], tmp_path: Path, text_file: Path, cache: Path
) -> None:
    words = [*SMALL, "--agent", "random", "--data.path", str(text_file)]
    assert train(*words, "--out", "one").status == 0
    command = "-m torch.distributed.run --standalone --nproc-per-node 2 -m experiments.train".split()
    done = subprocess.run(
        [sys.executable, *command, *words, "--out", "two"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("test loss") == 1
    one, two = tmp_path / "one", tmp_path / "two"
    assert names_of(two) == names_of(one)
    for found, expected in zip(decisions(two), decisions(one), strict=True):
        assert found["pointers"] == expected["pointers"] and found["action"] == expected["action"]
        assert [found[n] for n in ("train_loss", "reward_loss", "reward")] == pytest.approx(
            [expected[n] for n in ("train_loss", "reward_loss", "reward")], abs=1e-4
        )
    found, expected = summary(two), summary(one)
    measured = {name for name in expected if name.startswith("test_") or name == "reward_loss"}
    assert {name: found[name] for name in measured} == pytest.approx({n: expected[n] for n in measured}, rel=1e-4)
    assert {**found, **dict.fromkeys(measured)} == {**expected, **dict.fromkeys(measured)}


@pytest.mark.parametrize("rank", [0, 1])
def test_a_run_of_which_a_rank_is_killed_is_resumed_bit_by_bit(tmp_path: Path, reference: Path, rank: int) -> None:
    prepare(tmp_path)
    (tmp_path / f"fault-{rank}").write_text("kill")
    ends = launched(tmp_path, *FAULTY, "--out", "run")
    other = ends[1 - rank]
    assert (ends[rank].status, other.status) == (-signal.SIGKILL, 1)
    lines = other.err.splitlines()
    assert lines[-1] == "error: stopped: another process of this training has ended, or does not answer"
    resume = "torchrun --nproc-per-node 2 -m experiments.train --resume run --trust"
    assert lines[:-1] == ([f"to resume: {resume}"] if rank == 1 else [])
    assert 0 < len(decisions(tmp_path / "run")) < len(decisions(reference))
    ends = launched(tmp_path, "--resume", "run", "--trust")
    assert [done.status for done in ends] == [0, 0], ends
    assert "warning" not in ends[0].out
    assert_same(tmp_path / "run", reference)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_failure_of_one_rank_is_told_by_it_alone(tmp_path: Path, rank: int) -> None:
    prepare(tmp_path)
    (tmp_path / f"fault-{rank}").write_text("the text is gone")
    ends = launched(tmp_path, *FAULTY, "--out", "run")
    assert [done.status for done in ends] == [1, 1]
    assert [line for done in ends for line in done.err.splitlines() if not line.startswith("to resume: ")] == [
        "error: stopped: the text is gone"
    ]
    assert "the text is gone" in ends[rank].err


def test_a_run_resumed_by_another_number_of_processes_says_so(
    train: Callable[..., Finished], tmp_path: Path, reference: Path
) -> None:
    prepare(tmp_path)
    (tmp_path / "fault-1").write_text("the text is gone")
    words = [word if word != "0.1" else "0" for word in FAULTY]
    launched(tmp_path, *words, "--out", "run")
    done = train("--resume", "run", "--trust")
    assert done.status == 0, done.err
    assert "warning: the run may not end bit by bit as it would have: processes 2, now 1" in done.out
    assert train(*words, "--out", "one").status == 0
    assert [line["pointers"] for line in decisions(tmp_path / "run")] == [
        line["pointers"] for line in decisions(tmp_path / "one")
    ]
    assert summary(tmp_path / "run")["test_loss"] == pytest.approx(summary(tmp_path / "one")["test_loss"], rel=1e-4)
    assert read(tmp_path / "run" / "versions.json")["processes"] == 2


def test_ranks_that_read_other_texts_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    prepare(tmp_path)
    (tmp_path / "other-text-1").touch()
    ends = launched(tmp_path, *FAULTY, "--out", "run")
    assert sorted(done.status for done in ends) == [1, 2]
    (told,) = (line for done in ends for line in done.err.splitlines())
    assert told == "error: corpus corpus.txt: not the same for all processes; each reads it on its own machine"
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--trainer.batch-size", "3"], "error: trainer.batch_size = 3: must be a multiple of 2 processes"),
        (["--agent", "ppp"], "error: unknown agent 'ppp': did you mean 'ppo'?"),
    ],
)
def test_bad_input_is_told_once_before_anything_is_written(tmp_path: Path, words: list[str], line: str) -> None:
    prepare(tmp_path)
    ends = launched(tmp_path, *FAULTY, *words, "--out", "run")
    assert sorted(done.status for done in ends) == [1, 2]
    (told,) = (text for done in ends for text in done.err.splitlines())
    assert told.startswith(line)
    assert not (tmp_path / "run").exists()


def test_help_and_the_result_of_a_finished_run_are_shown_once(tmp_path: Path, reference: Path) -> None:
    prepare(tmp_path)
    for words, shown in ((["--help"], "usage: "), (["--resume", reference, "--trust"], "is finished:")):
        ends = launched(tmp_path, *words)
        assert [done.status for done in ends] == [0, 0], ends
        assert ends[0].out.count(shown) == 1
        assert (ends[1].out, ends[1].err) == ("", "")
