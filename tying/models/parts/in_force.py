"""The tying in force, as a model itself can see it."""

from collections.abc import Sequence

from torch import nn

from tying.pointers import Pointers


def pointers_in_force(blocks: Sequence[nn.Module], *names: str) -> Pointers:
    """Return which blocks use the same parameters now.

    Parameters are the same where their memory is, so this also sees a tie through the leaves that
    `LayerBinding.separated` lends to every layer.

    Args:
        blocks: The blocks, layer 0 first, with values.
        names: Parameters of a block; blocks are tied that share all of them.
    """
    return Pointers.from_labels(tuple(_memory(block, name) for name in names) for block in blocks)


def _memory(block: nn.Module, name: str) -> int:
    path, _, key = name.rpartition(".")
    parameter = block.get_submodule(path)._parameters[key]  # under a low-rank delta, the attribute is another tensor
    assert parameter is not None
    return parameter.data_ptr()
