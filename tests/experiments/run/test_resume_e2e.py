"""Interrupted runs: killed, stopped or out of disk, they are resumed to the very result of an uninterrupted run."""

import os
import random
import resource
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agents.extra.paper import PaperAgent
from envs.presets import PRESETS
from tests.conftest import PATIENCE_S, ROOT, Finished, Scripts
from tests.experiments.runs import KINDS, agent_parameters, assert_same, contents, data_of, decisions, interrupted_after
from tying.config import override
from tying.tasks.causal_lm import CausalLM

pytestmark = pytest.mark.e2e

Train = Callable[..., Finished]
Start = Callable[..., subprocess.Popen]

NUM_DECISIONS = 60
# Dropout, since its masks have to come back too; an interval that is no divisor of the run's decisions.
LONG = (
    f"--preset tiny --seed 3 --trainer.iterations {NUM_DECISIONS} --env.decision-interval 1 "
    "--model.dropout 0.1 --checkpoint-interval 7"
).split()
SHORT = (
    "--preset tiny --seed 3 --trainer.iterations 48 --env.decision-interval 2 --model.dropout 0.1 --model.width 8 "
    "--checkpoint-interval 5"
).split()


# It holds 6 decisions before the end while there is a file `hold`, so that no signal comes too late.
HOLDING = """
import pathlib, time
from agents.dqn import DQNAgent

class Holding(DQNAgent):
    def diagnostics(self, observation, action_masks):
        record = pathlib.Path("run", "decisions.jsonl")
        while pathlib.Path("hold").exists() and record.exists() and record.read_bytes().count(b"\\n") >= 54:
            time.sleep(0.01)
        return super().diagnostics(observation, action_masks)
"""


@pytest.fixture
def start(scripts: Scripts, write_module: Callable[[str, str], str], tmp_path: Path) -> Start:
    """Start `train` in a process of its own, with an agent that holds before the end."""
    write_module("holding", HOLDING)
    (tmp_path / "hold").touch()
    env = {"PYTHONPATH": os.pathsep.join([str(ROOT), str(tmp_path)])}
    return lambda *words: scripts.start("train", *words, cwd=tmp_path, env=env)


def count(run: Path) -> int:
    """Return the number of whole lines in the record of a run that may still be training."""
    path = run / "decisions.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def wait_until(condition: Callable[[], bool], process: subprocess.Popen) -> None:
    """Wait for something that a running process is about to do."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.002)


# Processes that die.


@pytest.fixture(scope="module")
def reference(scripts: Scripts, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run."""
    folder = tmp_path_factory.mktemp("reference")
    assert scripts.run("train", *LONG, "--agent", "dqn", "--out", "run", cwd=folder).status == 0
    return folder / "run"


def test_reference_has_something_to_lose(reference: Path) -> None:
    lines = decisions(reference)
    assert len(lines) == NUM_DECISIONS
    assert len({tuple(line["pointers"]) for line in lines}) > 5
    assert agent_parameters(reference)


def test_a_run_killed_at_random_points_ends_as_if_it_had_not_been(
    scripts: Scripts, start: Start, train: Train, reference: Path, tmp_path: Path
) -> None:
    """From outside, in the middle of whatever it does; test_kills_e2e.py kills before every change of files."""
    generator = random.Random(0)
    run = tmp_path / "run"
    words = [*LONG, "--agent", "holding:Holding", "--out", "run"]
    for point in sorted(generator.sample(range(1, NUM_DECISIONS - 12), 2)):
        target = min(max(point, count(run) + 1), 54)  # further than before, so that something is lost
        process = start(*words)
        wait_until(lambda target=target: count(run) >= target, process)  # type: ignore[misc]
        time.sleep(0.03 * generator.random())
        process.kill()
        assert scripts.wait(process).status == -signal.SIGKILL
        words = ["--resume", "run", "--trust"]
    (tmp_path / "hold").unlink()
    assert train("--resume", "run", "--trust").status == 0
    assert_same(run, reference)


@pytest.mark.parametrize(
    ("number", "status", "word"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")]
)
def test_a_stopped_run_says_how_to_resume_it(
    scripts: Scripts, start: Start, tmp_path: Path, number: signal.Signals, status: int, word: str
) -> None:
    process = start(*LONG, "--agent", "holding:Holding", "--out", "run")
    wait_until(lambda: count(tmp_path / "run") >= 9, process)
    process.send_signal(number)
    finished = scripts.wait(process)
    assert finished.status == status
    assert finished.err.splitlines() == ["to resume: python -m experiments.train --resume run --trust", word]
    assert not (tmp_path / "run" / "final").exists()


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="only Linux can limit another process")
@pytest.mark.parametrize("limit", [100_000, 1], ids=["checkpoints do not fit", "nothing fits"])
def test_a_full_disk_is_one_line_and_the_run_is_resumed_later(
    scripts: Scripts, start: Start, train: Train, reference: Path, tmp_path: Path, limit: int
) -> None:
    """A limit on the size of files fails the same calls as a full disk does."""
    process = start(*LONG, "--agent", "holding:Holding", "--out", "run")
    wait_until(lambda: count(tmp_path / "run") >= 9, process)
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (limit, limit))
    (tmp_path / "hold").unlink()
    finished = scripts.wait(process)
    assert finished.status == 1, finished
    resume, error = finished.err.splitlines()
    assert resume == "to resume: python -m experiments.train --resume run --trust"
    assert error.startswith("error: stopped: ")
    assert (tmp_path / "run" / "checkpoints" / "latest").is_dir()
    assert train("--resume", "run", "--trust").status == 0
    assert_same(tmp_path / "run", reference)


# Interruptions inside this process: cheaper, and at a decision of our choice.


def stop_after(num_decisions: int, train: Train, *arguments: str | Path) -> Finished:
    """Train until a run is interrupted after so many decisions."""
    with interrupted_after(num_decisions):
        finished = train(*arguments)
    assert finished.status == 130
    return finished


@pytest.mark.parametrize(
    ("flags", "stop"),
    [
        ("--agent ppo --agent.n-steps 8", 13),  # in the middle of a rollout
        ("--agent maskable_ppo --agent.n-steps 8", 13),
        ("--agent a2c --agent.n-steps 4", 14),
        ("--agent a2c --agent.n-steps 4 --env.action-mode joint --env.freeze-after 0.5", 18),
        ("--agent dqn --env.action-mode pair --reward paper", 7),
        ("--agent random", 2),  # before the first checkpoint
        ("--agent random --binding.norms private --binding.gradient root_only", 15),  # right at a checkpoint
        ("--agent share_then_unshare:40", 9),
        ("--agent ppo --agent.n-steps 8 --reward fork --reward.baseline 0.9 --reward.param-target 0.5", 13),
        ("--agent dqn --env.gradient-statistics --binding.share attention", 13),
        ("--agent ppo --agent.n-steps 8", 24),  # after the last decision
        ("--agent dqn --model.residual looped --model.depth-embedding sinusoid", 13),
        ("--agent surrogate --model.norm-place post --model.residual admin --model.depth-embedding learned", 13),
        ("--agent all_tied --model.halting act", 13),
        *((f"{kind} --agent dqn", 13) for kind in KINDS),
        ("kv_sharing --agent share_then_unshare:40", 9),
        ("--model llama --model.attention-sharing cla:2 --model.dropout 0 --agent local_search --trainer.recompute", 13),
        ("kv_tied --binding.share kv --agent local_search --trainer.recompute", 9),
        ("--model.attention-sharing tied --model.dropout 0 --reward fork --reward.cache-weight 1 --agent dqn", 13),
        ("--model.attention-sharing yoco --model.dropout 0 --agent share_then_unshare:40", 9),
    ],
)
def test_interrupted_run_ends_as_if_it_had_not_been(
    train: Train, text_file: Path, tmp_path: Path, flags: str, stop: int
) -> None:
    kind, *others = flags.split()
    arguments = [*SHORT, *KINDS.get(kind, kind).split(), *others, *data_of(kind, text_file)]
    assert train(*arguments, "--out", "whole").status == 0
    stop_after(stop, train, *arguments, "--out", "parts")
    assert not (tmp_path / "parts" / "final").exists()
    assert train("--resume", "parts").status == 0
    assert_same(tmp_path / "parts", tmp_path / "whole")


def test_interruption_at_the_very_end_loses_nothing(
    train: Train, text_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from experiments.run import job as module

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    arguments = [*SHORT, "--agent", "dqn", "--data.path", text_file]
    assert train(*arguments, "--out", "whole").status == 0
    with monkeypatch.context() as patch:
        patch.setattr(module, "write_final", interrupted)
        assert train(*arguments, "--out", "parts").status == 130
    assert train("--resume", "parts").status == 0
    assert_same(tmp_path / "parts", tmp_path / "whole")


def test_a_resumed_run_has_the_settings_of_its_start(
    train: Train, text_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Presets and recommendations of a later version say nothing of it."""
    arguments = [*SHORT, "--agent", "paper", "--data.path", text_file]
    assert train(*arguments, "--out", "whole").status == 0
    stop_after(8, train, *arguments, "--out", "parts")
    config = (tmp_path / "parts" / "config.json").read_bytes()
    monkeypatch.setattr(PaperAgent, "recommended", classmethod(lambda cls, config: {"reward.name": "level"}))
    monkeypatch.setitem(PRESETS, "tiny", override(PRESETS["tiny"], {"optim.learning_rate": 1e-5, "trainer.batch_size": 2}))
    assert train("--resume", "parts").status == 0
    assert_same(tmp_path / "parts", tmp_path / "whole")
    assert (tmp_path / "parts" / "config.json").read_bytes() == config


def test_resuming_a_finished_run_only_reports(train: Train, text_file: Path, tmp_path: Path) -> None:
    assert train(*SHORT, "--agent", "random", "--data.path", text_file, "--out", "run").status == 0
    before = contents(tmp_path / "run")
    finished = train("--resume", "run")
    assert (finished.status, finished.err) == (0, "")
    assert "run is finished" in finished.out
    assert "test loss" in finished.out
    assert contents(tmp_path / "run") == before


COUNTER = """
from agents.base import Agent

class Mine(Agent):
    made = 0

    def __init__(self, *arguments, **others):
        super().__init__(*arguments, **others)
        Mine.made += 1

    def predict(self, observation, action_masks=None, deterministic=False):
        return Mine.made % 2
"""


def test_agent_that_decides_otherwise_is_refused(
    train: Train, text_file: Path, tmp_path: Path, write_module: Callable[[str, str], str]
) -> None:
    write_module("fickle", COUNTER)
    stop_after(8, train, *SHORT, "--agent", "fickle:Mine", "--data.path", text_file, "--out", "run")
    before = contents(tmp_path / "run" / "checkpoints")
    finished = train("--resume", "run", "--trust")
    assert finished.status == 2
    (line,) = finished.err.splitlines()
    assert line.startswith("error: cannot resume: shown the same run again, the agent chose '0 ")
    assert contents(tmp_path / "run" / "checkpoints") == before


# Training that diverges.


def diverge(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make every loss from now on infinite."""
    loss = CausalLM.loss
    monkeypatch.setattr(CausalLM, "loss", lambda self, model, batch: loss(self, model, batch) * float("inf"))


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_its_checkpoint(
    train: Train, text_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = [*SHORT, "--agent", "random", "--data.path", text_file]
    stop_after(8, train, *arguments, "--out", "run")
    before = contents(tmp_path / "run" / "checkpoints")
    diverge(monkeypatch)
    for words in (["--resume", "run"], [*arguments, "--out", "new"]):
        finished = train(*words)
        (line,) = finished.err.splitlines()  # and no word of resuming: it would end in the same way
        assert finished.status == 1
        assert line.startswith("error: ")
        assert "optim.learning_rate (now 0.003)" in line
        assert not (tmp_path / words[-1] / "final").exists()
    assert contents(tmp_path / "run" / "checkpoints") == before
