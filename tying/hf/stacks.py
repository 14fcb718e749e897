"""Where the equal blocks of a model are: each family has its own path (transformer.h, model.layers, encoder.block)."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from torch import nn

from tying.errors import InputError


class Stack(NamedTuple):
    """Equal blocks of a model, in the order in which they run.

    Attributes:
        path: Where their list is, as `model.get_submodule(path)` takes it.
        blocks: The list.
    """

    path: str
    blocks: nn.ModuleList


def find_stacks(model: nn.Module) -> dict[str, Stack]:
    """Return the stacks of equal blocks of a model by name, in the model's order.

    A stack is a ModuleList of two or more blocks with norms, whose common parameters have equal shapes. Lists inside a
    stack (experts, sublayers) are part of its blocks. A name is the part of the path that tells the stacks of a model
    apart: "encoder" and "decoder", "text" and "vision", "stage0" to "stage3"; the only stack is named after the module
    that holds it.
    """
    stacks = list(_outermost(model, ""))
    return dict(zip(_names([stack.path for stack in stacks]), stacks, strict=True))


def find_stack(model: nn.Module, name: str | None = None) -> Stack:
    """Return the stack with a name or path, or the only one there is.

    Raises:
        InputError: If the model has no stack, several and no name was given, or none with this name.
    """
    stacks = find_stacks(model)
    kind = type(model).__name__
    if not stacks:
        raise InputError(
            f"{kind} has no list of two or more equal blocks with norms; bind its layers with tying.LayerBinding(blocks)"
        )
    if name is None:
        if len(stacks) > 1:
            raise InputError(f"{kind} has {len(stacks)} stacks of blocks: name one with stack=, of {', '.join(stacks)}")
        return next(iter(stacks.values()))
    by_path = {stack.path: stack for stack in stacks.values()}
    if name not in stacks and name not in by_path:
        raise InputError(f"stack {name!r}: {kind} has {', '.join(stacks)}")
    return stacks[name] if name in stacks else by_path[name]


def _outermost(module: nn.Module, path: str) -> Iterator[Stack]:
    if isinstance(module, nn.ModuleList) and _are_blocks(list(module)):
        yield Stack(path, module)
        return
    for name, child in module.named_children():
        yield from _outermost(child, f"{path}.{name}" if path else name)


def _are_blocks(blocks: Sequence[nn.Module]) -> bool:
    if len({id(block) for block in blocks}) < 2 or not all(map(_has_norm, blocks)):
        return False
    shapes = [{name: parameter.shape for name, parameter in block.named_parameters()} for block in blocks]
    common = set.intersection(*(set(names) for names in shapes))
    return bool(common) and all(own[name] == shapes[0][name] for own in shapes for name in common)


def _has_norm(block: nn.Module) -> bool:
    return any("norm" in type(module).__name__.lower() for module in block.modules())


def _names(paths: Sequence[str]) -> list[str]:
    """Name each path by what tells it apart: what all begin or end with is left out."""
    holders = [path.split(".")[:-1] or [path] for path in paths]
    if len(holders) == 1:
        return [_plain(holders[0][-1])]
    while all(len(parts) > 1 for parts in holders) and len({parts[0] for parts in holders}) == 1:
        holders = [parts[1:] for parts in holders]
    while all(len(parts) > 1 for parts in holders) and len({parts[-1] for parts in holders}) == 1:
        holders = [parts[:-1] for parts in holders]
    return [".".join(map(_plain, parts)) for parts in holders]


def _plain(part: str) -> str:
    return f"stage{part}" if part.isdecimal() else part.removesuffix("_model")
