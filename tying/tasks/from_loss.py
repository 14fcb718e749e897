"""FromLoss: a task made of a trained model, its loss, and its batches, for those who have no task."""

import copy
import functools
import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from tying.data.corpora import SPLITS, DataConfig
from tying.errors import InputError
from tying.models.config import BlocksConfig
from tying.tasks.base import Batch, Task
from tying.tasks.config import TaskConfig


class FromLoss(Task):
    """The work of a model that is there already. Its batches keep their sizes, whatever batch size is asked for.

    Args:
        model: The model; `build_model` returns copies of it.
        loss: From a model and a batch to a scalar, a mean over the batch's rows.
        batches: "train", "reward" and "test" to batches, each a tuple of tensors (B, ...).
        path: Of the list of equal blocks, as `model.get_submodule` takes it.

    Raises:
        InputError: If there is no list of blocks under the path.
    """

    unit: ClassVar[str] = "row"
    sequence_length = 1

    def __init__(
        self,
        model: nn.Module,
        loss: Callable[[nn.Module, Batch], Tensor],
        batches: Mapping[str, Sequence[Batch]],
        path: str,
    ) -> None:
        self._model, self._loss, self._batches, self._path = model, loss, batches, path
        found = dict(model.named_modules()).get(path)
        if not isinstance(found, nn.ModuleList):
            raise InputError(f"{type(model).__name__} has no ModuleList of blocks at {path!r}")
        super().__init__(TaskConfig(), BlocksConfig(num_layers=len(found)), DataConfig())

    @functools.cached_property
    def uninformed_loss(self) -> float:
        """Loss on the reward split of the same model with zeros for parameters, as a uniform guess has it."""
        model = self.build_model(0).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.zero_()
        return self.metrics(model, self._batches["reward"])["loss"]

    def require(self) -> None:
        """See Task.require."""
        for split in SPLITS:
            batches = self._batches.get(split) or ()
            if not batches or not all(
                isinstance(batch, tuple) and batch and all(isinstance(part, Tensor) for part in batch) for batch in batches
            ):
                raise InputError(f"batches[{split!r}]: expected a sequence of batches, each a tuple of tensors")

    def build_model(self, seed: int | None) -> nn.Module:
        """Return a copy of the model; the seed is of no account."""
        return copy.deepcopy(self._model)

    def blocks(self, model: nn.Module) -> Sequence[nn.Module]:
        """See Task.blocks."""
        blocks: Any = model.get_submodule(self._path)
        return list(blocks)

    def remove_blocks(self, model: nn.Module, layers: Iterable[int]) -> None:
        """See Task.remove_blocks."""
        blocks: Any = model.get_submodule(self._path)
        for layer in sorted(layers, reverse=True):
            del blocks[layer]

    def batch(self, seed: int, index: int, batch_size: int) -> Batch:
        """Return the training batches in their order, over and over, from number `seed` on."""
        return self._batches["train"][(seed + index) % len(self._batches["train"])]

    def evaluation_batches(self, split: str, batch_size: int, num_batches: int | None = None) -> Iterator[Batch]:
        """See Task.evaluation_batches."""
        many = self._batches[split]
        count = min(num_batches or len(many), len(many))
        return (many[i * len(many) // count] for i in range(count))

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """See Task.loss."""
        return self._loss(model, batch)

    def size(self, batch: Batch) -> int:
        """Return the number of rows."""
        return len(batch[0])

    def facts(self) -> dict[str, Any]:
        """See Task.facts."""
        values = hashlib.sha256()
        for split in SPLITS:
            for part in (part for batch in self._batches[split] for part in batch):
                values.update(f"{split} {part.dtype} {tuple(part.shape)}".encode())
                values.update(part.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
        return {"corpus": "batches", "corpus_sha256": values.hexdigest()}
