"""Pretrained models of transformers as a task needs them: loaded, as an empty shape, or from a configuration alone."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tying.errors import InputError
from tying.files import warn_once
from tying.hf import saving
from tying.hf.bind import untied
from tying.hf.stacks import find_stack
from tying.seeding import derive_seed


def load(pretrained: str, auto: str, seed: int, stack: str | None, expected: str = "", **config: Any) -> nn.Module:
    """Return a pretrained model in float32, untied, on the CPU.

    Args:
        pretrained: A folder, or a name on the hub.
        auto: An Auto class of transformers, "AutoModelForCausalLM".
        seed: Determines the weights that the folder lacks; the global generators stay as they are.
        stack: The blocks, of which no weight may be missing; see `find_stack`.
        expected: "head": a head may be missing without a word.
        **config: Settings over the folder's, such as num_labels.

    Raises:
        InputError: If there is no such model, or it is of another kind, or weights of its blocks are missing.
    """
    import transformers

    with quiet(), _seeded(seed):
        try:
            model, found = saving.from_pretrained(
                pretrained,
                getattr(transformers, auto),
                dtype=torch.float32,
                output_loading_info=True,
                ignore_mismatched_sizes=True,
                **config,
            )
        except Exception as error:  # the library raises dozens of types
            raise InputError(f"model.pretrained = {pretrained!r}: {_reason(error, auto)}") from error
    missing = sorted({*found["missing_keys"], *(key[0] for key in found["mismatched_keys"])})
    blocks = [name for name in missing if name.startswith(f"{find_stack(model, stack).path}.")]
    if blocks:
        raise InputError(f"model.pretrained = {pretrained!r}: no weights for {blocks[0]} and {len(blocks) - 1} others")
    unexpected = [name for name in missing if expected != "head" or name.startswith(f"{model.base_model_prefix}.")]
    if unexpected:
        names = ", ".join(unexpected[:3]) + (", ..." if unexpected[3:] else "")
        warn_once(f"{pretrained} has no weights for {names}: they start at random")
    return untied(model) if saving.records(model) else model  # type: ignore[no-any-return]


def from_config(folder: str | Path, auto: str, device: str, **config: Any) -> nn.Module:
    """Return a model of a folder's shape in float32; its values are of no account."""
    import transformers

    with quiet(), _seeded(0), torch.device(device):
        try:
            found = transformers.AutoConfig.from_pretrained(folder, **config)
            model: nn.Module = getattr(transformers, auto).from_config(found, dtype=torch.float32)
        except Exception as error:  # the library raises dozens of types
            raise InputError(f"model.pretrained = '{folder}': {_reason(error, auto)}") from error
    return model


def load_tokenizer(source: str) -> Any:
    """Return the tokenizer of transformers in a folder, on the hub, or in a tokenizer.json.

    Raises:
        InputError: If there is none.
    """
    import transformers

    with quiet():
        try:
            if Path(source).is_file():
                return transformers.PreTrainedTokenizerFast(tokenizer_file=source)
            return transformers.AutoTokenizer.from_pretrained(source)
        except Exception as error:  # the library raises dozens of types
            raise InputError(f"tokenizer of {source!r}: {_reason(error, 'AutoTokenizer')}") from error


def without_cache(model: nn.Module) -> dict[str, bool]:
    """Return the argument that keeps a model from filling a cache of keys and values; none where it has no cache."""
    return {"use_cache": False} if getattr(model.config, "use_cache", False) else {}


def enable_recompute(model: Any) -> None:
    """Let a model of transformers recompute its blocks in the backward pass."""
    # Older versions of transformers have the second name only.
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": False})


def _reason(error: Exception, auto: str) -> str:
    if isinstance(error, KeyError):  # no entry in the table of an Auto class
        return f"transformers has no {auto} of this kind of model"
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Let transformers draw from the CPU's global generator, and put it back afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(derive_seed(seed, "initial weights"))
        yield


@contextmanager
def quiet() -> Iterator[None]:
    """Keep the library's progress bars and reports from the terminal; what matters is said in a line of ours."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
