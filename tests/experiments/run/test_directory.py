"""The run directory: what is written in one step, what is refused, and what made the run."""

import json
import os
import platform
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from experiments.run import provenance
from experiments.run.directory import Line, RunDirectory
from experiments.run.provenance import made_by
from tying.errors import InputError
from tying.pointers import Pointers
from tying.training.record import StepRecord

RECORD = StepRecord(
    decision=0,
    iteration=8,
    num_iterations=8,
    pointers=Pointers((0, 0)),
    previous_pointers=Pointers((0, 1)),
    layer=1,
    action=0,
    explored=True,
    action_value=0.5,
    tokens=2048,
    reward_loss=3.9,
    block_params=100,
    independent_block_params=400,
    gradient_norms=(0.1, 0.2),
    similarities=(0.0, 1.0),
    reward=0.1,
    reward_terms={"improvement": 0.2, "params": -0.1},
    param_weight=0.4,
    train_s=0.5,
    evaluate_s=0.25,
)
LINE = Line(record=RECORD, wall_s=2.5, cpu_s=2.0, decision_s=0.125, agent={"q": [0.1, 0.2], "epsilon": 1.0})


def missing(*_: Any, **__: Any) -> None:
    raise FileNotFoundError


# What made a run.


def test_what_makes_things_is_told() -> None:
    told = json.loads(json.dumps(made_by()))
    assert told.keys() == {"python", "platform", "processor", "cores", "git", "packages"}
    assert told["python"] == platform.python_version()
    assert told["cores"] == os.cpu_count()
    assert told["packages"]["numpy"] == np.__version__


def test_a_package_or_a_program_that_is_not_there_is_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provenance, "_PACKAGES", ("numpy", "no-such-package"))
    monkeypatch.setattr(subprocess, "run", missing)
    told = made_by()
    assert told["packages"] == {"numpy": np.__version__, "no-such-package": None}
    assert told["git"] is None


def test_where_linux_does_not_tell_the_processor_python_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "read_text", missing)
    monkeypatch.setattr(platform, "processor", lambda: "abacus")
    assert provenance._processor() == "abacus"
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: "flags : fpu\nmodel name\t: Sand 9 @ 1 Hz\nmodel name : x\n")
    assert provenance._processor() == "Sand 9 @ 1 Hz"


# Lines.


@pytest.mark.parametrize("action", [3, [0, 1]])
def test_a_line_is_the_record_and_the_clocks(action: int | list[int]) -> None:
    line = replace(LINE, record=replace(RECORD, action=action))
    text = line.to_json()
    assert text.endswith("\n") and text.count("\n") == 1
    values = json.loads(text)
    clocks = {"wall_s": 2.5, "cpu_s": 2.0, "decision_s": 0.125, "agent": LINE.agent}
    assert values == {**json.loads(json.dumps(line.record.to_dict())), **clocks}
    assert Line.from_json(text.encode()) == line


@pytest.mark.parametrize("name", [*RECORD.to_dict(), "wall_s", "cpu_s", "decision_s", "agent"])
def test_a_line_without_a_field_is_damaged(name: str) -> None:
    values = json.loads(LINE.to_json())
    del values[name]
    with pytest.raises(InputError, match=f"{name}: field required"):
        Line.from_json(json.dumps(values).encode())


# The folder.


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    """A run that has just begun."""
    run = RunDirectory(tmp_path / "run")
    run.create({"preset": "tiny", "seed": 3}, ["python", "-m", "x", "a b"], {"device": "cpu"})
    return run


def lines(count: int) -> list[Line]:
    return [replace(LINE, record=replace(RECORD, decision=index)) for index in range(count)]


def test_naming_a_run_touches_nothing(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "run")
    run.require_new()
    assert run.read_decisions() == []
    assert run.latest_checkpoint() is None
    assert list(tmp_path.iterdir()) == []


def test_config_comes_back_as_it_was(run: RunDirectory) -> None:
    assert run.read_config() == run.config_file
    assert json.loads(run.config_file.read_text()) == {"preset": "tiny", "seed": 3}


def test_what_was_run_by_what_is_written_down(run: RunDirectory) -> None:
    assert (run.path / "command.txt").read_text() == "python -m x 'a b'\n"
    versions = json.loads((run.path / "versions.json").read_text())
    assert versions["device"] == "cpu"
    assert versions["packages"]["torch"]
    assert {"python", "platform", "git"} <= versions.keys()


def test_used_folder_is_refused_and_left_alone(run: RunDirectory) -> None:
    before = run.config_file.read_bytes()
    for act in (run.require_new, lambda: run.create({"preset": "other"}, [], {})):
        with pytest.raises(InputError, match="exists and is not empty"):
            act()
    assert run.config_file.read_bytes() == before


def test_file_in_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("")
    with pytest.raises(InputError, match="exists and is not empty"):
        RunDirectory(tmp_path / "run").require_new()


def test_folder_under_a_file_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"--out .*/file/deep/run: cannot be made, since .*/file is no folder"):
        RunDirectory(tmp_path / "file" / "deep" / "run").require_new()
    RunDirectory(tmp_path / "new" / "deep" / "run").require_new()
    assert not (tmp_path / "new").exists()


def test_empty_folder_can_be_used(tmp_path: Path) -> None:
    RunDirectory(tmp_path).create({}, [], {})
    assert RunDirectory(tmp_path).read_config().read_text() == "{}\n"


def test_folder_without_config_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not a run directory"):
        RunDirectory(tmp_path).read_config()


@pytest.mark.parametrize("content", ["", "[]", "3", "{}", '{"pointers": [0]}', '{"test_loss": 1, "seed": 0}'])
def test_damaged_summary_is_refused(run: RunDirectory, content: str) -> None:
    run.final.mkdir()
    (run.final / "summary.json").write_text(content)
    with pytest.raises(InputError, match=r"summary\.json: (damaged|unreadable)"):
        run.read_summary()


def test_summary_of_an_unfinished_run_says_how_to_resume(run: RunDirectory) -> None:
    assert not run.finished
    with pytest.raises(InputError, match=r"not finished; resume it by python -m experiments\.train --resume"):
        run.read_summary()


# decisions.jsonl


def test_decisions_come_back_as_they_were(run: RunDirectory) -> None:
    run.rewrite_decisions(lines(5))
    assert run.read_decisions() == lines(5)


@pytest.mark.parametrize("kept", [1, 40, -1])
def test_torn_last_line_is_left_out(run: RunDirectory, kept: int) -> None:
    run.rewrite_decisions(lines(3))
    text = run.decisions_file.read_bytes()
    last = lines(4)[3].to_json().encode()
    run.decisions_file.write_bytes(text + last[:kept])
    assert run.read_decisions() == lines(3)


def test_last_line_torn_inside_a_character_is_left_out(run: RunDirectory) -> None:
    run.rewrite_decisions(lines(3))
    with run.decisions_file.open("ab") as file:
        file.write("ï".encode()[:1])
    assert run.read_decisions() == lines(3)


@pytest.mark.parametrize("damage", ["", "{", "\x00\x00\x00", "3", "[]", "null", '{"decision": 1', "{}\x0b{}", "{}\u2028"])
def test_damaged_line_in_the_middle_is_named(run: RunDirectory, damage: str) -> None:
    good = [line.to_json() for line in lines(3)]
    run.decisions_file.write_text(good[0] + damage + "\n" + good[2], encoding="utf-8")
    with pytest.raises(InputError, match=r"decisions\.jsonl: line 2 is "):
        run.read_decisions()


@pytest.mark.parametrize("order", [(0, 2), (0, 1, 1), (1, 2), (0, 1, 3)])
def test_gap_or_repeat_is_named(run: RunDirectory, order: tuple[int, ...]) -> None:
    run.rewrite_decisions([lines(4)[index] for index in order])
    first_wrong = next(place for place, index in enumerate(order) if place != index)
    with pytest.raises(InputError, match=f"line {first_wrong + 1} is not decision {first_wrong}"):
        run.read_decisions()


# Checkpoints


def add_checkpoint(run: RunDirectory, decisions: int) -> None:
    folder = run.checkpoint_folder(decisions)
    folder.mkdir(parents=True)
    (folder / "state.json").write_text("{}")


def test_newest_checkpoints_are_kept_and_latest_names_the_last(run: RunDirectory) -> None:
    for decisions in (3, 6, 9, 10):
        add_checkpoint(run, decisions)
        run.keep_checkpoints(2)
    assert sorted(path.name for path in run.checkpoints.iterdir()) == ["000009", "000010", "latest"]
    assert (run.checkpoints / "latest").resolve() == run.checkpoint_folder(10)
    assert run.latest_checkpoint() == (10, run.checkpoint_folder(10))


def test_folders_of_a_persons_own_are_no_checkpoints(run: RunDirectory) -> None:
    own = ["12", "9backup", "000012.bak", "0000012"]
    for name in own:
        (run.checkpoints / name).mkdir(parents=True)
    for decisions in (3, 6, 9):
        add_checkpoint(run, decisions)
        run.keep_checkpoints(2)
    run.remove_after(6)
    run.keep_checkpoints(2)
    assert sorted(path.name for path in run.checkpoints.iterdir()) == sorted([*own, "000006", "latest"])
    assert (run.checkpoints / "latest").resolve() == run.checkpoint_folder(6)
    assert run.latest_checkpoint() == (6, run.checkpoint_folder(6))


def test_snapshots_that_lead_to_the_kept_checkpoints_are_kept(run: RunDirectory) -> None:
    for decisions in (4, 8, 12, 16):
        run.snapshot_folder(decisions).mkdir(parents=True)
    run.keep_checkpoints(2)  # without a checkpoint, nothing is known to be of no use
    assert len(list(run.snapshots.iterdir())) == 4
    for decisions in (9, 12, 15):
        add_checkpoint(run, decisions)
        run.keep_checkpoints(2)
    assert sorted(path.name for path in run.snapshots.iterdir()) == ["000008", "000012", "000016"]
    # The one right at a checkpoint leaves nothing to be replayed.
    assert [run.snapshot_before(decisions) for decisions in (8, 9, 12, 13)] == [0, 8, 8, 12]
    run.remove_after(12)
    assert sorted(path.name for path in run.snapshots.iterdir()) == ["000008", "000012"]


def test_half_written_checkpoint_does_not_count(run: RunDirectory) -> None:
    add_checkpoint(run, 3)
    (run.checkpoints / ".000006.123.tmp").mkdir()
    (run.checkpoints / "000009").write_text("no folder")
    assert run.latest_checkpoint() == (3, run.checkpoint_folder(3))


def test_what_a_killed_process_was_writing_is_removed(run: RunDirectory) -> None:
    add_checkpoint(run, 3)
    (run.checkpoints / ".000006.123.tmp").mkdir()
    (run.path / ".decisions.jsonl.123.tmp").write_text("half")
    (run.path / "notes.txt").write_text("a person's own")
    run.remove_leftovers()
    assert [path.name for path in run.checkpoints.iterdir()] == ["000003"]
    assert not list(run.path.glob(".*.tmp"))
    assert (run.path / "notes.txt").is_file()


def test_one_process_at_a_time_trains_a_run(tmp_path: Path) -> None:
    run, same = RunDirectory(tmp_path), RunDirectory(tmp_path)
    with run.locked():
        with pytest.raises(InputError, match="another process is training this run"), same.locked():
            pass
    with same.locked():
        assert same.path == tmp_path
