"""Tokens: a corpus cut into token ids, kept memory-mapped in a cache, and the batches drawn from them.

Shapes: B batch, T tokens (the model's context).
"""

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor

from tying.data import corpora, tokenizers
from tying.data.corpora import DataConfig
from tying.errors import InputError
from tying.files import read_json, replacing
from tying.seeding import derive_seed

SPLITS = ("train", "reward", "test")
_FORMAT = 2


@dataclass(frozen=True)
class TokenData:
    """A tokenized corpus.

    Attributes:
        name: What people call the corpus.
        corpus_sha256: Of the text and how it is split.
        tokenizer: Turns text into ids and back.
        splits: Split name to its token ids, a read-only memory map.
        num_bytes: Split name to the UTF-8 bytes that it stands for.
    """

    name: str
    corpus_sha256: str
    tokenizer: Tokenizer
    splits: dict[str, np.ndarray]
    num_bytes: dict[str, int]

    @property
    def vocab_size(self) -> int:
        """Number of tokens that the tokenizer knows."""
        return int(self.tokenizer.get_vocab_size())

    def require(self, context: int) -> None:
        """Check that every split holds at least one sequence of `context` tokens and its next token.

        Raises:
            InputError: Naming the splits that are too short.
        """
        if self.vocab_size < 2:
            raise InputError(f"corpus {self.name} has a vocabulary of {self.vocab_size}: there is nothing to predict")
        short = [f"{name} has {len(self.splits[name])}" for name in SPLITS if len(self.splits[name]) < context + 1]
        if short:
            raise InputError(f"corpus {self.name} is too short for model.context = {context}: {', '.join(short)} tokens")

    def batch(self, seed: int, index: int, batch_size: int, context: int) -> tuple[Tensor, Tensor]:
        """Return training batch number `index`: inputs and targets, both (B, T) int64.

        Sequences start at random places of the train split. The batch depends on the arguments alone: whoever asks for
        it, whenever, gets the same one.
        """
        tokens = self.splits["train"]
        generator = np.random.Generator(np.random.PCG64(derive_seed(seed, "data order", index)))
        starts = generator.integers(0, len(tokens) - context, size=batch_size)
        return _sequences(tokens, starts, context)

    def evaluation_batches(
        self, split: str, batch_size: int, context: int, num_batches: int | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield a split in order, as inputs and targets of (B, T) that do not overlap.

        Args:
            split: "train", "reward" or "test".
            batch_size: B.
            context: T.
            num_batches: None for the whole split, every token predicted once (the last batch is smaller, the last
                sequence shorter); otherwise this many batches, spread evenly over it, the same at every call.
        """
        tokens = self.splits[split]
        starts = np.arange(0, len(tokens) - context, context)
        rest = None
        if num_batches is None:
            rest = starts[-1] + context
        elif num_batches * batch_size < len(starts):
            starts = starts[np.linspace(0, len(starts) - 1, num_batches * batch_size).round().astype(int)]
        for first in range(0, len(starts), batch_size):
            yield _sequences(tokens, starts[first : first + batch_size], context)
        if rest is not None and rest < len(tokens) - 1:
            yield _sequences(tokens, np.array([rest]), len(tokens) - 1 - int(rest))


def _sequences(tokens: np.ndarray, starts: np.ndarray, context: int) -> tuple[Tensor, Tensor]:
    rows = torch.from_numpy(tokens[starts[:, None] + np.arange(context + 1)].astype(np.int64))
    return rows[:, :-1].contiguous(), rows[:, 1:].contiguous()


def prepare(config: DataConfig) -> TokenData:
    """Read and tokenize a corpus, or take it from the cache when the same text was tokenized in the same way before.

    The cache is `$TYING_CACHE`, or `layer-tying` in the user's cache folder; it can be deleted at any time.

    Raises:
        InputError: If the corpus or the tokenizer cannot be had.
    """
    corpus = corpora.load(config)
    kind = config.tokenizer
    content = hashlib.sha256(Path(kind).read_bytes()).hexdigest() if Path(kind).is_file() else kind
    key = {"format": _FORMAT, "corpus": corpus.sha256, "tokenizer": content}
    if kind == "bpe":
        key["vocab_size"] = config.vocab_size
    folder = _cache_folder() / hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:32]
    if not folder.is_dir():
        _tokenize(corpus, config, folder)
    return TokenData(
        name=corpus.name,
        corpus_sha256=corpus.sha256,
        tokenizer=tokenizers.load(folder / "tokenizer.json"),
        splits={name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in SPLITS},
        num_bytes=read_json(folder / "num_bytes.json"),
    )


def _cache_folder() -> Path:
    default = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "layer-tying"
    return Path(os.environ.get("TYING_CACHE", default))


def _tokenize(corpus: corpora.Corpus, config: DataConfig, folder: Path) -> None:
    whole = "".join(corpus.splits.values()) if config.tokenizer == "char" else ""
    tokenizer = tokenizers.make(config.tokenizer, config.vocab_size, corpus.splits["train"], whole)
    dtype = np.uint16 if tokenizer.get_vocab_size() <= 2**16 else np.uint32
    try:
        with replacing(folder) as temporary:
            temporary.mkdir()
            for name, text in corpus.splits.items():
                np.save(temporary / f"{name}.npy", np.array(tokenizers.encode(tokenizer, text), dtype=dtype))
            tokenizer.save(str(temporary / "tokenizer.json"))
            sizes = {name: len(text.encode()) for name, text in corpus.splits.items()}
            (temporary / "num_bytes.json").write_text(json.dumps(sizes))
    except OSError:
        # Another process may have put the same folder there first; anything else is a real failure.
        if not folder.is_dir():
            raise
