"""Divergence: how far the predictions of a copy are from those of the original, as a task.

Shapes: B batch, T tokens, V vocabulary.
"""

import copy
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

from tying.errors import InputError
from tying.tasks.base import Batch, Task
from tying.tasks.causal_lm import CausalLM

_MOST_KEPT = 2**28  # bytes of the original's predictions


class TaskOver(Task):
    """A task with the data, the blocks and the sizes of another; subclasses change its model or its loss.

    Args:
        task: The other.
    """

    def __init__(self, task: Task) -> None:
        super().__init__(task.config, task.model_config, task.data_config)
        self.task = task

    @property
    def sequence_length(self) -> int:
        """See Task.sequence_length."""
        return self.task.sequence_length

    @property
    def uninformed_loss(self) -> float:
        """See Task.uninformed_loss."""
        return self.task.uninformed_loss

    def require(self) -> None:
        """See Task.require."""
        self.task.require()

    def build_model(self, seed: int | None) -> nn.Module:
        """See Task.build_model."""
        return self.task.build_model(seed)

    def blocks(self, model: nn.Module) -> Sequence[nn.Module]:
        """See Task.blocks."""
        return self.task.blocks(model)

    def remove_blocks(self, model: nn.Module, layers: Iterable[int]) -> None:
        """See Task.remove_blocks."""
        self.task.remove_blocks(model, layers)

    def recompute(self, model: nn.Module) -> None:
        """See Task.recompute."""
        self.task.recompute(model)

    def batch(self, seed: int, index: int, batch_size: int) -> Batch:
        """See Task.batch."""
        return self.task.batch(seed, index, batch_size)

    def evaluation_batches(self, split: str, batch_size: int, num_batches: int | None = None) -> Iterator[Batch]:
        """See Task.evaluation_batches."""
        return self.task.evaluation_batches(split, batch_size, num_batches)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """See Task.loss."""
        return self.task.loss(model, batch)

    def size(self, batch: Batch) -> int:
        """See Task.size."""
        return self.task.size(batch)

    def facts(self) -> dict[str, Any]:
        """See Task.facts."""
        return self.task.facts()


class Divergence(TaskOver):
    """The KL divergence of a model's next-token distribution from an original's, KL(original || model), nats per token.

    0 for the original, whatever the text. That of a uniform guess is at most log V, the task's `uninformed_loss`.

    Args:
        task: Causal language modelling.
        original: The model to be like; a copy of it is kept, so that it may be changed.

    Raises:
        InputError: If the task is another one.
    """

    def __init__(self, task: Task, original: nn.Module) -> None:
        super().__init__(task)
        if not isinstance(task, CausalLM):
            raise InputError("--objective kl: it is for causal language models; others have --objective loss")
        self.task: CausalLM = task
        self._original = copy.deepcopy(original).eval()
        self._kept: Any = WeakTensorKeyDictionary()  # of batches that are asked again

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """See the class."""
        wanted = self._wanted(batch[0]).flatten(0, 1)
        found = self.task.logits(model, batch[0]).flatten(0, 1).log_softmax(-1)
        return F.kl_div(found, wanted, reduction="batchmean", log_target=True)

    @torch.no_grad()
    def _wanted(self, tokens: Tensor) -> Tensor:
        """Return the original's log-probabilities: (B, T) int64 -> (B, T, V)."""
        if tokens not in self._kept:
            wanted = self.task.logits(self._original.to(tokens.device), tokens).log_softmax(-1)
            kept = sum(value.numel() * value.element_size() for value in self._kept.values())
            if kept + wanted.numel() * wanted.element_size() > _MOST_KEPT:
                return wanted
            self._kept[tokens] = wanted
        found: Tensor = self._kept[tokens]
        return found
