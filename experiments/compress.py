"""Compress a trained model: tie or remove layers by measurement, heal the copy, and say what it costs.

python -m experiments.compress path/to/encoder --target 0.5 --out compressed/encoder
python -m experiments.compress runs/<run> --unique 4 3 2 --out compressed/run
"""

from collections.abc import Sequence
from typing import Any

from experiments.compression import settings
from experiments.run import cli


def main(words: Sequence[str]) -> dict[str, Any]:
    """Compress and write the report, unless that was done before, show it, and return the summary."""
    compression = settings.parse(words)
    # Imported now, since they import torch: mistakes are answered before.
    from experiments.compression.pipeline import compress
    from experiments.compression.report import show_report, write_report
    from experiments.run.console import make_console

    console = make_console()
    outcome = compress(compression, console)
    if outcome is not None:
        write_report(outcome)
    return show_report(compression.out, console)


if __name__ == "__main__":
    cli.run(main)
