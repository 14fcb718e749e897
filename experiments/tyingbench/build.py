"""Build a table: train every tying of a small Transformer from scratch, at several seeds.

    python -m experiments.tyingbench build --layers 6 --seeds 5 --data.path input.txt --out tables/shakespeare-6

A table's folder:

    plan.json     its settings and the digest of its text; they must be the same when it is resumed
    rows*.csv     a line for every pattern, seed and budget, in the order in which they were done; a file for each --shard
    table.csv, table.json    when all is done: the lines in order, and the settings, text and machine behind them

Seeds are the outer loop, so that an unfinished table has fewer seeds, but all patterns.
"""

import hashlib
import os
import shlex
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from rich.console import Console

from envs.config import TrainingConfig
from experiments.run import cli
from experiments.run.console import make_console
from experiments.run.provenance import differences, made_by
from experiments.study import workers
from experiments.study.grid import Variant
from experiments.study.workers import StudyConfig
from tying import schema, tasks
from tying.config import config, flat, setting, to_dict
from tying.data import corpora
from tying.errors import DivergenceError, InputError
from tying.files import read_json, require_room, warn_once, write_json, write_text
from tying.pointers import Pointers
from tying.tyingbench import BUDGETS, COLUMNS, FORMAT, Row, TyingBench, read_rows, to_csv

_HEADER = ",".join(COLUMNS) + "\n"
_LINES_SHOWN = 100
Job = tuple[TrainingConfig, Pointers, int]
_MADE = schema.shape(made_by=schema.shape(packages=dict[str, str | None]))


@config
class BuildFlags(StudyConfig):
    """Train every tying of a small Transformer. Every other flag is one of experiments.train (default: --preset table)."""

    layers: int = setting("number of layers L: 15 patterns for 4, 203 for 6, 4140 for 8 [2 to 8]", default=6, ge=2, le=8)
    seeds: int = setting("number of seeds of initial weights and batches, from 0 on [>= 1]", default=5, ge=1)


def main(words: Sequence[str]) -> TyingBench:
    """Train the jobs that are not done, write the table and return it.

    Raises:
        Incomplete: If this was a shard, and others have not done theirs.
    """
    flags, rest = cli.read_own(BuildFlags, words, "experiments.tyingbench build", keep_rest=True)
    settings = training_config(flags.layers, rest)
    folder = flags.folder("tables/")
    require_room(folder, "--out")
    facts = text_facts(settings)
    with _locked(folder, flags):
        _write_plan(folder / "plan.json", {"config": to_dict(settings), **facts})
        rows = _train_all(folder, settings, flags, make_console())
        rows.sort(key=lambda row: (row.pointers, row.seed, row.budget))
        bench = TyingBench(rows, {
            "format": FORMAT,
            "command": shlex.join(["python", "-m", "experiments.tyingbench", "build", *words]),
            **facts,
            "seconds": sum(row.seconds for row in rows if row.budget == 1),
            "made_by": made_by(),
            "config": to_dict(settings),
        })  # fmt: skip
        write_json(folder / "table.json", bench.facts)
        write_text(folder / "table.csv", _HEADER + to_csv(rows))
    print(f"table      {folder / 'table.csv'}")
    return bench


def training_config(num_layers: int, words: Sequence[str]) -> TrainingConfig:
    """Return the settings of a table's runs; words are flags of `experiments.train`.

    Raises:
        InputError: With one line for every mistake.
    """
    common = ["--preset", "table", "--model.num-layers", str(num_layers)]
    made = Variant.parse("independent", [*common, *words]).config
    if made.model.num_layers != num_layers:
        raise InputError(f"model.num_layers = {made.model.num_layers}: the number of layers is --layers here")
    if any(budget * made.trainer.iterations % 1 for budget in BUDGETS):
        raise InputError(f"trainer.iterations = {made.trainer.iterations}: a quarter of them must be a whole number")
    if made.task.name != "causal_lm":
        raise InputError(f"task.name = {made.task.name!r}: a table is of causal_lm, its losses are per token")
    return TrainingConfig(**{name: getattr(made, name) for name in vars(TrainingConfig())})


def text_facts(settings: TrainingConfig) -> dict[str, Any]:
    """Return the vocabulary's size, and the digests of the whole text and of its splits; reads the data."""
    task: Any = tasks.make(settings.task, settings.model, settings.data)
    task.require()
    text = "".join(corpora.load(settings.data).splits.values())
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
    return {"vocab_size": task.data.vocab_size, "text_sha256": digest, "corpus_sha256": task.facts()["corpus_sha256"]}


@contextmanager
def _locked(folder: Path, flags: BuildFlags) -> Iterator[None]:
    """Keep out all calls that could do the same jobs: those of this shard, and those that are divided otherwise."""
    folder.mkdir(parents=True, exist_ok=True)
    own, count = folder / f".lock{flags.suffix}", flags.part[1]
    try:
        with FileLock(own, timeout=0):
            for other in folder.glob(".lock*"):
                if other != own and not (flags.shard and other.match(f".lock-*-of-{count}")):
                    with FileLock(other, timeout=0):
                        pass
            yield
    except Timeout as error:
        raise InputError(f"{folder}: another process is building this table") from error


def _write_plan(path: Path, plan: dict[str, Any]) -> None:
    """Write the plan, and what makes its rows; one that is there must be the same, made by something else is said."""
    made = made_by()
    if path.is_file():
        values = read_json(path)
        known = flat(values) if isinstance(values, dict) else {}
        for name, value in flat(plan).items():
            if known.get(name) != value:
                difference = f"{name} = {known.get(name)!r}, now {value!r}"
                raise InputError(f"{path}: a table with {difference}: name a new folder with --out")
        before = schema.check(_MADE, values)["made_by"]
        other = differences(before, made)
        if other:
            warn_once(f"{path}: rows of this table are made by different things: {other}")
        made = before
    write_json(path, {**plan, "made_by": made})


def _train_all(folder: Path, settings: TrainingConfig, flags: BuildFlags, console: Console) -> list[Row]:
    """Return all rows; those in the folder are kept, new ones are appended to this shard's file.

    Raises:
        Failed: If jobs failed; the rows of the others are kept.
        Incomplete: If jobs of other shards are not done.
    """
    path, failures = folder / f"rows{flags.suffix}.csv", []
    known = [row for rows in _whole_jobs(path).values() for row in rows]
    write_text(path, _HEADER + to_csv(known))  # what was cut short is taken out
    wanted = [(pattern, seed) for seed in range(flags.seeds) for pattern in Pointers.all(flags.layers)]
    done = _done(folder)
    jobs = [(settings, *job) for job in flags.own(wanted) if job not in done]
    there = f"{len(wanted)} jobs in {folder}, {sum(job in done for job in wanted)} of them done"
    console.print(f"{there}; after an interruption, the same command resumes them", soft_wrap=True)
    with path.open("a", encoding="utf-8") as file, workers.Countdown(console, len(jobs), "jobs") as countdown:
        for number, (title, new, failure) in enumerate(workers.run_all(_run, jobs, flags), start=1):
            progress = countdown.advance()
            if failure or number % max(1, len(jobs) // _LINES_SHOWN) == 0:
                result = f"FAILED: {failure}" if failure else f"test loss {new[-1].test_loss:.4f}"
                console.print(f"{progress}  {title}: {result}", soft_wrap=True)
            file.write(to_csv(new))  # in one write, down to the disk
            file.flush()
            os.fsync(file.fileno())
            failures += [f"{title}: {failure}"] if failure else []
    if failures:
        failures.append(f"no table: {len(failures)} of {len(wanted)} jobs failed; the same command tries them again")
        raise cli.Failed(failures)
    done = _done(folder)  # other shards have gone on meanwhile
    missing = sum(job not in done for job in wanted)
    if missing:
        others = f"{missing} of {len(wanted)} jobs are other shards'"
        raise cli.Incomplete([f"no table yet: {others}; the same command without --shard does all"])
    return [row for job in wanted for row in done[job]]


def _done(folder: Path) -> dict[tuple[Pointers, int], list[Row]]:
    """Return the rows of every job that is done, whichever shard did it."""
    return {job: rows for path in sorted(folder.glob("rows*.csv")) for job, rows in _whole_jobs(path).items()}


def _whole_jobs(path: Path) -> dict[tuple[Pointers, int], list[Row]]:
    """Return the rows of a file's jobs that have one for every budget."""
    jobs: dict[tuple[Pointers, int], list[Row]] = {}
    for row in read_rows(path) if path.is_file() else []:
        jobs.setdefault((row.pointers, row.seed), []).append(row)
    return {job: rows for job, rows in jobs.items() if len(rows) == len(BUDGETS)}


def _run(job: Job) -> tuple[str, list[Row], str]:
    """Return a job's title, its rows, and the reason in one line why there are none."""
    settings, pointers, seed = job
    title = f"'{pointers}', seed {seed}"
    try:
        return title, train(settings, pointers, seed), ""
    except DivergenceError as error:
        return title, [], str(error)


def train(settings: TrainingConfig, pointers: Pointers, seed: int) -> list[Row]:
    """Train one pattern from scratch, evaluate it at every budget, and return its rows.

    Raises:
        DivergenceError: If a loss or gradient is not finite.
    """
    import torch

    from tying.training.trainer import Trainer

    torch.set_num_threads(1)
    task = tasks.make(settings.task, settings.model, settings.data)
    trainer = Trainer(task, settings.trainer, settings.optim, settings.binding, seed)
    trainer.rebind(pointers)
    seconds = 0.0
    rows = []
    for budget in BUDGETS:
        start = time.process_time()
        trainer.train(round(budget * settings.trainer.iterations) - trainer.iteration)
        seconds += time.process_time() - start
        rows.append(
            Row(
                pointers=pointers,
                seed=seed,
                budget=budget,
                tokens=trainer.tokens,
                reward_loss=trainer.evaluate("reward", settings.reward.num_batches),
                test_loss=trainer.evaluate("test"),
                seconds=seconds,
                trainable_params=trainer.trainable_params,
                block_params=trainer.binding.trainable_params,
            )
        )
    return rows
