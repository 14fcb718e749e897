"""Figures beside the speed of training: the reference, what falls with sets, memory, instant environments, decoding.

Times are processor times of this process, so another process takes nothing from them but caches; where several candidates
are compared, they take turns.
"""

import functools
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from statistics import median
from typing import Any

import gymnasium
import torch
from torch import nn

import envs  # noqa: F401 (registers the environments)
from envs.presets import PRESETS
from experiments.study import reference
from experiments.study.figure import Figure, flops, interleaved, ratios, repeat
from tying import Pointers, Trainer, strategies, tasks
from tying.config import override
from tying.models.base import Model
from tying.models.config import GPTConfig
from tying.models.gpt import GPT
from tying.training import checkpoint
from tying.training.layer_statistics import gradient_norms, similarities, training_bytes

_SMALL = PRESETS["small"]
_SHAPES = {"6 x 128": GPTConfig(), "12 x 256": GPTConfig(num_layers=12, num_heads=8, width=256, context=256)}
_WIDE = GPTConfig(width=256, context=32)
_DEEP = GPTConfig(num_layers=12, num_heads=8, width=512, context=32)
_NUM_ENVS = 256
_SMALL_VOCAB = 512


def _trainer(model: GPTConfig, pattern: str, task: Any = None, **trainer: Any) -> Trainer:
    settings = override(_SMALL, {"trainer.device": "cpu", "trainer.iterations": 10**6}, {"trainer": trainer})
    task = task or tasks.make(settings.task, model, PRESETS["tiny"].data)
    pointers = strategies.make(pattern, model.num_layers)
    return Trainer(task, settings.trainer, settings.optim, settings.binding, seed=0, pointers=pointers)


def against_reference(repeats: int, iterations: int) -> Iterator[Figure]:
    """Train untied models beside nanoGPT's mathematics; say what share of the peak of matrix products is reached."""
    for name, model in _SHAPES.items():
        task: Any = tasks.make(_SMALL.task, model, _SMALL.data)
        runs: dict[str, Callable[[int], object]] = {}
        for precision in ("fp32", "bf16"):
            runs[precision] = reference.loop(task, model, _SMALL.optim, _SMALL.trainer.batch_size, precision)
            options: Mapping[str, Any] = {"as they are": {}, "with chunked_loss": {"chunked_loss": True}}
            for words, changes in options.items():
                runs[f"{precision} {words}"] = _trainer(model, "independent", task, precision=precision, **changes).train
        seconds = interleaved(runs, repeats, iterations)
        for run in runs:
            base = run.split()[0]
            if run != base:
                yield Figure.of(f"{name}, {run} / reference", ratios(seconds, run, base), "x{:.3f}", ">= 1.15", 1.15)
        gains = ratios(seconds, "bf16 as they are", "fp32 as they are")
        aim = 1.4 if model.width < 256 else 1.6
        yield Figure.of(f"{name}, bf16 / fp32", gains, "x{:.3f}", f">= {aim}", aim)
        operations = flops(model, task.data.vocab_size) * _SMALL.trainer.batch_size * iterations
        share = operations / median(seconds["fp32 with chunked_loss"]) / _peak()
        yield Figure(f"{name}, fp32: share of the peak of matrix products", share, "{:.0%}")


def _peak(size: int = 2048, repeats: int = 5) -> float:
    """Return the operations per second of the best product of two square float32 matrices."""
    left, right = torch.randn(size, size), torch.randn(size, size)
    best = float("inf")
    for _ in range(repeats):
        start = time.process_time()
        left @ right
        best = min(best, time.process_time() - start)
    return 2 * size**3 / best


def rebinding(repeats: int = 100) -> Iterator[Figure]:
    """Move one of 48 layers between two groups; the whole of Trainer.rebind."""
    model = GPTConfig(num_layers=48, num_heads=2, width=32, context=16)
    for rate in (0.0, 0.5):
        settings = override(_SMALL, {"trainer.device": "cpu", "trainer.batch_size": 1, "optim.tied_rate": rate})
        task = tasks.make(settings.task, model, PRESETS["tiny"].data)
        trainer = Trainer(task, settings.trainer, settings.optim, settings.binding, seed=0)
        pairs = Pointers.from_labels(layer // 2 for layer in range(48))
        trainer.rebind(pairs)
        trainer.train(1)
        taken = []
        for _ in range(repeats):
            for pointers in (pairs.move(3, 0), pairs):
                start = time.process_time()
                trainer.rebind(pointers)
                taken.append(1e6 * (time.process_time() - start))
        yield Figure.of(f"a move, tied_rate {rate:g}, microseconds", taken, "{:.0f}", "< 100", 100, less=True)


def falls_with_sets(repeats: int, model: GPTConfig = _WIDE) -> Iterator[Figure]:
    """Measure at K = L, L/2 and L/6 sets what depends on K (the time of an iteration hardly does: see training speed)."""
    trainers = {name: _trainer(model, name, batch_size=1) for name in ("independent", "sequence:3", "all_tied")}
    for trainer in trainers.values():
        trainer.train(1)
    clip: Mapping[str, Callable[[int], object]] = {
        name: functools.partial(repeat, functools.partial(nn.utils.clip_grad_norm_, list(made.model.parameters()), 1.0))
        for name, made in trainers.items()
    }
    step: Mapping[str, Callable[[int], object]] = {
        name: functools.partial(repeat, made.optimizer.step) for name, made in trainers.items()
    }
    for what, runs in {"time of an optimizer step": step, "time of clipping": clip}.items():
        seconds = interleaved(runs, repeats, 5)
        for name in list(trainers)[1:]:
            yield Figure.of(f"{what}, {name} / independent", ratios(seconds, "independent", name), "{:.2f}")
    sizes = {name: (_checkpoint_bytes(made), _training_bytes(made)) for name, made in trainers.items()}
    for number, what in enumerate(("bytes of a checkpoint", "bytes of parameters, gradients, moments")):
        for name in list(trainers)[1:]:
            yield Figure(f"{what}, {name} / independent", sizes[name][number] / sizes["independent"][number], "{:.2f}")


def _checkpoint_bytes(trainer: Trainer) -> int:
    with tempfile.TemporaryDirectory() as folder:
        checkpoint.save(trainer, Path(folder) / "checkpoint")
        return sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())


def _training_bytes(trainer: Trainer) -> int:
    return training_bytes(trainer.model.parameters(), trainer.optimizer)


def memory_of_process() -> Iterator[Figure]:
    """Measure whole processes, 12 x 512: what a rebind gives back, a run that starts tied, a fork, layer statistics."""
    found = {name: _in_process(name) for name in _REPORTS}
    (before, after, peak), (_, _, small), (statistics,), (fork,) = found.values()
    yield Figure("resident after tying all layers / before", after / before, "{:.2f}")
    yield Figure("peak of a run that starts tied / of one that ties at its second window", small / peak, "{:.2f}")
    yield Figure("layer statistics: rise of the peak / weights", statistics, "{:.2f}", "< 0.1", statistics < 0.1)
    yield Figure("fork: rise of the peak / weights", fork, "{:.2f}", "< 1.5", fork < 1.5)


def _in_process(name: str) -> list[float]:
    words = [sys.executable, "-m", "experiments.study.savings", name]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    return [float(word) for word in done.stdout.split()]


def _report_tying(pattern: str) -> list[float]:
    """Return the resident megabytes before and after all layers are tied, and the peak."""
    start = _resident()
    trainer = _trainer(_DEEP, pattern, batch_size=1)
    trainer.train(1)
    before = _resident() - start
    trainer.rebind(Pointers([0] * 12))
    after = _resident() - start
    return [before, after, _peak_resident() - start]


def _report_rise(work: Callable[[Trainer], object]) -> list[float]:
    """Return by how much a work after training raises the peak of memory, as a share of the weights."""
    trainer = _trainer(_DEEP, "independent", batch_size=1)
    trainer.train(2)
    before = _peak_resident()
    work(trainer)
    return [(_peak_resident() - before) * 2**20 / sum(p.nbytes for p in trainer.model.parameters())]


def _statistics(trainer: Trainer) -> None:
    gradient_norms(trainer.binding)
    similarities(trainer.binding)


def _fork(trainer: Trainer) -> None:
    with trainer.undone():
        trainer.train(1)
    trainer.rebind(trainer.pointers.move(5, 2))
    trainer.train(1)


_REPORTS: Mapping[str, Callable[[], list[float]]] = {
    "untied": functools.partial(_report_tying, "independent"),
    "tied at the start": functools.partial(_report_tying, "all_tied"),
    "statistics": functools.partial(_report_rise, _statistics),
    "fork": functools.partial(_report_rise, _fork),
}


def _peak_resident() -> float:
    # Not ru_maxrss: a process begins with that of the one that started it.
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) / 2**10


def _resident() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def instant_environments(repeats: int, steps: int = 1200) -> Iterator[Figure]:
    """Count the steps per second of environments without training, alone and in a batch."""
    single = {name: gymnasium.make(f"tying/{name}-v0").unwrapped for name in ("FormulaTying", "TyingBench")}
    batch = gymnasium.make_vec("tying/TyingBench-v0", num_envs=_NUM_ENVS, vectorization_mode="vector_entry_point")
    runs: dict[str, Callable[[int], object]] = {name: functools.partial(_walk, env) for name, env in single.items()}
    runs["batch"] = functools.partial(_walk_batch, batch)
    seconds = interleaved(runs, repeats, steps)
    for name in single:
        yield Figure.of(f"{name}, steps/s", [steps / taken for taken in seconds[name]], "{:,.0f}")
    gains = [_NUM_ENVS * ratio for ratio in ratios(seconds, "batch", "TyingBench")]
    yield Figure.of(f"a batch of {_NUM_ENVS} / one TyingBench, steps/s", gains, "x{:.0f}", ">= 20", 20)


def _walk(env: Any, steps: int) -> None:
    env.reset(seed=0)
    for number in range(steps):
        if env.step(number % 6)[2]:
            env.reset()


def _walk_batch(batch: Any, steps: int) -> None:
    batch.reset(seed=0)
    for number in range(steps):
        batch.step(torch.full((_NUM_ENVS,), number % 6).numpy())


def decoding(repeats: int, model: GPTConfig = _SHAPES["6 x 128"]) -> Iterator[Figure]:
    """Fill the context after a prompt of one token, greedily, with the cache of keys and values and without."""
    made = GPT(model, _SMALL_VOCAB, seed=0).eval()
    runs: Mapping[str, Callable[[int], object]] = {
        "cached": lambda count: repeat(functools.partial(_generate, made), count),
        "uncached": lambda count: repeat(functools.partial(_generate_anew, made), count),
    }
    seconds = interleaved(runs, repeats, 1)
    for name in runs:
        yield Figure.of(f"{name}, tokens/s", [(model.context - 1) / taken for taken in seconds[name]], "{:,.0f}")
    yield Figure.of("cached / uncached", ratios(seconds, "cached", "uncached"), "x{:.2f}")


def _generate(model: Model) -> torch.Tensor:
    return model.generate(torch.zeros(1, 1, dtype=torch.int64), model.config.context - 1, torch.Generator(), temperature=0)


@torch.no_grad()
def _generate_anew(model: Model) -> torch.Tensor:
    tokens = torch.zeros(1, 1, dtype=torch.int64)
    while tokens.shape[1] < model.config.context:
        tokens = torch.cat([tokens, model(tokens)[:, -1:].argmax(-1)], dim=1)
    return tokens


if __name__ == "__main__":
    print(*_REPORTS[sys.argv[1]]())
