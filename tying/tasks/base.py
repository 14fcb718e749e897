"""Task: what is trained, as one value. The trainer, environments and checkpoints know tasks, not languages."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from tying.data.corpora import DataConfig
from tying.models.config import BlocksConfig
from tying.models.cross_entropy import cross_entropy
from tying.tasks.config import TaskConfig
from tying.training.record import perplexity

# Tensors whose first dimension is the batch B, so that any batch can be cut into parts.
Batch = tuple[Tensor, ...]


def on_device(batch: Batch, device: torch.device) -> Batch:
    """Return a batch on a device; the host does not wait for a CUDA device to have it."""
    if device.type == "cuda":
        return tuple(tensor.pin_memory().to(device, non_blocking=True) for tensor in batch)
    return tuple(tensor.to(device) for tensor in batch)


class Task(ABC):
    """A model, its data, its loss and its metrics. Agents are rewarded on `reward`, results are reported on `test`.

    Making one reads no data and builds no model.

    Args:
        config: The task's own settings.
        model: The model's.
        data: The data's.

    Attributes:
        Config: Its configuration class.
        unit: What its loss is a mean over.
        perplexity: Name of the exponential of its loss among its metrics; empty: that would mean nothing.
    """

    Config: ClassVar[type[TaskConfig]] = TaskConfig
    unit: ClassVar[str] = "token"
    perplexity: ClassVar[str] = ""

    def __init__(self, config: TaskConfig, model: BlocksConfig, data: DataConfig) -> None:
        self.config = config
        self.model_config = model
        self.data_config = data

    @property
    def num_layers(self) -> int:
        """Number of layers L that pointers are over."""
        return self.model_config.num_layers

    @property
    def source(self) -> str:
        """Where the data come from, in words."""
        return self.data_config.path or self.data_config.hf or self.data_config.corpus

    @property
    @abstractmethod
    def sequence_length(self) -> int:
        """Tokens that a sequence counts as in `tokens`."""

    @property
    @abstractmethod
    def uninformed_loss(self) -> float:
        """Loss of a model that knows nothing, as a uniform guess has it."""

    @abstractmethod
    def require(self) -> None:
        """Read the data, unless that is done, and check that training can begin.

        Raises:
            InputError: If the data are missing, damaged or too short.
        """

    @abstractmethod
    def build_model(self, seed: int | None) -> nn.Module:
        """Return a new model on the CPU; its weights depend on the settings and the seed alone.

        Args:
            seed: None: without data and values, on the meta device; dimensions that depend on the data may be smaller.
        """

    def build_tied_model(self, seed: int, spare: Callable[[Sequence[nn.Module]], Collection[nn.Parameter]]) -> nn.Module:
        """Return what `build_model` returns, as far as it is kept; tasks that can do so save the memory of the rest.

        Args:
            seed: As for `build_model`.
            spare: Given the blocks, which may be on the meta device: parameters that the caller is going to replace.
        """
        return self.build_model(seed)

    def blocks(self, model: nn.Module) -> Sequence[nn.Module]:
        """Return the L equal blocks of a model that `build_model` made."""
        return list(model.h)  # type: ignore[arg-type]

    def remove_blocks(self, model: nn.Module, layers: Iterable[int]) -> None:
        """Remove blocks from a model that `build_model` made, in place."""
        removed = set(layers)
        model.h = nn.ModuleList(block for layer, block in enumerate(self.blocks(model)) if layer not in removed)

    def recompute(self, model: nn.Module) -> None:
        """Let a model keep only its blocks' inputs for the backward pass and recompute the rest."""
        model.recompute = True  # type: ignore[assignment]

    def chunk_loss(self, model: nn.Module) -> None:
        """Let a model of `tying.models` compute its cross-entropy in chunks; others keep their own."""
        model.cross_entropy = cross_entropy  # type: ignore[assignment]

    @abstractmethod
    def batch(self, seed: int, index: int, batch_size: int) -> Batch:
        """Return training batch number `index`, a function of the arguments alone."""

    @abstractmethod
    def evaluation_batches(self, split: str, batch_size: int, num_batches: int | None = None) -> Iterator[Batch]:
        """Yield batches of a split, the same at every call.

        Args:
            split: One of `tying.data.corpora.SPLITS`.
            batch_size: B.
            num_batches: That many, spread evenly over the split; None: all of it, everything once.
        """

    @abstractmethod
    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the mean loss over what `size` counts; nats where it is a likelihood."""

    @abstractmethod
    def size(self, batch: Batch) -> int:
        """Return how many predictions the loss of a batch is the mean of."""

    @torch.no_grad()
    def metrics(self, model: nn.Module, batches: Iterable[Batch]) -> dict[str, float]:
        """Return the metrics of a model over batches: `loss`, the mean over all predictions, and what subclasses add."""
        losses: list[Tensor] = []
        sizes: list[int] = []
        for batch in batches:
            losses.append(self.loss(model, batch))
            sizes.append(self.size(batch))
        # Added up on the CPU, since not every device has float64.
        total = float(torch.stack(losses).cpu().double() @ torch.tensor(sizes).double())
        loss = total / sum(sizes)
        return {"loss": loss, **({self.perplexity: perplexity(loss)} if self.perplexity else {})}

    def other_units(self, split: str, loss: float) -> dict[str, float]:
        """Return a loss on a split in other units than the metrics have it in, by their names."""
        return {}

    def references(self) -> dict[str, float]:
        """Return the test losses of models that need no training, by name: what a trained one has to beat."""
        return {}

    @abstractmethod
    def facts(self) -> dict[str, Any]:
        """Return what identifies the data and other inputs, JSON-ready: pairs of a name and a digest.

        They are `corpus` and `corpus_sha256`, and others of the same form, such as `tokenizer` and `tokenizer_sha256`.
        """

    def save_assets(self, folder: Path) -> None:  # noqa: B027 (a task may have none)
        """Write to a run's folder what its model needs to be used, such as a tokenizer."""

    def export(self, model: nn.Module, folder: Path) -> None:  # noqa: B027 (most have no other form)
        """Write a trained model, whose blocks are bound, to a run's final folder in another library's form."""

    def load_model(self, folder: Path) -> nn.Module:
        """Return a model of a run's shape, built from its folder without the data; the weights are not the run's yet."""
        return self.build_model(seed=0)
