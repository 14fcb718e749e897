"""RunDirectory: the folder of a run, and who may read and write what in it.

runs/<preset>__<agent>__s<seed>__<date-time>/
    config.json  command.txt  versions.json  tb/  decisions.jsonl  checkpoints/<decision>/  snapshots/<decision>/  final/
"""

import json
import shlex
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from filelock import FileLock, Timeout

from experiments.run.provenance import made_by
from tying import schema
from tying.errors import InputError
from tying.files import (
    CHECKSUMS,
    digest,
    read_json,
    remove,
    require_checksums,
    require_room,
    warn_once,
    write_checksums,
    write_json,
    write_link,
    write_text,
)
from tying.training.record import StepRecord

_CLOCKS = ("wall_s", "cpu_s", "decision_s")
_LINE = schema.shape(**dict.fromkeys(_CLOCKS, float), agent=dict[str, Any])
_COUNTS = ("seed", "num_layers", "num_unique_layers", "trainable_params", "trainable_block_params", "independent_params")
_SUMMARY = schema.shape(
    agent=str,
    preset=str,
    pointers=schema.PointerList,
    **dict.fromkeys((*_COUNTS, "independent_block_params", "iterations", "tokens", "decisions", "changes"), int),
    **dict.fromkeys(("test_loss", "reward_loss", "wall_s", "train_s", "evaluate_s", "decision_s"), float),
)
_VERSIONS = schema.shape(config_sha256=str, corpus_sha256=str, device=str, packages=dict[str, str | None])
# What a process that was killed while it made the folder can have left in it.
_BEGINNINGS = (".lock", "command.txt", "versions.json")


@dataclass(frozen=True)
class Line:
    """A line of decisions.jsonl.

    Attributes:
        record: The decision and its window.
        wall_s: Wall seconds since the first window began, over all processes that trained the run.
        cpu_s: The same in processor time, added up over threads.
        decision_s: Wall seconds of the decision besides training its window and evaluating it: with `train_s` and
            `evaluate_s` of the record, all time since the last decision.
        agent: The agent's diagnostics at the decision.
    """

    record: StepRecord
    wall_s: float
    cpu_s: float
    decision_s: float
    agent: Mapping[str, Any]

    def to_json(self) -> str:
        """Return the line."""
        clocks = {name: getattr(self, name) for name in _CLOCKS}
        return json.dumps({**self.record.to_dict(), **clocks, "agent": dict(self.agent)}) + "\n"

    @classmethod
    def from_json(cls, text: bytes) -> Self:
        """Read a line.

        Raises:
            ValueError: If it is damaged (an InputError where an entry is wrong).
        """
        values = schema.check(_LINE, json.loads(text))
        clocks = {name: float(values[name]) for name in _CLOCKS}
        return cls(record=StepRecord.from_dict(values), agent=values["agent"], **clocks)


class RunDirectory:
    """The folder of a run. Making the object touches nothing; `create` makes the folder.

    Args:
        path: The run's own folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config_file = path / "config.json"
        self.versions_file = path / "versions.json"
        self.decisions_file = path / "decisions.jsonl"
        self.checkpoints = path / "checkpoints"
        self.snapshots = path / "snapshots"
        self.tensorboard = path / "tb"
        self.final = path / "final"
        self._lock = FileLock(path / ".lock", timeout=0)
        self._known_bytes = 0  # of decisions.jsonl, as this process wrote it

    @classmethod
    def take(cls, path: Path) -> Self:
        """Make a new folder; where another process was faster, one of the next number."""
        folder, number = path, 1
        while True:
            try:
                folder.mkdir(parents=True)
                return cls(folder)
            except FileExistsError:
                number += 1
                folder = path.with_name(f"{path.name}-{number}")

    @property
    def finished(self) -> bool:
        """Whether the run is done."""
        return (self.final / "summary.json").is_file()

    def require_new(self) -> None:
        """Check that the folder can be made.

        Raises:
            InputError: If something is there already.
        """
        if self.path.exists() and not self._is_empty():
            raise InputError(f"--out {self.path}: exists and is not empty; name a new folder, or --resume it")
        require_room(self.path, "--out")

    def _is_empty(self) -> bool:
        """Return whether nothing is there, or only what a process that was killed at once left."""
        if not self.path.is_dir():
            return False
        return all(part.name in _BEGINNINGS or part.match(".*.tmp") for part in self.path.iterdir())

    def create(self, config: dict[str, Any], command: Sequence[str], facts: dict[str, Any]) -> None:
        """Write down what is run, by what; under the lock."""
        self.require_new()
        self.remove_leftovers()
        write_text(self.path / "command.txt", shlex.join(command) + "\n")
        write_json(self.versions_file, {**made_by(), **facts, "config_sha256": digest(config)})
        # Last, since a folder with a config.json is a run.
        write_json(self.config_file, config)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes from training this run while a block runs; blocks may be nested.

        A killed process leaves no lock behind.

        Raises:
            InputError: If another process is at it.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        try:
            self._lock.acquire()
        except Timeout as error:
            raise InputError(f"{self.path}: another process is training this run") from error
        try:
            yield
        finally:
            self._lock.release()

    def read_versions(self) -> dict[str, Any]:
        """Return versions.json: what made the run.

        Raises:
            InputError: If it is damaged, or the settings in config.json are not those that the run began with.
        """
        begin_anew = f"begin a new run with --config {shlex.quote(str(self.config_file))}"
        known = schema.read(self.versions_file, _VERSIONS, f"what made the run is unknown: {begin_anew}")
        if known["config_sha256"] != digest(read_json(self.config_file)):
            raise InputError(
                f"{self.config_file}: not the settings that the run began with; undo the change, or {begin_anew}"
            )
        return known

    def require_inputs(self, inputs: Mapping[str, Any]) -> None:
        """Check that what the run is trained on is what it began with.

        Args:
            inputs: Pairs of a name and a digest, such as "corpus" and "corpus_sha256".

        Raises:
            InputError: Naming what has changed.
        """
        known = self.read_versions()
        for name in (key.removesuffix("_sha256") for key in inputs if key.endswith("_sha256")):
            digests = inputs[f"{name}_sha256"], known.get(f"{name}_sha256", inputs[f"{name}_sha256"])
            if digests[0] != digests[1]:
                raise InputError(
                    f"cannot resume {self.path}: {name} {inputs[name]} is no longer what it was at the run's beginning"
                )

    def write_assets(self, save: Callable[[Path], None]) -> None:
        """Write what the model needs to be used, such as a tokenizer, with checksums.

        Args:
            save: Writes it into a folder (`Task.save_assets`).
        """
        temporary = self.path / ".assets.tmp"
        remove(temporary)
        temporary.mkdir()
        save(temporary)
        write_checksums(temporary)
        for part in sorted(temporary.iterdir()):
            if part.is_dir():
                remove(self.path / part.name)
            part.replace(self.path / part.name)
        temporary.rmdir()

    def require_assets(self) -> None:
        """Check that what the model needs is as it was written.

        Raises:
            InputError: If a file of it is missing or has changed.
        """
        if (self.path / CHECKSUMS).is_file():
            require_checksums(self.path, way_out="it belongs to the model and must stay as it is")

    def read_config(self) -> Path:
        """Return the path of config.json.

        Raises:
            InputError: If this is no run.
        """
        if not self.config_file.is_file():
            begun = (self.path / "command.txt").is_file()
            hint = ": it was killed before it began; repeat its command, which stands in command.txt" if begun else ""
            raise InputError(f"{self.path}: not a run directory (it has no config.json){hint}")
        return self.config_file

    def read_summary(self) -> dict[str, Any]:
        """Return final/summary.json.

        Raises:
            InputError: If the run is not finished, or the file is damaged.
        """
        if not self.finished:
            resume = f"python -m experiments.train --resume {shlex.quote(str(self.path))}"
            raise InputError(f"{self.path}: not finished; resume it by {resume}")
        way_out = f"remove {shlex.quote(str(self.final))} and resume the run"
        return schema.read(self.final / "summary.json", _SUMMARY, way_out)

    def read_decisions(self) -> list[Line]:
        """Return the lines of decisions.jsonl; a last line cut short by a kill is left out.

        Raises:
            InputError: If another line is damaged.
        """
        if not self.decisions_file.exists():
            return []
        lines: list[Line] = []
        # Whatever is behind the last newline was cut short.
        for number, text in enumerate(self.decisions_file.read_bytes().split(b"\n")[:-1]):
            try:
                line = Line.from_json(text)
            except (ValueError, RecursionError) as error:
                reason = (str(error).splitlines() or [""])[0]
                raise InputError(
                    f"{self.decisions_file}: line {number + 1} is damaged, or of another version ({reason})"
                ) from error
            if line.record.decision != number:
                raise InputError(f"{self.decisions_file}: line {number + 1} is not decision {number}")
            lines.append(line)
        return lines

    def rewrite_decisions(self, lines: Sequence[Line]) -> None:
        """Replace decisions.jsonl in one step."""
        write_text(self.decisions_file, "".join(line.to_json() for line in lines))
        self._known_bytes = self.decisions_file.stat().st_size

    def append_decision(self, lines: Sequence[Line]) -> None:
        """Add the last of the run's lines to decisions.jsonl."""
        self.require_decisions(lines[:-1])
        with self.decisions_file.open("ab") as file:
            file.write(lines[-1].to_json().encode())
            self._known_bytes = file.tell()

    def require_decisions(self, lines: Sequence[Line]) -> None:
        """Write decisions.jsonl anew, and say so, where somebody removed or shortened it while the run trains."""
        size = self.decisions_file.stat().st_size if self.decisions_file.is_file() else 0
        if size != self._known_bytes:
            warn_once(f"{self.decisions_file}: changed by something else while the run trained; written anew")
            self.rewrite_decisions(lines)

    def remove_leftovers(self) -> None:
        """Remove what a killed process was writing when it died."""
        for folder in (self.path, self.checkpoints, self.snapshots):
            for path in folder.glob(".*.tmp"):
                remove(path)

    def checkpoint_folder(self, decisions: int) -> Path:
        """Return the folder of the checkpoint after that many decisions."""
        return self.checkpoints / f"{decisions:06d}"

    def snapshot_folder(self, decisions: int) -> Path:
        """Return the folder of the agent's snapshot after that many decisions."""
        return self.snapshots / f"{decisions:06d}"

    def latest_checkpoint(self, most: int | None = None) -> tuple[int, Path] | None:
        """Return the number of decisions and the folder of the newest checkpoint, if there is one.

        Args:
            most: Only checkpoints after at most that many decisions.
        """
        numbers = [number for number in _numbers(self.checkpoints) if most is None or number <= most]
        return (numbers[-1], self.checkpoint_folder(numbers[-1])) if numbers else None

    def snapshot_before(self, decisions: int) -> int:
        """Return the decisions of the newest snapshot before a checkpoint after `decisions`; 0: there is none.

        One right at the checkpoint does not count: a decision at least is replayed, so that snapshot and record must agree.
        """
        return max((number for number in _numbers(self.snapshots) if number < decisions), default=0)

    def remove_after(self, decisions: int) -> None:
        """Remove the checkpoints and snapshots of decisions that will be taken again."""
        for parent in (self.checkpoints, self.snapshots):
            for number in _numbers(parent):
                if number > decisions:
                    shutil.rmtree(parent / f"{number:06d}")

    def keep_checkpoints(self, count: int) -> None:
        """Point `checkpoints/latest` at the newest checkpoint; keep the newest `count`, and the snapshots before them."""
        numbers = _numbers(self.checkpoints)
        if not numbers:
            return
        write_link(self.checkpoints / "latest", self.checkpoint_folder(numbers[-1]).name)
        for number in numbers[:-count]:
            shutil.rmtree(self.checkpoint_folder(number))
        needed = self.snapshot_before(numbers[-count:][0])
        for number in _numbers(self.snapshots):
            if number < needed:
                shutil.rmtree(self.snapshot_folder(number))


def _numbers(folder: Path) -> list[int]:
    """Return the decisions that folders in a folder are named by, in order; other folders are not ours."""
    found = (path.name for path in folder.glob("[0-9]*") if path.is_dir() and path.name.isdecimal())
    return sorted(int(name) for name in found if name == f"{int(name):06d}")
