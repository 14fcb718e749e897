"""What a binding refuses, because training would go wrong without a word."""

import weakref
from collections.abc import Iterable, Sequence

from torch import nn
from torch.nn.modules.module import register_module_module_registration_hook
from torch.nn.parallel import DistributedDataParallel
from torch.nn.parameter import UninitializedParameter

from tying.binding.hooks import DivideBy
from tying.errors import InputError

_WRAPPERS = {
    "DistributedDataParallel": "bind the blocks of its `.module`, and make the wrapper anew after every rebind",
    "DataParallel": "use DistributedDataParallel, made anew after every rebind",
    "FullyShardedDataParallel": "bind and rebind first, then shard; pointers cannot move afterwards",
    "FSDPModule": "bind and rebind first, then fully_shard; pointers cannot move afterwards",
}


def refuse_wrappers(classes: Iterable[type], where: str) -> None:
    """Refuse modules that keep parameters in step by themselves: data-parallel and sharding wrappers.

    Raises:
        InputError: If one of the classes is such a wrapper.
    """
    for kind in classes:
        for base in kind.__mro__:
            if base.__name__ in _WRAPPERS and base.__module__.startswith("torch."):
                raise InputError(f"{where} is wrapped in {base.__name__}: {_WRAPPERS[base.__name__]}")


def refuse_kind(parameter: object, where: str) -> None:
    """Refuse parameters that are sharded, or have no values yet.

    Raises:
        InputError: If it is one of those.
    """
    if type(parameter).__name__ in ("DTensor", "FlatParameter"):
        raise InputError(f"{where} is sharded: {_WRAPPERS['FSDPModule']}")
    if isinstance(parameter, UninitializedParameter):
        raise InputError(f"{where} has no values yet (a lazy module): run one batch before binding")


def refuse_by_blocks(blocks: Iterable[nn.Module], names: Sequence[str], gradient: str, delta_rank: int) -> None:
    """Refuse options under which a block's weights would train wrongly: its own `check_training` says so, if it has one.

    Args:
        blocks: The blocks.
        names: Their parameters that follow the pointers.
        gradient: See LayerBinding.
        delta_rank: Rank of the deltas.

    Raises:
        InputError: If a block's check does.
    """
    for block in blocks:
        check = getattr(block, "check_training", None)
        if check is not None:
            check(names, gradient, delta_rank)


def _note(parent: nn.Module, _: str, __: nn.Module | None) -> None:
    if isinstance(parent, DistributedDataParallel):
        _REDUCERS.add(parent)


# Nothing on a model says that it is wrapped, and a search of all objects takes tenths of a second: wrappers are noted when
# they take their model in.
_REDUCERS: "weakref.WeakSet[DistributedDataParallel]" = weakref.WeakSet()
register_module_module_registration_hook(_note)


def refuse_reducer(parameters: Iterable[nn.Parameter]) -> None:
    """Refuse parameters whose gradients a live DistributedDataParallel averages: it would miss every new copy.

    A wrapper that follows rebinds says so by an attribute `follows_rebinds = True`.

    Raises:
        InputError: If there is one.
    """
    ids = set(map(id, parameters)) if _REDUCERS else set()
    for wrapper in _REDUCERS:
        if not getattr(wrapper, "follows_rebinds", False) and any(id(p) in ids for p in wrapper._module_parameters):
            raise InputError(
                "the blocks are wrapped in DistributedDataParallel, which would not average the gradients of copies: "
                "rebind with tying.training.distributed.rebind, or delete the wrapper, rebind and wrap the model again"
            )


def refuse_uncopied(layer: int, names: Iterable[str], weights: Sequence[nn.Parameter]) -> None:
    """Refuse weights of which no faithful copy can be made.

    Raises:
        InputError: If one is of another class than nn.Parameter, or has hooks.
    """
    for name, parameter in zip(names, weights, strict=True):
        if type(parameter) is not nn.Parameter:
            kind = type(parameter).__name__
            raise InputError(f"layer {layer}: {name!r} is a {kind}, which cannot be copied: it can be tied, not untied")
    refuse_hooks(layer, names, weights)


def refuse_hooks(layer: int, names: Iterable[str], weights: Sequence[nn.Parameter]) -> None:
    """Refuse weights with hooks, which a copy would not have and which are lost when weights are freed.

    Raises:
        InputError: If one has a hook that is not a binding's own.
    """
    for name, parameter in zip(names, weights, strict=True):
        hooks = parameter._backward_hooks or {}
        if parameter._post_accumulate_grad_hooks or (hooks and not all(isinstance(h, DivideBy) for h in hooks.values())):
            raise InputError(
                f"layer {layer}: {name!r} has hooks of its own (register_hook), which a tie would lose and a copy would "
                "not have: remove them before the rebind and register them again after it"
            )
