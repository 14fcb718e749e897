"""Report on a table: which layers can share, where the published strategies rank, and how far the table can be trusted.

python -m experiments.tyingbench report --out reports/shakespeare-6
"""

from collections.abc import Sequence
from pathlib import Path

from experiments.run import cli
from tying.config import config, setting
from tying.errors import InputError
from tying.files import require_room, write_text
from tying.tyingbench import DEFAULT, TyingBench


@config
class ReportFlags:
    """Write down what is in a table."""

    table: str = setting("a shipped table, or the path of a CSV file", default=DEFAULT)
    out: str = setting("folder for report.md and the pictures; files there are replaced", default="reports/tyingbench")


def main(words: Sequence[str]) -> Path:
    """Write the report of a table, and return its path."""
    flags, _ = cli.read_own(ReportFlags, words, "experiments.tyingbench report")
    bench = TyingBench.load(flags.table)
    path = Path(flags.out) / "report.md"
    require_room(path, "--out")
    if bench.num_layers < 3 or len(bench.seeds) < 2:
        here = f"{bench.num_layers} layers, {len(bench.seeds)} seeds"
        raise InputError(f"--table {flags.table}: {here}; a report needs 3 layers and 2 seeds")
    # Imported now: mistakes are answered before the libraries of tables and pictures are there.
    from experiments.tyingbench.pictures import PICTURES, draw
    from experiments.tyingbench.tables import TABLES

    page = [f"# {flags.table}: {len(bench.patterns)} patterns, {len(bench.seeds)} seeds\n"]
    for name, table in TABLES.items():
        page.append(f"## {name}\n\n{table(bench).to_markdown(index=False, disable_numparse=True)}\n")
    draw(bench, path.parent)
    page += [f"![{name}]({name}.png)\n" for name in PICTURES]
    write_text(path, "\n".join(page))
    print(f"report     {path}")
    return path
