"""Compare agents: paired seeds, equal tokens, one table.

python -m experiments.compare --agents dqn random all_tied sequence:3 independent --seeds 5
python -m experiments.compare --agents independent dqn "dqn --reward fork" --preset mini --out comparisons/fork

Every flag of `experiments.train` holds for all agents; flags in quotes behind an agent's name for it alone.
"""

import time
from collections.abc import Sequence
from pathlib import Path

from pydantic import Field
from pydantic_settings import CliUnknownArgs, SettingsConfigDict

from experiments import cli, comparison, grid
from tying.errors import InputError

_BASELINE = "independent"


class CompareSettings(comparison.ComparisonSettings):
    """Compare agents over paired seeds. Every other flag is one of experiments.train and holds for all agents."""

    model_config = SettingsConfigDict(**cli.script_config("compare"), cli_ignore_unknown_args=True)
    unknown: CliUnknownArgs
    agents: list[str] = Field(
        description="what to compare: --agents A B ...; an agent's own flags in quotes: 'dqn --reward fork'", min_length=1
    )
    first_seed: int = Field(0, description="the first of the seeds [0 to 2**31]", ge=0, le=2**31)
    baseline: str | None = Field(
        None, description=f"the agent that differences are to; None: {_BASELINE} if it is there, else the first"
    )
    out: str | None = Field(None, description="folder of the comparison, new or to go on with; None for comparisons/<date>")


def main(arguments: Sequence[str]) -> None:
    """Carry out the comparison."""
    settings, rest = cli.read_known(CompareSettings, cli.gather("--agents", arguments))
    entries = grid.parse_entries(settings.agents, rest)
    folder = Path(settings.out or f"comparisons/{time.strftime('%Y%m%d-%H%M%S')}")
    command = ["python", "-m", "experiments.compare", *arguments]
    comparison.carry_out(settings, folder, entries, settings.first_seed, _baseline(settings, entries), command)


def _baseline(settings: CompareSettings, entries: Sequence[grid.Entry]) -> str:
    labels = [entry.label for entry in entries]
    if settings.baseline is None:
        return _BASELINE if _BASELINE in labels else labels[0]
    if settings.baseline not in labels:
        raise InputError(f"--baseline {settings.baseline!r} is none of --agents: {', '.join(labels)}")
    return settings.baseline


if __name__ == "__main__":
    cli.run(main)
