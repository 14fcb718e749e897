"""Corpora: where text comes from, and which part of it is for what.

A corpus is read in pieces, as text in contiguous splits: however long it is, only pieces of it are in memory. Agents are
rewarded on `reward`, results are reported on `test`. Text is taken as it stands, line ends (LF or CR LF) included; only
the byte order mark at the start of a file, which is no text, is left out.
"""

import codecs
import glob
import hashlib
import os
import sysconfig
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal

from tying.config import config, setting
from tying.data import hugging_face, suspicion
from tying.errors import InputError

SPLITS = ("train", "reward", "test")
# Bytes read at once: as fast as whole files, and little memory.
_BLOCK = 2**20
# Parts of the standard library that are test data rather than the library.
_STDLIB_LEFT_OUT = {"test", "tests", "idlelib", "lib2to3", "site-packages", "__pycache__"}


@config
class DataConfig:
    """Which text, how it is cut into tokens, and how into splits."""

    corpus: Literal["python-stdlib", "python-docs", "python-functions", "digits"] = setting(
        "built-in data: the source of Python's standard library; its language reference (English, 460 kB); its functions "
        "and their packages, for task sequence_classification; scikit-learn's digits, for image_classification",
        default="python-stdlib",
    )
    path: str | None = setting("your own UTF-8 text instead: a file, a folder (all its files) or a glob", default=None)
    hf: str | None = setting(
        f"a Hugging Face data set instead: {', '.join(hugging_face.NAMES)}, PATH[:CONFIG], or a folder or file of rows "
        "(parquet, jsonl, csv, gz) (needs the extra 'hf')",
        default=None,
    )
    column: str = setting("the data set's column of text", default="text")
    max_chars: int | None = setting("use only the beginning of the corpus [characters, >= 1]", default=None, ge=1)
    train_chars: int | None = setting(
        "train on only the beginning of the train split; reward and test stay whole [characters, >= 1]", default=None, ge=1
    )
    tokenizer: str = setting(
        "char, byte, bpe (trained on the train split), a tokenizer.json, or a pretrained tokenizer's hub name",
        default="bpe",
    )
    vocab_size: int = setting("size of the BPE vocabulary [tokens, 257 to 1000000]", default=2048, ge=257, le=1_000_000)
    reward_fraction: float = setting(
        "share of the text that rewards the agent, before test [above 0 to 0.4]", default=0.1, gt=0, le=0.4
    )
    test_fraction: float = setting(
        "share of the text that no decision sees, at the end [above 0 to 0.4]", default=0.1, gt=0, le=0.4
    )

    def __post_init__(self) -> None:
        if self.path is not None and self.hf is not None:
            raise InputError("data.path and data.hf are both set: choose one corpus")


@dataclass(frozen=True)
class Corpus:
    """Text in three splits, read when it is asked for.

    Attributes:
        name: What people call it.
        config: How it is cut.
        files: What it is read from.
        parts: "train", and "reward" and "test" where the corpus has its own, each as pieces of text that can be read
            again and again; splits that it lacks are cut from the end of train.
        remarks: What is unusual about it, one line each.
    """

    name: str
    config: DataConfig
    files: tuple[Path, ...]
    parts: dict[str, Callable[[], Iterator[str]]]
    remarks: Callable[[], list[str]] = field(default=list)

    @cached_property
    def _ranges(self) -> dict[str, tuple[str, int, int]]:
        """Each split's part, and its first and last character there."""
        whole = self._length("train")
        test_share = 0.0 if "test" in self.parts else self.config.test_fraction
        reward_share = 0.0 if "reward" in self.parts else self.config.reward_fraction
        test_start = round(whole * (1 - test_share))
        reward_start = round(whole * (1 - test_share - reward_share))
        ranges = {name: (name, 0, self._length(name)) for name in self.parts}
        ranges.setdefault("reward", ("train", reward_start, test_start))
        ranges.setdefault("test", ("train", test_start, whole))
        stop = reward_start if self.config.train_chars is None else min(reward_start, self.config.train_chars)
        return {**ranges, "train": ("train", 0, stop)}

    def _length(self, part: str) -> int:
        length, blank = 0, True
        for piece in self._read_part(part):
            length += len(piece)
            blank = blank and not piece.strip()
        if blank and part == "train":
            raise InputError(f"corpus {self.name}: it holds no text")
        return length

    def _read_part(self, part: str) -> Iterator[str]:
        return between(self.parts[part](), 0, self.config.max_chars)

    def length(self, split: str) -> int:
        """Return the number of characters of a split."""
        _, start, stop = self._ranges[split]
        return stop - start

    def read(self, split: str) -> Iterator[str]:
        """Yield the text of a split in pieces.

        Raises:
            InputError: If the corpus is missing, empty, or not UTF-8 text.
        """
        part, start, stop = self._ranges[split]
        return between(self._read_part(part), start, stop)

    @property
    def splits(self) -> dict[str, str]:
        """The whole text of each split."""
        return {name: "".join(self.read(name)) for name in SPLITS}

    @cached_property
    def sha256(self) -> str:
        """Digest of the text and of how it is split."""
        digest = hashlib.sha256()
        for name in SPLITS:
            digest.update(f"{name} {self.length(name)}\n".encode())
            for piece in self.read(name):
                digest.update(piece.encode("utf-8", "surrogatepass"))
        return digest.hexdigest()


def require(config: DataConfig) -> None:
    """Check that the text's files are there, without reading them.

    Raises:
        InputError: If there is none.
    """
    if config.path is not None:
        _find(config.path)
    elif config.hf is None and config.corpus not in _BUILT_IN:
        raise InputError(f"data.corpus = {config.corpus!r}: no running text; leave it out, or choose another task")


def load(config: DataConfig) -> Corpus:
    """Find the corpus that a configuration names; its text is read when it is asked for.

    Raises:
        InputError: If it is missing, or no text.
    """
    if config.hf is not None:
        found = hugging_face.load(config.hf, config.column)
        return Corpus(config.hf, config, found.files, found.parts, lambda: found.remarks)
    if config.path is None:
        require(config)
        return _BUILT_IN[config.corpus](config)
    files = _find(config.path)
    name = os.fsencode(config.path).decode("utf-8", "replace")  # names of files need not be UTF-8, what is shown must
    return Corpus(name, config, tuple(files), {"train": lambda: _joined(files)}, lambda: suspicion.remarks(files))


def between(pieces: Iterable[str], start: int, stop: int | None) -> Iterator[str]:
    """Yield text[start:stop] of a text in pieces; nothing is read beyond it."""
    position = 0
    for piece in pieces:
        if stop is not None and position + len(piece) >= stop:
            yield piece[max(start - position, 0) : stop - position]
            return
        if position + len(piece) > start:
            yield piece[max(start - position, 0) :]
        position += len(piece)


def _find(path: str) -> list[Path]:
    given = Path(path).expanduser()
    if given.is_dir():
        files = sorted(p for p in given.rglob("*") if p.is_file() and not _hidden(p.relative_to(given)))
        if not files:
            raise InputError(f"data.path = {path!r}: the folder has no files")
    else:
        found = [given] if given.is_file() else sorted(map(Path, glob.glob(str(given), recursive=True)))
        files = [p for p in found if p.is_file()]
        if not files:
            raise InputError(f"data.path = {path!r}: no such file, folder or glob")
    for file in files:
        suspicion.require_text(file)
    return files


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _python_docs(config: DataConfig) -> Corpus:
    """Return the topics of `help()`, in an order by hash of their names."""
    try:
        from pydoc_data import topics
    except ImportError as error:  # some distributions leave it out
        raise InputError("corpus python-docs: this Python has no pydoc_data; use data.path") from error
    texts = [topics.topics[name] for name in sorted(topics.topics, key=_shuffled)]
    return Corpus(config.corpus, config, (Path(topics.__file__),), {"train": lambda: iter(["\n\n".join(texts)])})


def _python_stdlib(config: DataConfig) -> Corpus:
    files = stdlib_files()
    return Corpus(config.corpus, config, tuple(files), {"train": lambda: _joined(files)})


def stdlib_files() -> list[Path]:
    """Return the library's modules, in an order by hash of their names."""
    root = Path(sysconfig.get_paths()["stdlib"])
    names = [p.relative_to(root) for p in root.rglob("*.py")]
    chosen = [name for name in names if not _STDLIB_LEFT_OUT & set(name.parts)]
    if not chosen:
        raise InputError(f"corpus python-stdlib: no source files under {root}; use data.path")
    return [root / name for name in sorted(chosen, key=lambda name: _shuffled(name.as_posix()))]


def _shuffled(name: str) -> bytes:
    """Return what orders texts by chance, alike on every machine, so that every split is a mixed sample."""
    return hashlib.sha256(name.encode()).digest()


_BUILT_IN = {"python-stdlib": _python_stdlib, "python-docs": _python_docs}


def _joined(files: Iterable[Path]) -> Iterator[str]:
    """Yield the text of all files, a line's end between them."""
    for number, path in enumerate(files):
        if number:
            yield "\n"
        yield from _decoded(path)


def _decoded(path: Path) -> Iterator[str]:
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        with path.open("rb") as file:
            position = len(codecs.BOM_UTF8)
            if file.read(position) != codecs.BOM_UTF8:
                position = file.seek(0)
            while block := file.read(_BLOCK):
                position += len(block)
                yield decoder.decode(block)
            yield decoder.decode(b"", final=True)
    except UnicodeDecodeError as error:
        place, byte = position - len(error.object) + error.start, error.object[error.start]
        raise InputError(f"{path}: byte {place} (0x{byte:02x}) is not UTF-8 text; save the file as UTF-8") from error
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from error
