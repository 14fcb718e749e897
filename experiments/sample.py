"""Print text from a trained model.

python -m experiments.sample runs/<run> --prompt "def "
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
from pydantic import Field
from pydantic_settings import BaseSettings, CliPositionalArg

from experiments import cli
from experiments.settings import from_dict
from tying import models
from tying.binding import LayerBinding
from tying.checkpoint import load_tensors
from tying.data import tokenizers
from tying.errors import InputError
from tying.files import read_json
from tying.records import RunDirectory
from tying.trainer import find_device, load_parameters


class SampleSettings(BaseSettings):
    """Print text from a trained model."""

    model_config = cli.script_config("sample")
    run: CliPositionalArg[str] = Field(description="the run directory; an unfinished run's newest checkpoint is used")
    prompt: str = Field("\n", description="text to go on from", min_length=1)
    num_tokens: int = Field(200, description="length of the continuation [tokens, >= 1]", ge=1)
    temperature: float = Field(
        0.8, description="0: the likeliest token, 1: as trained [0 to 1000]", ge=0, le=1000, allow_inf_nan=False
    )
    top_k: int = Field(0, description="draw among this many likeliest tokens, 0 for all [tokens, >= 0]", ge=0)
    seed: int = Field(0, description="of the draws [0 to 2**32 - 1]", ge=0, le=2**32 - 1)
    device: Literal["auto", "cpu", "cuda", "mps"] = Field("auto", description="where to run")


def main(arguments: Sequence[str]) -> None:
    """Load the run and print the prompt with its continuation."""
    print(sample(cli.read(SampleSettings, arguments)))


@torch.no_grad()
def sample(settings: SampleSettings) -> str:
    """Return the prompt and its continuation.

    Raises:
        InputError: If the run has no model yet, or the prompt has characters unknown to its tokenizer.
    """
    run = RunDirectory(Path(settings.run))
    setup = from_dict(run.read_config(), f"{run.config_file}: ").setup
    tokenizer = tokenizers.load(run.tokenizer_file)
    newest = run.latest_checkpoint()
    if run.final.is_dir():
        folder, pointers = run.final, read_json(run.final / "pointers.json")
    elif newest is not None:
        folder, pointers = newest[1], read_json(newest[1] / "state.json")["pointers"]
    else:
        raise InputError(f"{run.path}: no model yet, not even a checkpoint")
    device = find_device(settings.device)
    model = models.build(setup.model, tokenizer.get_vocab_size(), seed=0)
    LayerBinding(model.h, share=setup.binding.share, norms=setup.binding.norms).rebind(pointers)
    load_parameters(model, load_tensors(folder / "model.safetensors"))
    model.to(device).eval()
    prompt = torch.tensor([tokenizers.encode(tokenizer, settings.prompt)], device=device)
    generator = torch.Generator(device).manual_seed(settings.seed)
    tokens = model.generate(prompt, settings.num_tokens, generator, settings.temperature, settings.top_k)
    return str(tokenizer.decode(tokens[0].tolist()))


if __name__ == "__main__":
    cli.run(main)
