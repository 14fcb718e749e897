"""Scripts called inside this process: the same as in a process of their own, in a fraction of the time."""

import importlib
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from experiments.run import cli
from tests.conftest import Finished


@pytest.fixture
def call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], one_thread: None
) -> Callable[..., Finished]:
    """Call `experiments.NAME` in the test's own folder, from where modules can be imported."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def run(name: str, *words: str | Path) -> Finished:
        main = importlib.import_module(f"experiments.{name}").main
        capsys.readouterr()
        status = cli.status(main, [str(word) for word in words])
        return Finished(status, *capsys.readouterr())

    return run
