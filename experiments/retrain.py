"""Train the pattern that a run found from scratch: was it the pattern, or the way there?

python -m experiments.retrain runs/<run> --seeds 5

Beside it: the run itself, independent, an untied model of as many layers as the pattern has sets, and every fixed strategy
with as many, of which the best on the reward split is named. Budget, data and optimizer are the run's own.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.run import cli
from experiments.run.config import load_training_config
from experiments.run.directory import RunDirectory
from experiments.study import comparison, grid
from tying import strategies
from tying.config import config, setting, to_dict
from tying.files import require_room, write_json
from tying.pointers import Pointers

_BASELINE = "independent"


@config
class RetrainFlags(comparison.ComparisonFlags):
    """Train the pattern that a run found from scratch, beside the run, independent and fixed strategies."""

    run: str = cli.positional("the finished run directory")
    trust: bool = setting("import the code that the run's files name: its model, task or reward", default=False)


def main(words: Sequence[str]) -> Any:
    """Run the comparison, name the best fixed strategy, and return the table."""
    flags, _ = cli.read_own(RetrainFlags, words, "experiments.retrain")
    directory = RunDirectory(Path(flags.run))
    made, summary = load_training_config(directory.read_config(), flags.trust), directory.read_summary()
    pattern = Pointers(summary["pointers"])
    made.model.check_tying(Pointers.independent(len(pattern)), made.binding.share)  # the baseline's; nothing is written yet
    found = grid.variant_of(pattern)
    fixed = strategies.of_size(len(pattern), pattern.num_unique)
    rivals = {found if other == pattern else text: text for text, other in fixed.items()}
    folder = Path(flags.out or Path("comparisons") / f"retrain__{directory.path.resolve().name}")
    require_room(folder, "--out")
    # The run's own settings, recommended ones included, except how decisions are made: a fixed pattern is set once.
    settings = to_dict(made) | {"preset": summary["preset"]}
    settings["env"] |= {"action_mode": "joint", "freeze_after": 1.0, "initial_pointers": _BASELINE}
    write_json(folder / "settings.json", settings)
    common = ["--config", str(folder / "settings.json"), *(["--trust"] if flags.trust else [])]
    texts = list(dict.fromkeys([found, *rivals, *grid.shallow_rivals(made.model, pattern.num_unique), _BASELINE]))
    variants, seeds = grid.parse_variants(texts, common), flags.seed_list(summary["seed"])
    command, extra = ["python", "-m", "experiments.retrain", *words], {f"run: {summary['agent']}": directory}
    table = comparison.compare(flags, folder, variants, seeds, _BASELINE, command, extra)
    best = rivals[table[table["variant"].isin(rivals)].set_index("variant")["reward_loss"].idxmin()]
    print(f"best fixed strategy with {pattern.num_unique} unique layers, by reward loss: {best}")
    return table


if __name__ == "__main__":
    cli.run(main)
