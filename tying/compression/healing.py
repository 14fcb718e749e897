"""Healing: a compressed copy of a trained model, trained to be like the original again."""

import copy
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from tying.binding.sharing import common_names
from tying.compression.sources import Sources
from tying.compression.task_over import TaskOver
from tying.errors import InputError
from tying.tasks.base import Batch, Task
from tying.training.config import BindingConfig, OptimConfig, TrainerConfig
from tying.training.trainer import Trainer


class Healing(TaskOver):
    """A task whose model is a compressed copy of a trained one, in the original's values until it is trained.

    The training loss is the task's own, and `layer_weight` times the distance of the activations after every layer that is
    kept to those of the original before its next one, as layer-wise distillation has it (Jiao et al. 2020, arXiv
    1909.10351): the mean squared error as a share of the original's mean square, a mean over layers. Metrics are those of
    the task.

    Args:
        task: The task that the original was trained for.
        original: The trained model; it is not changed.
        sources: Whose weights each position begins with.
        binding: The parameters that follow the sources.
        layer_weight: Weight of the layers' distance; 0: the task's loss alone.

    Raises:
        InputError: If no layer is kept.
    """

    def __init__(
        self, task: Task, original: nn.Module, sources: Sources, binding: BindingConfig, layer_weight: float
    ) -> None:
        super().__init__(task)
        self.original = original
        if not sources.kept:
            raise InputError(f"sources '{sources}': a model keeps at least one layer")
        self.sources = sources
        self.binding = binding
        self.layer_weight = layer_weight

    @property
    def num_layers(self) -> int:
        """Number of layers that are kept."""
        return len(self.sources.kept)

    @torch.no_grad()
    def build_model(self, seed: int | None) -> nn.Module:
        """Return the compressed copy, its layers not tied yet; the seed is of no account."""
        model = copy.deepcopy(self.original)
        given, blocks = self.task.blocks(self.original), self.task.blocks(model)
        names = [tuple(name for name, _ in block.named_parameters(remove_duplicate=False)) for block in given]
        # With deltas the others of a group keep their own until they are tied, so that their deltas remember them.
        firsts = [None if self.binding.delta_rank and first != i else first for i, first in enumerate(self.sources.entries)]
        for name in common_names(given, names, self.binding.share, self.binding.norms):
            for block, source, first in zip(blocks, self.sources, firsts, strict=True):
                if source is not None and first is not None:
                    block.get_parameter(name).copy_(given[source].get_parameter(name))
        removed = set(range(len(self.sources))) - set(self.sources.kept)
        if removed:
            self.task.remove_blocks(model, removed)
        return model

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """See the class."""
        if not self.layer_weight:
            return self.task.loss(model, batch)
        with _outputs(self.task.blocks(model)) as found:
            loss = self.task.loss(model, batch)
        with torch.no_grad(), _outputs(self.task.blocks(self.original)) as wanted:
            self.task.loss(self.original, batch)
        # What the next layer that is kept got in the original, or what came after the last.
        last = [layer - 1 for layer in self.sources.kept[1:]] + [len(self.sources) - 1]
        distances = [
            (own - wanted[layer]).square().mean() / wanted[layer].square().mean()
            for own, layer in zip(found, last, strict=True)
        ]
        return loss + self.layer_weight * torch.stack(distances).mean()

    def metrics(self, model: nn.Module, batches: Iterable[Batch]) -> dict[str, float]:
        """Return the task's own metrics."""
        return self.task.metrics(model, batches)

    def trainer(self, config: TrainerConfig, optim: OptimConfig, seed: int) -> Trainer:
        """Return a trainer whose layers are tied as the sources say."""
        trainer = Trainer(self, config, optim, self.binding, seed)
        trainer.rebind(self.sources.pointers)
        return trainer


@contextmanager
def _outputs(blocks: Sequence[nn.Module]) -> Iterator[list[Tensor]]:
    """Collect the activations after every block."""
    found: list[Tensor] = []

    def note(block: nn.Module, args: Any, output: Any) -> None:
        found.append(output[0] if isinstance(output, tuple) else output)

    handles = [block.register_forward_hook(note) for block in blocks]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()
