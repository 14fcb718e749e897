"""RunDirectory: the folder of a run, and who may read and write what in it.

runs/<preset>__<agent>__s<seed>__<date-time>/
    config.json  command.txt  versions.json  tb/  decisions.jsonl  checkpoints/<decision>/  snapshots/<decision>/  final/
"""

import json
import shlex
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from filelock import FileLock, Timeout

from experiments.run.provenance import made_by
from tying.errors import InputError
from tying.files import read_json, remove, require_room, write_json, write_link, write_text
from tying.training.record import StepRecord

_CLOCKS = ("wall_s", "cpu_s", "decision_s")


@dataclass(frozen=True)
class Line:
    """A line of decisions.jsonl.

    Attributes:
        record: The decision and its window.
        wall_s: Wall seconds since the first window began, over all processes that trained the run.
        cpu_s: The same in processor time, added up over threads.
        decision_s: Wall seconds of the decision besides training its window.
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
            ValueError: If it is damaged (KeyError, TypeError, or an InputError for its pointers).
        """
        values = json.loads(text)
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

    @property
    def finished(self) -> bool:
        """Whether the run is done."""
        return (self.final / "summary.json").is_file()

    def require_new(self) -> None:
        """Check that the folder can be made.

        Raises:
            InputError: If something is there already.
        """
        if self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir())):
            raise InputError(f"--out {self.path}: exists and is not empty; name a new folder, or --resume it")
        require_room(self.path, "--out")

    def create(self, config: dict[str, Any], command: Sequence[str], facts: dict[str, Any]) -> None:
        """Make the folder and write down what is run, by what."""
        self.require_new()
        self.path.mkdir(parents=True, exist_ok=True)
        write_text(self.path / "command.txt", shlex.join(command) + "\n")
        write_json(self.versions_file, {**made_by(), **facts})
        # Last, since a folder with a config.json is a run.
        write_json(self.config_file, config)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes from training this run while a block runs; a killed process leaves no lock behind.

        Raises:
            InputError: If another process is at it.
        """
        try:
            with FileLock(self.path / ".lock", timeout=0):
                yield
        except Timeout as error:
            raise InputError(f"{self.path}: another process is training this run") from error

    def read_config(self) -> Path:
        """Return the path of config.json.

        Raises:
            InputError: If this is no run.
        """
        if not self.config_file.is_file():
            raise InputError(f"{self.path}: not a run directory (it has no config.json)")
        return self.config_file

    def read_summary(self) -> dict[str, Any]:
        """Return final/summary.json.

        Raises:
            InputError: If the run is not finished, or the file is damaged.
        """
        if not self.finished:
            resume = f"python -m experiments.train --resume {shlex.quote(str(self.path))}"
            raise InputError(f"{self.path}: not finished; resume it by {resume}")
        summary = read_json(self.final / "summary.json")
        if not isinstance(summary, dict) or not summary.keys() >= {"pointers", "test_loss", "seed"}:
            raise InputError(f"{self.final / 'summary.json'}: damaged; remove {self.final} and resume the run")
        return dict(summary)

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
            except (ValueError, KeyError, TypeError) as error:
                raise InputError(
                    f"{self.decisions_file}: line {number + 1} is damaged, or of another version ({type(error).__name__}: "
                    f"{(str(error).splitlines() or [''])[0]})"
                ) from error
            if line.record.decision != number:
                raise InputError(f"{self.decisions_file}: line {number + 1} is not decision {number}")
            lines.append(line)
        return lines

    def rewrite_decisions(self, lines: Sequence[Line]) -> None:
        """Replace decisions.jsonl in one step."""
        write_text(self.decisions_file, "".join(line.to_json() for line in lines))

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

    def latest_checkpoint(self) -> tuple[int, Path] | None:
        """Return the number of decisions and the folder of the newest checkpoint, if there is one."""
        numbers = _numbers(self.checkpoints)
        return (numbers[-1], self.checkpoint_folder(numbers[-1])) if numbers else None

    def snapshot_before(self, decisions: int) -> int:
        """Return the decisions of the newest snapshot before a checkpoint after `decisions`; 0: there is none.

        One right at the checkpoint does not count: a decision at least is replayed, so that snapshot and record must agree.
        """
        return max((number for number in _numbers(self.snapshots) if number < decisions), default=0)

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

    def remove_snapshots_after(self, decisions: int) -> None:
        """Remove the snapshots of decisions that will be taken again."""
        for number in _numbers(self.snapshots):
            if number > decisions:
                shutil.rmtree(self.snapshot_folder(number))


def _numbers(folder: Path) -> list[int]:
    """Return the decisions that folders in a folder are named by, in order; other folders are not ours."""
    found = (path.name for path in folder.glob("[0-9]*") if path.is_dir() and path.name.isdecimal())
    return sorted(int(name) for name in found if name == f"{int(name):06d}")
