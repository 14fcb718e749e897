"""Measure what tying costs and saves on this machine: one table, medians of interleaved repeats.

python -m experiments.bench
"""

import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import torch
from pydantic import Field
from pydantic_settings import BaseSettings
from rich.console import Console
from rich.table import Table
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from envs.presets import PRESETS
from experiments import cli, train
from tying import Pointers, Trainer, models, strategies
from tying.binding import LayerBinding
from tying.data import TokenData, prepare
from tying.files import read_json, require_room, write_json
from tying.models import GPTConfig
from tying.optim import make_optimizer
from tying.statistics import training_bytes
from tying.trainer import BindingConfig

_PATTERNS = ("sequence:3", "sandwich", "0 1 1 1 1 1", "all_tied")


class BenchSettings(BaseSettings):
    """Measure what tying costs and saves on this machine."""

    model_config = cli.script_config("bench")
    repeats: int = Field(7, description="interleaved repeats behind every median [>= 3]", ge=3)
    iterations: int = Field(10, description="training iterations in a repeat [>= 2]", ge=2)
    job_iterations: int = Field(320, description="length of the run whose overhead is measured [iterations, >= 64]", ge=64)
    out: str | None = Field(None, description="write the figures to this JSON file too")


@dataclass(frozen=True)
class Row:
    """One figure of the table.

    Attributes:
        what: What was measured.
        value: The figure.
        form: How it is printed.
        aim: What it should reach, as text; empty where it only informs.
        reached: Whether it does; None without an aim.
    """

    what: str
    value: float
    form: str
    aim: str = ""
    reached: bool | None = None


def main(arguments: Sequence[str]) -> None:
    """Measure everything and print the table."""
    settings = cli.read(BenchSettings, arguments)
    console = Console()
    if settings.out is not None:
        require_room(Path(settings.out), "--out")
    data = prepare(PRESETS["small"].data)
    sections: list[tuple[str, Callable[[], Iterator[Row]]]] = [
        ("training speed", lambda: _speed(data, settings)),
        ("rebinding 48 layers", _rebinding),
        ("compiled blocks", lambda: _recompilation(data)),
        ("memory of training", lambda: _memory(data)),
        ("share of time that is not training", lambda: _overhead(settings)),
    ]
    table = Table("what", "figure", "aim", title=f"{_machine()}, {time.strftime('%Y-%m-%d')}")
    figures: dict[str, Any] = {}
    for title, measure in sections:
        with console.status(f"{title} ..."):
            rows = list(measure())
        table.add_section()
        for row in rows:
            mark = "" if row.reached is None else ("  reached" if row.reached else "  MISSED")
            table.add_row(f"{title}: {row.what}", row.form.format(row.value), row.aim + mark)
            figures[f"{title}: {row.what}"] = row.value
    console.print(table)
    if settings.out is not None:
        write_json(Path(settings.out), {"machine": _machine(), "date": time.strftime("%Y-%m-%d"), "figures": figures})


def _machine() -> str:
    threads = torch.get_num_threads()
    return f"{platform.machine()}, {os.cpu_count()} cores, {threads} threads, torch {torch.__version__}"


def _trainer(data: TokenData, pointers: Pointers, gradient: str = "sum", **changed: Any) -> Trainer:
    setup = PRESETS["small"]
    config = replace(setup.trainer, **{"device": "cpu", "iterations": 1_000_000, **changed})
    made = Trainer(data, setup.model, config, setup.optim, BindingConfig(gradient=gradient), seed=0)  # type: ignore[arg-type]
    made.rebind(pointers)
    return made


def _bare_loop(data: TokenData) -> Callable[[int], object]:
    """Return the shortest loop that trains the same model on the same batches."""
    setup = PRESETS["small"]
    model = models.build(setup.model, data.vocab_size, 0)
    optimizer = make_optimizer(model, setup.optim)
    done = 0

    def run(iterations: int) -> None:
        nonlocal done
        for _ in range(iterations):
            tokens, targets = data.batch(0, done, setup.trainer.batch_size, setup.model.context)
            optimizer.zero_grad(set_to_none=True)
            model.loss(tokens, targets).backward()
            nn.utils.clip_grad_norm_(model.parameters(), setup.optim.clip_norm)
            optimizer.step()
            done += 1

    return run


def _interleaved(runs: Mapping[str, Callable[[int], object]], repeats: int, iterations: int) -> dict[str, list[float]]:
    """Return seconds per repeat; in every repeat each candidate has its turn, so a drifting machine is fair to all."""
    for run in runs.values():
        run(3)
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            start = time.perf_counter()
            run(iterations)
            seconds[name].append(time.perf_counter() - start)
    return seconds


def _speed(data: TokenData, settings: BenchSettings) -> Iterator[Row]:
    setup = PRESETS["small"]
    num_layers = setup.model.num_layers
    independent = Pointers.independent(num_layers)
    runs: dict[str, Callable[[int], object]] = {
        "bare loop": _bare_loop(data),
        "untied": _trainer(data, independent).train,
        **{text: _trainer(data, strategies.make(text, num_layers)).train for text in _PATTERNS},
        "all_tied, root_only": _trainer(data, strategies.make("all_tied", num_layers), "root_only").train,
    }
    seconds = _interleaved(runs, settings.repeats, settings.iterations)
    tokens = settings.iterations * setup.trainer.batch_size * setup.model.context
    yield Row("untied, tokens/s", tokens / median(seconds["untied"]), "{:,.0f}")

    def ratio(name: str, base: str) -> float:
        return median(b / a for a, b in zip(seconds[name], seconds[base], strict=True))

    bare = ratio("untied", "bare loop")
    yield Row("untied / bare loop of the same model", bare, "x{:.3f}", ">= 0.97", bare >= 0.97)
    for text in _PATTERNS:
        yield Row(f"{text} / untied", ratio(text, "untied"), "x{:.3f}")
    root_only = ratio("all_tied, root_only", "untied")
    yield Row("all_tied with gradient root_only / untied", root_only, "x{:.3f}", ">= 1.2", root_only >= 1.2)


class _Allocations(TorchDispatchMode):
    """Counts the bytes that operations allocate; views allocate nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        inputs = {t.untyped_storage().data_ptr() for t in args if isinstance(t, torch.Tensor)}
        if isinstance(result, torch.Tensor) and result.untyped_storage().data_ptr() not in inputs:
            self.bytes += result.untyped_storage().nbytes()
        return result


def _rebinding(repeats: int = 200) -> Iterator[Row]:
    """Rebind 48 layers with AdamW state; the blocks are narrow, so that it is not the copy that is timed."""
    model = models.build(GPTConfig(num_layers=48, num_heads=2, width=32, context=16), 64, 0)
    optimizer = make_optimizer(model, PRESETS["small"].optim)
    binding = LayerBinding(model.h, optimizer)
    tokens = torch.zeros(1, 16, dtype=torch.int64)
    model.loss(tokens, tokens).backward()
    optimizer.step()
    untied = Pointers.independent(48)
    tie: list[float] = []
    untie: list[float] = []
    for repeat in range(repeats):
        for pointers, seconds in ((untied.move(1 + repeat % 47, 0), tie), (untied, untie)):
            start = time.perf_counter()
            binding.rebind(pointers)
            seconds.append(time.perf_counter() - start)
    ms = 1000 * median(tie)
    yield Row("a tie, ms", ms, "{:.3f}", "< 1", ms < 1)
    yield Row("an untie, ms (width 32)", 1000 * median(untie), "{:.3f}")
    with _Allocations() as allocated:
        binding.rebind(untied.move(20, 3))
    yield Row("bytes allocated by a tie", allocated.bytes, "{:,.0f}", "0", allocated.bytes == 0)
    copied = sum(3 * p.numel() * p.element_size() + 4 for p in binding.weights_of(3))
    with _Allocations() as allocated:
        binding.rebind(untied)
    share = allocated.bytes / copied
    yield Row("bytes allocated by an untie / bytes of the copy", share, "{:.3f}", "1", share == 1)


def _recompilation(data: TokenData, rebinds: int = 1000) -> Iterator[Row]:
    """Count the graphs that 1,000 rebinds to random patterns lead to, with a training step every 20."""
    patterns = list(Pointers.all(PRESETS["small"].model.num_layers))
    generator = torch.Generator().manual_seed(0)
    torch._dynamo.reset()
    made = _trainer(data, patterns[0], compile=True, batch_size=2)
    made.train(2)
    torch._dynamo.utils.counters.clear()
    for number in range(rebinds):
        made.rebind(patterns[int(torch.randint(len(patterns), (), generator=generator))])
        if number % 20 == 0:
            made.train(1)
    graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    yield Row(f"recompilations in {rebinds:,} rebinds", graphs, "{:.0f}", "0", graphs == 0)


def _memory(data: TokenData) -> Iterator[Row]:
    for text in ("independent", *_PATTERNS):
        made = _trainer(data, strategies.make(text, PRESETS["small"].model.num_layers), batch_size=1)
        made.train(1)
        share = training_bytes(made.model.parameters(), made.optimizer) / (16 * made.trainable_params)
        what = f"{text}: bytes of parameters, gradients, moments / 16 x live parameters"
        yield Row(what, share, "{:.3f}", "1", share == 1)


def _overhead(settings: BenchSettings) -> Iterator[Row]:
    """Run the default job, shorter, and read the times that it wrote down."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        train.main(["--out", str(out), "--trainer.iterations", str(settings.job_iterations), "--trainer.device", "cpu"])
        summary = read_json(out / "final" / "summary.json")
    whole = summary["train_s"] + summary["decision_s"]
    share = summary["decision_s"] / whole
    yield Row("decision, reward evaluation, agent, logging, checkpoints", share, "{:.1%}", "<= 10 %", share <= 0.10)
    rest = (summary["decision_s"] - summary["evaluate_s"]) / whole
    yield Row("the same without the reward evaluation", rest, "{:.1%}", "<= 3 %", rest <= 0.03)


if __name__ == "__main__":
    cli.run(main)
