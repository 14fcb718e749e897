"""Causal language modelling: predict every next token of a text.

Shapes: B batch, T tokens (the model's context).
"""

import functools
import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from tying import models
from tying.data import tokenizers
from tying.data.tokens import TokenData, prepare
from tying.files import replacing
from tying.tasks.base import Batch, Task
from tying.training.record import perplexity

TOKENIZER_FILE = "tokenizer.json"


class CausalLM(Task):
    """Next-token prediction on a corpus; batches are inputs and targets of (B, T) int64, losses nats per token."""

    @functools.cached_property
    def data(self) -> TokenData:
        """The tokenized corpus."""
        return prepare(self.data_config)

    @property
    def sequence_length(self) -> int:
        """T."""
        return self.model_config.context

    @property
    def uninformed_loss(self) -> float:
        """log(vocabulary), nats per token."""
        return math.log(self.data.vocab_size)

    def require(self) -> None:
        """See Task.require."""
        self.data.require(self.model_config.context)

    def build_model(self, seed: int | None) -> nn.Module:
        """See Task.build_model."""
        return self._model(2 if seed is None else self.data.vocab_size, seed)

    def _model(self, vocab_size: int, seed: int | None) -> nn.Module:
        return models.model_class(self.model_config.name)(self.model_config, vocab_size, seed)

    def batch(self, seed: int, index: int, batch_size: int) -> Batch:
        """See Task.batch."""
        return self.data.batch(seed, index, batch_size, self.model_config.context)

    def evaluation_batches(self, split: str, batch_size: int, num_batches: int | None = None) -> Iterator[Batch]:
        """See Task.evaluation_batches."""
        return self.data.evaluation_batches(split, batch_size, self.model_config.context, num_batches)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the mean negative log-likelihood, nats per token."""
        tokens, targets = batch
        loss: Tensor = model.loss(tokens, targets)  # type: ignore[operator]
        return loss

    def size(self, batch: Batch) -> int:
        """Return the number of tokens predicted."""
        return batch[1].numel()

    def metrics(self, model: nn.Module, batches: Iterable[Batch]) -> dict[str, float]:
        """Return `loss` in nats per token and `ppl`, its exponential."""
        metrics = super().metrics(model, batches)
        return {**metrics, "ppl": perplexity(metrics["loss"])}

    def facts(self) -> dict[str, Any]:
        """See Task.facts."""
        return {"corpus": self.data.name, "corpus_sha256": self.data.corpus_sha256}

    def save_assets(self, folder: Path) -> None:
        """Write the tokenizer."""
        with replacing(folder / TOKENIZER_FILE) as temporary:
            self.data.tokenizer.save(str(temporary))

    def load_model(self, folder: Path) -> nn.Module:
        """See Task.load_model; the tokenizer says how large the vocabulary is."""
        return self._model(tokenizers.vocab_size(tokenizers.load(folder / TOKENIZER_FILE)), seed=0)
