"""The table of all tyings: build it, report what is in it, judge agents by it.

python -m experiments.tyingbench build --layers 6 --seeds 5 --data.path input.txt
python -m experiments.tyingbench report
python -m experiments.tyingbench agents --trials 200
python -m experiments.tyingbench pretrain "double_dqn --agent.network per_layer" --out policies/table
"""

import importlib
from collections.abc import Sequence
from difflib import get_close_matches

from experiments import cli
from tying.errors import InputError

# Imported when asked for, so that one does not wait for the libraries of the others.
_COMMANDS = {
    "build": "experiments.tyingbench.build",
    "report": "experiments.tyingbench.report",
    "agents": "experiments.tyingbench.league",
    "pretrain": "experiments.tyingbench.pretrain",
}


def main(arguments: Sequence[str]) -> None:
    """Do what the first argument says with the others."""
    name, *rest = arguments or [""]
    if name in ("-h", "--help"):
        print(__doc__)
        return
    if name not in _COMMANDS:
        near = get_close_matches(name, _COMMANDS, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise InputError(f"tyingbench {name!r}: {hint}allowed: {', '.join(_COMMANDS)}")
    importlib.import_module(_COMMANDS[name]).main(rest)


if __name__ == "__main__":
    cli.run(main)
