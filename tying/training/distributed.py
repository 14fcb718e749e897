"""Rebinding in several processes, under DistributedDataParallel.

DistributedDataParallel averages the gradients of the parameters that it saw when it was made. Copies that an untie makes
later would never be averaged, and the processes would drift apart; so its reducer is made anew after every rebind.
"""

from collections.abc import Iterable

import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from tying.binding import LayerBinding
from tying.errors import InputError
from tying.pointers import Pointers

# Attributes of a module that hold the hooks which people registered on it.
_HOOKS = (
    "_forward_hooks",
    "_forward_pre_hooks",
    "_backward_hooks",
    "_backward_pre_hooks",
    "_state_dict",
    "_load_state_dict",
)


def rebind(binding: LayerBinding, wrapped: DistributedDataParallel, pointers: str | Iterable[int]) -> None:
    """Rebind in every process, to the pointers of rank 0, and have `wrapped` average the parameters that there are now.

    Call it in every process, between two optimizer steps. `wrapped` stays the same object.

    Args:
        binding: The binding of this process, over blocks of `wrapped.module`.
        wrapped: What the training loop calls.
        pointers: Rank 0's count; the others may pass anything valid.

    Raises:
        InputError: If the pointers are not valid, or `wrapped` has a communication hook, which would be lost.
    """
    if wrapped._comm_hooks:
        raise InputError(
            "DistributedDataParallel has a communication hook: make it anew after rebind, and register it again"
        )
    new = broadcast(pointers, wrapped.process_group)
    # A binding refuses to rebind under a reducer that would miss its copies, unless the wrapper says that it follows.
    vars(wrapped)["follows_rebinds"] = True
    try:
        binding.rebind(new)
        _renew(wrapped, send=bool(binding.deltas.names))
    finally:
        vars(wrapped)["follows_rebinds"] = False


def broadcast(pointers: str | Iterable[int], group: dist.ProcessGroup | None = None) -> Pointers:
    """Return the pointers of the group's first process in all of its processes."""
    own = Pointers.parse_ranked(pointers) if isinstance(pointers, str) else pointers
    box = [(own if isinstance(own, Pointers) else Pointers(own)).to_list()]
    dist.broadcast_object_list(box, group=group, group_src=0)
    return Pointers(box[0])


def _renew(wrapped: DistributedDataParallel, send: bool) -> None:
    """Run the constructor again on the same object; everything that was added to it since stays."""
    before = dict(vars(wrapped))
    # The old reducer's hooks on the parameters go with it; its logger holds it too.
    del wrapped.reducer, wrapped.logger
    wrapped.__init__(  # type: ignore[misc]
        before["_modules"]["module"],
        device_ids=wrapped.device_ids,
        output_device=wrapped.output_device if wrapped.device_ids else None,
        dim=wrapped.dim,
        bucket_cap_mb=wrapped.bucket_bytes_cap / 2**20,
        find_unused_parameters=wrapped.find_unused_parameters,
        gradient_as_bucket_view=wrapped.gradient_as_bucket_view,
        static_graph=wrapped.static_graph,
        process_group=wrapped.process_group,
        mixed_precision=wrapped.mixed_precision,
        # Every process makes the same copies of equal values, so nothing has to be sent. Decompositions into low-rank
        # deltas may differ between devices.
        init_sync=send,
        # Newer versions of torch warn where the default is given.
        **({} if wrapped.broadcast_buffers else {"broadcast_buffers": False}),
    )
    for name, value in before.items():
        if name.startswith(_HOOKS) or not (name in vars(wrapped) or name in ("reducer", "logger")):
            vars(wrapped)[name] = value
    wrapped.training = before["training"]
