"""A grid of runs: agents x seeds, each an ordinary run directory, carried out in parallel processes.

A grid's folder:

    comparison.json     the entries and seeds last asked for
    runs/<entry>__s<seed>/    ordinary run directories
    logs/<entry>__s<seed>.log    what each run printed

Asked for again, finished runs are taken as they are, interrupted ones are gone on with, failed ones are tried again.
"""

import re
import shlex
import time
import traceback
from collections.abc import Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from rich.console import Console

from experiments import workers
from experiments.command import parse
from experiments.job import Job
from experiments.settings import Settings, from_dict
from tying.errors import InputError
from tying.files import read_json, remove, write_json
from tying.records import RunDirectory

FORMAT = 1
# Flags of `experiments.train` that a grid sets itself, run by run.
_SET_HERE = {
    "--agent": "an entry begins with its agent's name",
    "--agent.name": "an entry begins with its agent's name",
    "--out": "every run has its place in the comparison's folder",
    "--resume": "a comparison is resumed by asking for it again",
    "--seed": "a comparison has --seeds",
}


@dataclass(frozen=True)
class Entry:
    """One line of a comparison: an agent, with settings of its own.

    Attributes:
        label: The text that it was asked for by: an agent's name and flags ("dqn --reward.name fork").
        settings: What a run of it is made from, at any seed.
        flags: The flags of `experiments.train` that make the same run.
    """

    label: str
    settings: Settings
    flags: tuple[str, ...]

    @classmethod
    def parse(cls, text: str, common: Sequence[str]) -> "Entry":
        """Return the entry that a text means.

        Args:
            text: An agent's name, followed by flags of `experiments.train` that hold for it alone.
            common: Flags that hold for all entries; those of the entry stand above them.

        Raises:
            InputError: With one line for every mistake.
        """
        name, dashes, own = text.strip().partition(" --")
        try:
            given = (*common, *shlex.split(dashes.strip() + own))
        except ValueError as error:
            raise InputError(f"entry {text!r}: {str(error).lower()}") from error
        named = dict.fromkeys(argument.partition("=")[0] for argument in given)
        lines = [f"{flag} is for single runs: {_SET_HERE[flag]}" for flag in named if flag in _SET_HERE]
        if lines:
            raise InputError(lines)
        flags = (*given, "--agent", name.strip())
        settings = parse(flags).settings
        assert settings is not None  # there is no --resume
        return cls(" ".join(text.split()), settings, flags)


@dataclass(frozen=True)
class Cell:
    """One run of a grid."""

    entry: Entry
    seed: int
    run: RunDirectory
    log: Path

    @property
    def settings(self) -> Settings:
        """The run's settings."""
        return replace(self.entry.settings, run=replace(self.entry.settings.run, seed=self.seed))

    @property
    def finished(self) -> bool:
        """Whether the run is done."""
        return (self.run.final / "summary.json").is_file()


@dataclass(frozen=True)
class Outcome:
    """What became of a cell: `failure` is None for a finished run, otherwise the reason in one line."""

    cell: Cell
    seconds: float
    failure: str | None


def parse_entries(texts: Sequence[str], common: Sequence[str]) -> list[Entry]:
    """Return the entries of a comparison.

    Raises:
        InputError: With one line for every mistake, each said once.
    """
    entries: dict[str, Entry] = {}
    lines: dict[str, None] = {}
    for text in texts:
        try:
            entry = Entry.parse(text, common)
        except InputError as error:
            lines |= dict.fromkeys(error.lines)
            continue
        if entry.label in entries:
            lines[f"entry {entry.label!r} is named twice"] = None
        entries[entry.label] = entry
    if lines:
        raise InputError(list(lines))
    return list(entries.values())


def plan(folder: Path, entries: Sequence[Entry], seeds: Sequence[int]) -> list[Cell]:
    """Return the cells of a grid, one seed after another, so that an unfinished grid can be looked at fairly.

    Raises:
        InputError: If a run that is there already was made with other settings, or two entries would have one folder.
    """
    cells = []
    lines = []
    labels: dict[str, str] = {}
    for entry in entries:
        taken = labels.setdefault(_slug(entry.label), entry.label)
        if taken != entry.label:
            raise InputError(f"entries {taken!r} and {entry.label!r} would have one folder: compare them apart, with --out")
    for seed in seeds:
        for entry in entries:
            name = f"{_slug(entry.label)}__s{seed}"
            cell = Cell(entry, seed, RunDirectory(folder / "runs" / name), folder / "logs" / f"{name}.log")
            if cell.run.config_file.is_file():
                there = from_dict(cell.run.read_config(), f"{cell.run.config_file}: ")
                if there != cell.settings:
                    lines.append(f"{cell.run.path}: made with other settings ({_difference(there, cell.settings)})")
            cells.append(cell)
    if lines:
        raise InputError([*lines, f"{folder} holds another comparison: name a new folder with --out"])
    return cells


def _slug(label: str) -> str:
    return re.sub(r"[^\w.]+", "-", label).strip("-")


def _difference(there: Settings, asked: Settings) -> str:
    old, new = there.flat(), asked.flat()
    names = [name for name in {**old, **new} if old.get(name) != new.get(name)]
    first = names[0]
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return f"{first} = {old.get(first)!r}, now {new.get(first)!r}{more}"


def write_plan(folder: Path, entries: Sequence[Entry], seeds: Sequence[int], command: Sequence[str]) -> None:
    """Write down what the grid is of; earlier entries in the same folder stay."""
    path = folder / "comparison.json"
    known = read_json(path)["entries"] if path.is_file() else {}
    known |= {entry.label: shlex.join(entry.flags) for entry in entries}
    write_json(path, {"format": FORMAT, "command": shlex.join(command), "seeds": list(seeds), "entries": known})


def carry_out(cells: Sequence[Cell], jobs: int, backend: workers.Backend, console: Console) -> list[Outcome]:
    """Carry out what is not done yet and return what became of every cell, failures included.

    Args:
        cells: The grid.
        jobs: Processes at a time, each with one thread.
        backend: Processes of this machine (joblib's loky), or a Ray cluster (extra `ray`).
        console: Shown every run that ends.
    """
    open_cells = [cell for cell in cells if not cell.finished]
    done = [Outcome(cell, 0.0, None) for cell in cells if cell.finished]
    if done:
        console.print(f"{len(done)} of {len(cells)} runs are there already", highlight=False)
    if not open_cells:
        return done
    with workers.Countdown(console, len(open_cells), "runs") as countdown:
        for outcome in workers.carry_out(_carry_out, open_cells, jobs, backend):
            done.append(outcome)
            console.print(f"{countdown.advance()}  {_line(outcome)}", highlight=False, soft_wrap=True)
    return done


def _line(outcome: Outcome) -> str:
    who = f"{outcome.cell.entry.label}, seed {outcome.cell.seed}:"
    if outcome.failure is not None:
        return f"{who} FAILED: {outcome.failure}"
    summary = read_json(outcome.cell.run.final / "summary.json")
    pattern = " ".join(map(str, summary["pointers"]))
    return f"{who} test loss {summary['test_loss']:.4f}, tying {pattern}, {outcome.seconds:.0f} s"


def _carry_out(cell: Cell) -> Outcome:
    """Do one run in a worker process; whatever goes wrong with it becomes its outcome."""
    torch.set_num_threads(1)
    start = time.monotonic()
    cell.log.parent.mkdir(parents=True, exist_ok=True)
    with cell.log.open("a", encoding="utf-8") as log, redirect_stderr(log):
        try:
            _job(cell).carry_out(Console(file=log, width=200))
        except Exception as error:  # a stranger's agent can raise anything, and the other runs must go on
            log.write(traceback.format_exc())
            reason = (str(error).splitlines() or [""])[0]
            return Outcome(cell, time.monotonic() - start, f"{type(error).__name__}: {reason} (see {cell.log})")
    return Outcome(cell, time.monotonic() - start, None)


def _job(cell: Cell) -> Job:
    if cell.run.config_file.is_file():
        return Job.resume(cell.run)
    remove(cell.run.path)  # a process that was killed while it made the folder: nothing is in it yet
    command = ("--seed", str(cell.seed), "--out", str(cell.run.path))
    return Job.new(cell.settings, cell.run.path, (*cell.entry.flags, *command))
