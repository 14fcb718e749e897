"""Names are shown as they are, printed commands work, and machines that lack something are told of in one line."""

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from experiments.run import cli
from experiments.run.recorder import Recorder
from tests.conftest import Finished, words
from tests.experiments.runs import SMALL, decisions, interrupted_after, weights

pytestmark = pytest.mark.e2e

Call = Callable[..., Finished]
NAMES = ["run[/x] [b]y", "a[bold]b", ":smile:", "run ünï 文 'dir'", "[a-z]*.md"]


@pytest.mark.parametrize("name", NAMES)
def test_names_are_no_markup_and_printed_commands_work(call: Call, name: str, tmp_path: Path) -> None:
    folder, corpus = tmp_path / name / "o", tmp_path / f"{name} corpus" / "text.txt"
    corpus.parent.mkdir(parents=True)
    corpus.write_text(words(4_000), encoding="utf-8")
    flags = (*SMALL, "--agent", "random", "--data.path", corpus, "--out", folder)
    with interrupted_after(5):
        stopped = call("train", *flags)
    assert stopped.status == 130
    assert f"corpus {corpus}: reading" in stopped.out and f"run {folder}" in stopped.out
    (line,) = [line for line in stopped.err.splitlines() if line.startswith("to resume: ")]
    resumed = call("train", *shlex.split(line)[5:])
    assert resumed.status == 0
    commands = dict(
        line.split(maxsplit=1) for line in resumed.out.splitlines() if line[:6] in ("sample", "resume", "look  ")
    )
    sampled = shlex.split(commands["sample"])
    assert call("sample", *sampled[3:], "--num-tokens", "2", "--prompt", "t").status == 0
    assert shlex.split(commands["resume"])[3:5] == ["--resume", str(folder)]
    assert str(folder.parent) in shlex.split(commands["look"])


def test_names_of_a_comparison_are_no_markup(call: Call, tmp_path: Path) -> None:
    corpus = tmp_path / "[/b].txt"
    corpus.parent.mkdir()
    corpus.write_text(words(4_000), encoding="utf-8")
    flags = (*SMALL, "--data.path", corpus, "--seeds", "1", "--jobs", "1", "--out", tmp_path / "[/c]")
    ended = call("compare", "--agents", "independent", "sequence:2", *flags)
    assert ended.status == 0
    assert f"runs in {tmp_path / '[/c]'};" in ended.out


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB\nmore"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:1] . DefaultCPUAllocator: can't allocate memory: you tried ..."),
    ],
    ids=["python", "cuda", "cpu"],
)
def test_no_memory_in_mid_run_is_one_line_and_resume_is_identical(
    call: Call, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    on_decision = Recorder.on_decision

    def fail(self: Recorder, record: Any, *others: Any) -> None:
        on_decision(self, record, *others)
        if record.decision == 4:
            raise error

    with monkeypatch.context() as patch:
        patch.setattr(Recorder, "on_decision", fail)
        ended = call("train", *SMALL, "--agent", "random", "--out", "o")
    assert ended.status == 1
    to_resume, line = ended.err.splitlines()
    assert to_resume == "to resume: python -m experiments.train --resume o"
    assert line.startswith("error: stopped: out of memory (")
    assert call("train", "--resume", "o").status == 0
    assert call("train", *SMALL, "--agent", "random", "--out", "whole").status == 0
    assert weights(Path("o")) == weights(Path("whole"))
    assert decisions(Path("o")) == decisions(Path("whole"))


@pytest.mark.parametrize(
    "flags",
    [
        ("--model.width", "40000000", "--model.num-heads", "1"),
        ("--agent", "dqn", "--agent.buffer-size", "1000000000000000"),
        ("--agent", "double_dqn", "--agent.width", "1000000000000"),
    ],
    ids=str,
)
def test_no_memory_at_the_start_is_one_line_before_the_folder_is_made(call: Call, flags: tuple[str, ...]) -> None:
    ended = call("train", *SMALL, "--out", "o", *flags)
    assert ended.status in (1, 2)
    assert len(ended.err.splitlines()) == 1
    assert not Path("o").exists()


def test_other_failures_stay_what_they_are() -> None:
    def main(_: Any) -> None:
        raise RuntimeError("a fault of ours")

    with pytest.raises(RuntimeError, match="a fault of ours"):
        cli.status(main, [])


def test_no_compiler_is_one_line_before_the_folder_is_made(
    scripts: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = (*SMALL, "--trainer.compile", "--out", "o")
    ended = scripts.run("train", *flags, cwd=tmp_path, env={"CXX": str(tmp_path / "nowhere")})
    assert ended.status == 2
    (line,) = ended.err.splitlines()
    assert "nothing can be compiled for cpu here" in line and "leave out --trainer.compile" in line
    assert not (tmp_path / "o").exists()
