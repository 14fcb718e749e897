"""Ranks: the processes that train one model together, each on its own rows of every batch.

Every rank holds the whole model and computes what every other computes, but for the backward pass: there each takes its
share of the batch, and the gradients are added up afterwards, a bucket at a time. Buckets are made of the parameters that
exist: weights that n layers use are sent once, and nothing has to be made anew when pointers move, as the reducer of
DistributedDataParallel has to be (`tying.training.distributed`).
"""

import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from tying.errors import InputError

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from tying.tasks.base import Batch

# A process that neither answers nor ends is waited for that long; one that ends is noticed at once.
_PATIENCE = timedelta(minutes=30)
_BUCKET = 2**25  # bytes that are sent together: copies of all gradients at once would need as much memory as these


@dataclass(frozen=True)
class Ranks:
    """The processes of a training, as one of them sees them.

    Attributes:
        rank: This process; 0 decides and writes.
        size: Number of processes N.
    """

    rank: int = 0
    size: int = 1

    def require_rows(self, batch_size: int, parts: int) -> None:
        """Check that a batch can be shared out.

        Raises:
            InputError: If its parts (`trainer.micro_batches`) have no equal number of rows for every rank.
        """
        if batch_size % (parts * self.size):
            split = f"{self.size} processes" + (f" x {parts} trainer.micro_batches" if parts > 1 else "")
            raise InputError(f"trainer.batch_size = {batch_size}: must be a multiple of {split}")

    def require_same(self, facts: Callable[[], Mapping[str, Any]]) -> None:
        """Check that all ranks read the same files, which may lie on several machines.

        Args:
            facts: `Task.facts`, pairs of a name and a digest.

        Raises:
            InputError: On every rank, if the digests differ.
            ConnectionError: If a rank has ended.
        """
        if self.size == 1:
            return
        import torch.distributed as dist

        mine = facts()
        all_facts: list[Mapping[str, Any]] = [mine] * self.size
        with _others_there():
            dist.all_gather_object(all_facts, mine)
        for key in (key for key in mine if key.endswith("_sha256")):
            if len({theirs[key] for theirs in all_facts}) > 1:
                name = key.removesuffix("_sha256")
                raise InputError(f"{name} {mine[name]}: not the same for all processes; each reads it on its own machine")

    def device(self, device: "torch.device") -> "torch.device":
        """Return this process's own device of a kind; on GPUs it becomes the current one.

        Raises:
            InputError: If there are fewer GPUs than processes on this machine, or none that processes can share work on.
        """
        if self.size == 1 or device.type == "cpu":
            return device
        import torch

        index, there = int(os.environ.get("LOCAL_RANK", self.rank)), torch.cuda.device_count()
        if device.type != "cuda" or index >= there:
            raise InputError(
                f"trainer.device = {device.type!r}: each process needs a CUDA device of its own, this machine has {there}: "
                "start no more processes than that, or take --trainer.device cpu"
            )
        torch.cuda.set_device(index)
        return torch.device("cuda", index)

    def purpose(self, name: str) -> str:
        """Return the purpose of random draws that are other ones on every rank; rank 0 has those of a single process."""
        return f"{name} of rank {self.rank}" if self.rank else name

    def share(self, batch: "Batch", parts: int, count: Callable[["Batch"], int]) -> tuple["Batch", Sequence[float]]:
        """Return this rank's rows of a batch that is run in parts, and a divisor for the loss of each of its own parts.

        The quotients add up, over parts and ranks, to the loss of the batch: the mean over its parts, each the mean over
        what is counted in it. So a rank weighs by what its rows count.

        Args:
            batch: Tensors of (B, ...).
            parts: `micro_batches`; parts x N divides B.
            count: `Task.size`.

        Returns:
            Tensors of (B / N, ...), and the divisor for each of their `parts` chunks.
        """
        if self.size == 1:
            return batch, [parts] * parts
        mine = tuple(tensor.unflatten(0, (parts, self.size, -1))[:, self.rank].flatten(0, 1) for tensor in batch)
        wholes, owns = ([count(part) for part in zip(*(t.chunk(parts) for t in b), strict=True)] for b in (batch, mine))
        return mine, [parts * whole / own if own else math.inf for whole, own in zip(wholes, owns, strict=True)]

    def add_up(self, loss: "Tensor", parameters: Iterable["nn.Parameter"]) -> None:
        """Replace a loss and the gradients of parameters by their sums over all ranks, the same bits on every rank.

        Raises:
            ConnectionError: If a rank has ended.
        """
        if self.size == 1:
            return
        import torch
        import torch.distributed as dist

        for bucket in _buckets([loss, *(p.grad for p in parameters if p.grad is not None)]):
            flat = torch.cat([tensor.flatten() for tensor in bucket])
            with _others_there():
                dist.all_reduce(flat)
            for tensor, total in zip(bucket, flat.split([tensor.numel() for tensor in bucket]), strict=True):
                tensor.copy_(total.view_as(tensor))

    def agree(self, parameters: Iterable["nn.Parameter"]) -> None:
        """Give parameters the values of rank 0, where each rank has computed them by itself on processors that may differ.

        Raises:
            ConnectionError: If a rank has ended.
        """
        if self.size == 1:
            return
        import torch.distributed as dist

        for parameter in parameters:
            with _others_there():
                dist.broadcast(parameter.detach(), src=0)

    def tell(self, message: Any) -> None:
        """Send a value from rank 0 to the others, which `hear` it.

        Raises:
            ConnectionError: If a rank has ended.
        """
        self._broadcast(message)

    def hear(self) -> Any:
        """Wait for a value from rank 0; None: there is nothing left to do.

        Raises:
            ConnectionError: If rank 0 has ended.
        """
        return self._broadcast(None)

    def _broadcast(self, message: Any) -> Any:
        import torch.distributed as dist

        box = [message]
        with _others_there():
            dist.broadcast_object_list(box, src=0)
        return box[0]

    def release(self) -> None:
        """Let the other ranks end, which wait for rank 0; from then on it is alone. A second call does nothing."""
        if self.size == 1:
            return
        import torch.distributed as dist

        if dist.is_initialized():
            if self.rank == 0:
                self.tell(None)
            dist.destroy_process_group()


ALONE = Ranks()


@contextmanager
def joined() -> Iterator[Ranks]:
    """Join the processes that torchrun started, for the time of a block; ALONE where it started none.

    The block of every rank but 0 lasts until it hears None, which rank 0 says at the latest when its own block ends.
    Of processes that fail, the first says why: in the others, which fail since it is gone, SystemExit takes the place of
    whatever ended the block.
    """
    size = int(os.environ.get("WORLD_SIZE", "1")) if "RANK" in os.environ else 1
    if size == 1:
        yield ALONE
        return
    import torch
    import torch.distributed as dist
    from torch.distributed.rendezvous import rendezvous

    store, rank, size = next(iter(rendezvous("env://", timeout=_PATIENCE)))
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=_PATIENCE)
    ranks = Ranks(rank, size)
    try:
        yield ranks
    except BaseException as error:
        if isinstance(error, SystemExit) and not error.code:  # --help
            ranks.release()
        elif not _fails_first(store):
            raise SystemExit(1) from None
        raise
    ranks.release()


def _fails_first(store: Any) -> bool:
    with suppress(RuntimeError):  # the store may have gone with the process that held it
        return bool(store.add("failed", 1) == 1)
    return True


@contextmanager
def _others_there() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise ConnectionError("another process of this training has ended, or does not answer") from error


def _buckets(tensors: Iterable["Tensor"]) -> Iterator[list["Tensor"]]:
    """Cut tensors, in their order, into lists of one type, each of `_BUCKET` bytes at most or of a single tensor."""
    bucket: list[Tensor] = []
    size = 0
    for tensor in tensors:
        if bucket and (tensor.dtype != bucket[0].dtype or size + tensor.nbytes > _BUCKET):
            yield bucket
            bucket, size = [], 0
        bucket.append(tensor)
        size += tensor.nbytes
    if bucket:
        yield bucket
