"""Causal language modelling: predict every next token of a text.

Shapes: B batch, T tokens (the model's context).
"""

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from tying import models
from tying.data import ngrams, tokenizers
from tying.tasks.base import Batch
from tying.tasks.text import TOKENIZER_FILE, TextTask

if TYPE_CHECKING:
    from tying.models.base import BlockModel


class CausalLM(TextTask):
    """Next-token prediction on a corpus."""

    def build_model(self, seed: int | None) -> nn.Module:
        """See Task.build_model."""
        return self._model(2 if seed is None else self.data.vocab_size, seed)

    def build_tied_model(self, seed: int, spare: Callable[[Sequence[nn.Module]], Collection[nn.Parameter]]) -> nn.Module:
        """See Task.build_tied_model; a subclass that builds another model builds it whole."""
        if type(self).build_model is not CausalLM.build_model:
            return super().build_tied_model(seed, spare)
        model = self._model(self.data.vocab_size, None)
        model.draw_weights(seed, spare(self.blocks(model)))
        return model

    def _model(self, vocab_size: int, seed: int | None) -> "BlockModel":
        return models.model_class(self.model_config.name)(self.model_config, vocab_size, seed)

    def batch(self, seed: int, index: int, batch_size: int) -> Batch:
        """See Task.batch."""
        return self.data.batch(seed, index, batch_size, self.sequence_length)

    def evaluation_batches(self, split: str, batch_size: int, num_batches: int | None = None) -> Iterator[Batch]:
        """See Task.evaluation_batches."""
        return self.data.evaluation_batches(split, batch_size, self.sequence_length, num_batches)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the mean negative log-likelihood, nats per token."""
        tokens, targets = batch
        loss: Tensor = model.loss(tokens, targets)  # type: ignore[operator]
        return loss

    def metrics(self, model: nn.Module, batches: Iterable[Batch]) -> dict[str, float]:
        """Return the metrics of a text and, of a model whose tokens halt, `mean_steps` per token."""
        halting: Any = getattr(model, "halting", None)
        if halting is None:
            return super().metrics(model, batches)
        with halting.watched() as passes:
            metrics = super().metrics(model, batches)
        return {**metrics, "mean_steps": float(torch.cat([p.steps.flatten().cpu() for p in passes]).double().mean())}

    def logits(self, model: nn.Module, tokens: Tensor) -> Tensor:
        """Return a model's scores of every next token: (B, T) int64 -> (B, T, V)."""
        logits: Tensor = model(tokens)
        return logits

    def size(self, batch: Batch) -> int:
        """Return the number of tokens predicted."""
        return batch[1].numel()

    def other_units(self, split: str, loss: float) -> dict[str, float]:
        """Return `bits_per_byte`: bits per UTF-8 byte of the split's text, the same unit for every tokenizer."""
        data = self.data
        num_bytes = data.num_bytes[split]
        return {"bits_per_byte": loss / math.log(2) * len(data.splits[split]) / num_bytes} if num_bytes else {}

    def references(self) -> dict[str, float]:
        """Return the test losses of counting models, nats per token; see `tying.data.ngrams`."""
        return ngrams.references(self.data)

    def generate(
        self,
        model: nn.Module,
        tokens: Tensor,
        num_tokens: int,
        generator: torch.Generator,
        temperature: float = 1.0,
        top_k: int = 0,
    ) -> Tensor:
        """Continue a text; see `tying.models.base.Model.generate`."""
        continued: Tensor = model.generate(tokens, num_tokens, generator, temperature, top_k)  # type: ignore[operator]
        return continued

    def load_model(self, folder: Path) -> nn.Module:
        """See Task.load_model; the tokenizer says how large the vocabulary is."""
        return self._model(tokenizers.vocab_size(tokenizers.load(folder / TOKENIZER_FILE)), seed=0)
