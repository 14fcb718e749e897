"""`remove_layers`: a model of transformers without some of its blocks, as its own library reads and writes it."""

from collections.abc import Iterable
from typing import Any

from torch import nn

from tying.binding import bindings_of
from tying.errors import InputError
from tying.hf.config import LAYERS
from tying.hf.stacks import find_stack


def remove_layers(model: nn.Module, layers: Iterable[int], *, stack: str | None = None) -> None:
    """Remove blocks of a model in place; its configuration and the blocks' own numbers follow.

    Args:
        model: A model of transformers.
        layers: The blocks to remove.
        stack: Which blocks, by a name of `find_stacks` or a path; needed where there are several stacks.

    Raises:
        InputError: If a layer does not exist, none would be left, the stack is bound, or a block to remove holds
            parameters that the others lack (a table of relative positions, say); nothing was changed then.
    """
    found = find_stack(model, stack)
    blocks, removed = found.blocks, set(layers)
    if bindings_of(blocks):
        raise InputError(
            f"{found.path} is bound: close its binding, or take tying.hf.untied(model), before layers are removed"
        )
    wrong = sorted(layer for layer in removed if not 0 <= layer < len(blocks))
    if wrong or len(removed) == len(blocks):
        which, last = f"layer {wrong[0]}" if wrong else "all layers", len(blocks) - 1
        raise InputError(f"{which} cannot be removed: {found.path} has layers 0 to {last}, and keeps at least one")
    names = [{name for name, _ in block.named_parameters()} for block in blocks]
    own = {layer: sorted(names[layer] - set[str].intersection(*names)) for layer in sorted(removed)}
    needed = next((layer for layer in own if own[layer]), None)
    if needed is not None:
        raise InputError(f"layer {needed} cannot be removed: the model needs its {own[needed][0]}, which others lack")
    total = len(blocks)
    kept = [layer for layer in range(total) if layer not in removed]
    for layer in sorted(removed, reverse=True):
        del blocks[layer]
    for number, block in enumerate(blocks):
        for module in block.modules():
            if isinstance(vars(module).get("layer_idx"), int):
                module.layer_idx = number  # type: ignore[assignment]
    _shorten(getattr(model, "config", None), total, kept)


def _shorten(config: Any, total: int, kept: list[int]) -> None:
    """Correct the number of layers, and lists of one entry for each layer, in a configuration and its parts."""
    if config is None:
        return
    for name, value in list(vars(config).items()):
        if hasattr(value, "to_dict"):
            _shorten(value, total, kept)
        elif name in LAYERS and value == total:
            setattr(config, name, len(kept))
        elif isinstance(value, list) and len(value) == total and "layer" in name:
            setattr(config, name, [value[layer] for layer in kept])
