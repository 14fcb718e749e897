"""What the tests of scripts share: small runs, calls inside this process, and how folders are read and compared."""

import importlib
import io
import json
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from experiments.run import cli
from experiments.run.command_line import parse
from experiments.run.config import Config
from experiments.run.recorder import Recorder
from tests.conftest import PATIENCE_S, single_thread
from tests.tying.rows import write_labelled
from tying.errors import InputError
from tying.files import write_json

# Eight decisions over three layers: a run of a fifth of a second.
SMALL = (
    "--preset tiny --trainer.iterations 16 --env.decision-interval 2 --model.width 8 --model.num-layers 3 "
    "--checkpoint-interval 2"
).split()


# A search and a fixed pattern for every task and model; SMALL and its like set sizes that all models have.
KINDS = {
    "masked_lm": "--task masked_lm --task.whole-words --model.embedding-size 4 --model.num-layers 3 --model.context 16",
    "sequence_classification": "--task sequence_classification --model.num-layers 3 --model.context 16",
    "image_classification": "--task image_classification --model.num-layers 3 --model.patch 4",
    "p_hop": "--task p_hop --task.hops 2 --task.eval-sequences 32 --model.num-layers 3 --model.context 16",
    "llama": "--model llama --model.num-layers 3 --model.context 16",
    "kv_sharing": "--model llama --model.num-layers 3 --model.context 16 --model.kv-sharing cla:2",
    "kv_tied": "--model llama --model.num-layers 3 --model.context 16 --model.kv-sharing tied --reward.cache-weight 0.3",
}


def data_of(kind: str, text: Path) -> list[str | Path]:
    """Return the flags of the data that a kind of `KINDS` is trained on: a text, rows beside it, or the task's own."""
    if kind == "sequence_classification":
        return ["--data.path", write_labelled(text.with_name("rows.tsv")), "--data.tokenizer", "byte"]
    return [] if kind in ("image_classification", "p_hop") else ["--data.path", text]


def config_of(*words: str | Path) -> Config:
    """Return the configuration that a command line means."""
    made = parse([str(word) for word in words]).config
    assert made is not None
    return made


def mistakes(*words: str | Path) -> list[str]:
    """Return the lines with which a command line is refused."""
    with pytest.raises(InputError) as caught:
        parse([str(word) for word in words])
    assert not any("\n" in line for line in caught.value.lines)
    return list(caught.value.lines)


def mistake(*words: str | Path) -> str:
    """Return the one line with which a command line is refused."""
    (line,) = mistakes(*words)
    return line


def call_in(folder: Path, script: str, *words: str | Path) -> int:
    """Call a script inside this process and in a folder, for runs that several tests share; return its status."""
    with pytest.MonkeyPatch.context() as patch, single_thread():
        patch.chdir(folder)
        return cli.status(importlib.import_module(f"experiments.{script}").main, [str(word) for word in words])


@contextmanager
def interrupted_after(num_decisions: int) -> Iterator[None]:
    """Interrupt the run that is trained in a block after so many decisions."""
    on_decision = Recorder.on_decision

    def stop(self: Recorder, record: Any, *others: Any) -> None:
        on_decision(self, record, *others)
        if record.decision + 1 == num_decisions:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Recorder, "on_decision", stop)
        yield


def read(path: Path) -> Any:
    """Return the value in a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


def change(file: Path, part: Sequence[str], **values: Any) -> None:
    """Change values of a JSON file, in the object that the keys `part` lead to; None takes a key out."""
    whole = read(file)
    inner = whole
    for key in part:
        inner = inner[key]
    inner |= values
    for key in [key for key, value in values.items() if value is None]:
        del inner[key]
    file.write_text(json.dumps(whole), encoding="utf-8")


def write_summary(folder: Path, **values: Any) -> None:
    """Write the final/summary.json of a run that is finished, as far as studies read it."""
    counts = "num_layers num_unique_layers trainable_params trainable_block_params independent_params"
    others = "independent_block_params iterations tokens decisions changes wall_s train_s evaluate_s decision_s"
    known = {"agent": "random", "preset": "tiny", "pointers": [0], "seed": 1, "test_loss": 1.0, "reward_loss": 1.0}
    numbers = dict.fromkeys(f"{counts} {others}".split(), 1)
    write_json(folder / "final" / "summary.json", {**numbers, **known, **values})


def decisions(run: Path) -> list[dict[str, Any]]:
    """Return the lines of decisions.jsonl without seconds, which differ from run to run."""
    lines = [json.loads(line) for line in (run / "decisions.jsonl").read_text(encoding="utf-8").splitlines()]
    return [{key: value for key, value in line.items() if not key.endswith("_s")} for line in lines]


def agent_parameters(run: Path) -> dict[str, torch.Tensor]:
    """Return what a stable-baselines3 agent learned; other agents learn nothing."""
    path = run / "final" / "agent" / "model.zip"
    if not path.exists():
        return {}
    with zipfile.ZipFile(path) as archive:
        found: dict[str, torch.Tensor] = torch.load(io.BytesIO(archive.read("policy.pth")), weights_only=True)
    return found


def weights(run: Path) -> bytes:
    """Return the file of a finished run's model."""
    return (run / "final" / "model.safetensors").read_bytes()


def contents(folder: Path) -> dict[Path, bytes | None]:
    """Return every path below a folder, and what is in the files."""
    return {path: path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def assert_same(run: Path, reference: Path) -> None:
    """Check that two finished runs are the same, bit by bit, but for the seconds that they took."""
    found = decisions(run)
    assert [line["decision"] for line in found] == list(range(len(found)))
    assert found == decisions(reference)
    for name in (
        "final/model.safetensors",
        "checkpoints/latest/model.safetensors",
        "checkpoints/latest/optimizer.safetensors",
    ):
        assert (run / name).read_bytes() == (reference / name).read_bytes(), name
    assert summary(run) == summary(reference)
    ours, theirs = agent_parameters(run), agent_parameters(reference)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert names(run / "checkpoints") == names(reference / "checkpoints")
    assert not [path for path in run.rglob("*") if path.name.endswith(".tmp")]


def names(folder: Path) -> set[str]:
    """Return the names of what is in a folder, which need not be there."""
    return {path.name for path in folder.iterdir()} if folder.exists() else set()


def summary(run: Path) -> dict[str, Any]:
    """Return a finished run's summary without seconds and without the names of its text and agent."""
    values = read(run / "final" / "summary.json")
    return {key: value for key, value in values.items() if not key.endswith("_s") and key not in ("corpus", "agent")}


def alive(pid: int) -> bool:
    """Return whether a process runs."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def until(done: Callable[[], bool]) -> None:
    """Wait for another process to have done something."""
    deadline = time.monotonic() + PATIENCE_S
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.05)
