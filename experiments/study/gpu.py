"""Figures of a CUDA device: training against the reference, the share of its peak, and what falls with the number of sets.

Times are wall times between two moments at which the device has nothing left to do; candidates take turns.
"""

import functools
import gc
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from statistics import median
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, models
from torch import nn

from envs.presets import PRESETS
from experiments.study import reference, speed
from experiments.study.figure import Figure, flops, interleaved, ratios, repeat
from tying import Pointers, Trainer, strategies
from tying.config import override
from tying.data.corpora import SPLITS, DataConfig
from tying.data.tokens import TokenData
from tying.isolation import float32_products
from tying.models.config import GPTConfig
from tying.tasks.causal_lm import CausalLM
from tying.tasks.config import TaskConfig

_GPT2 = PRESETS["gpt2"]
# Shape, vocabulary and batch: those of the CPU's figures, and GPT-2 with the rows of nanoGPT's embedding.
_SHAPES = {
    "6 x 128": (GPTConfig(), 2048, 64),
    "12 x 256": (GPTConfig(num_layers=12, num_heads=8, width=256, context=256), 2048, 64),
    "12 x 768": (GPTConfig(num_layers=12, num_heads=12, width=768, context=1024, bias=False), 50304, 16),
}
_DEEP = GPTConfig(num_layers=48, num_heads=25, width=1600, context=1024)
_DEEP_BATCH = 4
_DEEP_PATTERNS = ("independent", "sequence:6", "all_tied")
_PRECISIONS = ("fp32", "tf32", "bf16")


def sections(repeats: int, iterations: int, job_iterations: int) -> dict[str, Callable[[], Iterator[Figure]]]:
    """Return the measurements by title; each yields its figures. The arguments are those of `speed.sections`."""
    speeds = {f"training speed, {n}": functools.partial(_speed, *s, repeats, iterations) for n, s in _SHAPES.items()}
    deep = f"{_DEEP.num_layers} x {_DEEP.width}, batch {_DEEP_BATCH}, bf16"
    return {
        **speeds,
        "share of time that is not training": functools.partial(speed.overhead, job_iterations, "cuda"),
        f"what falls with the number of sets, {deep}": functools.partial(_falls_with_sets, _DEEP, repeats),
    }


def synchronized() -> float:
    """Return seconds so far, once the device has done all that it was given."""
    torch.cuda.synchronize()
    return time.perf_counter()


def _task(model: GPTConfig, vocab_size: int) -> CausalLM:
    """Return language modelling on random tokens: no tokenizer is trained for a figure of speed."""
    task = CausalLM(TaskConfig(), model, DataConfig())
    tokens = np.random.default_rng(0).integers(0, vocab_size, 10**6).astype(np.uint16)
    tokenizer = Tokenizer(models.WordLevel({str(token): token for token in range(vocab_size)}))
    splits, num_bytes = dict.fromkeys(SPLITS, tokens), dict.fromkeys(SPLITS, len(tokens))
    task.data = TokenData("random tokens", "0" * 64, tokenizer, splits, num_bytes)
    return task


def _trainer(task: CausalLM, **trainer: Any) -> Trainer:
    settings = override(_GPT2, {"trainer": {"device": "cuda", "iterations": 10**6, **trainer}})
    return Trainer(task, settings.trainer, settings.optim, settings.binding, seed=0)


def _speed(model: GPTConfig, vocab_size: int, batch_size: int, repeats: int, iterations: int) -> Iterator[Figure]:
    """Train untied models beside nanoGPT's mathematics, plain and compiled: our blocks, and the whole reference."""
    task = _task(model, vocab_size)
    seconds: dict[str, list[float]] = {}
    for precision in _PRECISIONS:
        runs: dict[str, Callable[[int], object]] = {}
        for compiled in (False, True)[: 1 + (precision == "bf16")]:  # a compiler takes minutes
            words = f"{precision}{', compiled' if compiled else ''}"
            loop = reference.loop(task, model, _GPT2.optim, batch_size, precision, "cuda", compiled)
            runs[f"{words}: reference"] = _with_products(precision, loop)
            runs[f"{words}: ours"] = _trainer(task, batch_size=batch_size, precision=precision, compile=compiled).train
        seconds |= interleaved(runs, repeats, iterations, synchronized)
        del runs, loop
        _release()
    tokens = batch_size * model.context * iterations
    for name, taken in seconds.items():
        words, _, who = name.partition(": ")
        if who == "ours":
            yield Figure.of(f"{words}, tokens/s", [tokens / second for second in taken], "{:,.0f}")
            gains = ratios(seconds, name, f"{words}: reference")
            yield Figure.of(f"{words}, ours / reference", gains, "x{:.3f}", ">= 1.15", 1.15)
    best = min(
        (name for name in seconds if name.startswith("bf16") and name.endswith("ours")), key=lambda n: median(seconds[n])
    )
    operations = flops(model, vocab_size) * batch_size * iterations / median(seconds[best])
    share = operations / _peak(torch.bfloat16)
    yield Figure(f"{best.partition(':')[0]}: share of the peak of bf16 products", share, "{:.1%}")


def _with_products(precision: str, run: Callable[[int], object]) -> Callable[[int], object]:
    def again(iterations: int) -> None:
        with float32_products("tf32") if precision == "tf32" else nullcontext():
            run(iterations)

    return again


def _peak(dtype: torch.dtype, size: int = 8192, repeats: int = 20) -> float:
    """Return the operations per second of a product of two square matrices, the median of some."""
    left, right = (torch.randn(size, size, device="cuda", dtype=dtype) for _ in range(2))
    taken = []
    for _ in range(repeats + 3):
        start = synchronized()
        left @ right
        taken.append(synchronized() - start)
    return 2 * size**3 / median(taken[3:])


def _falls_with_sets(model: GPTConfig, repeats: int) -> Iterator[Figure]:
    """Measure one run that is tied step by step and untied again: memory, iterations, optimizer, clipping, rebinds."""
    trainer = _trainer(_task(model, 50304), batch_size=_DEEP_BATCH, precision="bf16")
    seconds: dict[str, dict[str, list[float]]] = {}
    for name in _DEEP_PATTERNS:
        pointers = strategies.make(name, model.num_layers)
        start = synchronized()
        trainer.rebind(pointers)
        if name != "independent":
            yield Figure(f"rebind to {name}, ms", 1000 * (synchronized() - start), "{:.1f}")
        for recompute in (False, True):
            trainer.model.recompute = recompute  # type: ignore[assignment]
            words = f"{name}{', recomputed' if recompute else ''}"
            yield Figure(f"{words}: peak of memory, GiB", _peak_memory(trainer), "{:.2f}")
        trainer.model.recompute = False  # type: ignore[assignment]
        runs: Mapping[str, Callable[[int], object]] = {
            "iteration": trainer.train,
            "optimizer step": lambda count: repeat(trainer.optimizer.step, count),
            "clipping": lambda count: repeat(lambda: nn.utils.clip_grad_norm_(trainer.model.parameters(), 1.0), count),
        }
        seconds[name] = interleaved(runs, repeats, 2, synchronized)
    for what in ("iteration", "optimizer step", "clipping"):
        for name, taken in seconds.items():
            yield Figure.of(f"{name}: {what}, ms", [500 * second for second in taken[what]], "{:.1f}")
    trainer.optimizer.zero_grad(set_to_none=True)
    before, start = torch.cuda.memory_allocated(), synchronized()
    trainer.rebind(Pointers.independent(model.num_layers))
    yield Figure("untie of all layers, with their moments, ms", 1000 * (synchronized() - start), "{:.1f}")
    yield Figure("the same: memory that it takes, GiB", (torch.cuda.memory_allocated() - before) / 2**30, "{:.2f}")


def _peak_memory(trainer: Trainer) -> float:
    """Return the most memory of the device that two iterations hold at once, in GiB."""
    trainer.optimizer.zero_grad(set_to_none=True)
    _release()
    torch.cuda.reset_peak_memory_stats()
    trainer.train(2)
    return torch.cuda.max_memory_allocated() / 2**30


def _release() -> None:
    gc.collect()
    torch.cuda.empty_cache()
