"""TaskOver: a task made of another, for those that change its model or its loss and nothing else."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from torch import Tensor, nn

from tying.tasks.base import Batch, Task


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
