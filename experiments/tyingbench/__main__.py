"""The table of all tyings: build it, report on it, benchmark agents with it.

python -m experiments.tyingbench build --layers 6 --seeds 5 --data.path input.txt
python -m experiments.tyingbench questions path/to/encoder --slices 5 --out tables/encoder.csv
python -m experiments.tyingbench report
python -m experiments.tyingbench agents --trials 200
python -m experiments.tyingbench pretrain "double_dqn --agent.network per_layer" --out policies/table
"""

from collections.abc import Sequence
from typing import Any

from experiments.run import cli

COMMANDS = {name: f"experiments.tyingbench.{name}" for name in ("build", "questions", "report", "agents", "pretrain")}


def main(words: Sequence[str]) -> Any:
    """Run the command that the first word names, on the words behind it."""
    return cli.dispatch("tyingbench", __doc__ or "", COMMANDS, words)


if __name__ == "__main__":
    cli.run(main)
