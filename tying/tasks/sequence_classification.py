"""Sequence classification: find the label of a text.

Shapes: B batch, T tokens (at most the model's context), V vocabulary.
"""

import functools
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from torch import Tensor, nn

from tying import models
from tying.data import tokenizers
from tying.files import read_json, replacing, write_json
from tying.models.config import BertConfig
from tying.tasks.base import Batch
from tying.tasks.classification import TextClassification
from tying.tasks.config import SequenceClassificationConfig
from tying.tasks.initial import begin_with, weights_sha256
from tying.tasks.text import TOKENIZER_FILE

LABELS_FILE = "labels.json"


class SequenceClassification(TextClassification):
    """The label of a text, read off a token that the task adds before each text: one id behind the vocabulary."""

    Config = SequenceClassificationConfig
    model_config: BertConfig

    @functools.cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer: that of `model.init_from`, or as `data.tokenizer` says, made of these texts."""
        if self._initial is not None:
            return tokenizers.load(self.model_config.initial_tokenizer)
        texts = {name: [f"{text}\n" for text, _ in rows] for name, rows in self.data.splits.items()}
        whole = (text for own in texts.values() for text in own)
        return tokenizers.make(self.data_config.tokenizer, self.data_config.vocab_size, texts["train"], whole)

    @property
    def padding(self) -> int:
        """The id that stands before each text, too."""
        return tokenizers.vocab_size(self.tokenizer)

    def encode(self, texts: list[str]) -> list[list[int]]:
        """See TextClassification.encode."""
        encodings = self.tokenizer.encode_batch(texts, add_special_tokens=False)
        return [[self.padding, *encoding.ids[: self.sequence_length - 1]] for encoding in encodings]

    def build_model(self, seed: int | None) -> nn.Module:
        """See Task.build_model."""
        if seed is None:
            return self._model(2, 2, None)
        model = self._model(self.padding + 1, len(self.labels), seed)
        if self._initial is not None:
            begin_with(model, self._initial)
        return model

    @property
    def _initial(self) -> str | None:
        """The run to begin with; models of other people need not have the setting."""
        run: str | None = getattr(self.model_config, "init_from", None)
        return run

    def _model(self, num_rows: int, num_classes: int, seed: int | None) -> nn.Module:
        return models.model_class(self.model_config.name)(self.model_config, (num_rows, num_classes), seed)

    def logits(self, model: nn.Module, batch: Batch) -> Tensor:
        """See Classification.logits."""
        logits: Tensor = model(batch[0], batch[1])
        return logits

    def facts(self) -> dict[str, Any]:
        """See Task.facts; the run that it begins with is an input too."""
        own = (
            {} if self._initial is None else {"init_from": self._initial, "init_from_sha256": weights_sha256(self._initial)}
        )
        tokenizer = {"tokenizer": self.data_config.tokenizer, "tokenizer_sha256": tokenizers.sha256(self.tokenizer)}
        return {**super().facts(), **tokenizer, **own}

    def save_assets(self, folder: Path) -> None:
        """Write the tokenizer and the labels."""
        with replacing(folder / TOKENIZER_FILE) as temporary:
            self.tokenizer.save(str(temporary))
        write_json(folder / LABELS_FILE, list(self.labels))

    def load_model(self, folder: Path) -> nn.Module:
        """See Task.load_model."""
        num_rows = tokenizers.vocab_size(tokenizers.load(folder / TOKENIZER_FILE)) + 1
        return self._model(num_rows, len(read_json(folder / LABELS_FILE)), seed=0)
