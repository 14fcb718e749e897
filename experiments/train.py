"""Train a Transformer while an agent ties its layers.

python -m experiments.train --agent ppo --reward.param-weight 0.3 --seed 1
python -m experiments.train --resume runs/<run>
"""

import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING

from experiments.run import cli, command_line
from tying.training.ranks import joined

if TYPE_CHECKING:
    from experiments.run.load import Run


def main(words: Sequence[str]) -> "Run | None":
    """Start a run, or resume one, show its result, and return it; None in processes that only help to train it."""
    with joined() as ranks:
        if ranks.rank > 0:
            from envs.ranks import follow

            follow(ranks)
            return None
        command = command_line.parse(words)
        # Imported now, since they import torch: mistakes are answered before.
        from experiments.run.console import make_console
        from experiments.run.directory import RunDirectory
        from experiments.run.display import summary_table
        from experiments.run.job import Job, resume
        from experiments.run.load import load_run

        console = make_console()
        if command.config is not None:
            job = Job.new(command.config, command.out, words, ranks)
            job.run(console)
            directory = job.directory
        else:
            assert command.resume is not None  # a command has one of the two
            directory = RunDirectory(command.resume)
            if directory.finished:
                console.print(f"{directory.path} is finished:", soft_wrap=True)
            else:
                resume(directory, console, command.trust, ranks)
    # A new run imported only what its command named.
    run = load_run(directory.path, trust=command.config is not None or command.trust)
    path = shlex.quote(str(directory.path)) + (" --trust" if run.config.needs_trust else "")
    console.print(summary_table(run.summary))
    sample = f"sample    python -m experiments.sample {path}\n" if hasattr(run.task, "generate") else ""
    console.print(
        f"look      tensorboard --logdir {shlex.quote(str(directory.path.parent))}\n"
        f"{sample}resume    python -m experiments.train --resume {path}   (after an interruption)",
        soft_wrap=True,
    )
    return run


if __name__ == "__main__":
    cli.run(main)
