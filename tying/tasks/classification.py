"""What all tasks have in common that find the label of an example: the order of examples, the loss, the metrics.

Shapes: B batch, T tokens. The last tensor of a batch is the classes, (B,) int64.
"""

import functools
import math
from abc import abstractmethod
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tying.data import labelled
from tying.data.labelled import LabelledTexts
from tying.errors import InputError
from tying.models.config import ModelConfig
from tying.seeding import derive_seed
from tying.tasks.base import Batch, Task


class Classification(Task):
    """A task over examples with labels."""

    unit = "example"

    @property
    @abstractmethod
    def labels(self) -> tuple[str, ...]:
        """All labels; a label's class is its place."""

    @abstractmethod
    def num_examples(self, split: str) -> int:
        """Return the number of examples of a split."""

    @abstractmethod
    def examples(self, split: str, rows: np.ndarray) -> Batch:
        """Return some examples of a split as a batch."""

    @abstractmethod
    def logits(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the logits of the labels, (B, classes)."""

    @property
    def uninformed_loss(self) -> float:
        """log(number of labels)."""
        return math.log(len(self.labels))

    def batch(self, seed: int, index: int, batch_size: int) -> Batch:
        """See Task.batch."""
        generator = np.random.Generator(np.random.PCG64(derive_seed(seed, "data order", index)))
        return self.examples("train", generator.integers(0, self.num_examples("train"), size=batch_size))

    def evaluation_batches(self, split: str, batch_size: int, num_batches: int | None = None) -> Iterator[Batch]:
        """See Task.evaluation_batches."""
        rows = np.arange(self.num_examples(split))
        if num_batches is not None and num_batches * batch_size < len(rows):
            rows = rows[np.linspace(0, len(rows) - 1, num_batches * batch_size).round().astype(int)]
        for first in range(0, len(rows), batch_size):
            yield self.examples(split, rows[first : first + batch_size])

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the mean negative log-likelihood of the labels, nats."""
        return F.cross_entropy(self.logits(model, batch), batch[-1])

    def size(self, batch: Batch) -> int:
        """Return the number of examples."""
        return len(batch[-1])

    @torch.no_grad()
    def metrics(self, model: nn.Module, batches: Iterable[Batch]) -> dict[str, float]:
        """Return `loss` and what `judge` makes of the most probable labels."""
        losses: list[Tensor] = []
        found: list[Tensor] = []
        true: list[Tensor] = []
        for batch in batches:
            logits = self.logits(model, batch)
            losses.append(F.cross_entropy(logits.float(), batch[-1], reduction="none"))
            found.append(logits.argmax(-1))
            true.append(batch[-1])
        judged = self.judge(torch.cat(true).cpu().numpy(), torch.cat(found).cpu().numpy())
        return {"loss": float(torch.cat(losses).cpu().double().mean()), **judged}

    def judge(self, true: np.ndarray, found: np.ndarray) -> dict[str, float]:
        """Return `accuracy`, the share of examples whose most probable label is right."""
        return {"accuracy": float((true == found).mean())}


class TextClassification(Classification):
    """The label of a text; batches are tokens (B, T), their mask (B, T) and classes (B,), T that of the longest."""

    unit = "text"

    @abstractmethod
    def encode(self, texts: list[str]) -> list[list[int]]:
        """Return the token ids of texts, at most as many of each as the model sees at once."""

    @property
    @abstractmethod
    def padding(self) -> int:
        """The id that fills up the shorter texts of a batch; it is not seen."""

    @functools.cached_property
    def data(self) -> LabelledTexts:
        """The texts and labels."""
        return labelled.read(self.data_config)

    @property
    def labels(self) -> tuple[str, ...]:
        """See Classification.labels."""
        return self.data.labels

    @functools.cached_property
    def _encoded(self) -> dict[str, tuple[list[list[int]], Tensor]]:
        """Split name to the token ids of its texts, and their classes."""
        classes = {label: number for number, label in enumerate(self.labels)}
        return {
            name: (self.encode([text for text, _ in rows]), torch.tensor([classes[label] for _, label in rows]))
            for name, rows in self.data.splits.items()
        }

    @property
    def sequence_length(self) -> int:
        """T of the longest text that is not cut."""
        assert isinstance(self.model_config, ModelConfig)
        return self.model_config.context

    def require(self) -> None:
        """See Task.require."""
        empty = next((name for name, (texts, _) in self._encoded.items() if not all(texts)), None)
        if empty is not None:
            raise InputError(f"{self.data.name}: a text of the {empty} split has no tokens")

    def num_examples(self, split: str) -> int:
        """See Classification.num_examples."""
        return len(self.data.splits[split])

    def examples(self, split: str, rows: np.ndarray) -> Batch:
        """See Classification.examples."""
        texts, classes = self._encoded[split]
        chosen = [torch.tensor(texts[row]) for row in rows]
        tokens = nn.utils.rnn.pad_sequence(chosen, batch_first=True, padding_value=self.padding)
        lengths = torch.tensor([len(text) for text in chosen])
        return tokens, (torch.arange(tokens.shape[1]) < lengths[:, None]).long(), classes[rows]

    def judge(self, true: np.ndarray, found: np.ndarray) -> dict[str, float]:
        """Return `accuracy`, `macro_f1` (the mean of the labels' F1) and `mcc` (Matthews correlation, 0: chance)."""
        from sklearn.metrics import f1_score, matthews_corrcoef

        one_label = len(np.union1d(true, found)) == 1  # no correlation then, of which scikit-learn warns
        return {
            **super().judge(true, found),
            "macro_f1": float(f1_score(true, found, average="macro")),
            "mcc": 0.0 if one_label else float(matthews_corrcoef(true, found)),
        }

    def facts(self) -> dict[str, Any]:
        """See Task.facts."""
        return {"corpus": self.data.name, "corpus_sha256": self.data.sha256}
