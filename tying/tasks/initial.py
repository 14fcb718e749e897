"""Weights to begin with: those of a finished run."""

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from tying import schema
from tying.errors import InputError
from tying.files import CHECKSUMS, read_json, require_checksums
from tying.pointers import Pointers

_HEADS = ("lm_head.", "head.")
_POINTERS = schema.shape(pointers=schema.PointerList)


@torch.no_grad()
def begin_with(model: nn.Module, run: str) -> None:
    """Copy the weights of a finished run into an untied model, all but those of a head that either of the two lacks.

    Args:
        model: Its layers may be tied later; those that were tied in the run begin with equal weights.
        run: The run's folder.

    Raises:
        InputError: If the run is damaged, or of a model of other sizes.
    """
    values = _layers(Path(run).expanduser() / "final")
    named = dict(model.named_parameters())
    differing = [name for name in named.keys() ^ values.keys() if not name.startswith(_HEADS)]
    differing += [name for name in named.keys() & values.keys() if named[name].shape != values[name].shape]
    if differing:
        name = min(differing)
        shapes = [tuple(own[name].shape) if name in own else "missing" for own in (values, named)]
        raise InputError(f"model.init_from = {run!r}: of other sizes: {name} is {shapes[0]} there and {shapes[1]} here")
    for name in named.keys() & values.keys():
        named[name].copy_(values[name])


def weights_sha256(run: str) -> str:
    """Return the digest of a finished run's weights.

    Raises:
        InputError: If the run is damaged.
    """
    final = Path(run).expanduser() / "final"
    require_checksums(final, "model.")
    return str(read_json(final / CHECKSUMS)["model.safetensors"])


def _layers(final: Path) -> dict[str, Tensor]:
    """Return the weights of a run by name, those of tied layers under every layer's name."""
    for part in ("model.", "pointers."):
        require_checksums(final, part)
    pointers = schema.check(_POINTERS, {"pointers": read_json(final / "pointers.json")})["pointers"]
    try:
        values = load_file(final / "model.safetensors")
    except (OSError, SafetensorError) as error:
        raise InputError(f"{final}: damaged or missing ({error})") from error
    for layer, root in enumerate(Pointers(pointers)):
        for name in [name for name in values if name.startswith(f"h.{root}.")]:
            values.setdefault(f"h.{layer}.{name.removeprefix(f'h.{root}.')}", values[name])
    return values
