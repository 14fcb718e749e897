"""Clock: the seconds of several processes, of which some are killed."""

from pathlib import Path

import pytest

from experiments.compression import clock
from experiments.compression.clock import Clock
from tying.errors import InputError


def test_seconds_of_all_processes_are_added_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 50.0
    monkeypatch.setattr(clock.time, "monotonic", lambda: now)
    first = Clock(tmp_path / "clock.json")
    assert first.seconds == 0
    now = 53.0
    first.tick()
    now = 53.5
    first.tick()  # too soon to be written
    assert first.seconds == 3.5
    now = 1_000.0  # the first was killed at 53.5, and nothing worked on it for a while
    second = Clock(tmp_path / "clock.json")
    assert second.seconds == 3.0
    now = 1_000.25
    second.write()
    now = 7.0  # after a start of the machine
    assert Clock(tmp_path / "clock.json").seconds == 3.25


def test_a_clock_without_a_file_writes_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Clock(None).write()
    assert not list(tmp_path.iterdir())


def test_a_damaged_file_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "clock.json").write_text('{"wall_s": "long"}')
    with pytest.raises(InputError, match=r"clock.json: damaged .*remove it to begin at 0"):
        Clock(tmp_path / "clock.json")
