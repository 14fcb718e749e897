"""Labelled texts: rows of a text and its label, from a file, in three splits."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import numpy as np

from tying.data import functions
from tying.data.corpora import SPLITS, DataConfig
from tying.errors import InputError

Row = tuple[str, str]


@dataclass(frozen=True)
class LabelledTexts:
    """Labelled texts.

    Attributes:
        name: What people call them.
        labels: All labels, sorted; a label's class is its place.
        splits: Split name to its rows.
        sha256: Digest of the rows and of how they are split.
    """

    name: str
    labels: tuple[str, ...]
    splits: dict[str, list[Row]]
    sha256: str


def read(config: DataConfig) -> LabelledTexts:
    """Read labelled texts.

    Args:
        config: Without `path`, functions of Python's standard library are read, labelled by package. `path` names a .tsv
            file (text, tab, label; a first line "text<tab>label" is left out) or a .jsonl file of {"text": ..., "label":
            ...}. The rows are shuffled, since files are often sorted by label; the order is always the same. The fractions
            are shares of the rows; `max_chars` and `train_chars` take the first of them.

    Raises:
        InputError: If it is missing or damaged, or if a split is empty.
    """
    require(config)
    name, rows = (config.corpus, functions.read()) if config.path is None else (config.path, _read_file(config))
    labels = tuple(sorted({label for _, label in rows}))
    if len(labels) < 2:
        raise InputError(f"{name}: {len(rows)} rows with {len(labels)} labels: there is nothing to tell apart")
    splits = _split(rows, config)
    empty = [split for split in SPLITS if not splits[split]]
    if empty:
        raise InputError(f"{name}: {len(rows)} rows are too few: no rows for {', '.join(empty)}")
    digest = hashlib.sha256(json.dumps(splits, sort_keys=True).encode()).hexdigest()
    return LabelledTexts(name, labels, splits, digest)


def require(config: DataConfig) -> None:
    """Check that there are labelled texts, without reading them.

    Raises:
        InputError: If there are none.
    """
    if config.path is not None or config.hf is not None or config.corpus != "python-functions":
        require_path(config)


def _read_file(config: DataConfig) -> list[Row]:
    path = require_path(config)
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: unreadable ({error})") from error
    return list(_parsed(path, lines))


def require_path(config: DataConfig) -> Path:
    """Return the file of labelled texts that a configuration names.

    Raises:
        InputError: If it names none.
    """
    path = Path(config.path or "").expanduser()
    if config.path is None or path.suffix not in (".tsv", ".jsonl") or not path.is_file():
        raise InputError(f"data.path = {config.path!r}: texts with labels are read from one .tsv or .jsonl file")
    return path


def _parsed(path: Path, lines: list[str]) -> Iterator[Row]:
    for number, line in enumerate(lines, 1):
        if not line.strip() or (number == 1 and line.rstrip("\r").lower() == "text\tlabel"):
            continue
        row = _of_json(line) if path.suffix == ".jsonl" else _of_tsv(line)
        if row is None:
            wanted = '{"text": ..., "label": ...}' if path.suffix == ".jsonl" else "a text, a tab and a label"
            raise InputError(f"{path}: line {number} is not {wanted}")
        yield row


def _of_tsv(line: str) -> Row | None:
    text, tab, label = line.rstrip("\r").rpartition("\t")
    return (text, label) if tab and text and label else None


def _of_json(line: str) -> Row | None:
    try:
        row = json.loads(line)
    except ValueError:
        return None
    if not isinstance(row, dict) or not isinstance(row.get("text"), str) or not isinstance(row.get("label"), (str, int)):
        return None
    return row["text"], str(row["label"])


def _split(rows: list[Row], config: DataConfig) -> dict[str, list[Row]]:
    order = np.random.default_rng(0).permutation(len(rows))
    rows = _beginning([rows[index] for index in order], config.max_chars)
    test = round(len(rows) * (1 - config.test_fraction))
    reward = round(len(rows) * (1 - config.test_fraction - config.reward_fraction))
    return {"train": _beginning(rows[:reward], config.train_chars), "reward": rows[reward:test], "test": rows[test:]}


def _beginning(rows: list[Row], max_chars: int | None) -> list[Row]:
    if max_chars is None:
        return rows
    return [row for row, end in zip(rows, accumulate(len(text) for text, _ in rows), strict=True) if end <= max_chars]
