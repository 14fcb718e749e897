"""Measure what tying costs and saves on this machine, or on its GPU: one table, medians of interleaved repeats."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from experiments.run import cli
from tying.config import config, setting
from tying.files import require_room, write_json
from tying.training.device import require_device


@config
class BenchFlags:
    """Measure what tying costs and saves on this machine."""

    repeats: int = setting("interleaved repeats behind every median [>= 3]", default=7, ge=3)
    iterations: int = setting("training iterations in a repeat [>= 2]", default=10, ge=2)
    job_iterations: int = setting("length of the run whose overhead is measured [iterations, >= 64]", default=320, ge=64)
    device: Literal["cpu", "cuda"] = setting("what is measured", default="cpu")
    out: str | None = setting("JSON file that the figures are written to as well", default=None)


def main(words: Sequence[str]) -> dict[str, float]:
    """Measure all figures, print the table, and return the figures by name."""
    flags, _ = cli.read_own(BenchFlags, words, "experiments.bench")
    require_device(flags.device, "--device")
    if flags.out is not None:
        require_room(Path(flags.out), "--out")
    # Imported now: mistakes are answered before torch is there.
    from rich.table import Table

    from experiments.run.console import make_console
    from experiments.study import gpu, speed

    console, date, machine = make_console(), time.strftime("%Y-%m-%d"), speed.machine(flags.device)
    sections = gpu.sections if flags.device == "cuda" else speed.sections
    table = Table("figure", "median [range]", "aim", title=f"{machine}, {date}")
    values: dict[str, float] = {}
    ranges: dict[str, tuple[float, float]] = {}
    for title, measure in sections(flags.repeats, flags.iterations, flags.job_iterations).items():
        with console.status(f"{title} ..."):
            figures = list(measure())
        table.add_section()
        for figure in figures:
            name = f"{title}: {figure.name}"
            table.add_row(name, figure.text, figure.verdict)
            values[name] = figure.value
            ranges |= {name: figure.spread} if figure.spread is not None else {}
    console.print(table)
    if flags.out is not None:
        write_json(Path(flags.out), {"machine": machine, "date": date, "figures": values, "ranges": ranges})
    return values


if __name__ == "__main__":
    cli.run(main)
