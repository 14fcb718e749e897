"""Ranks of one training, as torchrun starts them, from a process that has imported torch already."""

import multiprocessing
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from experiments.run import cli
from experiments.train import main
from tests.conftest import PATIENCE_S, ROOT, Finished

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["tests.launch", "experiments.run.load", "experiments.run.job", "torch._dynamo"])


class Launch:
    """Processes that run a function as the ranks of a group, in a folder; what they print is kept there.

    Args:
        folder: From where modules can be imported.
        size: Number of processes.
        target: Called in each; a status may be returned.
        arguments: Of the function.
    """

    def __init__(self, folder: Path, size: int, target: Callable[..., int | None], *arguments: Any) -> None:
        self.folder = folder
        # As torchrun has it: the store is none of the processes', so it outlives them.
        self._store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        common = {
            "WORLD_SIZE": str(size),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(self._store.port),
            "TORCHELASTIC_USE_AGENT_STORE": "True",
            "TYING_CACHE": os.environ["TYING_CACHE"],
        }
        with pytest.MonkeyPatch.context() as patch:  # for the process that the others are forked from
            patch.setenv("PYTHONPATH", str(ROOT))
            patch.setenv("OMP_NUM_THREADS", "1")
            self.processes: Sequence[ForkServerProcess] = [
                _CONTEXT.Process(
                    target=_rank,
                    args=(folder, {**common, "RANK": str(rank), "LOCAL_RANK": str(rank)}, target, arguments),
                )
                for rank in range(size)
            ]
            for process in self.processes:
                process.start()

    def wait(self) -> list[Finished]:
        """Return how the processes end, by rank."""
        for process in self.processes:
            process.join(PATIENCE_S)
        assert not any(process.is_alive() for process in self.processes), "a rank hangs"
        outputs = [[self._printed(rank, stream) for stream in ("out", "err")] for rank in range(len(self.processes))]
        return [Finished(p.exitcode or 0, *texts) for p, texts in zip(self.processes, outputs, strict=True)]

    def _printed(self, rank: int, stream: str) -> str:
        return (self.folder / f"{rank}.{stream}").read_text(encoding="utf-8")


def train_script(*words: str | Path) -> int:
    """Call `experiments.train`; a target of Launch."""
    return cli.status(main, [str(word) for word in words])


def _rank(folder: Path, variables: Mapping[str, str], target: Callable[..., int | None], arguments: Sequence[Any]) -> None:
    os.environ.update(variables)
    os.chdir(folder)
    sys.path.insert(0, str(folder))
    sys.dont_write_bytecode = True
    for descriptor, stream in ((1, "out"), (2, "err")):
        os.dup2(os.open(f"{variables['RANK']}.{stream}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), descriptor)
    torch.set_num_threads(1)
    sys.exit(target(*arguments))
