"""Two processes while layers are tied and untied, against one with the whole batch."""

import copy
import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, multiprocessing, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from tying import InputError, LayerBinding, Pointers
from tying.training import distributed

PATTERNS = ("0 1 2 3", "0 0 2 2", "0 1 2 3", "0 1 1 0", "0 0 0 0", "0 1 2 2")
C, BATCH, STEPS, PROCESSES = 8, 6, 3, 2


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.h = nn.ModuleList(nn.TransformerEncoderLayer(C, 2, 16, dropout=0.0, batch_first=True) for _ in range(4))
        self.head = nn.Linear(C, 3)
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        for block in self.h:
            x = block(x)
        return self.head(x)


def make() -> tuple[Model, torch.optim.Optimizer, LayerBinding]:
    model = Model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    return model, optimizer, LayerBinding(model.h, optimizer)


def train(
    model: nn.Module, optimizer: torch.optim.Optimizer, rebind: Callable[[Pointers], None], rank: int | None = None
) -> list[float]:
    """Train some steps under every pattern; a process with a rank sees its half of each batch."""
    batches = torch.Generator().manual_seed(1)
    own = slice(None) if rank is None else slice(rank, None, PROCESSES)
    losses = []
    for pattern in PATTERNS:
        rebind(Pointers.parse(pattern))
        for _ in range(STEPS):
            x = torch.randn(BATCH, 5, C, generator=batches, dtype=torch.float64)
            optimizer.zero_grad()
            loss = model(x[own]).square().mean()
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
    return losses


def in_group(rank: int, run: Callable[[int, str], None], folder: str) -> None:
    """Run as a process of a group, which is left after all that `run` made is gone.

    A reducer that is the last to hold the group deadlocks: it ends the group's threads while it holds the interpreter's
    lock, and they may wait for that lock.
    """
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=PROCESSES)
    run(rank, folder)
    gc.collect()
    dist.destroy_process_group()


def run_ddp(rank: int, folder: str) -> None:
    model, optimizer, binding = make()
    wrapped = DistributedDataParallel(model)
    calls: list[int] = []
    wrapped.register_forward_pre_hook(lambda *_: calls.append(rank))
    # Only rank 0 decides: what the others ask for does not count.
    train(
        wrapped,
        optimizer,
        lambda new: distributed.rebind(binding, wrapped, new if rank == 0 else Pointers.independent(4)),
        rank,
    )
    assert len(calls) == len(PATTERNS) * STEPS
    torch.save(model.state_dict(), f"{folder}/{rank}.pt")
    wrapped.register_comm_hook(None, lambda _, bucket: torch.futures.Future())
    with pytest.raises(InputError, match="communication hook"):
        distributed.rebind(binding, wrapped, "0 0 0 0")
    assert str(binding.pointers) == PATTERNS[-1]


def run_fsdp(rank: int, folder: str) -> None:
    model, optimizer, binding = make()
    binding.rebind(Pointers.parse("0 0 2 2"))
    mesh = init_device_mesh("cpu", (PROCESSES,))
    fully_shard(model, mesh=mesh)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    train(model, optimizer, lambda _: None, rank)
    with pytest.raises(InputError):
        binding.rebind("0 1 2 3")
    whole = {name: value.full_tensor() for name, value in model.state_dict().items()}
    torch.save(whole, f"{folder}/{rank}.pt")


def states_of(run: Callable[..., None], folder: Path) -> list[dict[str, Any]]:
    multiprocessing.spawn(in_group, args=(run, str(folder)), nprocs=PROCESSES)
    return [torch.load(folder / f"{rank}.pt") for rank in range(PROCESSES)]


def assert_equal_states(found: list[dict[str, Any]], model: nn.Module) -> None:
    expected = model.state_dict()
    for state in found:
        assert state.keys() == expected.keys()
        for name, value in state.items():
            torch.testing.assert_close(value, expected[name], rtol=1e-6, atol=1e-6)


@pytest.mark.e2e
def test_ddp_with_changing_pointers_equals_one_process(tmp_path: Path) -> None:
    model, optimizer, binding = make()
    start = copy.deepcopy(model.state_dict())
    losses = train(model, optimizer, binding.rebind)
    assert losses[-1] < losses[0] and not torch.equal(start["head.weight"], model.head.weight)
    assert_equal_states(states_of(run_ddp, tmp_path), model)


@pytest.mark.e2e
def test_fsdp_with_layers_tied_before_sharding_equals_one_process(tmp_path: Path) -> None:
    model, optimizer, binding = make()
    binding.rebind(Pointers.parse("0 0 2 2"))
    train(model, optimizer, lambda _: None)
    assert_equal_states(states_of(run_fsdp, tmp_path), model)
