"""Figures of speed and memory: what tying costs and saves on this machine."""

import io
import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

import torch
from threadpoolctl import threadpool_limits
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import agents
from envs.presets import PRESETS
from experiments.run.config import resolve
from experiments.run.console import make_console
from experiments.run.job import Job
from experiments.study import savings
from experiments.study.figure import Figure, interleaved, ratios
from tying import Pointers, Trainer, strategies, tasks
from tying.binding import LayerBinding
from tying.config import override
from tying.models.config import GPTConfig
from tying.models.gpt import GPT
from tying.training.layer_statistics import training_bytes
from tying.training.optim import make_optimizer

_PATTERNS = ("sequence:3", "sandwich", "0 1 1 1 1 1", "all_tied")
_SMALL = PRESETS["small"]
_LAYERS = _SMALL.model.num_layers


def sections(repeats: int, iterations: int, job_iterations: int) -> dict[str, Callable[[], Iterator[Figure]]]:
    """Return the measurements by title; each yields its figures.

    Args:
        repeats: Interleaved repeats behind every median of speed.
        iterations: Training iterations in a repeat.
        job_iterations: Length of the run whose overhead is measured.
    """
    task = tasks.make(_SMALL.task, _SMALL.model, _SMALL.data)
    return {
        "training speed": lambda: _speed(task, repeats, iterations),
        "rebinding 48 layers": _rebinding,
        "compiled blocks": lambda: _recompilation(task),
        "memory of training": lambda: _memory(task),
        "share of time that is not training": lambda: overhead(job_iterations, "cpu"),
        "decisions of surrogate": _decisions,
        "against a reference loop": lambda: savings.against_reference(repeats, max(1, iterations // 5)),
        "a rebind of the trainer, 48 layers": savings.rebinding,
        "what falls with the number of sets": lambda: savings.falls_with_sets(repeats),
        "memory of a process": savings.memory_of_process,
        "instant environments": lambda: savings.instant_environments(repeats),
        "decoding, 6 x 128": lambda: savings.decoding(repeats),
    }


def machine(device: str) -> str:
    """Return device, processor, cores, threads and torch in words."""
    threads = torch.get_num_threads()
    host = f"{platform.machine()}, {os.cpu_count()} cores, {threads} threads, torch {torch.__version__}"
    return f"{torch.cuda.get_device_name()}, {host}" if device == "cuda" else host


def _trainer(task: Any, pattern: str, **changes: Any) -> Trainer:
    """Return a trainer of the preset `small` under a pattern, with sections of its settings changed."""
    settings = override(_SMALL, {"trainer.device": "cpu", "trainer.iterations": 1_000_000}, changes)
    made = Trainer(task, settings.trainer, settings.optim, settings.binding, seed=0)
    made.rebind(strategies.make(pattern, _LAYERS))
    return made


def _bare_loop(task: Any) -> Callable[[int], object]:
    """Return the shortest loop that trains the same model on the same batches."""
    model = task.build_model(seed=0)
    optimizer = make_optimizer(model, _SMALL.optim)
    batches = (task.batch(0, index, _SMALL.trainer.batch_size) for index in range(10**9))

    def run(iterations: int) -> None:
        for _ in range(iterations):
            optimizer.zero_grad(set_to_none=True)
            model.loss(*next(batches)).backward()
            nn.utils.clip_grad_norm_(model.parameters(), _SMALL.optim.clip_norm)
            optimizer.step()

    return run


def _speed(task: Any, repeats: int, iterations: int) -> Iterator[Figure]:
    runs = {"bare loop": _bare_loop(task), "untied": _trainer(task, "independent").train}
    runs |= {pattern: _trainer(task, pattern).train for pattern in _PATTERNS}
    runs["all_tied with gradient root_only"] = _trainer(task, "all_tied", binding={"gradient": "root_only"}).train
    seconds = interleaved(runs, repeats, iterations)
    tokens = iterations * _SMALL.trainer.batch_size * task.sequence_length
    yield Figure("untied, tokens per second of processor time", tokens / median(seconds["untied"]), "{:,.0f}")
    bare = ratios(seconds, "untied", "bare loop")
    yield Figure.of("untied / bare loop of the same model", bare, "x{:.3f}", ">= 0.97", 0.97)
    *patterns, last = list(runs)[2:]
    for pattern in patterns:
        yield Figure.of(f"{pattern} / untied", ratios(seconds, pattern, "untied"), "x{:.3f}")
    yield Figure.of(f"{last} / untied", ratios(seconds, last, "untied"), "x{:.3f}", ">= 1.2", 1.2)


class _Allocations(TorchDispatchMode):
    """Counts the bytes that operations allocate; views allocate nothing."""

    bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        inputs = {t.untyped_storage().data_ptr() for t in args if isinstance(t, torch.Tensor)}
        if isinstance(result, torch.Tensor) and result.untyped_storage().data_ptr() not in inputs:
            self.bytes += result.untyped_storage().nbytes()
        return result


def _rebinding(repeats: int = 200) -> Iterator[Figure]:
    """Rebind 48 layers with AdamW state; the blocks are narrow, so that the copy is not what takes the time."""
    model = GPT(GPTConfig(num_layers=48, num_heads=2, width=32, context=16), 64, seed=0)
    optimizer = make_optimizer(model, _SMALL.optim)
    binding = LayerBinding(model.h, optimizer)
    tokens = torch.zeros(1, 16, dtype=torch.int64)
    model.loss(tokens, tokens).backward()
    optimizer.step()
    untied = Pointers.independent(48)
    seconds: dict[str, list[float]] = {"tie": [], "untie": []}
    for repeat in range(repeats):
        for name, pointers in (("tie", untied.move(1 + repeat % 47, 0)), ("untie", untied)):
            start = time.perf_counter()
            binding.rebind(pointers)
            seconds[name].append(time.perf_counter() - start)
    ms = 1000 * median(seconds["tie"])
    yield Figure("a tie, ms", ms, "{:.3f}", "< 1", ms < 1)
    yield Figure("an untie, ms (width 32)", 1000 * median(seconds["untie"]), "{:.3f}")
    with _Allocations() as allocated:
        binding.rebind(untied.move(20, 3))
    yield Figure("bytes allocated by a tie", allocated.bytes, "{:,.0f}", "0", allocated.bytes == 0)
    copied = sum(3 * p.numel() * p.element_size() + 4 for p in binding.weights_of(3))
    with _Allocations() as allocated:
        binding.rebind(untied)
    share = allocated.bytes / copied
    yield Figure("bytes allocated by an untie / bytes of the copy", share, "{:.3f}", "1", share == 1)


def _recompilation(task: Any, rebinds: int = 1000) -> Iterator[Figure]:
    """Count the graphs that rebinds to random patterns lead to, with a training step every 20."""
    patterns = list(Pointers.all(_LAYERS))
    generator = torch.Generator().manual_seed(0)
    torch._dynamo.reset()
    made = _trainer(task, "all_tied", trainer={"compile": True, "batch_size": 2})
    made.train(2)
    torch._dynamo.utils.counters.clear()
    for number in range(rebinds):
        made.rebind(patterns[int(torch.randint(len(patterns), (), generator=generator))])
        if number % 20 == 0:
            made.train(1)
    graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    yield Figure(f"recompilations in {rebinds:,} rebinds", graphs, "{:.0f}", "0", graphs == 0)


def _memory(task: Any) -> Iterator[Figure]:
    """Compare with 16 bytes per live parameter in float32: itself, its gradient, two moments."""
    for pattern in ("independent", *_PATTERNS):
        made = _trainer(task, pattern, trainer={"batch_size": 1})
        made.train(1)
        share = training_bytes(made.model.parameters(), made.optimizer) / (16 * made.trainable_params)
        name = f"{pattern}: bytes of parameters, gradients, moments / 16 x live parameters"
        yield Figure(name, share, "{:.3f}", "1", share == 1)


def _decisions(before: int = 1_000, timed: int = 63) -> Iterator[Figure]:
    """Take many decisions in one run with the agent that works most for each; every 21 it chooses its process again."""
    for num_layers in (6, 48):
        sizes = {"num_layers": num_layers, "num_decisions": before + timed}
        env = agents.make_env("surrogate", env_id="tying/FormulaTying-v0", best="sandwich", **sizes)
        ms = 1000 * _seconds_each(agents.make("surrogate", env, explore=1.0), before, timed)
        name = f"processor time of each after {before:,} in one run, ms, {num_layers} layers"
        yield Figure(name, ms, "{:.1f}", "< 20", ms < 20)


def _seconds_each(agent: Any, before: int, timed: int) -> float:
    """Return the processor time of one decision on one thread, the mean of some that follow others in one run."""
    ends: list[float] = []
    with threadpool_limits(1):  # several would wait for each other, which counts
        agent.learn(decisions=before + timed, callback=lambda _: ends.append(time.process_time()))
    return (ends[-1] - ends[before - 1]) / timed


def overhead(iterations: int, device: str) -> Iterator[Figure]:
    """Run the default job, shorter, and read the times in its summary."""
    with tempfile.TemporaryDirectory() as folder:
        job = Job.new(resolve({"trainer.iterations": iterations, "trainer.device": device}), Path(folder) / "run", ())
        job.run(make_console(file=io.StringIO()))
        summary = job.directory.read_summary()
    whole = summary["train_s"] + summary["evaluate_s"] + summary["decision_s"]
    share = summary["evaluate_s"] / whole
    yield Figure("reward evaluation and layer statistics", share, "{:.1%}", "<= 5 %", share <= 0.05)
    rest = summary["decision_s"] / whole
    yield Figure("decision, agent, logging, checkpoints", rest, "{:.1%}", "<= 2 %", rest <= 0.02)
