"""Files that are whole or absent: written to a temporary name beside the target, then renamed.

Only the rename has to work. File systems that refuse to sync or to link (network shares, exFAT, Windows) are told of
once and otherwise served: durability and convenience never end a run.
"""

import errno
import hashlib
import json
import os
import secrets
import shutil
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tying.errors import InputError

# Containers that share a disk may share process and thread ids too.
_PROCESS = secrets.token_hex(4)
# A sync that ends so has lost data; all other refusals only mean that the disk does not promise to keep it.
_LOST = {errno.EIO, errno.ENOSPC, errno.EDQUOT}
_warned: dict[Any, Any] = {}
CHECKSUMS = "checksums.json"


def warn_once(line: str) -> None:
    """Warn in one line, once for each text in a process; filters of `warnings` apply to this UserWarning."""
    warnings.warn_explicit(line, UserWarning, filename="tying", lineno=1, registry=_warned)


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """Yield a temporary path; when the block ends well, what was written there takes the target's place.

    Works for a file or a folder (the target of a folder must not exist yet). After an error nothing is left behind.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{threading.get_native_id()}-{_PROCESS}.tmp")
    remove(temporary)
    try:
        yield temporary
        _flush_to_disk(temporary)
        os.replace(temporary, target)
    except BaseException:
        remove(temporary)
        raise


def require_room(target: Path, flag: str) -> None:
    """Check that a file or folder could be made, before long work is begun whose result goes there.

    Raises:
        InputError: If something above it is no folder, or one that cannot be written to; `flag` says who asked for it.
    """
    above = next(path for path in target.absolute().parents if path.exists())
    if not above.is_dir() or not os.access(above, os.W_OK):
        raise InputError(f"{flag} {target}: cannot be made, since {above} is no folder that can be written to")


def write_text(target: Path, text: str) -> None:
    """Write a text file in one step; names of files that are not UTF-8 keep their bytes."""
    with replacing(target) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="surrogateescape", newline="\n")


def write_json(target: Path, value: Any) -> None:
    """Write a JSON file in one step; not-a-number is refused, since JSON has none."""
    write_text(target, json.dumps(value, indent=2, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file that this project wrote.

    Raises:
        InputError: If it is missing or damaged.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file") from error
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: unreadable ({error})") from error


def write_checksums(folder: Path) -> None:
    """Write checksums.json: the sha256 of every other file in and below a folder (in place; wrap in `replacing`)."""
    found = {path.relative_to(folder).as_posix(): _sha256(path) for path in sorted(folder.rglob("*")) if path.is_file()}
    write_json(folder / CHECKSUMS, found)


def require_checksums(folder: Path, within: str = "", way_out: str = "") -> None:
    """Check that files are as `write_checksums` found them.

    Args:
        folder: With its checksums.json.
        within: Only files whose names begin so: "model", "agent/".
        way_out: Behind every error: what a person can do.

    Raises:
        InputError: Naming the first file that is missing or has changed.
    """
    end = f"; {way_out}" if way_out else ""
    try:
        known = read_json(folder / CHECKSUMS)
    except InputError as error:
        raise InputError(f"{error}{end}") from error
    if not isinstance(known, dict):
        raise InputError(f"{folder / CHECKSUMS}: damaged{end}")
    for name, digest in known.items():
        path = folder / name
        if not name.startswith(within):
            continue
        if not path.is_file():
            raise InputError(f"{path}: missing{end}")
        if _sha256(path) != digest:
            raise InputError(f"{path}: damaged (it is not as it was written){end}")


def digest(value: Any) -> str:
    """Return the sha256 of a JSON-ready value, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_link(link: Path, target: str) -> None:
    """Point a symbolic link at a name beside it, in one step.

    Where symbolic links are refused, a text file that holds the name takes the link's place.
    """
    with replacing(link) as temporary:
        try:
            os.symlink(target, temporary)
        except (OSError, NotImplementedError):
            temporary.write_text(f"{target}\n", encoding="utf-8")


def remove(path: Path) -> None:
    """Remove a file, a link or a whole folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _flush_to_disk(path: Path) -> None:
    for part in [path, *path.rglob("*")] if path.is_dir() and not path.is_symlink() else [path]:
        if part.is_symlink():
            continue
        try:
            _sync(part)
        except OSError as error:
            if error.errno in _LOST or isinstance(error, FileNotFoundError):
                raise
            if not part.is_dir():  # Windows and some network disks sync files and no folders
                reason = error.strerror or str(error)
                warn_once(f"this disk does not sync what is written ({reason}): a power cut may take the newest files")


def _sync(path: Path) -> None:
    """Wait until a file, or the list of a folder's files, is on the disk."""
    # Some systems sync files only through descriptors that may write, and open no folder for writing.
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
