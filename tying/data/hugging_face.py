"""Text from Hugging Face data sets: those of the hub, and folders or files of rows in the same formats."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tying.errors import InputError

# Data sets that the literature uses, to their path on the hub and their configuration.
NAMES = {
    "wikitext-2": ("Salesforce/wikitext", "wikitext-2-raw-v1"),
    "wikitext-103": ("Salesforce/wikitext", "wikitext-103-raw-v1"),
    "lambada": ("cimec/lambada", "plain_text"),
}
# Official splits, to what they are for here.
_OFFICIAL = {"train": "train", "validation": "reward", "test": "test"}
# Rows read at once: few, since a row may be a whole book.
_ROWS = 100


@dataclass(frozen=True)
class Rows:
    """A data set's text.

    Attributes:
        files: Where the library keeps its rows.
        parts: "train", and "reward" and "test" where there are such official splits: their text in pieces.
        remarks: What is unusual about it, one line each.
    """

    files: tuple[Path, ...]
    parts: dict[str, Callable[[], Iterator[str]]]
    remarks: list[str]


def load(name: str, column: str) -> Rows:
    """Load a data set with the `datasets` library.

    Args:
        name: One of NAMES, PATH[:CONFIG] of the hub or of a local folder, or a local file of rows.
        column: The column of text; its rows become lines, rows without a value are skipped.

    Raises:
        InputError: If it cannot be had, or has no train split or no such column of text.
    """
    try:
        loaded = _load(name)
    except ImportError as error:
        raise InputError(f"data.hf = {name!r} needs the `datasets` library: pip install 'layer-tying[hf]'") from error
    except Exception as error:  # the library raises dozens of types: hub, network, format
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise InputError(f"data.hf = {name!r}: {reason[0]}") from error
    if "train" not in loaded:
        raise InputError(f"data.hf = {name!r}: no train split; it has {', '.join(map(str, loaded))}")
    chosen = {part: loaded[split] for split, part in _OFFICIAL.items() if split in loaded}
    for rows in chosen.values():
        _require_text(rows, name, column)
    files = [Path(file["filename"]) for rows in chosen.values() for file in rows.cache_files]
    skipped = sum(rows.data.column(column).null_count for rows in chosen.values())
    remarks = [f"{skipped} of {sum(map(len, chosen.values()))} rows have no {column!r} and are skipped"] if skipped else []
    return Rows(tuple(files), {part: partial(_text, rows, column) for part, rows in chosen.items()}, remarks)


def _load(name: str) -> Any:
    import datasets

    if Path(name).is_file():
        file = Path(name).absolute()  # the library names a folder's cache by its last part, which "." lacks
        return datasets.load_dataset(str(file.parent), data_files=file.name)
    path, _, subset = name.partition(":")
    path, subset = NAMES.get(name, (path, subset))
    return datasets.load_dataset(str(Path(path).absolute()) if Path(path).is_dir() else path, subset or None)


def _require_text(rows: Any, name: str, column: str) -> None:
    if column not in rows.column_names:
        known = ", ".join(rows.column_names)
        raise InputError(f"data.hf = {name!r}: no column {column!r}; choose data.column among {known}")
    kind = getattr(rows.features[column], "dtype", "no single value")
    if kind not in ("string", "large_string", "null"):
        raise InputError(f"data.hf = {name!r}: column {column!r} holds {kind}, no text; choose another data.column")


def _text(rows: Any, column: str) -> Iterator[str]:
    """Yield the rows, a line's end between them."""
    first = True
    for table in rows.with_format("arrow").iter(batch_size=_ROWS):
        values = [value for value in table.column(column).to_pylist() if value is not None]
        if values:
            yield ("" if first else "\n") + "\n".join(values)
            first = False
