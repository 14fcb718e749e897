"""A warm process: it forks one for each call of `train`, which can be killed before its n-th change of files.

It imports and never computes, so that its children are as fresh processes are, in a fraction of the time. One line of
JSON a call comes in, and the child's exit status goes out.
"""

import json
import os
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch._dynamo
from matplotlib.figure import Figure

import experiments.run.job  # noqa: F401 (children would import it and torch._dynamo late, each for itself)
from experiments.run import cli, pointer_map
from experiments.train import main
from tying.data import cache

CHANGES = "changes.txt"
OUTPUT = "output.txt"
_EVENTS = {"os.link", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.symlink", "os.truncate"}
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC


def watch(number: int) -> None:
    """Write every change of files to changes.txt before it is made; kill this process before the n-th (0: never)."""
    log = os.open(CHANGES, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    count = 0

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal count
        # TensorBoard writes in a thread of its own: without an order that could be counted.
        if threading.current_thread() is not threading.main_thread():
            return
        if event in _EVENTS or (event == "open" and arguments[2] & _WRITING):
            count += 1
            os.write(log, f"{event} {os.fspath(arguments[0])}\n".encode())
            if count == number:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def train(folder: str, words: Sequence[str], number: int) -> int:
    """Call `train` in a folder, with a cache of its own; return the exit status."""
    os.chdir(folder)
    os.environ["TYING_CACHE"] = str(Path(folder, "cache"))
    output = os.open(OUTPUT, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    watch(number)
    return cli.status(main, list(words))


def serve() -> None:
    """Answer calls until the input ends."""
    torch.set_num_threads(1)
    # Both would be more than half of a run's time, and neither decides what a killed process leaves.
    os.fsync = lambda descriptor: None
    pointer_map.draw_on = lambda axes, history, start=0: None
    pointer_map.to_array = lambda figure, dpi=0: np.zeros((1, 1, 3), np.uint8)
    Figure.savefig = lambda self, path, **_: Path(path).touch()
    cache._SETTLED_NS = -(10**12)  # whether a new text's digest is kept must not depend on how busy the machine is
    for line in sys.stdin:
        process = os.fork()
        if process == 0:
            os._exit(train(*json.loads(line)))
        print(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), flush=True)


if __name__ == "__main__":
    serve()
