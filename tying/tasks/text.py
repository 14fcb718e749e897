"""What all tasks over running text have in common: a corpus in tokens, losses in nats per token."""

import functools
import math
from pathlib import Path
from typing import Any

from tying.data import tokenizers
from tying.data.tokens import TokenData, prepare
from tying.files import replacing
from tying.models.config import ModelConfig
from tying.tasks.base import Task

TOKENIZER_FILE = "tokenizer.json"


class TextTask(Task):
    """A task over the tokens of a corpus; batches are inputs and targets of (B, T) int64."""

    perplexity = "ppl"

    @functools.cached_property
    def data(self) -> TokenData:
        """The tokenized corpus."""
        return prepare(self.data_config)

    @property
    def sequence_length(self) -> int:
        """T, as many as the model sees at once."""
        assert isinstance(self.model_config, ModelConfig)
        return self.model_config.context

    @property
    def uninformed_loss(self) -> float:
        """log(vocabulary), nats per token."""
        return math.log(self.data.vocab_size)

    def require(self) -> None:
        """See Task.require."""
        self.data.require(self.sequence_length)

    def facts(self) -> dict[str, Any]:
        """See Task.facts."""
        return {
            "corpus": self.data.name,
            "corpus_sha256": self.data.corpus_sha256,
            "tokenizer": self.data_config.tokenizer,
            "tokenizer_sha256": tokenizers.sha256(self.data.tokenizer),
        }

    def save_assets(self, folder: Path) -> None:
        """Write the tokenizer."""
        with replacing(folder / TOKENIZER_FILE) as temporary:
            self.data.tokenizer.save(str(temporary))
