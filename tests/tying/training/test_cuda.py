"""Training on a CUDA device, against the CPU and against itself: run by hand, `-m gpu`, where there is one."""

import copy
import gc
import random
import warnings

import pytest
import torch
from corpus import made_up_task

from tying import Pointers, Trainer
from tying.compression.sources import Sources
from tying.compression.walk import BlockWalk
from tying.models.config import GPTConfig
from tying.training import checkpoint
from tying.training.config import BindingConfig, OptimConfig, TrainerConfig
from tying.training.layer_statistics import gradient_norms, similarities, training_bytes

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]

MODEL = GPTConfig(num_layers=4, num_heads=2, width=32, context=16, positions="rotary", qk_norm=True)
PATTERNS = ("0 1 2 3", "0 1 1 3", "0 0 0 0", "0 1 2 2", "0 1 2 3", "0 0 2 0")


def make(device: str, model: GPTConfig = MODEL, binding: BindingConfig | None = None, **options: object) -> Trainer:
    config = TrainerConfig(iterations=100, batch_size=4, device=device, **options)  # type: ignore[arg-type]
    return Trainer(made_up_task(model), config, OptimConfig(learning_rate=1e-2), binding, seed=0)


def played(trainer: Trainer, patterns: tuple[str, ...] = PATTERNS) -> list[float]:
    """Return the losses of a chain of patterns, of training and of evaluation."""
    losses = []
    for pattern in patterns:
        trainer.rebind(Pointers.parse(pattern))
        losses += [done.loss for done in trainer.train(3)]
        losses.append(trainer.evaluate("reward", 2))
    return losses


@pytest.mark.parametrize(
    ("options", "apart"),
    [
        ({}, 1e-3),
        ({"micro_batches": 2}, 1e-3),
        ({"recompute": True}, 1e-3),
        ({"chunked_loss": True}, 1e-3),
        ({"precision": "tf32"}, 1e-2),
        ({"precision": "bf16"}, 5e-2),
        ({"binding": BindingConfig(gradient="mean")}, 1e-3),
        ({"binding": BindingConfig(gradient="root_only")}, 1e-3),
        ({"binding": BindingConfig(share="attention", norms="private")}, 1e-3),
        ({"binding": BindingConfig(delta_rank=2, delta_start="zero")}, 1e-3),
    ],
    ids=str,
)
def test_it_agrees_with_the_cpu_while_pointers_move(options: dict[str, object], apart: float) -> None:
    on_cpu = {name: value for name, value in options.items() if name != "precision"}
    assert played(make("cuda", **options)) == pytest.approx(played(make("cpu", **on_cpu)), abs=apart)  # type: ignore[arg-type]


@pytest.mark.parametrize("options", [{}, {"precision": "bf16"}, {"recompute": True}], ids=str)
def test_equal_seeds_give_equal_runs_and_a_fork_leaves_no_trace(options: dict[str, object]) -> None:
    model = GPTConfig(**{**vars(MODEL), "dropout": 0.1})
    once, forked = (make("cuda", model, **options) for _ in range(2))  # type: ignore[arg-type]
    for trainer in (once, forked):
        played(trainer, PATTERNS[:2])
    with forked.undone():
        played(forked, PATTERNS[2:])
    assert played(forked) == played(once)


def test_a_checkpoint_resumes_bit_by_bit(tmp_path: object) -> None:
    whole = make("cuda")
    played(whole)
    checkpoint.save(whole, tmp_path / "checkpoint")  # type: ignore[operator]
    resumed = make("cuda")
    checkpoint.load(resumed, tmp_path / "checkpoint")  # type: ignore[operator]
    assert resumed.pointers == whole.pointers and resumed.iteration == whole.iteration
    assert played(resumed) == played(whole)


@pytest.mark.filterwarnings("ignore:.torch.jit.script:DeprecationWarning")  # the compiler uses it itself
@pytest.mark.filterwarnings("ignore:TensorFloat32 tensor cores:UserWarning")  # its advice
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_compiled_blocks_agree_and_are_compiled_once(precision: str) -> None:
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    compiled, plain = make("cuda", compile=True, precision=precision), make("cuda", precision=precision)
    apart = 1e-3 if precision == "fp32" else 5e-2
    assert played(compiled) == pytest.approx(played(plain), abs=apart)
    graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    for number, pointers in enumerate(Pointers.all(4)):
        compiled.rebind(pointers)
        compiled.train(1)
        assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == graphs, number


def test_an_iteration_waits_for_the_device_once() -> None:
    trainer = make("cuda")
    trainer.train(3)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            trainer.train(10)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    waits = [text for text in (str(one.message) for one in caught) if text.startswith("called a synchronizing")]
    assert len(waits) == 10, waits


def test_ties_give_memory_of_the_device_back() -> None:
    trainer = make("cuda", GPTConfig(num_layers=8, num_heads=2, width=256, context=16))
    trainer.train(1)
    others = []
    for pattern in ("0 1 2 3 4 5 6 7", "0 0 2 2 4 4 6 6", "0 0 0 0 0 0 0 0", "0 1 2 3 4 5 6 7"):
        trainer.rebind(Pointers.parse(pattern))
        trainer.train(1)
        trainer.optimizer.zero_grad(set_to_none=True)
        gc.collect()
        live = training_bytes(trainer.model.parameters(), trainer.optimizer)
        assert live == pytest.approx(12 * trainer.trainable_params, rel=1e-3)
        others.append(torch.cuda.memory_allocated() - live)  # of matrix products, and of other tests
    assert others == pytest.approx([others[0]] * 4, abs=2**20)


def test_statistics_of_layers_are_those_of_the_cpu() -> None:
    found = []
    for device in ("cpu", "cuda"):
        trainer = make(device)
        trainer.rebind((0, 1, 1, 3))
        trainer.train(2)
        found.append([*gradient_norms(trainer.binding), *similarities(trainer.binding)])
    assert found[1] == pytest.approx(found[0], abs=1e-3)


def test_questions_are_answered_on_the_device_of_the_model() -> None:
    task = made_up_task(MODEL)
    model = task.build_model(0)
    there = copy.deepcopy(model).cuda()
    walks = [BlockWalk(task, one, task.evaluation_batches("reward", 4, 2)) for one in (model, there)]
    draw = random.Random(0)
    for _ in range(50):
        sources = Sources([draw.choice([None, 0, 1, 2, 3]) for _ in range(4)])
        here, far = (walk.loss(sources) for walk in walks)
        assert far == pytest.approx(here, abs=1e-5)
