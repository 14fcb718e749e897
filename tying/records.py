"""Records: what happened, as values, and the run directory where they are kept.

runs/<preset>__<agent>__s<seed>__<date-time>/
    config.json  command.txt  versions.json  tb/  decisions.jsonl  checkpoints/<decision>/  final/
"""

import json
import math
import os
import platform
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import MISSING, asdict, dataclass, fields
from importlib import metadata
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from tying.errors import InputError
from tying.files import read_json, remove, require_room, write_json, write_link, write_text
from tying.pointers import Pointers

FORMAT = 1
_PACKAGES = ("torch", "numpy", "gymnasium", "stable-baselines3", "sb3-contrib", "tokenizers", "safetensors")


def perplexity(loss: float) -> float:
    """Return exp(loss), or the largest finite power of e that a float holds."""
    return math.exp(min(loss, 709.0))


@dataclass(frozen=True)
class Window:
    """The iterations between two decisions, and the state that they led to. Losses are nats per token.

    Attributes:
        iteration: Iterations done at its end.
        tokens: Training tokens seen at its end.
        train_loss: Mean over its iterations.
        last_loss: Of its last training batch.
        reward_loss: On the fixed reward batches, after it.
        block_params: Trainable parameters of the blocks.
        independent_block_params: The same for the untied model.
        gradient_norms: Per layer, of the last iteration (clipped); empty where unknown.
        similarities: Per layer, cosine of its weights with the layer before; empty where unknown.
        fork_loss: As reward_loss, had the same window been trained without the decision's change; None if it was not.
        gradient_similarities: Per layer, cosine of its position's gradient with that of the layer before; empty where
            unknown.
        agreements: Per layer, cosine of its position's gradient with the sum of the others in its group; empty where
            unknown.
    """

    iteration: int
    tokens: int
    train_loss: float
    last_loss: float
    reward_loss: float
    block_params: int
    independent_block_params: int
    gradient_norms: tuple[float, ...] = ()
    similarities: tuple[float, ...] = ()
    fork_loss: float | None = None
    gradient_similarities: tuple[float, ...] = ()
    agreements: tuple[float, ...] = ()

    @property
    def param_share(self) -> float:
        """Trainable block parameters as a share of the untied model's, 0 to 1."""
        return self.block_params / self.independent_block_params

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Window":
        """Rebuild a window from what JSON made of `asdict`."""
        plain: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in values.items()}
        return cls(**plain)


@dataclass(frozen=True)
class Decision:
    """One action of an agent and what came of it.

    Attributes:
        index: Number of the decision in its run, from 0.
        layer: The layer decided; None when the action decides several.
        action: As the agent gave it.
        frozen: Whether pointers no longer move, so that the action had no effect.
        pointers: In force after it.
        reward: Sum of reward_terms.
        reward_terms: Name of each term to its value.
        window: The training that followed.
        train_s: Wall seconds of that training.
        evaluate_s: Wall seconds of judging: the reward evaluation, layer statistics, the branch without the change.
        param_weight: The price of parameters that the reward was computed with, nats per token.
    """

    index: int
    layer: int | None
    action: int | list[int]
    frozen: bool
    pointers: Pointers
    reward: float
    reward_terms: dict[str, float]
    window: Window
    train_s: float
    evaluate_s: float
    param_weight: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready line; the window's fields stand beside the decision's own."""
        values = asdict(self)
        window = values.pop("window")
        return {"decision": values.pop("index"), **values, "pointers": list(self.pointers), **window}


# Fields with a default may be missing: they are younger than some records.
_LINE_KEYS = {"decision", "pointers", *(field.name for field in fields(Window) if field.default is MISSING)}


def window_of(line: dict[str, Any]) -> Window:
    """Return the window in a line that `Decision.to_dict` made."""
    return Window.from_dict({field.name: line[field.name] for field in fields(Window) if field.name in line})


class RunDirectory:
    """The folder of a run. Making the object touches nothing; `create` makes the folder.

    Args:
        path: The run's own folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config_file = path / "config.json"
        self.decisions_file = path / "decisions.jsonl"
        self.checkpoints = path / "checkpoints"
        self.tensorboard = path / "tb"
        self.final = path / "final"
        self.tokenizer_file = path / "tokenizer.json"

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
        write_json(self.path / "versions.json", {**made_by(), **facts})
        # Last, since a folder with a config.json is a run.
        write_json(self.config_file, {"format": FORMAT, **config})

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

    def read_config(self) -> dict[str, Any]:
        """Return what `create` was given as config.

        Raises:
            InputError: If this is no run, or one of another format.
        """
        if not self.config_file.is_file():
            raise InputError(f"{self.path}: not a run directory (it has no config.json)")
        values = read_json(self.config_file)
        found = values.pop("format", None) if isinstance(values, dict) else None
        if found != FORMAT:
            raise InputError(f"{self.config_file}: written by format {found}, this version reads format {FORMAT}")
        return dict(values)

    def read_decisions(self) -> list[dict[str, Any]]:
        """Return the lines of decisions.jsonl; a last line cut short by a kill is left out.

        Raises:
            InputError: If another line is damaged.
        """
        if not self.decisions_file.exists():
            return []
        lines: list[dict[str, Any]] = []
        # Whatever is behind the last newline was cut short.
        for number, text in enumerate(self.decisions_file.read_bytes().split(b"\n")[:-1]):
            try:
                line = json.loads(text)
            except ValueError as error:
                raise InputError(f"{self.decisions_file}: line {number + 1} is damaged") from error
            if not isinstance(line, dict) or not line.keys() >= _LINE_KEYS:
                raise InputError(f"{self.decisions_file}: line {number + 1} is damaged")
            if line["decision"] != number:
                raise InputError(f"{self.decisions_file}: line {number + 1} is not decision {number}")
            lines.append(line)
        return lines

    def require_clocks(self, lines: Sequence[dict[str, Any]]) -> None:
        """Check that every decision says when it was.

        Raises:
            InputError: If one does not.
        """
        lacking = [clock for clock in ("wall_s", "cpu_s") if any(clock not in line for line in lines)]
        if lacking:
            raise InputError(f"{self.decisions_file}: {', '.join(lacking)} is missing; it was written by another version")

    def rewrite_decisions(self, lines: Sequence[dict[str, Any]]) -> None:
        """Replace decisions.jsonl in one step."""
        write_text(self.decisions_file, "".join(json.dumps(line) + "\n" for line in lines))

    def remove_leftovers(self) -> None:
        """Remove what a killed process was writing when it died."""
        for path in [*self.path.glob(".*.tmp"), *self.checkpoints.glob(".*.tmp")]:
            remove(path)

    def checkpoint_folder(self, decisions: int) -> Path:
        """Return the folder of the checkpoint after that many decisions."""
        return self.checkpoints / f"{decisions:06d}"

    def latest_checkpoint(self) -> tuple[int, Path] | None:
        """Return the number of decisions and the folder of the newest checkpoint, if there is one."""
        numbers = sorted(int(p.name) for p in self.checkpoints.glob("[0-9]*") if p.is_dir() and p.name.isdecimal())
        return (numbers[-1], self.checkpoint_folder(numbers[-1])) if numbers else None

    def keep_checkpoints(self, count: int) -> None:
        """Point `checkpoints/latest` at the newest checkpoint and remove all but the newest `count`."""
        folders = sorted(p for p in self.checkpoints.glob("[0-9]*") if p.is_dir())
        write_link(self.checkpoints / "latest", folders[-1].name)
        for folder in folders[:-count]:
            shutil.rmtree(folder)


def made_by() -> dict[str, Any]:
    """Return what makes things here: Python, platform, processor, git revision, packages."""
    packages: dict[str, str | None] = {}
    for name in _PACKAGES:
        try:
            packages[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            packages[name] = None
    return {
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "git": _git_revision(),
        "packages": packages,
    }


def _processor() -> str:
    """Return the processor's name; Linux alone hides it in a file."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def _git_revision() -> str | None:
    """Return the revision of this source tree, marked when it has uncommitted changes; None outside a checkout."""
    root = Path(__file__).parent
    try:
        shown = subprocess.run(
            ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40"], capture_output=True, text=True
        )
    except OSError:
        return None
    return shown.stdout.strip() or None
