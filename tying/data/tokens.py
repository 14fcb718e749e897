"""Tokens: a corpus cut into token ids, kept memory-mapped in a cache, and the batches drawn from them.

Shapes: B batch, T tokens (the model's context).
"""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor

from tying.data import cache, corpora, tokenizers
from tying.data.corpora import Corpus, DataConfig
from tying.errors import InputError
from tying.files import remove, replacing, warn_once
from tying.seeding import derive_seed

SPLITS = corpora.SPLITS
# What a corpus's text depends on besides its files.
_OF_TEXT = ("hf", "column", "max_chars", "train_chars", "reward_fraction", "test_fraction")
# Share of unknown tokens that is worth a remark.
_UNKNOWN_SHARE = 0.001
# Another process may remove a damaged entry while its successor is put there.
_ATTEMPTS = 3
# Shorter texts take seconds: no progress is shown [characters].
_LONG = 5_000_000


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

    @cached_property
    def vocab_size(self) -> int:
        """Number of rows that an embedding needs: the largest token id + 1."""
        return tokenizers.vocab_size(self.tokenizer)

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

        Sequences start at random places of the train split. The batch depends on the arguments alone.
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
    """Tokenize a corpus, or take it from the cache when the same text was tokenized in the same way before.

    A text whose files have the sizes and times that they had is not read again.

    Raises:
        InputError: If the corpus or the tokenizer cannot be had.
    """
    corpus = corpora.load(config)
    files = cache.stamps(corpus.files)
    text_key = cache.key(files=files, **{name: getattr(config, name) for name in _OF_TEXT})
    digest = (cache.known("texts", text_key) if files else None) or corpus.sha256
    entry = _entry(corpus, config, cache.key(corpus=digest, **_of_tokenizer(config)))
    if cache.stamps(corpus.files) != files:
        raise InputError(f"corpus {corpus.name} changed while it was read; start once more")
    cache.keep_digest(text_key, digest, files)
    for remark in entry.remarks:
        warn_once(f"corpus {corpus.name}: {remark}")
    return TokenData(corpus.name, digest, entry.tokenizer, entry.splits, entry.num_bytes)


def _of_tokenizer(config: DataConfig) -> dict[str, Any]:
    """Return what the tokens depend on besides the text."""
    kind = Path(config.tokenizer)
    facts = {"tokenizer": hashlib.sha256(kind.read_bytes()).hexdigest() if kind.is_file() else config.tokenizer}
    return {**facts, "vocab_size": config.vocab_size} if config.tokenizer == "bpe" else facts


def _entry(corpus: Corpus, config: DataConfig, name: str) -> cache.Entry:
    folder = cache.root()
    entry = cache.read(folder / name) if folder else None
    if entry is not None:
        return entry
    folder = cache.writable_root() / name
    for _ in range(_ATTEMPTS):
        if (entry := cache.read(folder)) is not None:
            return entry
        _tokenize(corpus, config, folder)
    raise InputError(f"{folder}: cannot be written and read back; name another folder with TYING_CACHE")


def _tokenize(corpus: Corpus, config: DataConfig, folder: Path) -> None:
    """Write an entry of the cache; another process may do the same at the same time, and the first wins."""
    remarks = corpus.remarks()
    cache.remove_leftovers(folder)
    num_bytes = dict.fromkeys(SPLITS, 0)
    try:
        with _progress(corpus) as advance, replacing(folder) as temporary:
            temporary.mkdir()
            whole = (piece for name in SPLITS for piece in corpus.read(name))
            tokenizer = tokenizers.make(config.tokenizer, config.vocab_size, corpus.read("train"), whole)
            (temporary / "tokenizer.json").write_text(tokenizer.to_str(pretty=True), encoding="utf-8")
            dtype = np.dtype(np.uint16 if tokenizers.vocab_size(tokenizer) <= 2**16 else np.uint32)
            unknown, num_unknown, num_tokens = tokenizers.unknown_token(tokenizer), 0, 0
            for name in SPLITS:
                with (temporary / f"{name}.bin").open("wb") as file:
                    for chunks, ids in tokenizers.encode_chunks(tokenizer, corpus.read(name)):
                        file.write(ids.astype(dtype).tobytes())
                        num_bytes[name] += sum(len(chunk.encode()) for chunk in chunks)
                        num_tokens += len(ids)
                        num_unknown += int(np.count_nonzero(ids == unknown))
                        advance(sum(map(len, chunks)))
            if num_unknown > _UNKNOWN_SHARE * num_tokens:
                remarks.append(f"{num_unknown / num_tokens:.1%} of its tokens are unknown to {config.tokenizer}")
            cache.seal(temporary, dtype, num_bytes, remarks)
            if cache.read(folder) is None:
                remove(folder)
    except OSError:
        if cache.read(folder) is None:  # else another process has put it there
            raise


@contextmanager
def _progress(corpus: Corpus) -> Iterator[Callable[[int], None]]:
    """Show on standard error how far a long text is; yields what counts its characters."""
    total = sum(corpus.length(name) for name in SPLITS)
    if total < _LONG:
        yield lambda characters: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    if not console.is_terminal:
        console.print(f"tokenizing {total:,} characters", highlight=False)
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("learning the vocabulary", total=total)
        yield lambda characters: progress.update(task, advance=characters, description="tokenizing")
