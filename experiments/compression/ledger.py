"""Ledger: results that took time, one JSON line each, so that an interrupted compression resumes where it was."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tying import schema
from tying.errors import InputError


class Ledger:
    """A file of lines, each with a key and figures.

    Args:
        path: The file; a last line cut short by a kill is removed.
        entries: The shape of a line.
        key: The names of the entries that identify it.
        origin: Digest of all that the results depend on; it stands in every line.

    Raises:
        InputError: If another line is damaged, or of another origin.
    """

    def __init__(self, path: Path, entries: schema.Shape, key: tuple[str, ...], origin: str) -> None:
        self.path = path
        self._key = key
        self._origin = origin
        self.lines: dict[tuple[Any, ...], dict[str, Any]] = {}
        whole = path.read_bytes().rpartition(b"\n")[0] if path.is_file() else b""
        for number, text in enumerate(whole.splitlines()):
            try:
                line = schema.check(entries, json.loads(text))
            except (ValueError, RecursionError) as error:
                raise InputError(f"{path}: line {number + 1} is damaged; remove the file to measure again") from error
            if line.get("origin") != origin:
                raise InputError(f"{path}: measured with another model, text or settings; name a new --out")
            self.lines[self._of(line)] = line
        if path.is_file():
            with path.open("r+b") as file:
                file.truncate(len(whole) + 1 if whole else 0)

    def _of(self, line: Mapping[str, Any]) -> tuple[Any, ...]:
        return tuple(line[name] for name in self._key)

    def get(self, *key: Any) -> dict[str, Any] | None:
        """Return the line of a key, if there is one."""
        return self.lines.get(key)

    def add(self, line: dict[str, Any]) -> dict[str, Any]:
        """Write a line, and return it."""
        line = {**line, "origin": self._origin}
        with self.path.open("ab") as file:
            file.write(json.dumps(line).encode() + b"\n")
        self.lines[self._of(line)] = line
        return line
