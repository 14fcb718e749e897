"""What a run left is what it reads again: flipped bits, edited settings and records, power cuts, two processes at once."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from experiments.run import job
from experiments.run.command_line import parse
from experiments.run.directory import Line, RunDirectory
from experiments.run.job import Job
from experiments.run.load import load_run
from experiments.run.recorder import Recorder
from tests.conftest import Finished, words
from tests.experiments.runs import (
    SMALL,
    alive,
    call_in,
    change,
    config_of,
    decisions,
    interrupted_after,
    read,
    until,
    weights,
)
from tying import files
from tying.data import tokenizers
from tying.errors import InputError

pytestmark = pytest.mark.e2e

Train = Callable[..., Finished]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run, and the same run interrupted after its seventh decision of eight (checkpoints after 4 and 6)."""
    folder = tmp_path_factory.mktemp("runs")
    assert call_in(folder, "train", *SMALL, "--agent", "random", "--out", "whole") == 0
    with interrupted_after(7):
        assert call_in(folder, "train", *SMALL, "--agent", "random", "--out", "stopped") == 130
    return folder


@pytest.fixture
def run(folder: Path, tmp_path: Path) -> Path:
    """A copy of the interrupted run."""
    return Path(shutil.copytree(folder / "stopped", tmp_path / "run", symlinks=True))


@pytest.fixture
def finished(folder: Path, tmp_path: Path) -> Path:
    """A copy of the finished run."""
    return Path(shutil.copytree(folder / "whole", tmp_path / "finished", symlinks=True))


def flip(path: Path, place: int = -3) -> None:
    """Flip a bit of a file."""
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def told(train: Train, run: Path) -> str:
    """Return the one line with which a run is not resumed."""
    ended = train("--resume", run)
    assert ended.status == 2
    (line,) = ended.err.splitlines()
    return line


def test_the_interrupted_run_ends_as_the_whole_one(train: Train, folder: Path, run: Path) -> None:
    ended = train("--resume", run)
    assert ended.status == 0
    assert "warning" not in ended.out
    assert weights(run) == weights(folder / "whole")
    assert decisions(run) == decisions(folder / "whole")


# Checksums.


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors"])
def test_a_flipped_bit_of_a_checkpoint_is_refused_and_the_one_before_holds(
    train: Train, folder: Path, run: Path, name: str
) -> None:
    newest = run / "checkpoints" / "000006"
    flip(newest / name)
    assert told(train, run).startswith(f"error: {newest / name}: damaged")
    shutil.rmtree(newest)  # what the line says
    assert train("--resume", run).status == 0
    assert weights(run) == weights(folder / "whole")


def test_a_checkpoint_without_its_state_or_checksums_says_the_way_out(train: Train, run: Path) -> None:
    newest = run / "checkpoints" / "000006"
    for name in ("state.json", "checksums.json"):
        kept = (newest / name).read_bytes()
        (newest / name).unlink()
        assert told(train, run).endswith("; remove its folder to resume from the checkpoint before")
        (newest / name).write_bytes(b"{")
        assert told(train, run).endswith("; remove its folder to resume from the checkpoint before")
        (newest / name).write_bytes(kept)


def test_checkpoints_that_changed_places_are_refused(train: Train, run: Path) -> None:
    one, two = run / "checkpoints" / "000004", run / "checkpoints" / "000006"
    one.rename(run / "other")
    two.rename(one)
    (run / "other").rename(two)
    assert "a checkpoint of iteration 8" in told(train, run)


@pytest.mark.parametrize("name", ["model.safetensors", "pointers.json"])
def test_a_flipped_bit_of_a_final_model_is_refused(finished: Path, name: str) -> None:
    load_run(finished).model  # noqa: B018 (whole, it can be read)
    flip(finished / "final" / name)
    with pytest.raises(InputError, match=f"{name}: damaged"):
        load_run(finished).model  # noqa: B018


def test_a_flipped_bit_of_a_final_agent_is_refused(finished: Path) -> None:
    load_run(finished).agent  # noqa: B018
    path = finished / "final" / "agent" / "agent.json"
    path.write_text(path.read_text().replace('"seed": 0', '"seed": 1'))
    with pytest.raises(InputError, match=r"agent\.json: damaged"):
        load_run(finished).agent  # noqa: B018


# Files that a run was made from, and that its model needs.


def other_letters(path: Path) -> None:
    """Let two tokens of a tokenizer.json change places: the same size, the same vocabulary."""
    text = path.read_text(encoding="utf-8")
    form = json.loads(text)
    vocabulary = form["model"]["vocab"]
    vocabulary["a"], vocabulary["e"] = vocabulary["e"], vocabulary["a"]
    path.write_text(json.dumps(form, indent=2, ensure_ascii=False), encoding="utf-8")
    assert len(path.read_text(encoding="utf-8")) == len(text)


def own_tokenizer(path: Path) -> Path:
    tokenizers.make("char", 0, [], [words(6_000)]).save(str(path))
    return path


@pytest.mark.parametrize("stopped_after", [1, 7])
def test_a_tokenizer_of_the_same_size_that_has_changed_is_refused(
    train: Train, text_file: Path, tmp_path: Path, stopped_after: int
) -> None:
    tokenizer = own_tokenizer(tmp_path / "own.json")
    flags = ["--data.path", text_file, "--data.tokenizer", tokenizer, "--out", "o"]
    with interrupted_after(stopped_after):
        assert train(*SMALL, "--agent", "random", *flags).status == 130
    before = tokenizer.read_bytes()
    other_letters(tokenizer)
    assert told(train, Path("o")) == (
        f"error: cannot resume o: tokenizer {tokenizer} is no longer what it was at the run's beginning"
    )
    form = json.loads(before)
    form["truncation"] = {"direction": "Right", "max_length": 5, "strategy": "LongestFirst", "stride": 0}
    tokenizer.write_text(json.dumps(form))  # another file of the same tokenizer
    assert train("--resume", "o").status == 0


def test_a_tokenizer_that_is_gone_is_named(train: Train, text_file: Path, tmp_path: Path) -> None:
    tokenizer = own_tokenizer(tmp_path / "own.json")
    with interrupted_after(3):
        flags = ["--data.path", text_file, "--data.tokenizer", tokenizer, "--out", "o"]
        assert train(*SMALL, "--agent", "random", *flags).status == 130
    tokenizer.unlink()
    assert f"data.tokenizer = '{tokenizer}': no such file" in told(train, Path("o"))


def test_a_finished_run_with_the_tokenizer_of_another_is_not_used(finished: Path) -> None:
    assert load_run(finished).sample("a", 3)
    other_letters(finished / "tokenizer.json")
    for use in (lambda run: run.sample("a", 3), lambda run: run.model):
        with pytest.raises(InputError, match=r"tokenizer\.json: damaged .*it belongs to the model and must stay as it is"):
            use(load_run(finished))
    (finished / "tokenizer.json").unlink()
    with pytest.raises(InputError, match=r"tokenizer\.json: missing"):
        load_run(finished).sample("a", 3)


@pytest.fixture
def begun_with(train: Train, tmp_path: Path) -> Path:
    """An interrupted run whose policy began as a saved one, in the folder `policy` beside it."""
    double_dqn = [*SMALL, "--agent", "double_dqn"]
    assert train(*double_dqn, "--out", "first").status == 0
    shutil.copytree(tmp_path / "first" / "final" / "agent", tmp_path / "policy")
    assert train(*double_dqn, "--agent.init-from", "policy", "--out", "whole").status == 0
    with interrupted_after(7):
        assert train(*double_dqn, "--agent.init-from", "policy", "--out", "o").status == 130
    return tmp_path / "policy"


def test_a_policy_that_a_run_began_with_has_to_be_there_and_the_same(train: Train, begun_with: Path) -> None:
    begun_with.rename("elsewhere")
    line = "error: cannot resume o: agent.init_from = 'policy': no such folder; "
    assert told(train, Path("o")) == line + "the policy that the agent begins with has to be there"
    shutil.copytree("whole/final/agent", begun_with)
    assert told(train, Path("o")) == (
        "error: cannot resume o: init_from policy is no longer what it was at the run's beginning"
    )
    shutil.rmtree(begun_with)
    Path("elsewhere").rename(begun_with)
    assert train("--resume", "o").status == 0
    assert decisions(Path("o")) == decisions(Path("whole"))


def test_an_agent_is_loaded_without_the_policy_that_it_began_with(begun_with: Path) -> None:
    made: list[Any] = [load_run("whole").agent]
    shutil.rmtree(begun_with)
    made.append(load_run("whole").agent)
    known, alone = (agent.learner.network.state_dict() for agent in made)
    assert all(torch.equal(known[name], alone[name]) for name in known)
    assert made[1].config.init_from == "policy"
    assert made[1].epsilon == made[1].config.exploration_final_eps


# Settings and versions.


@pytest.mark.parametrize(
    ("section", "value"),
    [
        ("optim", {"learning_rate": 0.5}),
        ("reward", {"num_batches": 3}),
        ("trainer", {"iterations": 10}),
        ("model", {"dropout": 0.4}),
    ],
)
def test_edited_settings_are_refused(train: Train, run: Path, section: str, value: dict[str, Any]) -> None:
    change(run / "config.json", ["resolved", section], **value)
    assert f"{run / 'config.json'}: not the settings that the run began with" in told(train, run)


def test_another_version_or_device_is_said_in_one_line_and_the_run_goes_on(train: Train, folder: Path, run: Path) -> None:
    change(run / "versions.json", [], device="cuda:0", git="0000")
    change(run / "versions.json", ["packages"], torch="1.0")
    ended = train("--resume", run)
    assert ended.status == 0
    (line,) = [line for line in ended.out.splitlines() if line.startswith("warning")]
    assert "device cuda:0, now cpu" in line and "git 0000, now" in line and "torch 1.0, now" in line
    assert weights(run) == weights(folder / "whole")


# The record.


@pytest.mark.parametrize("values", [{"reward": 9.0}, {"param_weight": 0.3}, {"layer": 2}, {"action": 0}, {"frozen": True}])
def test_an_edited_line_of_the_record_is_refused(train: Train, run: Path, values: dict[str, Any]) -> None:
    lines = (run / "decisions.jsonl").read_text().splitlines()
    line = json.loads(lines[2])
    (name,) = values
    assert line[name] != values[name]
    lines[2] = json.dumps(line | values)
    (run / "decisions.jsonl").write_text("\n".join(lines) + "\n")
    assert f"decisions.jsonl: line 3 has {name} = " in told(train, run)


def test_a_measurement_that_is_no_number_does_not_blame_the_agent(train: Train, run: Path) -> None:
    lines = (run / "decisions.jsonl").read_text().splitlines()
    lines[2] = json.dumps(json.loads(lines[2]) | {"reward_loss": float("nan")})
    (run / "decisions.jsonl").write_text("\n".join(lines) + "\n")
    assert "line 3 is damaged, or of another version (reward_loss: input should be a finite number" in told(train, run)


@pytest.mark.parametrize("at", [5, 8])
@pytest.mark.parametrize("damage", ["remove", "shorten"])
def test_a_record_removed_while_its_run_trains_is_written_anew(
    train: Train, folder: Path, monkeypatch: pytest.MonkeyPatch, at: int, damage: str
) -> None:
    on_decision = Recorder.on_decision

    def spoil(self: Recorder, record: Any, *others: Any) -> None:
        on_decision(self, record, *others)
        if record.decision + 1 == at:
            file = self.directory.decisions_file
            file.unlink() if damage == "remove" else file.write_bytes(file.read_bytes()[:100])

    monkeypatch.setattr(Recorder, "on_decision", spoil)
    monkeypatch.setattr(files, "_warned", {})
    with pytest.warns(UserWarning, match="changed by something else while the run trained"):
        assert train(*SMALL, "--agent", "random", "--out", "o").status == 0
    assert decisions(Path("o")) == decisions(folder / "whole")


@pytest.mark.parametrize("kept", [4, 5])
def test_after_a_power_cut_the_older_checkpoint_holds(
    train: Train, folder: Path, run: Path, kept: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = run / "decisions.jsonl"
    record.write_bytes(b"".join(record.read_bytes().splitlines(keepends=True)[:kept]))
    monkeypatch.setattr(files, "_warned", {})
    with pytest.warns(UserWarning, match=f"{kept} decisions; resuming from the checkpoint before"):
        assert train("--resume", run).status == 0
    assert weights(run) == weights(folder / "whole")
    assert decisions(run) == decisions(folder / "whole")


def test_latest_is_right_after_a_resume(train: Train, finished: Path) -> None:
    """A process that was killed between its last checkpoint and the link, and before final/."""
    latest = finished / "checkpoints" / "latest"
    latest.unlink()
    latest.symlink_to("000006")
    shutil.copytree(finished / "checkpoints" / "000006", finished / "checkpoints" / "000004")
    shutil.rmtree(finished / "final")
    assert train("--resume", finished).status == 0
    assert latest.resolve().name == "000008"
    assert sorted(path.name for path in (finished / "checkpoints").iterdir()) == ["000006", "000008", "latest"]


# Two processes.


def test_nothing_is_read_before_the_lock_is_taken(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reader, others = RunDirectory.read_decisions, []

    def read_under_lock(self: RunDirectory) -> list[Line]:
        with pytest.raises(InputError, match="another process"), RunDirectory(self.path).locked():
            pass
        others.append(self.path)
        return reader(self)

    monkeypatch.setattr(RunDirectory, "read_decisions", read_under_lock)
    job.resume(RunDirectory(run), Console(quiet=True))
    assert others == [run]


def test_a_run_that_another_process_finished_meanwhile_is_left_alone(
    run: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run ends after this process saw that it is unfinished, and before it has the lock."""
    directory = RunDirectory(run)
    lock = directory._lock.acquire

    def late() -> Any:
        shutil.copytree(folder / "whole" / "final", run / "final", dirs_exist_ok=True)
        return lock()

    monkeypatch.setattr(directory._lock, "acquire", late)
    record = (run / "decisions.jsonl").read_bytes()
    job.resume(directory, Console(quiet=True))
    assert (run / "decisions.jsonl").read_bytes() == record


def test_two_runs_of_one_second_take_two_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, one_thread: None) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(time, "strftime", lambda *_: "20260101-000000")
    jobs = [Job.new(config_of(*SMALL, "--agent", "random"), None, ()) for _ in range(2)]
    for each in jobs:
        each.run(Console(quiet=True))
    one, two = (each.directory.path for each in jobs)
    assert (two.name, one.parent) == (f"{one.name}-2", two.parent)
    assert weights(one) == weights(two)


def test_a_run_shows_the_folder_that_it_took(train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "strftime", lambda *_: "20260101-000000")
    taken = tmp_path / "runs" / "tiny__random__s0__20260101-000000"
    taken.mkdir(parents=True)
    ended = train(*SMALL, "--agent", "random")
    assert ended.status == 0
    assert f"sample    python -m experiments.sample runs/{taken.name}-2" in ended.out
    assert list(taken.iterdir()) == []


def test_a_folder_of_a_run_that_was_killed_at_once_is_taken_by_its_command(train: Train, tmp_path: Path) -> None:
    path = tmp_path / "o"
    path.mkdir()
    (path / "command.txt").write_text("python -m experiments.train --out o\n")
    (path / ".versions.json.1-2.tmp").write_text("{")
    (path / ".lock").touch()
    assert "killed before it began; repeat its command" in told(train, path)
    assert train(*SMALL, "--agent", "random", "--out", path).status == 0
    assert read(path / "final" / "summary.json")["decisions"] == 8


def test_another_persons_files_keep_a_folder_from_being_taken(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(InputError, match="exists and is not empty"):
        parse(["--out", str(tmp_path)])


_PARENT = """
import os, sys, time
from experiments.study.workers import WorkerConfig, run_all

def endless(path):
    with open(path, "w") as file:
        file.write(str(os.getpid()))
    while True:
        time.sleep(0.05)

if __name__ == "__main__":
    sys.modules["parent"] = sys.modules["__main__"]
    list(run_all(endless, sys.argv[1:], WorkerConfig(jobs=2)))
"""


def test_workers_end_with_their_parent(tmp_path: Path) -> None:
    (tmp_path / "parent.py").write_text(_PARENT)
    paths = [tmp_path / "one", tmp_path / "two"]
    root = str(Path(__file__).resolve().parents[3])
    env = {**os.environ, "PYTHONPATH": os.pathsep.join((root, str(tmp_path)))}
    parent = subprocess.Popen([sys.executable, str(tmp_path / "parent.py"), *map(str, paths)], env=env, cwd=tmp_path)
    try:
        until(lambda: all(path.is_file() and path.read_text() for path in paths))
        pids = [int(path.read_text()) for path in paths]
        assert all(map(alive, pids))
    finally:
        parent.kill()
        parent.wait()
    until(lambda: not any(map(alive, pids)))
