"""Masked language modelling: predict hidden tokens of a text from both sides.

Shapes: B batch, T tokens (the model's context), N tokens of text among them, V vocabulary.
"""

import functools
import math
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch.nn.functional as F
from torch import Tensor, nn

from tying import models
from tying.data import tokenizers
from tying.seeding import derive_seed
from tying.tasks.base import Batch
from tying.tasks.config import MaskedLMConfig, TaskConfig
from tying.tasks.masking import IGNORED, hide
from tying.tasks.text import TOKENIZER_FILE, TextTask


class MaskedLM(TextTask):
    """Prediction of hidden tokens: 15 % of them, the same at every evaluation; batches are inputs and targets (B, T).

    The tokenizer of a corpus has no mask token: the task adds one id behind its vocabulary.
    """

    Config: ClassVar[type[TaskConfig]] = MaskedLMConfig
    unit = "hidden token"
    perplexity = "masked_ppl"  # none of a text: a model that sees both sides of a hidden token knows more

    def build_model(self, seed: int | None) -> nn.Module:
        """See Task.build_model."""
        return self._model(2 if seed is None else self.mask_token + 1, seed)

    def _model(self, num_rows: int, seed: int | None) -> nn.Module:
        return models.model_class(self.model_config.name)(self.model_config, (num_rows, 0), seed)

    def load_model(self, folder: Path) -> nn.Module:
        """See Task.load_model; the tokenizer says how large the vocabulary is."""
        return self._model(tokenizers.vocab_size(tokenizers.load(folder / TOKENIZER_FILE)) + 1, seed=0)

    @property
    def mask_token(self) -> int:
        """The id that stands for a hidden token."""
        return self.data.vocab_size

    @property
    def frame(self) -> tuple[list[int], list[int]]:
        """The special tokens before and behind a text."""
        return [], []

    @property
    def framed_text_tokens(self) -> int:
        """N."""
        return self.sequence_length

    def framed(self, rows: Tensor) -> Tensor:
        """Put the special tokens around rows of text: (B, N) int64 -> (B, T)."""
        return rows

    @property
    def whole_words(self) -> bool:
        """Whether words are hidden whole."""
        return bool(self.config.whole_words)  # type: ignore[attr-defined]

    @property
    def uninformed_loss(self) -> float:
        """log(V), nats per hidden token; the mask token is one of V."""
        return math.log(self.mask_token + 1)

    def batch(self, seed: int, index: int, batch_size: int) -> Batch:
        """See Task.batch."""
        rows, _ = self.data.batch(seed, index, batch_size, self.framed_text_tokens)
        return self._hide(rows, derive_seed(seed, "hidden tokens", index))

    def evaluation_batches(self, split: str, batch_size: int, num_batches: int | None = None) -> Iterator[Batch]:
        """See Task.evaluation_batches; a batch hides the same tokens at every call."""
        batches = self.data.evaluation_batches(split, batch_size, self.framed_text_tokens, num_batches)
        for index, (rows, _) in enumerate(batches):
            yield self._hide(rows, derive_seed(0, f"hidden tokens of {split}", index))

    @functools.cached_property
    def _edges(self) -> tuple[np.ndarray, np.ndarray]:
        return tokenizers.word_edges(self.data.tokenizer)

    def _hide(self, rows: Tensor, seed: int) -> Batch:
        """Return inputs and targets, (B, T) each, of rows of text (B, N)."""
        continues = None
        if self.whole_words:
            begins_inside, ends_inside = self._edges
            ids = rows.numpy()
            continues = np.zeros(ids.shape, dtype=bool)
            continues[:, 1:] = ends_inside[ids[:, :-1]] & begins_inside[ids[:, 1:]]
        shown, targets = hide(rows, seed, self.mask_token, self.data.vocab_size, continues)
        before, behind = self.frame
        return self.framed(shown), F.pad(targets, (len(before), len(behind)), value=IGNORED)

    def logits(self, model: nn.Module, tokens: Tensor) -> Tensor:
        """(B, T) -> (B, T, V)."""
        logits: Tensor = model(tokens)
        return logits

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the mean negative log-likelihood of the hidden tokens, nats per token."""
        tokens, targets = batch
        counted = targets != IGNORED
        return F.cross_entropy(self.logits(model, tokens)[counted], targets[counted])

    def size(self, batch: Batch) -> int:
        """Return the number of hidden tokens."""
        return int((batch[1] != IGNORED).sum())
