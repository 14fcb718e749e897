"""Train the pattern that a run found from scratch: was it the pattern, or the way there?

python -m experiments.retrain runs/<run> --seeds 5

Beside it: the run itself, independent, and every fixed strategy with as many unique layers, of which the best on
the reward split is named. Budget, data and optimizer are the run's own.
"""

from collections.abc import Sequence
from pathlib import Path

from pydantic import Field
from pydantic_settings import CliPositionalArg
from rich.console import Console

from experiments import cli, comparison, grid
from experiments.results import Run
from experiments.settings import from_dict
from tying import strategies
from tying.errors import InputError
from tying.files import read_json
from tying.pointers import Pointers
from tying.records import RunDirectory

_BASELINE = "independent"


class RetrainSettings(comparison.ComparisonSettings):
    """Train the pattern that a run found from scratch, beside the run, independent and fixed strategies."""

    model_config = cli.script_config("retrain")
    run: CliPositionalArg[str] = Field(description="the finished run directory")
    first_seed: int | None = Field(None, description="the first seed; None for the run's own [0 to 2**31]", ge=0, le=2**31)
    out: str | None = Field(None, description="folder of the comparison; None for comparisons/retrain__<run>")


def main(arguments: Sequence[str]) -> None:
    """Carry out the comparison and name the best fixed strategy."""
    settings = cli.read(RetrainSettings, arguments)
    run = RunDirectory(Path(settings.run))
    config = from_dict(run.read_config(), f"{run.config_file}: ")
    if not (run.final / "summary.json").is_file():
        raise InputError(f"{run.path}: not finished; go on with it by python -m experiments.train --resume {run.path}")
    pattern = Pointers(read_json(run.final / "summary.json")["pointers"])
    found = _BASELINE if pattern == Pointers.independent(len(pattern)) else str(pattern)
    fixed = fixed_entries(pattern, found)
    # The run's own settings, except how decisions are made: a fixed pattern is set once, all layers at a time.
    common = ["--config", str(run.config_file), "--env.action-mode", "joint", "--env.freeze-after", "1"]
    entries = grid.parse_entries(list(dict.fromkeys([found, *fixed, _BASELINE])), common)
    table = comparison.carry_out(
        settings,
        Path(settings.out or Path("comparisons") / f"retrain__{run.path.resolve().name}"),
        entries,
        config.run.seed if settings.first_seed is None else settings.first_seed,
        _BASELINE,
        ["python", "-m", "experiments.retrain", *arguments],
        extra=[Run.load(f"joint: {config.agent}", run)],
    )
    rivals = table[table["entry"].isin(fixed)]
    best = fixed[rivals.loc[rivals["reward_loss"].idxmin(), "entry"]]
    Console().print(f"best fixed strategy with {pattern.num_unique} unique layers, by reward loss: {best}", highlight=False)


def fixed_entries(pattern: Pointers, found: str) -> dict[str, str]:
    """Return the fixed strategies with as many unique layers as a pattern: entry of the comparison to name.

    Args:
        pattern: What a run found; it may be one of them itself.
        found: Its own entry.
    """
    texts = strategies.of_size(len(pattern), pattern.num_unique)
    return {found if other == pattern else text: text for text, other in texts.items()}


if __name__ == "__main__":
    cli.run(main)
