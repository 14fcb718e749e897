"""What all tests share: a cache of their own, a small corpus, and two ways of running a script."""

import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import hypothesis
import pytest

# Read by the Hugging Face libraries when they are imported: no test may touch the network.
os.environ["HF_HUB_OFFLINE"] = "1"
# Read by Ray: its processes talk under 127.0.0.1, on all systems, report nothing and write no token into the user's home.
os.environ |= {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled"}

ROOT = Path(__file__).resolve().parents[1]
# After that a process hangs. Much more than any takes, since on a busy machine most of the time is others' [s].
PATIENCE_S = 1_200
# The same examples in every call, however long each takes.
hypothesis.settings.register_profile(
    "same", derandomize=True, database=None, deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("same")


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder that tokenized corpora are kept in; never the user's own."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TYING_CACHE", str(folder))
        yield folder


def words(num_chars: int, seed: int = 0) -> str:
    """Return text with something to learn in it: few words, sentences of a few of them."""
    generator = random.Random(seed)
    vocabulary = ["tie", "layer", "weights", "naïve", "loss", "x = 1", "falls", "and"]
    text = ""
    while len(text) < num_chars:
        text += " ".join(generator.choices(vocabulary, k=generator.randint(3, 9))) + ".\n"
    return text[:num_chars]


@pytest.fixture
def text_file(tmp_path: Path) -> Path:
    """A UTF-8 file of 6,000 characters, a few of them longer than a byte."""
    path = tmp_path / "corpus.txt"
    path.write_text(words(6_000), encoding="utf-8")
    return path


@dataclass(frozen=True)
class Finished:
    """How a script ended.

    Attributes:
        status: Its exit status.
        out: Its standard output.
        err: Its standard error.
    """

    status: int
    out: str
    err: str


class Scripts:
    """Runs `python -m experiments.NAME` in processes of their own, as a person does."""

    def start(self, name: str, *arguments: str | Path, cwd: Path, env: Mapping[str, str] | None = None) -> subprocess.Popen:
        """Start a script and return its process."""
        # One thread: tiny models gain nothing from more, and busy machines slow the others down a lot.
        given = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **(env or {})}
        command = [sys.executable, "-m", f"experiments.{name}", *map(str, arguments)]
        pipe = subprocess.PIPE
        return subprocess.Popen(
            command,
            cwd=cwd,
            env=given,
            stdout=pipe,
            stderr=pipe,
            text=True,
            encoding="utf-8",
            # Where the tests run in the background of a shell, SIGINT is ignored, and children inherit that.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )

    def run(self, name: str, *arguments: str | Path, cwd: Path, env: Mapping[str, str] | None = None) -> Finished:
        """Run a script to its end."""
        return self.wait(self.start(name, *arguments, cwd=cwd, env=env))

    def wait(self, process: subprocess.Popen) -> Finished:
        """Return how a started script ends."""
        out, err = process.communicate(timeout=PATIENCE_S)
        return Finished(process.returncode, out, err)


@pytest.fixture(scope="session")
def scripts() -> Scripts:
    """Scripts in processes of their own, as a person runs them; seconds each."""
    return Scripts()


@contextmanager
def single_thread() -> Iterator[None]:
    """Compute as the scripts above do: bit by bit the same, and fast on a busy machine."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """See single_thread."""
    with single_thread():
        yield


@pytest.fixture
def train(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], one_thread: None
) -> Callable[..., Finished]:
    """Call `experiments.train` inside this process, in the test's own folder: the same, in a fraction of the time."""
    from experiments.run import cli
    from experiments.train import main

    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def call(*arguments: str | Path) -> Finished:
        capsys.readouterr()
        status = cli.status(main, [str(argument) for argument in arguments])
        return Finished(status, *capsys.readouterr())

    return call


@pytest.fixture
def write_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, str], str]]:
    """Write a module into the test's own folder, from where it can be imported."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def write(name: str, source: str) -> str:
        (tmp_path / f"{name}.py").write_text(source)
        sys.modules.pop(name, None)
        return name

    yield write
    for path in tmp_path.glob("*.py"):
        sys.modules.pop(path.stem, None)
