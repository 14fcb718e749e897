"""A comparison: a grid of runs is trained, and its report written. What `compare` and `retrain` have in common."""

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from experiments.run.cli import Failed
from experiments.run.console import make_console
from experiments.run.directory import RunDirectory
from experiments.study import grid
from experiments.study.workers import StudyConfig
from tying.config import config, setting
from tying.errors import InputError
from tying.files import require_room

if TYPE_CHECKING:
    import pandas as pd


@config
class ComparisonFlags(StudyConfig):
    """Flags of scripts that compare runs over paired seeds."""

    seeds: list[int] = setting(
        "paired seeds: their number, or the seeds themselves (--seeds 3 4 5)", default=[5], min_length=1
    )
    first_seed: int | None = setting("the first seed, where --seeds is a number [0 to 2**31]", default=None, ge=0, le=2**31)
    clock: Literal["wall", "cpu"] = setting(
        "seconds that 'equal time' counts; cpu on a machine with other work", default="wall"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.seeds) < (1 if len(self.seeds) == 1 else 0):
            raise InputError(f"seeds = {self.seeds}: expected a number of at least 1, or seeds of at least 0")

    def seed_list(self, first: int = 0) -> list[int]:
        """Return the seeds; `first` holds where neither flag says where to begin."""
        if len(self.seeds) > 1:
            return self.seeds
        begin = first if self.first_seed is None else self.first_seed
        return list(range(begin, begin + self.seeds[0]))


def compare(
    flags: ComparisonFlags,
    folder: Path,
    variants: Sequence[grid.Variant],
    seeds: Sequence[int],
    baseline: str,
    command: Sequence[str],
    extra: Mapping[str, RunDirectory] | None = None,
) -> "pd.DataFrame":
    """Train the runs that are not finished, write the report, print the table and return it.

    Args:
        flags: Processes and clock.
        folder: New, or of the same comparison, which is then resumed.
        variants: What to compare.
        seeds: Paired.
        baseline: The label that differences are to.
        command: Stands in the report.
        extra: Labels to finished runs from elsewhere that are shown too.

    Raises:
        InputError: If the folder holds a comparison with other settings or of another text.
        Incomplete: If this was a shard, and others have not finished theirs.
        Failed: If runs failed; the report of the others is written before.
    """
    # Imported now, since they import pandas and matplotlib: mistakes are answered before.
    from experiments.study.report import print_table, remarks, write_report
    from experiments.study.results import Run, references, with_references

    console = make_console()
    others = [Run.load(label, directory) for label, directory in (extra or {}).items()]
    require_room(folder, "--out")
    specs = grid.plan(folder, variants, seeds)
    grid.write_plan(folder, variants, seeds, command)
    there = f"{len(specs)} runs in {folder}; after an interruption, the same command resumes them"
    console.print(there, soft_wrap=True)
    failures = grid.run_all(specs, flags, console)
    runs = [*others, *(Run.load(spec.label, spec.directory) for spec in specs if spec.directory.finished)]
    if not any(run.label == baseline for run in runs):
        raise Failed([*failures, f"no report: not one run of {baseline!r}, which differences are to, is finished"])
    table = write_report(folder, runs, failures, baseline, f"{flags.clock}_s", shlex.join(command))
    print_table(with_references(table, references(runs, baseline)), baseline, console)
    for line in remarks(runs, table, baseline):
        console.print(line, soft_wrap=True)
    report, runs_folder = (shlex.quote(str(folder / name)) for name in ("report.html", "runs"))
    look = f"report     {report}\nlook       tensorboard --logdir {runs_folder}"
    console.print(look, soft_wrap=True)
    if failures:
        raise Failed(failures)
    return table
