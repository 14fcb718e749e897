"""Does the reward of a decision in a run rank patterns as training them from scratch does?

python -m experiments.signal_study --preset mini --decisions 45 --seeds 3
"""

import shlex
from collections.abc import Sequence
from typing import Any

from experiments.run import cli
from experiments.study import grid
from experiments.study.workers import StudyConfig
from tying.config import config, setting
from tying.files import require_room
from tying.pointers import Pointers


@config
class SignalStudyFlags(StudyConfig):
    """Measure whether rewards in a run rank patterns as training from scratch does. Other flags are experiments.train's."""

    seeds: int = setting("number of seeds of the walks and of training from scratch [>= 2]", default=3, ge=2)
    decisions: int = setting("decisions that are studied, in three blocks of the run [>= 6]", default=45, ge=6)


def main(words: Sequence[str]) -> Any:
    """Walk, train the patterns from scratch, report, and return the table."""
    flags, rest = cli.read_own(SignalStudyFlags, words, "experiments.signal_study", keep_rest=True)
    folder = flags.folder("comparisons/signal__")
    require_room(folder, "--out")
    made = grid.Variant.parse("random", rest).config
    # Imported now: mistakes are answered before the libraries of tables and pictures are there.
    from experiments.study import reward_signal as study

    chosen = study.blocks_of(-(-made.trainer.iterations // made.env.decision_interval), flags.decisions)
    walks = study.run_grid(folder, list(study.WALKS.values()), rest, range(flags.seeds), flags)
    lines = {kind: [run.read_decisions() for run in walks[text]] for kind, text in study.WALKS.items()}
    steps = [[line.record for line in walk] for walk in lines["fork"]]
    passed = [str(p) for index in chosen for p in (steps[0][index].previous_pointers, steps[0][index].pointers)]
    runs = study.run_grid(folder, list(dict.fromkeys(passed)), rest, range(flags.seeds), flags)
    losses = {Pointers.parse(p): [run.read_summary()["test_loss"] for run in own] for p, own in runs.items()}
    seconds = {kind: sum(walk[-1].cpu_s for walk in own) for kind, own in lines.items()}
    decisions = study.decision_table(steps, chosen, losses)
    facts = {
        "patterns": len(losses),
        "decisions": len(chosen),
        "seeds": flags.seeds,
        "seed_tau": study.seed_tau(losses),
        "fork_cost": seconds["fork"] / seconds["improvement"],
        "command": shlex.join(["python", "-m", "experiments.signal_study", *words]),
    }
    return study.write_report(folder, decisions, facts)


if __name__ == "__main__":
    cli.run(main)
