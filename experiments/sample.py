"""Print text from a trained model.

python -m experiments.sample runs/<run> --prompt "def "
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from experiments.run import cli
from experiments.run.directory import RunDirectory
from tying.config import config, setting
from tying.training.device import require_device


@config
class SampleFlags:
    """Print text from a trained model."""

    run: str = cli.positional("the run directory; an unfinished run's newest checkpoint is used")
    prompt: str = setting("text to continue", default="\n", min_length=1)
    num_tokens: int = setting("length of the continuation [tokens, 1 to 1e6]", default=200, ge=1, le=1_000_000)
    temperature: float = setting("0: the most probable token, 1: as trained [0 to 1000]", default=0.8, ge=0, le=1000)
    top_k: int = setting("draw among this many most probable tokens, 0 for all [tokens, >= 0]", default=0, ge=0)
    seed: int = setting("of the draws [0 to 2**32 - 1]", default=0, ge=0, le=2**32 - 1)
    device: Literal["auto", "cpu", "cuda", "mps"] = setting("where to run", default="auto")
    trust: bool = setting("import the code that the run's files name: its model, task or reward", default=False)


def main(words: Sequence[str]) -> str:
    """Print the prompt with its continuation, and return it."""
    flags, _ = cli.read_own(SampleFlags, words, "experiments.sample")
    require_device(flags.device, "--device")
    RunDirectory(Path(flags.run)).read_config()
    # Imported now, since it imports torch: mistakes are answered before.
    from experiments.run.load import load_run
    from tying.training.device import find_device

    text = load_run(flags.run, flags.trust).sample(
        flags.prompt, flags.num_tokens, flags.temperature, flags.top_k, flags.seed, find_device(flags.device, "--device")
    )
    print(text)
    return text


if __name__ == "__main__":
    cli.run(main)
