"""Options that save time or memory, against training without them."""

import ctypes
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from corpus import made_up_task
from torch.utils._python_dispatch import TorchDispatchMode

from tying import Pointers, Trainer
from tying.models.base import Model
from tying.models.config import GPTConfig
from tying.training import memory
from tying.training import trainer as module
from tying.training.attention import Float32Attention
from tying.training.config import BindingConfig, OptimConfig, TrainerConfig

MODEL = GPTConfig(num_layers=4, num_heads=2, width=16, context=16)
PATTERNS = ["0 0 0 0", "0 1 1 0", "0 1 2 3"]

pytestmark = pytest.mark.usefixtures("one_thread")


def make(pointers: Pointers | None = None, tied_rate: float = 0.0, share: str = "block", **options: object) -> Trainer:
    config = TrainerConfig(iterations=60, batch_size=4, device="cpu", **options)  # type: ignore[arg-type]
    optim = OptimConfig(learning_rate=1e-2, tied_rate=tied_rate)
    return Trainer(made_up_task(MODEL), config, optim, BindingConfig(share=share), seed=0, pointers=pointers)


def losses(trainer: Trainer, count: int = 6) -> list[float]:
    return [done.loss for done in trainer.train(count)]


def test_a_chunked_loss_trains_as_the_plain_one_but_for_the_last_bits() -> None:
    plain, chunked = make(), make(chunked_loss=True)
    for one in (plain, chunked):
        one.model.double()
    assert losses(chunked) == pytest.approx(losses(plain), abs=1e-6)
    assert chunked.evaluate("test") == pytest.approx(plain.evaluate("test"), abs=1e-6)


def test_attention_in_float32_is_what_autocast_would_leave_out() -> None:
    q, k, v = (torch.randn(2, 2, 8, 4, generator=torch.Generator().manual_seed(seed)) for seed in range(3))
    exact = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        with Float32Attention():
            kept = F.scaled_dot_product_attention(q, key=k, value=v, is_causal=True)
            product = q @ k.transpose(-1, -2)
    assert rounded.dtype == product.dtype == torch.bfloat16
    assert torch.equal(kept, exact)


def test_training_in_bf16_is_near_training_in_fp32() -> None:
    assert losses(make(precision="bf16")) == pytest.approx(losses(make()), abs=0.02)


@pytest.mark.parametrize("share", ["block", "attention"])
@pytest.mark.parametrize("tied_rate", [0.0, 0.5])
@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_model_built_tied_is_the_untied_one_tied_at_once(pattern: str, tied_rate: float, share: str) -> None:
    pointers = Pointers.parse(pattern)
    tied, later = make(pointers, tied_rate, share), make(None, tied_rate, share)
    later.rebind(pointers)
    assert tied.pointers == pointers
    assert tied.independent_params == later.independent_params
    for one in (tied, later):
        one.train(2)
        one.rebind(Pointers((0, 1, 0, 3)))
        one.train(2)
    left, right = tied.state_dict(), later.state_dict()
    for part in ("model", "optimizer"):
        assert left[part].keys() == right[part].keys()
        assert all(torch.equal(value, right[part][name]) for name, value in left[part].items())


def test_what_is_tied_from_the_start_has_no_memory_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    held: list[int] = []
    draw = Model.init_weights

    def spy(self: Model, generator: torch.Generator) -> None:
        storages = {p.untyped_storage().data_ptr(): p.untyped_storage().nbytes() for p in self.h.parameters()}
        held.append(sum(storages.values()))
        draw(self, generator)

    monkeypatch.setattr(Model, "init_weights", spy)
    untied, tied = make(), make(Pointers((0, 0, 0, 0)))
    block = sum(p.numel() * p.element_size() for p in untied.model.h[0].parameters())  # type: ignore[index]
    assert held[0] == 4 * block
    assert block < held[1] <= 2 * block  # one layer, and one set of shapes for all others
    assert tied.trainable_params < untied.trainable_params


def test_memory_is_given_back_where_much_is_freed(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    monkeypatch.setattr(module, "give_back_freed_memory", lambda: calls.append("given back"))
    trainer = make()
    monkeypatch.setattr(module, "_MUCH", 2 * trainer._layer_bytes)
    for pattern, count in (("0 0 2 3", 0), ("0 0 0 0", 1), ("0 1 2 3", 1), ("0 1 1 1", 2)):
        trainer.rebind(Pointers.parse(pattern))
        assert len(calls) == count, pattern


def test_without_glibc_memory_stays_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_library", lambda: None)
    assert not memory.give_back_freed_memory()
    assert not memory.keep_freed_memory.__wrapped__()


def test_glibc_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    class Library:
        @staticmethod
        def malloc_trim(pad: int) -> int:
            return ctypes.c_int(1 - pad).value

    monkeypatch.setattr(memory, "_library", lambda: Library)
    assert memory.give_back_freed_memory()


class Reads(TorchDispatchMode):
    """Counts values that Python reads from tensors: on a GPU each is a wait until everything before it is done."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()
        for name in ("tolist", "cpu", "numpy"):  # on a CPU the dispatcher sees nothing of these
            patch.setattr(torch.Tensor, name, self._counting(name, getattr(torch.Tensor, name)))

    def _counting(self, name: str, read: Callable[..., Any]) -> Callable[..., Any]:
        def counted(tensor: torch.Tensor, *arguments: Any, **keywords: Any) -> Any:
            self.counts[name] += 1
            return read(tensor, *arguments, **keywords)

        return counted

    def __torch_dispatch__(self, function: Any, _: Any, arguments: Any = (), keywords: Any = None) -> Any:
        if function is torch.ops.aten._local_scalar_dense.default:  # item(), float(), bool(), an index
            self.counts["item"] += 1
        return function(*arguments, **(keywords or {}))


def test_reads_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch, Reads(patch) as reads:
        one = torch.ones(1)
        assert one.item() and float(one) and one and [7, 8][one.int()]
        assert one.tolist() == one.cpu().numpy()
    assert reads.counts == {"item": 4, "tolist": 1, "cpu": 1, "numpy": 1}


# Not the chunked loss: it reads where its tensors are on a CPU, and nowhere else.
@pytest.mark.parametrize("options", [{}, {"micro_batches": 2}, {"recompute": True}, {"precision": "bf16"}], ids=str)
@pytest.mark.parametrize("gradient", ["sum", "mean", "root_only"])
def test_an_iteration_reads_from_its_tensors_once(
    options: dict[str, Any], gradient: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, optim = TrainerConfig(iterations=60, batch_size=4, device="cpu", **options), OptimConfig(tied_rate=0.5)
    model, binding = replace(MODEL, dropout=0.1), BindingConfig(gradient=gradient)  # type: ignore[arg-type]
    trainer = Trainer(made_up_task(model), config, optim, binding, pointers=Pointers((0, 1, 1, 3)))
    for count in (1, 3):  # the first iteration makes the optimizer's state
        with monkeypatch.context() as patch, Reads(patch) as reads:
            trainer.train(count)
        assert reads.counts == {"tolist": count}  # loss and gradient norm together


XL = """
import re
from envs.presets import PRESETS
from tying.pointers import Pointers
from tying.binding.sharing import spare_parameters
from tying.models.gpt import GPT
# All memory is written to; 1.5 thousand million draws would take a minute.
GPT.init_weights = lambda self, _: [p.detach().fill_(0.5) for p in self.parameters()]
model = GPT(PRESETS["gpt2-xl"].model, 50257, None)
model.draw_weights(0, spare_parameters(list(model.h), "block", "shared", Pointers([0] * 48)))
print(int(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1]) / 2**20)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peaks are read from Linux's /proc")
def test_the_published_size_tied_to_one_set_is_built_within_two_gigabytes() -> None:
    """With all libraries. Untied, the weights alone are 5.8 GiB. getrusage would give the peak of the tests, if higher."""
    done = subprocess.run([sys.executable, "-c", XL], capture_output=True, text=True, timeout=300, check=True)
    assert float(done.stdout) < 2
