"""A comparison: a grid of runs carried out, and its report written. What `compare` and `retrain` have in common."""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import joblib
import pandas as pd
from pydantic import Field
from pydantic_settings import BaseSettings
from rich.console import Console

from experiments import cli, grid, workers
from experiments.report import print_table, write_report
from experiments.results import Run
from tying.files import require_room


class ComparisonSettings(BaseSettings):
    """How a comparison is carried out."""

    seeds: int = Field(5, description="paired seeds, from the first on [>= 1]", ge=1)
    jobs: int = Field(joblib.cpu_count(), description="processes at a time, one thread each [>= 1]", ge=1)
    backend: workers.Backend = Field("loky", description="loky: this machine; ray: a Ray cluster (extra 'ray')")
    clock: Literal["wall", "cpu"] = Field("wall", description="what 'equal time' counts; cpu where other work goes on")


def carry_out(
    settings: ComparisonSettings,
    folder: Path,
    entries: Sequence[grid.Entry],
    first_seed: int,
    baseline: str,
    command: Sequence[str],
    extra: Sequence[Run] = (),
) -> pd.DataFrame:
    """Do what is not done yet, write the report, print the table and return it.

    Args:
        settings: How.
        folder: New, or of the same comparison, which is then gone on with.
        entries: What to compare.
        first_seed: The seeds are this one and those after it.
        baseline: The label that differences are to.
        command: That asked for it; stands in the report.
        extra: Finished runs of elsewhere that are shown too.

    Raises:
        InputError: If the folder holds a comparison with other settings, or the backend is not installed.
        cli.Failed: If runs failed; the report of the others is written before.
    """
    console = Console()
    require_room(folder, "--out")
    seeds = range(first_seed, first_seed + settings.seeds)
    workers.require_backend(settings.backend)
    cells = grid.plan(folder, entries, seeds)
    grid.write_plan(folder, entries, seeds, command)
    console.print(f"{len(cells)} runs in {folder}; interrupted, the same command goes on", highlight=False, soft_wrap=True)
    outcomes = grid.carry_out(cells, settings.jobs, settings.backend, console)
    failed = [f"{o.cell.entry.label}, seed {o.cell.seed}: {o.failure}" for o in outcomes if o.failure is not None]
    runs = [*extra, *(Run.load(cell.entry.label, cell.run) for cell in cells if cell.finished)]
    if not any(run.label == baseline for run in runs):
        raise cli.Failed([*failed, f"no report: not one run of {baseline!r}, which differences are to, is done"])
    table = write_report(folder, runs, failed, baseline, f"{settings.clock}_s", shlex.join(command))
    print_table(table, baseline, console)
    console.print(
        f"report     {folder / 'report.html'}\nlook       tensorboard --logdir {folder / 'runs'}",
        highlight=False,
        soft_wrap=True,
    )
    if failed:
        raise cli.Failed(failed)
    return table
