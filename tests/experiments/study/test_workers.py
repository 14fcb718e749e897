"""Workers: every job once, in processes or on a cluster, and a countdown that counts."""

import math
import os
import re
import subprocess
import sys
import types
from collections.abc import Iterator
from io import StringIO
from pathlib import Path

import psutil
import pytest
from joblib.externals.loky import get_reusable_executor
from rich.console import Console

from experiments.study import workers
from experiments.study.workers import StudyConfig, WorkerConfig
from tying.errors import InputError


@pytest.fixture
def processes() -> Iterator[None]:
    """Let no process outlive a test."""
    yield
    get_reusable_executor().shutdown(wait=True)


def test_ray_has_to_be_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    assert WorkerConfig().backend == "loky"
    with pytest.raises(InputError, match=r"--backend ray needs the `ray` library: pip install 'layer-tying\[ray\]'"):
        WorkerConfig(backend="ray")


def test_without_work_no_cluster_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", types.ModuleType("ray"))  # installed, and of no use
    assert list(workers.run_all(abs, [], WorkerConfig(jobs=1, backend="ray"))) == []


@pytest.mark.parametrize("items", [[], [3], [4, 4, 1, 0, 7]])
def test_every_item_is_done_once(items: list[int]) -> None:
    done: list[int] = []
    found = list(workers.run_all(lambda item: done.append(item) or 10 * item, items, WorkerConfig(jobs=1)))
    assert sorted(done) == sorted(items)
    assert sorted(found) == sorted(10 * item for item in items)


def test_processes_do_every_item_once_with_one_thread_each(monkeypatch: pytest.MonkeyPatch, processes: None) -> None:
    assert sorted(workers.run_all(math.factorial, range(7), WorkerConfig(jobs=2))) == [1, 1, 2, 6, 24, 120, 720]
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert list(workers.run_all(os.getenv, ["OMP_NUM_THREADS"] * 3, WorkerConfig(jobs=2))) == ["1"] * 3
    assert os.environ["OMP_NUM_THREADS"] == "3"


class Parent:
    """A process as psutil shows it, on any system."""

    def __init__(self, running: list[bool | Exception], status: str | Exception = "running") -> None:
        self.running = running
        self.state = status

    def is_running(self) -> bool:
        return bool(self._answer(self.running.pop(0)))

    def status(self) -> str:
        return str(self._answer(self.state))

    @staticmethod
    def _answer(answer: object) -> object:
        if isinstance(answer, Exception):
            raise answer
        return answer


@pytest.mark.parametrize(
    ("parent", "looks"),
    [
        (Parent([True, True, False]), 3),  # ended, or its number is another's
        (Parent([True], status=psutil.STATUS_ZOMBIE), 1),  # ended, and nobody has noted it
        (Parent([True], status=psutil.NoSuchProcess(7)), 1),  # ended between the two questions
        (Parent([True, True, False], status=psutil.AccessDenied(7)), 3),
        (Parent([psutil.AccessDenied(7), True, False]), 3),
        (psutil.NoSuchProcess(7), 0),  # ended before its worker began
    ],
)
def test_a_worker_ends_when_its_parent_no_longer_runs(
    monkeypatch: pytest.MonkeyPatch, parent: Parent | Exception, looks: int
) -> None:
    """On all systems: os.getppid, for one, goes on naming a parent that has ended on Windows."""

    def process(number: int) -> Parent:
        assert number == 7
        return Parent._answer(parent)  # type: ignore[return-value]

    waits: list[float] = []
    monkeypatch.setattr(psutil, "Process", process)
    monkeypatch.setattr(workers, "time", types.SimpleNamespace(sleep=waits.append))
    with monkeypatch.context() as patch, pytest.raises(SystemExit, match="1"):
        patch.setattr(os, "_exit", sys.exit)
        workers._watch(7)
    assert len(waits) == max(0, looks - 1)
    assert isinstance(parent, Exception) or not parent.running


def test_a_process_is_seen_running_and_ended() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    process = psutil.Process(child.pid)
    assert workers._is_running(process)
    assert child.stdin is not None
    child.stdin.close()
    if hasattr(os, "waitid"):
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # it has ended, and stays in the list
        assert not workers._is_running(process)
    child.wait()
    assert not workers._is_running(process)


@pytest.mark.parametrize("count", range(1, 7))
def test_every_item_is_in_one_shard_and_shards_are_of_one_size(count: int) -> None:
    shards = [StudyConfig(shard=f"{index}/{count}", out="unused") for index in range(1, count + 1)]
    for number in range(13):
        parts = [shard.own(range(number)) for shard in shards]
        assert sorted(item for part in parts for item in part) == list(range(number))
        assert max(map(len, parts)) - min(map(len, parts)) <= 1
    by_variant = [{item % count for item in shard.own(range(count * count))} for shard in shards]
    assert by_variant == [set(range(count))] * count  # with as many variants as shards, each has every variant
    assert StudyConfig().own(range(5)) == list(range(5))


@pytest.mark.parametrize("text", ["0/2", "3/2", "1", "", "a/2", "1/0", "-1/2", "1/2/3", " 1/2", "1.0/2", "٢/٣"])
def test_a_shard_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="expected I/N with I from 1 to N, as in 2/4"):
        StudyConfig(shard=text, out="unused")


def test_a_shard_needs_the_common_folder() -> None:
    with pytest.raises(InputError, match="--shard needs --out"):
        StudyConfig(shard="1/2").folder("tables/")
    assert StudyConfig(shard="1/2", out="here").folder("tables/") == Path("here")
    assert re.fullmatch(r"tables/\d{8}-\d{6}", StudyConfig().folder("tables/").as_posix())


def test_what_a_job_raises_is_raised_here() -> None:
    with pytest.raises(ValueError):
        list(workers.run_all(math.sqrt, [4, -1], WorkerConfig(jobs=1)))


def test_a_countdown_says_where_things_stand(monkeypatch: pytest.MonkeyPatch) -> None:
    moments = iter([100.0, 130.0, 148.0, 190.0])
    monkeypatch.setattr(workers, "time", types.SimpleNamespace(monotonic=lambda: next(moments)))
    screen = StringIO()
    with workers.Countdown(Console(file=screen, force_terminal=False), 3, "runs") as countdown:
        said = [countdown.advance() for _ in range(3)]
    assert said == ["1/3, 1.0 min left", "2/3, 0.4 min left", "3/3, 0.0 min left"]
    assert screen.getvalue() == ""  # no terminal, no bar


def test_a_countdown_is_drawn_on_a_terminal() -> None:
    screen = StringIO()
    with workers.Countdown(Console(file=screen, force_terminal=True, width=100), 2, "runs") as countdown:
        countdown.advance()
        countdown.advance()
    assert "runs" in screen.getvalue()
    assert "2/2" in screen.getvalue()
