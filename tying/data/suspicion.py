"""Files that are hardly the text they are taken for: refused where they cannot be, remarked upon where they may be."""

import csv
import json
import re
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path

from tying.errors import InputError

# Files of rows, or packed: their characters are not the text that is in them.
_SUFFIXES = {".jsonl", ".csv", ".tsv", ".parquet", ".gz"}
# Of each file only the beginning is looked at [bytes, lines].
_SAMPLE = 2**18
_LINES = 100
# Least rows that make a table: prose has a few lines alike by chance.
_LEAST_ROWS = 10
# A letter of two bytes whose bytes were taken for two letters.
_MOJIBAKE = re.compile("[\u00c2\u00c3][\u0080-\u00bf]|\u00e2\u20ac")


def require_text(path: Path) -> None:
    """Check by a file's name that it holds text.

    Raises:
        InputError: If it holds rows or is packed, with the way to read it.
    """
    if path.suffix.lower() in _SUFFIXES:
        raise InputError(
            f"{path}: rows or packed text, not text: read it with --data.hf {shlex.quote(str(path))} --data.column COLUMN, "
            "or choose text files by a glob (--data.path 'FOLDER/**/*.txt')"
        )


def remarks(files: Sequence[Path]) -> list[str]:
    """Return a line for each kind of unlikely text among a corpus's files.

    Raises:
        InputError: If a file is binary.
    """
    found: dict[str, list[str]] = {}
    for path in files:
        for remark in _remarks(path):
            found.setdefault(remark, []).append(ascii(path.name))
    if len(files) == 1:
        return list(found)
    return [f"{remark} ({names[0]}, {len(names)} of {len(files)} files)" for remark, names in found.items()]


def _remarks(path: Path) -> list[str]:
    try:
        with path.open("rb") as file:
            sample = file.read(_SAMPLE).decode("utf-8-sig", "ignore")
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from error
    size = max(len(sample), 1)
    if sample.count("\0") > size / 100:
        raise InputError(
            f"{path}: {sample.count(chr(0)) / size:.0%} of its characters are NUL: binary or UTF-16, not UTF-8"
        )
    found = []
    if "\0" in sample:
        found.append("it has NUL characters: is it text?")
    if sample.count("\ufffd") > size / 10_000:
        found.append("it has replacement characters (U+FFFD): it was once read in a wrong encoding")
    if len(_MOJIBAKE.findall(sample)) > size / 1_000:
        found.append("it looks like UTF-8 that was read as Latin-1 and saved again")
    if _has_rows(sample.splitlines()[:_LINES]):
        found.append("it looks like JSON lines or CSV: its markup is trained on, too (--data.hf FILE reads one column)")
    return found


def _has_rows(lines: list[str]) -> bool:
    different = {line for line in lines[:-1] if line.strip()}  # the last may be cut
    if len(different) < _LEAST_ROWS:
        return False
    return all(map(_is_object, different)) or any(_is_table(different, delimiter) for delimiter in ",;\t")


def _is_object(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def _is_table(lines: Iterable[str], delimiter: str) -> bool:
    """Say whether all lines have the same number of fields, at least three."""
    try:
        lengths = {len(row) for row in csv.reader(lines, delimiter=delimiter)}
    except csv.Error:
        return False
    return len(lengths) == 1 and lengths.pop() >= 3
