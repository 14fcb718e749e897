"""Corpora: where text comes from, and which part of it is for what.

A corpus is read whole, as text in contiguous splits. Agents are rewarded on `reward`, results are reported on `test`.
"""

import glob
import hashlib
import sysconfig
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tying.config import config, setting
from tying.errors import InputError

# Names of Hugging Face data sets that the literature uses: (path on the hub, its configuration, the column of text).
_HF_NAMES = {
    "wikitext-2": ("Salesforce/wikitext", "wikitext-2-raw-v1", "text"),
    "wikitext-103": ("Salesforce/wikitext", "wikitext-103-raw-v1", "text"),
    "lambada": ("cimec/lambada", None, "text"),
    "lm1b": ("billion-word-benchmark/lm1b", None, "text"),
    "ptb": ("ptb-text-only/ptb_text_only", None, "sentence"),
}
# Parts of the standard library that are test data rather than the library.
_STDLIB_LEFT_OUT = {"test", "tests", "idlelib", "lib2to3", "site-packages", "__pycache__"}


@config
class DataConfig:
    """Which text, how it is cut into tokens, and how into splits."""

    corpus: Literal["python-stdlib"] = setting(
        "built-in corpus: the Python standard library's source", default="python-stdlib"
    )
    path: str | None = setting("your own UTF-8 text instead: a file, a folder (all its files) or a glob", default=None)
    hf: str | None = setting(
        f"a Hugging Face data set instead: {', '.join(_HF_NAMES)}, or PATH[:CONFIG] (needs the extra 'hf')", default=None
    )
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
    """Text in three splits.

    Attributes:
        name: What people call it.
        splits: "train", "reward" and "test" to their text.
    """

    name: str
    splits: dict[str, str]

    @property
    def sha256(self) -> str:
        """Digest of the text and of how it is split."""
        digest = hashlib.sha256()
        for name, text in self.splits.items():
            digest.update(f"{name} {len(text)}\n".encode())
            digest.update(text.encode("utf-8", "surrogatepass"))
        return digest.hexdigest()


def require(config: DataConfig) -> None:
    """Check that the text's files are there, without reading them.

    Raises:
        InputError: If there is none.
    """
    if config.path is not None:
        _find(config.path)


def load(config: DataConfig) -> Corpus:
    """Read the corpus that a configuration names.

    Raises:
        InputError: If it is missing, empty, or not UTF-8 text.
    """
    if config.hf is not None:
        return _from_hugging_face(config, config.hf)
    if config.path is not None:
        files = _find(config.path)
        return _cut(str(config.path), _read(files, config.max_chars), config)
    return _cut(config.corpus, _read(_stdlib_files(), config.max_chars), config)


def _cut(name: str, text: str, config: DataConfig) -> Corpus:
    """Cut one text into contiguous splits: train first, then reward, test at the end."""
    if not text.strip():
        raise InputError(f"corpus {name}: it holds no text")
    test_start = round(len(text) * (1 - config.test_fraction))
    reward_start = round(len(text) * (1 - config.test_fraction - config.reward_fraction))
    return Corpus(
        name,
        {
            "train": text[:reward_start][: config.train_chars],
            "reward": text[reward_start:test_start],
            "test": text[test_start:],
        },
    )


def _find(path: str) -> list[Path]:
    given = Path(path).expanduser()
    if given.is_dir():
        files = sorted(p for p in given.rglob("*") if p.is_file() and not _hidden(p.relative_to(given)))
        if not files:
            raise InputError(f"data.path = {path!r}: the folder has no files")
        return files
    found = [given] if given.is_file() else sorted(map(Path, glob.glob(str(given), recursive=True)))
    files = [p for p in found if p.is_file()]
    if not files:
        raise InputError(f"data.path = {path!r}: no such file, folder or glob")
    return files


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _stdlib_files() -> list[Path]:
    """Return the library's modules in an order by hash of their names, so that every split is a mixed sample of it."""
    root = Path(sysconfig.get_paths()["stdlib"])
    names = [p.relative_to(root) for p in root.rglob("*.py")]
    chosen = [name for name in names if not _STDLIB_LEFT_OUT & set(name.parts)]
    if not chosen:
        raise InputError(f"corpus python-stdlib: no source files under {root}; use data.path")
    return [root / name for name in sorted(chosen, key=lambda n: hashlib.sha256(n.as_posix().encode()).digest())]


def _read(files: Iterable[Path], max_chars: int | None) -> str:
    parts: list[str] = []
    length = 0
    for path in files:
        try:
            text = path.read_bytes().decode("utf-8")
        except UnicodeDecodeError as error:
            raise InputError(f"{path}: byte {error.start} (0x{error.object[error.start]:02x}) is not UTF-8 text") from error
        except OSError as error:
            raise InputError(f"{path}: {error.strerror}") from error
        parts.append(text)
        length += len(text) + 1
        if max_chars is not None and length > max_chars:  # not >=: the last file has no newline behind it
            break
    return "\n".join(parts)[:max_chars]


def _from_hugging_face(config: DataConfig, name: str) -> Corpus:
    """Load a data set with the `datasets` library; its official splits are kept, missing ones are cut from train."""
    try:
        import datasets
    except ImportError as error:
        raise InputError(f"data.hf = {name!r} needs the `datasets` library: pip install 'layer-tying[hf]'") from error
    path, subset, column = _HF_NAMES.get(name, (*_split_name(name), "text"))
    try:
        loaded = datasets.load_dataset(path, subset)
    except Exception as error:  # the library raises dozens of types: hub, network, format
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise InputError(f"data.hf = {name!r}: {reason[0]}") from error
    texts: dict[str, str] = {}
    for split, rows in loaded.items():
        if column not in rows.column_names:
            raise InputError(f"data.hf = {name!r}: no column {column!r}; it has {', '.join(rows.column_names)}")
        texts[str(split)] = "\n".join(rows[column])[: config.max_chars]
    if "train" not in texts:
        raise InputError(f"data.hf = {name!r}: no train split; it has {', '.join(texts)}")
    whole, reward, test = texts["train"], texts.get("validation"), texts.get("test")
    test_share = config.test_fraction if test is None else 0.0
    reward_share = config.reward_fraction if reward is None else 0.0
    test_start = round(len(whole) * (1 - test_share))
    reward_start = round(len(whole) * (1 - test_share - reward_share))
    train = whole[:reward_start][: config.train_chars]
    reward = whole[reward_start:test_start] if reward is None else reward
    test = whole[test_start:] if test is None else test
    return Corpus(name, {"train": train, "reward": reward, "test": test})


def _split_name(name: str) -> tuple[str, str | None]:
    path, _, subset = name.partition(":")
    return path, subset or None
