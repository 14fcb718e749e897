"""The token cache: tokenized corpora in a folder that can be deleted at any time, checked before they are used.

    <root>/<key of text and tokenizer>/   entry.json, tokenizer.json, train.bin, reward.bin, test.bin
    <root>/texts/<key of files>.json      the digest of a text whose files are as they were
    <root>/ngrams/<key of tokens>.json    losses of counting models

The root is `$TYING_CACHE`, or `layer-tying` in the user's cache folder; a temporary folder where neither can be had.
Only what this module wrote itself and finds unchanged is used: everything else is as if it were not there.
"""

import atexit
import contextlib
import functools
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from tying.data import tokenizers
from tying.data.corpora import SPLITS
from tying.errors import InputError
from tying.files import read_json, remove, warn_once, write_json

_FORMAT = 3
# A file may change within the same tick of a disk's clock: only older ones are known by their times [ns].
_SETTLED_NS = 2 * 10**9
# No process tokenizes one text for so long [s].
_LONG_AGO_S = 7 * 24 * 3600

Stamp = tuple[str, int, int, int]


@dataclass(frozen=True)
class Entry:
    """A tokenized corpus.

    Attributes:
        tokenizer: Turns text into ids and back.
        splits: Split name to its token ids, a read-only memory map.
        num_bytes: Split name to the UTF-8 bytes that it stands for.
        remarks: What is unusual about it, one line each.
    """

    tokenizer: Tokenizer
    splits: dict[str, np.ndarray]
    num_bytes: dict[str, int]
    remarks: list[str]


def key(**facts: Any) -> str:
    """Return the name under which what these facts determine is kept."""
    return hashlib.sha256(json.dumps({"format": _FORMAT, **facts}, sort_keys=True).encode()).hexdigest()[:32]


def root() -> Path | None:
    """Return the folder of the cache, which need not exist or be writable, or None where a user has none."""
    try:
        if given := os.environ.get("TYING_CACHE"):
            return Path(given).expanduser()
        if given := os.environ.get("XDG_CACHE_HOME"):
            return Path(given) / "layer-tying"
        return Path.home() / ".cache" / "layer-tying"
    except RuntimeError:  # neither a home nor an entry among the users
        return None


def writable_root() -> Path:
    """Return the folder of the cache, or a temporary one, told of in one line, when nothing can be written to it."""
    folder = root()
    if folder is not None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                return folder
        except OSError:
            pass
    temporary = _temporary_folder()
    warn_once(
        f"the token cache {folder or 'in your home'} cannot be written to: texts are tokenized anew by every process, "
        f"in {temporary}; name another folder with TYING_CACHE"
    )
    return temporary


@functools.cache
def _temporary_folder() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="layer-tying-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def stamps(files: Iterable[Path]) -> list[Stamp]:
    """Return what tells files from changed ones without reading them: path, size and times."""
    try:
        return [_stamp(path) for path in files]
    except OSError as error:
        raise InputError(f"{error.filename}: {error.strerror}") from error


def _stamp(path: Path) -> Stamp:
    status = path.stat()
    return str(path.absolute()), status.st_size, status.st_mtime_ns, status.st_ctime_ns


def known(kind: str, name: str) -> Any:
    """Return the value kept under a name in a folder of the cache, such as "texts"; None where there is none."""
    folder = root()
    try:
        return _read_sealed(folder / kind / f"{name}.json") if folder else None
    except InputError:
        return None


def keep(kind: str, name: str, value: Any) -> None:
    """Keep a JSON-ready value under a name; where the cache cannot be written to, it is found out anew next time."""
    folder = root()
    with contextlib.suppress(OSError):
        if folder is not None:
            _write_sealed(folder / kind / f"{name}.json", value)


def keep_digest(name: str, digest: str, files: list[Stamp]) -> None:
    """Keep a text's digest, unless its files are so new that a change of them could pass unseen."""
    newest = max((max(times) for _, _, *times in files), default=None)
    if newest is not None and time.time_ns() - newest >= _SETTLED_NS:
        keep("texts", name, digest)


def read(folder: Path) -> Entry | None:
    """Return an entry, or None when it is missing, damaged or of somebody else's making."""
    try:
        facts = _read_sealed(folder / "entry.json")
        for name, record in facts["files"].items():
            _require_unchanged(folder / name, record)
        return Entry(
            tokenizers.load(folder / "tokenizer.json"),
            {name: _mapped(folder / f"{name}.bin", np.dtype(facts["dtype"])) for name in SPLITS},
            facts["num_bytes"],
            facts["remarks"],
        )
    except (OSError, InputError):
        return None


def seal(folder: Path, dtype: np.dtype, num_bytes: dict[str, int], remarks: list[str]) -> None:
    """Complete an entry whose other files are written: record what they hold and how they are known again."""
    files = {path.name: _record(path) for path in folder.iterdir()}
    _write_sealed(folder / "entry.json", {"dtype": dtype.name, "num_bytes": num_bytes, "remarks": remarks, "files": files})


def remove_leftovers(folder: Path) -> None:
    """Remove what processes that were killed long ago left of an entry."""
    for path in folder.parent.glob(f".{folder.name}.*.tmp"):
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > _LONG_AGO_S:
                remove(path)


def _mapped(path: Path, dtype: np.dtype) -> np.ndarray:
    if path.stat().st_size == 0:  # nothing cannot be mapped
        return np.empty(0, dtype)
    return np.memmap(path, dtype, mode="r")


def _record(path: Path) -> dict[str, Any]:
    status = path.stat()
    return {"size": status.st_size, "mtime_ns": status.st_mtime_ns, "sha256": _digest_of(path)}


def _require_unchanged(path: Path, record: dict[str, Any]) -> None:
    """Check a file by size and time; where the time is another (as after a copy), by its content."""
    status = path.stat()
    if (status.st_size, status.st_mtime_ns) == (record["size"], record["mtime_ns"]):
        return
    if status.st_size != record["size"] or _digest_of(path) != record["sha256"]:
        raise InputError(f"{path}: changed")


def _digest_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write_sealed(path: Path, value: Any) -> None:
    write_json(path, {"sha256": hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest(), "value": value})


def _read_sealed(path: Path) -> Any:
    """Return what _write_sealed wrote.

    Raises:
        InputError: If it is missing, or not what was written.
    """
    sealed = read_json(path)
    if not isinstance(sealed, dict) or sealed.keys() != {"sha256", "value"}:
        raise InputError(f"{path}: not of this cache")
    if sealed["sha256"] != hashlib.sha256(json.dumps(sealed["value"], sort_keys=True).encode()).hexdigest():
        raise InputError(f"{path}: damaged")
    return sealed["value"]
