"""Snapshots of agents: a resumed run ends as the uninterrupted one does, whether its agent comes from a snapshot or not."""

import io
import json
import shutil
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from stable_baselines3 import DQN

import agents
from envs.training import ResumedSimulator
from experiments.run.directory import RunDirectory
from experiments.run.recorder import Recorder
from experiments.run.tensorboard import TensorBoardLogger
from tests.conftest import Finished
from tests.experiments.runs import change, decisions, interrupted_after, weights

pytestmark = pytest.mark.e2e

Train = Callable[..., Finished]
Figures = dict[int, dict[str, Any]]

BASE = (
    "--preset tiny --seed 3 --trainer.iterations 24 --env.decision-interval 1 --model.width 8 --model.num-layers 3 "
    "--trainer.batch-size 2 --reward.num-batches 1 --model.dropout 0.1 --checkpoint-interval 5"
).split()
ROLLOUT = "--agent.n-steps 8 --agent.n-epochs 3"
AGENTS = {
    "dqn": "--agent.learning-starts 4 --agent.target-update-interval 6",
    "qrdqn": "--agent.learning-starts 4 --agent.buffer-size 9",  # a ring that is full
    "double_dqn": "--agent.n-steps 3 --agent.priority-exponent 0.5",
    "surrogate": "--agent.explore 1.0 --reward.baseline 0.9 --reward.param-target 0.5",
    "ppo": ROLLOUT,
    "maskable_ppo": ROLLOUT,
    "recurrent_ppo": ROLLOUT,
    "a2c": "--agent.n-steps 7 --env.action-mode joint",  # a snapshot after 14, a checkpoint after 15
}
MANY_LAYERS = "--model.num-layers 8"  # candidates of surrogate are sampled
# With rollouts of 8, checkpoints after 5, 10, 15 and 20 decisions follow snapshots after 8 and 16.
STOPS = (13, 18, 21, 24)


def learned(run: Path) -> dict[str, Any]:
    """Return all that a finished run's agent saved, without the time that it took."""
    found: dict[str, Any] = {}
    for path in sorted((run / "final" / "agent").iterdir()):
        if path.suffix == ".zip":
            with zipfile.ZipFile(path) as archive:
                parts = [name for name in archive.namelist() if name.endswith(".pth")]
                found |= {name: torch.load(io.BytesIO(archive.read(name)), weights_only=True) for name in parts}
        elif path.suffix == ".npz":
            with np.load(path) as arrays:
                found[path.name] = {name: torch.as_tensor(array) for name, array in arrays.items()}
        elif path.suffix == ".pt":
            found[path.name] = torch.load(path, weights_only=True)
        else:
            found[path.name] = json.loads(path.read_text())
    return found


def same(one: Any, other: Any) -> bool:
    """Return whether two values are the same, bit by bit."""
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        keys = {key for key in one.keys() | other.keys() if not str(key).startswith("time/")}
        return all(key in one and key in other and same(one[key], other[key]) for key in keys)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other) or (one != one and other != other)


@pytest.fixture
def logged(monkeypatch: pytest.MonkeyPatch) -> Figures:
    """What is logged of an agent's learning, losses among it, by iteration; of several processes, the last one counts."""
    seen: Figures = {}
    log = TensorBoardLogger.agent

    def agent(self: TensorBoardLogger, iteration: int, diagnostics: Any, metrics: Any) -> None:
        seen[iteration] = {**diagnostics, **metrics}
        log(self, iteration, diagnostics, metrics)

    monkeypatch.setattr(TensorBoardLogger, "agent", agent)
    return seen


@contextmanager
def replayed() -> Iterator[dict[str, int]]:
    """Count the decisions and the gradient steps of dqn that a resumed run repeats before it trains."""
    found = {"decisions": 0, "gradient_steps": 0}
    taken = []
    run, take_over, train = ResumedSimulator.run, ResumedSimulator._take_over, DQN.train

    def counted_run(self: ResumedSimulator, *arguments: Any) -> Any:
        found["decisions"] += not taken
        return run(self, *arguments)

    def counted_take_over(self: ResumedSimulator, known: Any) -> None:
        taken.append(known)
        take_over(self, known)

    def counted_train(self: DQN, gradient_steps: int, batch_size: int = 100) -> None:
        found["gradient_steps"] += 0 if taken else gradient_steps
        train(self, gradient_steps, batch_size)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ResumedSimulator, "run", counted_run)
        patch.setattr(ResumedSimulator, "_take_over", counted_take_over)
        patch.setattr(DQN, "train", counted_train)
        yield found


def begin(train: Train, text_file: Path, agent: str, flags: str, out: str, stop: int | None = None) -> Path:
    """Train a run, to its end or until it is interrupted after so many decisions."""
    arguments = [*BASE, "--agent", agent, *flags.split(), "--data.path", text_file, "--out", out]
    return proceed(train, arguments, Path(out), stop)


def proceed(train: Train, arguments: list[Any], run: Path, stop: int | None = None) -> Path:
    if stop is None:
        finished = train(*arguments)
        assert finished.status == 0, finished
    else:
        with interrupted_after(stop):
            assert train(*arguments).status == 130
    return run.absolute()


@pytest.mark.parametrize(("agent", "flags"), [*AGENTS.items(), ("surrogate", f"{AGENTS['surrogate']} {MANY_LAYERS}")])
def test_snapshot_and_full_replay_end_as_the_uninterrupted_run(
    train: Train, text_file: Path, logged: Figures, agent: str, flags: str
) -> None:
    whole = begin(train, text_file, agent, flags, "whole")
    expected = dict(logged)
    assert len({tuple(line["pointers"]) for line in decisions(whole)}) > 1
    logged.clear()

    def check(run: Path) -> None:
        assert decisions(run) == decisions(whole)
        assert weights(run) == weights(whole)
        assert same(learned(run), learned(whole))
        assert same(logged, expected)

    run = begin(train, text_file, agent, flags, "parts", STOPS[0])
    first = Path(shutil.copytree(run, "replayed", symlinks=True))
    seen = dict(logged)
    for stop in (*STOPS[1:], None):
        with replayed() as repeated:
            proceed(train, ["--resume", run], run, stop)
        assert 0 < repeated["decisions"] <= 8, (stop, repeated)
    check(run)
    assert names(run) == names(whole)

    logged.clear()
    logged.update(seen)
    shutil.rmtree(first / "snapshots")
    with replayed() as repeated:
        proceed(train, ["--resume", first], first)
    assert repeated["decisions"] == 10
    check(first.absolute())
    assert names(first) == names(whole)


def names(run: Path) -> list[str]:
    """Return the checkpoints and snapshots that a run has."""
    folders = [run / "checkpoints", run / "snapshots"]
    return sorted(path.relative_to(run).as_posix() for folder in folders for path in folder.iterdir())


def test_what_is_repeated_does_not_grow_with_the_record(train: Train, text_file: Path) -> None:
    for stop in (13, 48, 93):
        run = begin(train, text_file, "dqn", "--trainer.iterations 100 --agent.learning-starts 4", f"run{stop}", stop)
        with replayed() as repeated, interrupted_after(stop + 1):
            assert train("--resume", run).status == 130
        # The last decision that is shown again is learned from once training has begun.
        assert repeated == {"decisions": 5, "gradient_steps": 4 * 8}
        assert len(names(run)) <= 6


OF_ONE_S_OWN = """
from agents.dqn import DQNAgent

class Mine(DQNAgent):
    pass
"""


@pytest.mark.parametrize("agent", ["mine:Mine", "stable_baselines3:DQN", "local_search", "0 1 1"])
def test_agents_that_do_not_declare_their_state_are_replayed_whole(
    train: Train, text_file: Path, write_module: Callable[[str, str], str], agent: str
) -> None:
    write_module("mine", OF_ONE_S_OWN)
    run = begin(train, text_file, agent, "", "run", 13)
    assert not (run / "snapshots").exists()
    with replayed() as repeated:
        proceed(train, ["--resume", run, "--trust"], run)
    assert repeated["decisions"] == 10


def test_a_snapshot_of_an_agent_that_is_no_longer_resumable_is_refused(
    train: Train, text_file: Path, write_module: Callable[[str, str], str]
) -> None:
    write_module("mine", OF_ONE_S_OWN.replace("pass", "resumable = True"))
    run = begin(train, text_file, "mine:Mine", "", "run", 13)
    with replayed() as repeated, interrupted_after(14):
        assert train("--resume", run, "--trust").status == 130
    assert repeated["decisions"] == 5
    write_module("mine", OF_ONE_S_OWN)
    line = refused(train, run, "--trust")
    assert "Mine no longer declares itself resumable; remove" in line


def test_every_expensive_agent_has_snapshots() -> None:
    made = {name: agents.agent_class(name)[0] for name in agents.names()}
    assert {name for name, cls in made.items() if vars(cls).get("resumable")} == set(AGENTS)


# Snapshots that cannot be used.


@pytest.fixture
def stopped(train: Train, text_file: Path) -> Path:
    return begin(train, text_file, "dqn", AGENTS["dqn"], "run", 13)


def refused(train: Train, run: Path, *flags: str) -> str:
    finished = train("--resume", run, *flags)
    (line,) = finished.err.splitlines()
    assert finished.status == 2
    return line


FILES = ("agent.json", "generators.json", "model.zip", "progress.json", "replay_buffer.npz", "snapshot.json")


def test_a_damaged_snapshot_is_one_line_with_the_way_out(train: Train, stopped: Path) -> None:
    folder = stopped / "snapshots" / "000005"
    assert sorted(path.name for path in folder.iterdir()) == sorted(FILES)
    for name in FILES:
        content = (folder / name).read_bytes()
        half = len(content) // 2
        flipped = content[:half] + bytes([content[half] ^ 1]) + content[half + 1 :]
        for damage in (None, b"", b"[]", flipped):
            (folder / name).unlink(missing_ok=True)
            if damage is not None:
                (folder / name).write_bytes(damage)
            line = refused(train, stopped)
            assert str(folder) in line
            assert line.endswith(f"; remove {folder.parent}: the record is then replayed whole")
        (folder / name).write_bytes(content)
    (folder / "more.npz").touch()
    assert f"{folder}: damaged" in refused(train, stopped)
    shutil.rmtree(folder.parent)
    assert train("--resume", stopped).status == 0


def test_a_snapshot_of_another_decision_or_record_or_setting_is_refused(train: Train, stopped: Path) -> None:
    snapshots = stopped / "snapshots"
    shutil.copytree(snapshots / "000010", snapshots / "000007")
    assert f"{snapshots / '000007'}: a snapshot of another run" in refused(train, stopped)
    shutil.rmtree(snapshots / "000007")
    config, record = stopped / "config.json", stopped / "decisions.jsonl"
    before = config.read_bytes(), record.read_bytes()
    change(config, ["resolved", "optim"], learning_rate=1e-4)
    assert "or config.json or decisions.jsonl were changed" in refused(train, stopped)
    config.write_bytes(before[0])
    lines = [json.loads(line) for line in before[1].splitlines()]
    lines[2]["reward_loss"] += 1e-9
    record.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert "or config.json or decisions.jsonl were changed" in refused(train, stopped)
    record.write_bytes(before[1])
    assert train("--resume", stopped).status == 0


def test_an_agent_that_continues_otherwise_than_the_record_is_refused(
    train: Train, stopped: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A decision at least is repeated after a snapshot, as a proof."""
    restore = agents.Agent.restore

    def wrongly(self: Any, folder: Path, num_decisions: int) -> None:
        restore(self, folder, num_decisions)
        self.model.action_space.seed(5)

    monkeypatch.setattr(agents.Agent, "restore", wrongly)
    monkeypatch.setattr(DQN, "predict", lambda self, *_, **__: (np.array([self.action_space.sample()]), None))
    assert "error: cannot resume: shown the same run again, the agent chose" in refused(train, stopped)


def test_resuming_from_the_checkpoint_before_uses_the_snapshot_before(train: Train, text_file: Path) -> None:
    for name in ("dqn", "ppo"):
        whole = begin(train, text_file, name, AGENTS[name], f"{name}whole")
        run = begin(train, text_file, name, AGENTS[name], f"{name}parts", 22)
        shutil.rmtree(run / "checkpoints" / "000020")
        with replayed() as repeated:
            proceed(train, ["--resume", run], run)
        assert repeated["decisions"] == {"dqn": 5, "ppo": 7}[name]
        assert decisions(run) == decisions(whole)
        assert same(learned(run), learned(whole))
        assert names(run) == names(whole)


def test_latest_is_right_after_a_kill_before_it_was_set(
    train: Train, text_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(self: RunDirectory, count: int) -> None:
        if self.latest_checkpoint() == (24, self.checkpoint_folder(24)):
            raise KeyboardInterrupt
        keep(self, count)

    keep = RunDirectory.keep_checkpoints
    with monkeypatch.context() as patch:
        patch.setattr(RunDirectory, "keep_checkpoints", killed)
        assert train(*BASE, "--agent", "random", "--data.path", text_file, "--out", "run").status == 130
    run = Path("run").absolute()
    assert (run / "checkpoints" / "latest").resolve().name == "000020"
    proceed(train, ["--resume", run], run)
    assert (run / "checkpoints" / "latest").resolve().name == "000024"
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["000020", "000024", "latest"]


def test_a_kill_while_a_snapshot_is_written_loses_nothing(
    train: Train, text_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = begin(train, text_file, "double_dqn", "", "whole")

    def killed(self: Any, folder: Path) -> None:
        snapshot(self, folder)
        if recorders[0]._num_shown == 10:
            (folder.with_name(".000010.1-2.tmp")).mkdir()  # as a kill leaves it: nobody cleans up
            raise KeyboardInterrupt

    snapshot, recorders, init = agents.Agent.snapshot, [], Recorder.__init__

    def noted(self: Recorder, *arguments: Any, **others: Any) -> None:
        recorders.append(self)
        init(self, *arguments, **others)

    with monkeypatch.context() as patch:
        patch.setattr(agents.Agent, "snapshot", killed)
        patch.setattr(Recorder, "__init__", noted)
        run = Path("run").absolute()
        assert train(*BASE, "--agent", "double_dqn", "--data.path", text_file, "--out", "run").status == 130
    assert sorted(path.name for path in (run / "snapshots").iterdir()) == [".000010.1-2.tmp", "000005"]
    proceed(train, ["--resume", run], run)
    assert same(learned(run), learned(whole))
    assert names(run) == names(whole)
