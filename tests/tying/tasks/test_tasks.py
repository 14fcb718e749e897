"""Tasks: language modelling as one of them, and models and tasks of other people."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from corpus import made_up_task
from strangers import MODEL, TASK

from tying import Trainer, models, tasks
from tying.config import build
from tying.data.corpora import DataConfig
from tying.errors import InputError
from tying.models.base import num_params
from tying.models.config import GPTConfig, ModelConfig
from tying.tasks.causal_lm import CausalLM
from tying.tasks.config import TaskConfig
from tying.training import checkpoint
from tying.training.config import TrainerConfig

SMALL = GPTConfig(num_layers=3, num_heads=2, width=8, context=16)
CONFIG = TrainerConfig(iterations=60, batch_size=4, device="cpu")


def test_making_a_task_reads_nothing(tmp_path: Path) -> None:
    task = tasks.make(TaskConfig(), SMALL, DataConfig(path=str(tmp_path / "nowhere.txt")))
    assert isinstance(task, CausalLM)
    assert (task.num_layers, task.sequence_length) == (3, 16)
    with pytest.raises(InputError, match=r"nowhere\.txt"):
        task.require()


def test_the_model_without_a_seed_needs_no_data_and_has_no_values() -> None:
    task = tasks.make(TaskConfig(), SMALL, DataConfig(path="nowhere.txt"))
    model = task.build_model(seed=None)
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}
    real = made_up_task(SMALL).build_model(seed=0)
    assert num_params(torch.nn.ModuleList(task.blocks(model))) == num_params(torch.nn.ModuleList(task.blocks(real)))


def test_metrics_are_means_over_all_predictions() -> None:
    """Batches of unequal size weigh as much as they predict; perplexity is of the mean, not a mean of perplexities."""
    task = made_up_task(SMALL)
    model = task.build_model(seed=0)
    tokens, targets = task.batch(0, 0, 6)
    parts = [(tokens[:1, :5], targets[:1, :5]), (tokens, targets)]
    with torch.no_grad():
        total = sum(float(model.loss(*part)) * part[1].numel() for part in parts)
        found = task.metrics(model, parts)
    assert found["loss"] == pytest.approx(total / (5 + 6 * 16))
    assert found["ppl"] == pytest.approx(math.exp(found["loss"]))
    assert task.uninformed_loss == pytest.approx(math.log(16))


def test_a_saved_folder_tells_the_size_of_the_vocabulary(tmp_path: Path) -> None:
    task = made_up_task(SMALL)
    task.save_assets(tmp_path)
    elsewhere = tasks.make(TaskConfig(), SMALL, DataConfig(path="nowhere.txt"))
    shapes = [
        {name: p.shape for name, p in m.named_parameters()} for m in (elsewhere.load_model(tmp_path), task.build_model(0))
    ]
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize("make", [models.model_class, models.config_class, tasks.task_class, tasks.config_class])
def test_unknown_names_are_answered_with_the_nearest(make: Callable[[str], object]) -> None:
    kind, right = ("task", "causal_lm") if make in (tasks.task_class, tasks.config_class) else ("model", "gpt")
    with pytest.raises(InputError, match=f"unknown {kind} '{right[:-1]}': did you mean '{right}'"):
        make(right[:-1])


# Other people's.


def test_a_model_from_outside_is_trained_and_tied(write_module: Callable[[str, str], str]) -> None:
    write_module("mixers", MODEL)
    config = build(models.config_class("mixers:Mixer"), {"num_layers": 3, "context": 16, "width": 12})
    made = Trainer(made_up_task(config), CONFIG, seed=0)
    assert made.model.h[0].in_features == 12
    made.rebind((0, 0, 2))
    before = made.evaluate("test")
    made.train(60)
    assert made.evaluate("test") < before - 0.05
    assert made.model.h[1].weight is made.model.h[0].weight
    with pytest.raises(InputError, match="width"):
        build(models.config_class("mixers:Mixer"), {"width": 0})


def test_a_task_from_outside_is_trained_tied_and_saved(write_module: Callable[[str, str], str], tmp_path: Path) -> None:
    write_module("regressions", TASK)
    config = build(tasks.config_class("regressions:Regression"), {"scale": 2.0})
    task = tasks.make(config, ModelConfig(num_layers=4), DataConfig())
    made, again = Trainer(task, CONFIG, seed=1), Trainer(task, CONFIG, seed=1)
    made.rebind((0, 1, 1, 0))
    before = made.metrics("test")
    assert before.keys() == {"loss", "rmse"}
    made.train(40)
    assert made.evaluate("test") < 0.9 * before["loss"]
    assert made.tokens == 40 * 4
    checkpoint.save(made, tmp_path / "checkpoint")
    checkpoint.load(again, tmp_path / "checkpoint")
    assert [done.loss for done in again.train(5)] == [done.loss for done in made.train(5)]
