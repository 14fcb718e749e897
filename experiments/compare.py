"""Compare agents: paired seeds, equal tokens, one table.

python -m experiments.compare --agents dqn random all_tied sequence:3 independent --seeds 5
python -m experiments.compare --agents "dqn --reward fork" dqn --preset mini --jobs 2 --out comparisons/fork

Every flag of `experiments.train` holds for all agents; flags in quotes behind an agent's name for it alone.
"""

import shlex
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import joblib
from pydantic import Field
from pydantic_settings import BaseSettings, CliUnknownArgs, SettingsConfigDict
from rich.console import Console

from experiments import cli, grid
from experiments.report import print_table, write_report
from experiments.results import Run
from tying.errors import InputError


class CompareSettings(BaseSettings):
    """Compare agents over paired seeds. Every other flag is one of experiments.train and holds for all agents."""

    model_config = SettingsConfigDict(**cli.script_config("compare"), cli_ignore_unknown_args=True)
    unknown: CliUnknownArgs
    agents: list[str] = Field(
        description="what to compare: --agents A B ...; an agent's own flags in quotes: 'dqn --reward fork'", min_length=1
    )
    seeds: int = Field(5, description="paired seeds, from --first-seed on [>= 1]", ge=1)
    first_seed: int = Field(0, description="the first of them [0 to 2**31]", ge=0, le=2**31)
    jobs: int = Field(joblib.cpu_count(), description="processes at a time, one thread each [>= 1]", ge=1)
    backend: grid.Backend = Field("loky", description="loky: this machine; ray: a Ray cluster (extra 'ray')")
    baseline: str = Field("independent", description="the entry of --agents that differences are to; else the first")
    clock: Literal["wall", "cpu"] = Field("wall", description="what 'equal time' counts; cpu where other work goes on")
    out: str | None = Field(None, description="folder of the comparison, new or to go on with; None for comparisons/<date>")


def main(arguments: Sequence[str]) -> None:
    """Carry out the grid, write the report, print the table."""
    settings, rest = cli.read_known(CompareSettings, cli.gather("--agents", arguments))
    if any(argument.partition("=")[0] == "--seed" for argument in rest):
        raise InputError("--seed is for single runs: a comparison has --seeds N and --first-seed S")
    console = Console()
    entries = grid.parse_entries(settings.agents, rest)
    folder = Path(settings.out or f"comparisons/{time.strftime('%Y%m%d-%H%M%S')}")
    seeds = range(settings.first_seed, settings.first_seed + settings.seeds)
    cells = grid.plan(folder, entries, seeds)
    command = ["python", "-m", "experiments.compare", *arguments]
    grid.write_plan(folder, entries, seeds, command)
    console.print(f"{len(cells)} runs in {folder}; interrupted, the same command goes on", highlight=False)
    outcomes = grid.carry_out(cells, settings.jobs, settings.backend, console)
    runs = [Run.load(cell) for cell in cells if cell.finished]
    if not runs:
        raise cli.Failed([f"{o.cell.entry.label}, seed {o.cell.seed}: {o.failure}" for o in outcomes])
    labels = [entry.label for entry in entries if any(run.label == entry.label for run in runs)]
    baseline = settings.baseline if settings.baseline in labels else labels[0]
    table = write_report(folder, runs, outcomes, baseline, f"{settings.clock}_s", shlex.join(command))
    print_table(table, baseline, console)
    console.print(
        f"report     {folder / 'report.html'}\ntensorboard --logdir {folder / 'runs'}", highlight=False, soft_wrap=True
    )
    failed = [o for o in outcomes if o.failure is not None]
    if failed:
        raise cli.Failed([f"{o.cell.entry.label}, seed {o.cell.seed}: {o.failure}" for o in failed])


if __name__ == "__main__":
    cli.run(main)
