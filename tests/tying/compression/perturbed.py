"""A tiny language model with perturbed weights, so that its layers differ."""

from pathlib import Path

import torch

from tests.conftest import words
from tests.tying.blocks import perturb
from tying.data.corpora import DataConfig
from tying.models.config import GPTConfig
from tying.tasks.base import Task
from tying.tasks.causal_lm import CausalLM
from tying.tasks.config import TaskConfig


def make_task(folder: Path, num_layers: int = 4) -> CausalLM:
    """Return a task over 6,000 characters."""
    (folder / "corpus.txt").write_text(words(6_000), encoding="utf-8")
    model = GPTConfig(num_layers=num_layers, num_heads=2, width=16, context=16)
    task = CausalLM(TaskConfig(), model, DataConfig(path=str(folder / "corpus.txt"), tokenizer="byte"))
    task.require()
    return task


def make_model(task: Task, std: float = 0.2) -> torch.nn.Module:
    """Return a model of a task whose layers are far from each other."""
    model = task.build_model(0)
    perturb(model, std)
    return model
