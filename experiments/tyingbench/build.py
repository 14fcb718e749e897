"""Build a table: train every tying of a small Transformer from scratch, at several seeds.

    python -m experiments.tyingbench build --layers 6 --seeds 5 --data.path input.txt --out tables/shakespeare-6

A table's folder:

    plan.json     what it is made from; asked for again, it must be the same
    rows.csv      a line for every pattern, seed and budget, in the order in which they were done
    table.csv, table.json    when all is done: the lines in order, and what they were made from

Seed by seed, so that a table whose building is cut short has fewer seeds, but all patterns.
"""

import csv
import hashlib
import io
import os
import shlex
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import joblib
import torch
from filelock import FileLock, Timeout
from pydantic import Field
from pydantic_settings import BaseSettings, CliUnknownArgs, SettingsConfigDict
from rich.console import Console

from envs.presets import Setup
from envs.tyingbench import BUDGETS, COLUMNS, FORMAT, Row, TyingBench, read_rows
from experiments import cli, grid, workers
from tying.config import to_dict
from tying.data import corpora, prepare
from tying.errors import DivergenceError, InputError
from tying.files import read_json, require_room, write_json, write_text
from tying.pointers import Pointers
from tying.records import made_by
from tying.trainer import Trainer

_PRESET = "table"
_LINES_SHOWN = 100


class BuildSettings(BaseSettings):
    """Train every tying of a small Transformer. Every other flag is one of experiments.train (default: --preset table)."""

    model_config = SettingsConfigDict(**cli.script_config("tyingbench build"), cli_ignore_unknown_args=True)
    unknown: CliUnknownArgs
    layers: int = Field(6, description="number of layers L: 15 patterns for 4, 203 for 6, 4140 for 8 [2 to 8]", ge=2, le=8)
    seeds: int = Field(5, description="of initial weights and batches, from 0 on [>= 1]", ge=1)
    jobs: int = Field(joblib.cpu_count(), description="processes at a time, one thread each [>= 1]", ge=1)
    backend: workers.Backend = Field("loky", description="loky: this machine; ray: a Ray cluster (extra 'ray')")
    out: str | None = Field(None, description="folder, new or to go on with; None for tables/<date>")


@dataclass(frozen=True)
class Job:
    """One pattern at one seed."""

    setup: Setup
    pointers: Pointers
    seed: int


@dataclass(frozen=True)
class Outcome:
    """What became of a job: its rows, or the reason in one line why there are none."""

    job: Job
    rows: tuple[Row, ...]
    failure: str | None = None


def main(arguments: Sequence[str]) -> None:
    """Do what is not done yet, and write the table when all is."""
    settings, rest = cli.read_known(BuildSettings, arguments)
    named = {flag.partition("=")[0] for flag in rest}
    if "--model.num-layers" in named:
        raise InputError("--model.num-layers: the number of layers is --layers here")
    if "--preset" not in named:
        rest = ["--preset", _PRESET, *rest]
    setup = grid.Entry.parse("independent", [*rest, "--model.num-layers", str(settings.layers)]).settings.setup
    if setup.trainer.iterations % 4:
        raise InputError(f"trainer.iterations = {setup.trainer.iterations}: a quarter of them must be a whole number")
    workers.require_backend(settings.backend)
    folder = Path(settings.out or f"tables/{time.strftime('%Y%m%d-%H%M%S')}")
    require_room(folder, "--out")
    prepare(setup.data)  # what is wrong with the text is said once, here
    with _locked(folder):
        _write_plan(folder / "plan.json", setup)
        rows = _carry_out(folder / "rows.csv", setup, settings, Console())
        command = ["python", "-m", "experiments.tyingbench", "build", *arguments]
        _write_table(folder, rows, setup, shlex.join(command))
    print(f"table      {folder / 'table.csv'}")


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / ".lock", timeout=0):
            yield
    except Timeout as error:
        raise InputError(f"{folder}: another process is building this table") from error


def _write_plan(path: Path, setup: Setup) -> None:
    plain = to_dict(setup)
    if path.is_file() and read_json(path) != plain:
        raise InputError(f"{path}: of a table with other settings: name a new folder with --out")
    write_json(path, plain)


def _carry_out(path: Path, setup: Setup, settings: BuildSettings, console: Console) -> list[Row]:
    """Return all rows; those that are in the file already are taken from it, new ones are appended.

    Raises:
        cli.Failed: If jobs failed; the rows of the others are kept.
    """
    rows = _rows_of_whole_jobs(path)
    done = {(row.pointers, row.seed) for row in rows}
    wanted = [(pattern, seed) for seed in range(settings.seeds) for pattern in Pointers.all(settings.layers)]
    jobs = [Job(setup, pattern, seed) for pattern, seed in wanted if (pattern, seed) not in done]
    there = f"{len(wanted)} jobs in {path.parent}, {len(wanted) - len(jobs)} of them done"
    console.print(f"{there}; interrupted, the same command goes on", highlight=False, soft_wrap=True)
    failures = []
    with path.open("a", encoding="utf-8") as file, workers.Countdown(console, len(jobs), "jobs") as countdown:
        for number, outcome in enumerate(workers.carry_out(train, jobs, settings.jobs, settings.backend), start=1):
            where = countdown.advance()
            _append(file, outcome.rows)
            rows += outcome.rows
            if outcome.failure is not None:
                failures.append(f"'{outcome.job.pointers}', seed {outcome.job.seed}: {outcome.failure}")
                console.print(f"{where}  FAILED: {failures[-1]}", highlight=False, soft_wrap=True)
            elif number % max(1, len(jobs) // _LINES_SHOWN) == 0:
                last = outcome.rows[-1]
                line = f"{where}  '{last.pointers}', seed {last.seed}: test loss {last.test_loss:.4f}, {last.seconds:.1f} s"
                console.print(line, highlight=False, soft_wrap=True)
    if failures:
        failures.append(f"no table: {len(failures)} of {len(wanted)} jobs failed; the same command tries them again")
        raise cli.Failed(failures)
    return [row for row in rows if row.seed < settings.seeds]


def _rows_of_whole_jobs(path: Path) -> list[Row]:
    """Return the rows of the jobs that have all of theirs; others are taken out of the file, which is made if need be."""
    rows = read_rows(path) if path.is_file() else []
    counts: dict[tuple[Pointers, int], int] = {}
    for row in rows:
        counts[row.pointers, row.seed] = counts.get((row.pointers, row.seed), 0) + 1
    rows = [row for row in rows if counts[row.pointers, row.seed] == len(BUDGETS)]
    write_text(path, _text([list(COLUMNS), *(row.to_text() for row in rows)]))
    return rows


def _append(file: io.TextIOBase | Any, rows: Sequence[Row]) -> None:
    """Append a job's rows in one write, down to the disk."""
    file.write(_text([row.to_text() for row in rows]))
    file.flush()
    os.fsync(file.fileno())


def _text(lines: Sequence[Sequence[str]]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows(lines)
    return buffer.getvalue()


def train(job: Job) -> Outcome:
    """Train one pattern from scratch and judge it at every budget; a run that diverges becomes a failure."""
    torch.set_num_threads(1)
    setup = job.setup
    trainer = Trainer(prepare(setup.data), setup.model, setup.trainer, setup.optim, setup.binding, job.seed)
    trainer.rebind(job.pointers)
    seconds = 0.0
    rows = []
    try:
        for budget in BUDGETS:
            start = time.process_time()
            trainer.train(round(budget * setup.trainer.iterations) - trainer.iteration)
            seconds += time.process_time() - start
            rows.append(
                Row(
                    pointers=job.pointers,
                    seed=job.seed,
                    budget=budget,
                    tokens=trainer.tokens,
                    reward_loss=trainer.evaluate("reward", setup.reward.num_batches),
                    test_loss=trainer.evaluate("test"),
                    seconds=seconds,
                    trainable_params=trainer.trainable_params,
                    block_params=trainer.binding.trainable_params,
                )
            )
    except DivergenceError as error:
        return Outcome(job, (), str(error))
    return Outcome(job, tuple(rows))


def _write_table(folder: Path, rows: Sequence[Row], setup: Setup, command: str) -> None:
    rows = sorted(rows, key=lambda row: (row.pointers, row.seed, row.budget))
    TyingBench(rows)  # all are there, each once
    text = "".join(corpora.load(setup.data).splits.values())
    facts = {
        "format": FORMAT,
        "command": command,
        "vocab_size": prepare(setup.data).vocab_size,
        "corpus_sha256": hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest(),
        "seconds": sum(row.seconds for row in rows if row.budget == 1),
        "made_by": made_by(),
        "setup": to_dict(setup),
    }
    write_json(folder / "table.json", facts)
    write_text(folder / "table.csv", _text([list(COLUMNS), *(row.to_text() for row in rows)]))
