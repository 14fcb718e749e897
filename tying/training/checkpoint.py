"""Checkpoints: a trainer's state in a folder, written in one step, each set of weights once.

model.safetensors (parameters under their root's name), optimizer.safetensors ("name/moment"), state.json, and
checksums.json, the sha256 of all of them.
"""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from tying import schema
from tying.errors import InputError
from tying.files import replacing, require_checksums, write_checksums, write_json
from tying.pointers import Pointers
from tying.training.trainer import Trainer

FORMAT = 2
_WAY_OUT = "remove its folder to resume from the checkpoint before"
_STATE = schema.shape(
    format=Literal[2], iteration=Annotated[int, Field(ge=0)], pointers=schema.PointerList, seed=Annotated[int, Field(ge=0)]
)


def save(trainer: Trainer, folder: Path) -> None:
    """Write the trainer's state to a folder that does not exist yet.

    Raises:
        OSError: If it cannot be written whole (a full disk); nothing is left behind then.
    """
    state = trainer.state_dict()
    with replacing(folder) as temporary:
        temporary.mkdir()
        for part in ("model", "optimizer"):
            save_tensors(state[part], temporary / f"{part}.safetensors")
        write_json(
            temporary / "state.json",
            {"format": FORMAT, "iteration": state["iteration"], "pointers": state["pointers"], "seed": trainer.seed},
        )
        write_checksums(temporary)


def load(trainer: Trainer, folder: Path) -> None:
    """Put a trainer with the same arguments into a saved state.

    Raises:
        InputError: If the checkpoint is damaged, of another format, or of another run.
    """
    facts = _read_state(folder)
    if facts["seed"] != trainer.seed:
        raise InputError(f"{folder}: made with seed {facts['seed']}, not {trainer.seed}")
    tensors = {part: load_tensors(folder / f"{part}.safetensors") for part in ("model", "optimizer")}
    try:
        trainer.load_state_dict({"iteration": facts["iteration"], "pointers": facts["pointers"], **tensors})
    except InputError as error:
        raise InputError(f"{folder}: {error}; {_WAY_OUT}") from error


def saved_pointers(folder: Path) -> Pointers:
    """Return the pointers of a checkpoint.

    Raises:
        InputError: If it is damaged.
    """
    return Pointers(_read_state(folder)["pointers"])


def _read_state(folder: Path) -> dict[str, Any]:
    """Return state.json of a checkpoint that is as it was written."""
    state = schema.read(folder / "state.json", _STATE, _WAY_OUT)
    require_checksums(folder, way_out=_WAY_OUT)
    return state


def save_tensors(tensors: dict[str, Tensor], path: Path) -> None:
    """Write tensors to a safetensors file (in place; wrap in `replacing`)."""
    try:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
    except SafetensorError as error:  # the library's own type for a full disk
        raise OSError(f"{path}: {error}") from error


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file.

    Raises:
        InputError: If it is missing or damaged.
    """
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path}: damaged or missing ({error}); {_WAY_OUT}") from error
