"""Studies over a real Ray: two nodes on this machine, one of which is killed; errors, lost workers, signals."""

import importlib
import itertools
import math
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
import pytest

from experiments.run.cli import Failed
from experiments.study.workers import WorkerConfig, run_all
from tests.conftest import PATIENCE_S, ROOT, Finished, Scripts, words
from tests.experiments.runs import SMALL, alive, until, weights

pytestmark = pytest.mark.e2e

CLOCKS = "seconds|tokens_per_s|decision_share|equal_time"
NODE = {"num_cpus": 1, "object_store_memory": 80 * 2**20, "include_dashboard": False}


def over_ray(jobs: int = 1) -> WorkerConfig:
    return WorkerConfig(jobs=jobs, backend="ray")


def short_folder() -> tempfile.TemporaryDirectory[str]:
    """Make a folder for Ray's own files; the names of its sockets have room for short paths only."""
    return tempfile.TemporaryDirectory(prefix="ray", dir="/tmp", ignore_cleanup_errors=True)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A cluster of one node with one core, whose processes begin in this folder, with other settings than the tests."""
    ray = pytest.importorskip("ray", reason="needs the extra 'ray': pip install 'layer-tying[ray]'")
    from ray.cluster_utils import Cluster

    terminate = signal.getsignal(signal.SIGTERM)
    with short_folder() as folder, pytest.MonkeyPatch.context() as patch:
        patch.delenv("RAY_ADDRESS", raising=False)
        patch.delenv("PYTHONPATH", raising=False)
        patch.setenv("RAY_TMPDIR", folder)
        patch.setenv("OMP_NUM_THREADS", "3")
        patch.setenv("RAY_TASK_MAX_RETRIES", "1")  # of three, to save time
        made = Cluster()
        try:
            made.add_node(**NODE)
            yield made
        finally:
            ray.shutdown()  # connected still, where a test failed
            made.shutdown()
            signal.signal(signal.SIGTERM, terminate)


@pytest.fixture
def second(cluster: Any) -> Iterator[Any]:
    """Another node of the cluster, with one core."""
    node = cluster.add_node(**NODE)
    yield node
    if node in cluster.worker_nodes:
        cluster.remove_node(node)


@pytest.fixture
def own_folder() -> Iterator[str]:
    """Where a Ray that knows nothing of the cluster has its files."""
    with short_folder() as folder:
        yield folder


def raylet(node: Any) -> psutil.Process:
    """Return the process of a node that starts the node's workers."""
    (process,) = node.all_processes["raylet"]
    return psutil.Process(process.process.pid)


# A study whose node dies.

HOLDING = """
import os, pathlib, time
from agents.random_agent import RandomAgent

class Mine(RandomAgent):
    asked = 0

    def diagnostics(self, observation, action_masks):
        self.asked += 1
        if self.asked == 4:
            pathlib.Path(f"held-by-{os.getppid()}").touch()
            while pathlib.Path("hold").exists():
                time.sleep(0.01)
        return super().diagnostics(observation, action_masks)
"""


def tables(folder: Path) -> dict[str, pd.DataFrame]:
    """Return a comparison's tables, to the letter, but for the clocks."""
    frames = {name: pd.read_csv(folder / name, dtype=str) for name in ("table.csv", "runs.csv")}
    return {name: frame.loc[:, ~frame.columns.str.contains(CLOCKS)] for name, frame in frames.items()}


def test_a_study_of_which_a_node_is_killed_is_that_of_one_machine(
    cluster: Any, second: Any, scripts: Scripts, call: Callable[..., Finished], tmp_path: Path
) -> None:
    (tmp_path / "holding.py").write_text(HOLDING)
    (tmp_path / "corpus.txt").write_text(words(6_000), encoding="utf-8")
    (tmp_path / "hold").touch()
    study = ["--agents", "independent", "holding:Mine", "--seeds", "2", *SMALL, "--data.path", "corpus.txt"]
    spread = ["--out", "c", "--backend", "ray", "--jobs", "2"]
    process = scripts.start("compare", *study, *spread, cwd=tmp_path, env={"RAY_ADDRESS": cluster.address})
    try:
        until(lambda: len(list(tmp_path.glob("held-by-*"))) == 2 or process.poll() is not None)
        nodes = {f"held-by-{raylet(node).pid}" for node in (cluster.head_node, second)}
        assert {path.name for path in tmp_path.glob("held-by-*")} == nodes
        machine = [raylet(second), *raylet(second).children(recursive=True)]
        for part in machine:  # the raylet first, which would begin a worker's task again on the same node
            with suppress(psutil.NoSuchProcess):
                part.kill()
        cluster.remove_node(second, allow_graceful=False)
        (tmp_path / "hold").unlink()
        finished = scripts.wait(process)
    finally:
        process.kill()
    assert finished.status == 0, finished.err
    begun = [log.read_text(encoding="utf-8").count("run c/runs/") for log in sorted((tmp_path / "c" / "logs").iterdir())]
    assert sorted(begun) == [1, 1, 1, 2]  # the run that the node was at has been resumed

    assert call("compare", *study, "--out", "whole", "--jobs", "1").status == 0
    found, expected = tables(tmp_path / "c"), tables(tmp_path / "whole")
    for name, frame in expected.items():
        assert {"test_loss", "reward_loss"} < set(frame)
        pd.testing.assert_frame_equal(found[name], frame)
    runs = [run.name for run in (tmp_path / "whole" / "runs").iterdir()]
    assert len(runs) == 4
    for run in runs:
        assert weights(tmp_path / "c" / "runs" / run) == weights(tmp_path / "whole" / "runs" / run), run


# Single tasks.

JOBS = """
import os, pathlib, time
import numpy, threadpoolctl
import experiments

def facts(item):
    threads = {info["num_threads"] for info in threadpoolctl.threadpool_info()}
    return os.getcwd(), os.environ["OMP_NUM_THREADS"], threads, experiments.__file__, __file__, item

def hold_the_first(item):
    pathlib.Path(f"began-{item}").touch()
    while item == 0 and not pathlib.Path("go").exists():
        time.sleep(0.01)
    return item

def die_at_one(item):
    if item == 1:
        with open("tries", "a") as file:
            file.write("x")
        os._exit(1)
    return item
"""


@pytest.fixture
def jobs(write_module: Callable[[str, str], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Functions of a module in the test's own folder, where this process is."""
    monkeypatch.chdir(tmp_path)
    return importlib.import_module(write_module("jobs", JOBS))


def test_a_task_finds_all_as_in_a_process_of_this_machine(cluster: Any, jobs: Any, tmp_path: Path) -> None:
    terminate = signal.getsignal(signal.SIGTERM)
    (found,) = run_all(jobs.facts, [7], over_ray())
    assert found == (str(tmp_path), "1", {1}, str(ROOT / "experiments" / "__init__.py"), str(tmp_path / "jobs.py"), 7)
    assert signal.getsignal(signal.SIGTERM) == terminate


def test_a_few_are_done_at_a_time_and_each_is_yielded_as_it_ends(
    cluster: Any, second: Any, jobs: Any, tmp_path: Path
) -> None:
    results = run_all(jobs.hold_the_first, range(5), over_ray(jobs=2))
    assert next(results) == 1
    until((tmp_path / "began-0").exists)
    assert {path.name for path in tmp_path.glob("began-*")} == {"began-0", "began-1"}
    (tmp_path / "go").touch()
    assert sorted(results) == [0, 2, 3, 4]


def test_what_a_task_raises_is_raised_here_and_a_connection_of_before_stays(cluster: Any) -> None:
    import ray

    with ray.init(cluster.address):
        with pytest.raises(ValueError) as caught:
            list(run_all(math.sqrt, [4, -1], over_ray()))
        assert type(caught.value) is ValueError
        assert ray.is_initialized()


def test_a_task_that_ray_gives_up_stops_no_other_and_is_told_in_the_end(cluster: Any, jobs: Any, tmp_path: Path) -> None:
    results = run_all(jobs.die_at_one, range(3), over_ray())
    assert list(itertools.islice(results, 2)) == [0, 2]
    with pytest.raises(Failed) as caught:
        next(results)
    (line,) = caught.value.lines
    assert line.startswith("1 of 3 tasks were lost with their workers, the same command tries them again: ")
    assert (tmp_path / "tries").read_text() == "xx"  # begun again once, as the cluster's fixture has it


# Signals, to a study on the cluster that runs here and to one with a Ray of its own.

DRIVER = """
import os, pathlib, time
import driver
from experiments.run import cli
from experiments.study.workers import WorkerConfig, run_all

def endless(name):
    pathlib.Path(name).write_text(str(os.getpid()))
    while True:
        time.sleep(0.05)

def main(words):
    list(run_all(driver.endless, words, WorkerConfig(jobs=1, backend="ray")))

if __name__ == "__main__":
    cli.run(main)
"""


@pytest.mark.parametrize(
    ("number", "status", "said", "own"),
    [(signal.SIGINT, 130, "interrupted\n", False), (signal.SIGTERM, 143, "terminated\n", True)],
)
def test_a_signal_ends_a_study_and_its_workers(
    cluster: Any, own_folder: str, tmp_path: Path, number: int, status: int, said: str, own: bool
) -> None:
    (tmp_path / "driver.py").write_text(DRIVER)
    variables = {**os.environ, "PYTHONPATH": str(ROOT), **({"RAY_TMPDIR": own_folder} if own else {})}
    process = subprocess.Popen(
        [sys.executable, "-m", "driver", "pid"],
        cwd=tmp_path,
        env=variables,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # see Scripts.start
    )
    try:
        until(lambda: any(path.read_text() for path in tmp_path.glob("pid")) or process.poll() is not None)
        worker = int((tmp_path / "pid").read_text())
        started = psutil.Process(process.pid).children(recursive=True)
        assert (worker in [child.pid for child in started]) == own
        assert (worker in [child.pid for child in raylet(cluster.head_node).children()]) != own
        process.send_signal(number)
        assert process.communicate(timeout=PATIENCE_S)[1] == said
        assert process.returncode == status
        until(lambda: not any(map(alive, [worker, *(child.pid for child in started)])))
    finally:
        process.kill()
