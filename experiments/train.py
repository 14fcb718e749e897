"""Train a Transformer while an agent ties its layers.

python -m experiments.train --agent ppo --reward.param-weight 0.3 --seed 1
python -m experiments.train --resume runs/<run>
"""

from collections.abc import Sequence

from rich.console import Console

from experiments import cli
from experiments.command import parse
from experiments.display import summary_table
from experiments.job import Job
from tying.files import read_json
from tying.pointers import Pointers
from tying.records import RunDirectory


def main(arguments: Sequence[str]) -> None:
    """Start a run, or go on with one, and report what came of it."""
    command = parse(arguments)
    console = Console()
    if command.settings is not None:
        job = Job.new(command.settings, command.out, arguments)
        run = job.run
        job.carry_out(console)
    else:
        assert command.resume is not None  # the command line gives one of the two
        run = RunDirectory(command.resume)
        run.read_config()
        if (run.final / "summary.json").exists():
            console.print(f"{run.path} is finished:")
        else:
            Job.resume(run).carry_out(console)
    _report(run, console)


def _report(run: RunDirectory, console: Console) -> None:
    summary = read_json(run.final / "summary.json")
    console.print(summary_table(summary, Pointers(summary["pointers"])))
    console.print(
        f"look      tensorboard --logdir {run.path.parent}\n"
        f"sample    python -m experiments.sample {run.path}\n"
        f"resume    python -m experiments.train --resume {run.path}   (after an interruption)",
        highlight=False,
        soft_wrap=True,
    )


if __name__ == "__main__":
    cli.run(main)
