"""All scripts behind one command: `layer-tying train ...` is `python -m experiments.train ...`."""

from experiments.run import cli

COMMANDS = {
    name: f"experiments.{module}"
    for name, module in {
        "train": "train",
        "sample": "sample",
        "compare": "compare",
        "retrain": "retrain",
        "signal-study": "signal_study",
        "tyingbench": "tyingbench.__main__",
        "bench": "bench",
    }.items()
}


def main() -> None:
    """Run the command that the first word names, on the words behind it."""
    cli.run(lambda words: cli.dispatch("layer-tying", __doc__ or "", COMMANDS, words))


if __name__ == "__main__":
    main()
