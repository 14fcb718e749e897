"""Records: values that survive JSON, and the run directory."""

import json
import math
import os
import platform
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tying.records import FORMAT, Decision, RunDirectory, Window, made_by, perplexity, window_of

from tying import records
from tying.errors import InputError
from tying.pointers import Pointers

finite = st.floats(allow_nan=False, allow_infinity=False)
WINDOW = Window(8, 2048, 4.1, 4.0, 3.9, 100, 400, (0.1, 0.2), (0.0, 1.0))
DECISION = Decision(
    index=0,
    layer=1,
    action=0,
    frozen=False,
    pointers=Pointers((0, 0)),
    reward=0.1,
    reward_terms={"improvement": 0.2, "params": -0.1},
    window=WINDOW,
    train_s=0.5,
    evaluate_s=0.25,
    param_weight=0.4,
)


def missing(*_: Any, **__: Any) -> None:
    raise FileNotFoundError


def through_json(value: dict[str, Any]) -> dict[str, Any]:
    back: dict[str, Any] = json.loads(json.dumps(value))
    return back


# Values.


def test_what_makes_things_is_told() -> None:
    told = through_json(made_by())
    assert told.keys() == {"python", "platform", "processor", "cores", "git", "packages"}
    assert told["python"] == platform.python_version()
    assert told["cores"] == os.cpu_count()
    assert told["packages"]["numpy"] == np.__version__


def test_a_package_or_a_program_that_is_not_there_is_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "_PACKAGES", ("numpy", "no-such-package"))
    monkeypatch.setattr(subprocess, "run", missing)
    told = made_by()
    assert told["packages"] == {"numpy": np.__version__, "no-such-package": None}
    assert told["git"] is None


def test_where_linux_does_not_tell_the_processor_python_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "read_text", missing)
    monkeypatch.setattr(platform, "processor", lambda: "abacus")
    assert records._processor() == "abacus"
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: "flags : fpu\nmodel name\t: Sand 9 @ 1 Hz\nmodel name : x\n")
    assert records._processor() == "Sand 9 @ 1 Hz"


@given(
    losses=st.tuples(finite, finite, finite),
    counts=st.tuples(*[st.integers(0, 2**53)] * 4),
    norms=st.lists(finite, max_size=5),
)
def test_window_survives_json_exactly(
    losses: tuple[float, float, float], counts: tuple[int, int, int, int], norms: list[float]
) -> None:
    window = Window(*counts[:2], *losses, *counts[2:], tuple(norms), tuple(reversed(norms)), losses[0], tuple(norms))
    assert window_of(through_json(replace(DECISION, window=window).to_dict())) == window


@pytest.mark.parametrize("value", [math.inf, -math.inf])
def test_window_of_a_diverged_run_survives_json(value: float) -> None:
    window = replace(WINDOW, reward_loss=value)
    assert window_of(through_json(replace(DECISION, window=window).to_dict())) == window


@pytest.mark.parametrize("action", [3, [0, 1, 1]])
def test_decision_survives_json_exactly(action: int | list[int]) -> None:
    line = through_json(replace(DECISION, action=action).to_dict())
    rebuilt = Decision(
        index=line["decision"],
        layer=line["layer"],
        action=line["action"],
        frozen=line["frozen"],
        pointers=Pointers(line["pointers"]),
        reward=line["reward"],
        reward_terms=line["reward_terms"],
        window=window_of(line),
        train_s=line["train_s"],
        evaluate_s=line["evaluate_s"],
        param_weight=line["param_weight"],
    )
    assert rebuilt == replace(DECISION, action=action)


def test_windows_of_older_records_are_read() -> None:
    line = through_json(DECISION.to_dict())
    for name in ("fork_loss", "gradient_similarities", "agreements"):
        del line[name]
    assert window_of(line) == WINDOW


def test_perplexity_is_finite_for_every_finite_loss() -> None:
    assert perplexity(2.0) == math.exp(2.0)
    assert math.isfinite(perplexity(1e9))
    assert math.isnan(perplexity(math.nan))


def test_param_share_is_a_share_of_the_untied_model() -> None:
    assert WINDOW.param_share == 0.25


# The folder.


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    """A run that has just begun."""
    run = RunDirectory(tmp_path / "run")
    run.create({"preset": "tiny", "seed": 3}, ["python", "-m", "x", "a b"], {"device": "cpu"})
    return run


def lines(count: int) -> list[dict[str, Any]]:
    return [through_json(replace(DECISION, index=index).to_dict()) for index in range(count)]


def test_naming_a_run_touches_nothing(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "run")
    run.require_new()
    assert run.read_decisions() == []
    assert run.latest_checkpoint() is None
    assert list(tmp_path.iterdir()) == []


def test_config_comes_back_as_it_was(run: RunDirectory) -> None:
    assert run.read_config() == {"preset": "tiny", "seed": 3}
    assert json.loads(run.config_file.read_text())["format"] == FORMAT


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
    assert RunDirectory(tmp_path).read_config() == {}


def test_folder_without_config_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not a run directory"):
        RunDirectory(tmp_path).read_config()


@pytest.mark.parametrize("content", ['{"format": 0}', '{"preset": "tiny"}', "[]", "3"])
def test_config_of_another_format_is_refused(run: RunDirectory, content: str) -> None:
    run.config_file.write_text(content)
    with pytest.raises(InputError, match=f"this version reads format {FORMAT}"):
        run.read_config()


# decisions.jsonl


def test_decisions_come_back_as_they_were(run: RunDirectory) -> None:
    run.rewrite_decisions(lines(5))
    assert run.read_decisions() == lines(5)


@pytest.mark.parametrize("kept", [1, 40, -1])
def test_torn_last_line_is_left_out(run: RunDirectory, kept: int) -> None:
    run.rewrite_decisions(lines(3))
    text = run.decisions_file.read_bytes()
    last = json.dumps(lines(4)[3]).encode() + b"\n"
    run.decisions_file.write_bytes(text + last[:kept])
    assert run.read_decisions() == lines(3)


def test_last_line_torn_inside_a_character_is_left_out(run: RunDirectory) -> None:
    run.rewrite_decisions(lines(3))
    with run.decisions_file.open("ab") as file:
        file.write("ï".encode()[:1])
    assert run.read_decisions() == lines(3)


def test_older_lines_are_not_damaged(run: RunDirectory) -> None:
    line = {name: value for name, value in lines(1)[0].items() if name not in ("fork_loss", "agreements", "param_weight")}
    run.rewrite_decisions([line])
    assert run.read_decisions() == [line]


@pytest.mark.parametrize("damage", ["", "{", "\x00\x00\x00", "3", "[]", "null", '{"decision": 1', "{}\x0b{}", "{}\u2028"])
def test_damaged_line_in_the_middle_is_named(run: RunDirectory, damage: str) -> None:
    good = [json.dumps(line) for line in lines(3)]
    run.decisions_file.write_text("\n".join([good[0], damage, good[2]]) + "\n", encoding="utf-8")
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


def test_half_written_checkpoint_does_not_count(run: RunDirectory) -> None:
    add_checkpoint(run, 3)
    (run.checkpoints / ".000006.123.tmp").mkdir()
    (run.checkpoints / "000009").write_text("no folder")
    assert run.latest_checkpoint() == (3, run.checkpoint_folder(3))


def test_one_process_at_a_time_trains_a_run(tmp_path: Path) -> None:
    run, same = RunDirectory(tmp_path), RunDirectory(tmp_path)
    with run.locked():
        with pytest.raises(InputError, match="another process is training this run"), same.locked():
            pass
    with same.locked():
        assert same.path == tmp_path
