"""Many small jobs side by side: processes of this machine, or a Ray cluster, one thread each."""

import functools
import logging
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, TypeVar

import joblib
import psutil
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from experiments.run.cli import Failed
from tying.config import config, setting
from tying.errors import InputError

T = TypeVar("T")
R = TypeVar("R")
Backend = Literal["loky", "ray"]
_WATCH_S = 0.2  # a study that is repeated takes longer to start


@config
class WorkerConfig:
    """Flags of every script that makes many runs."""

    jobs: int = setting("processes at a time, one thread each [>= 1]", default=joblib.cpu_count(), ge=1)
    backend: Backend = setting("loky: this machine; ray: a Ray cluster (extra 'ray')", default="loky")

    def __post_init__(self) -> None:
        if self.backend == "ray":
            try:
                import ray  # noqa: F401 (only whether it is there)
            except ImportError as error:
                raise InputError("--backend ray needs the `ray` library: pip install 'layer-tying[ray]'") from error


@config
class StudyConfig(WorkerConfig):
    """Flags of studies: their runs are kept in a folder, and can be divided among calls that know nothing of each other."""

    shard: str | None = setting(
        "I/N: do only the I-th of N parts of the runs, in a folder common to all [1/N to N/N]; None: all", default=None
    )
    out: str | None = setting("folder, new or to resume; None: a new one, named by the time", default=None)

    def __post_init__(self) -> None:
        super().__post_init__()
        index, count = self.part
        if not 0 <= index < count:
            raise InputError(f"shard = {self.shard!r}: expected I/N with I from 1 to N, as in 2/4")

    @property
    def part(self) -> tuple[int, int]:
        """Number of the part, from 0, and number of parts."""
        found = re.fullmatch(r"(\d{1,6})/(\d{1,6})", "1/1" if self.shard is None else self.shard, re.ASCII)
        return (int(found[1]) - 1, int(found[2])) if found else (0, 0)

    @property
    def suffix(self) -> str:
        """What the names of a part's own files end with: "-2-of-4", or nothing."""
        index, count = self.part
        return f"-{index + 1}-of-{count}" if self.shard else ""

    def own(self, items: Sequence[T]) -> list[T]:
        """Return the items of this part: every item is in one part, and the parts' sizes differ by at most one.

        Of N items in a row each part has one, and the parts take turns: as many variants as parts would otherwise give
        each part one variant at all seeds, and the slowest variant to one of them.
        """
        index, count = self.part
        return [item for number, item in enumerate(items) if (number + number // count) % count == index]

    def folder(self, prefix: str) -> Path:
        """Return the folder; without --out, a new one behind a prefix.

        Raises:
            InputError: If a part has no --out.
        """
        if self.shard and self.out is None:
            raise InputError("--shard needs --out: the folder that is common to all parts")
        return Path(self.out or f"{prefix}{time.strftime('%Y%m%d-%H%M%S')}")


def run_all(function: Callable[[T], R], items: Sequence[T], config: WorkerConfig) -> Iterator[R]:
    """Yield a function's results, in the order in which they are done.

    Args:
        function: Of a module, so that other processes find it.
        items: Its arguments, one for each call.
        config: How many processes, and where.

    Raises:
        Failed: At the end, if workers of a cluster died and took items with them.
    """
    over = _over_ray if config.backend == "ray" else _over_processes
    yield from over(function, items, config.jobs)


def _over_processes(function: Callable[[T], R], items: Sequence[T], jobs: int) -> Iterator[R]:
    # One thread each: threads of several processes that wait for each other spin, and slow all of them down.
    with joblib.parallel_config(backend="loky", n_jobs=jobs, inner_max_num_threads=1):
        parallel = joblib.Parallel(return_as="generator_unordered", batch_size=1)
        yield from parallel(joblib.delayed(_watched)(os.getpid(), function, item) for item in items)


def _watched(parent: int, function: Callable[[T], R], item: T) -> R:
    """Call a function in a worker that ends when its parent is killed: nobody else would end it."""
    _end_with(parent)
    return function(item)


@functools.cache
def _end_with(parent: int) -> None:
    if os.getpid() != parent:  # one job alone is done in the parent itself
        threading.Thread(target=_watch, args=(parent,), daemon=True).start()


def _watch(parent: int) -> None:
    try:
        process = psutil.Process(parent)
        while _is_running(process):
            time.sleep(_WATCH_S)
    except psutil.NoSuchProcess:
        pass
    os._exit(1)


def _is_running(process: psutil.Process) -> bool:
    """Return whether a process runs: neither ended, nor waiting to be noted as ended, nor another one of its number."""
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.AccessDenied:  # by a system that hides processes: better an orphan than a study that ends itself
        return True


def _over_ray(function: Callable[[T], R], items: Sequence[T], jobs: int) -> Iterator[R]:
    """Yield results as they come, at most `jobs` at a time; joblib's own Ray backend gives them only when all are done.

    Ray begins a task whose machine died again, up to three times; its run resumes. One that Ray gives up stops no other.
    """
    if not items:  # no cluster is needed
        return
    left = list(items)
    running: set[Future[R]] = set()
    lost = []
    with _ray() as ray:
        # As joblib starts its processes: with one thread each, and modules from where this process has them.
        variables = {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path))}
        task = ray.remote(num_cpus=1, runtime_env={"env_vars": variables})(_in_folder)
        while left or running:
            while left and len(running) < jobs:
                running.add(task.remote(os.getcwd(), function, left.pop(0)).future())
            ended, running = wait(running, return_when=FIRST_COMPLETED)  # ray.wait would swallow the signal to end
            for future in ended:
                try:
                    result = future.result()
                except ray.exceptions.RayTaskError as error:  # the function raised its cause
                    raise error.cause from error
                except ray.exceptions.RayError as error:
                    lost.append((str(error).splitlines() or [""])[0])
                else:
                    yield result
    if lost:
        number = f"{len(lost)} of {len(items)} tasks"
        raise Failed([f"{number} were lost with their workers, the same command tries them again: {lost[0]}"])


@contextmanager
def _ray() -> Iterator[Any]:
    """Connect to the cluster of RAY_ADDRESS, else to this machine's; if there is none, start one for as long as a block."""
    import ray

    if ray.is_initialized():
        yield ray
        return
    handler = signal.getsignal(signal.SIGTERM)
    ray.init(logging_level=logging.WARNING)
    signal.signal(signal.SIGTERM, handler)  # Ray has set its own
    try:
        yield ray
    finally:
        ray.shutdown()


def _in_folder(folder: str, function: Callable[[T], R], item: T) -> R:
    """Call a function in this process's folder, which it names as paths do; a worker of Ray begins in another."""
    os.chdir(folder)
    return function(item)


class Countdown:
    """A progress bar over jobs, with the time left; on a screen that is no terminal nothing is drawn.

    Args:
        console: Where to.
        total: Number of jobs.
        kind: What they are called.
    """

    def __init__(self, console: Console, total: int, kind: str) -> None:
        columns = (
            TextColumn(kind),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}"),
        )
        self._progress = Progress(*columns, console=console, disable=not console.is_terminal)
        self._task = self._progress.add_task(kind, total=total, left="")
        self._total = total
        self._done = 0
        self._start = time.monotonic()

    def __enter__(self) -> "Countdown":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def advance(self) -> str:
        """Count one more job that is done; return the progress, such as "3/20, 1.5 min left"."""
        self._done += 1
        left = (time.monotonic() - self._start) / self._done * (self._total - self._done)
        self._progress.update(self._task, advance=1, left=f"{left / 60:.1f} min left")
        return f"{self._done}/{self._total}, {left / 60:.1f} min left"
