"""Files that are whole or absent: written to a temporary name beside the target, then renamed."""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tying.errors import InputError


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """Yield a temporary path; when the block ends well, what was written there takes the target's place.

    Works for a file or a folder (the target of a folder must not exist yet). After an error nothing is left behind.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
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
    """Write a text file in one step."""
    with replacing(target) as temporary:
        temporary.write_text(text, encoding="utf-8")


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
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: unreadable ({error})") from error


def write_link(link: Path, target: str) -> None:
    """Point a symbolic link at a name beside it, in one step."""
    with replacing(link) as temporary:
        temporary.symlink_to(target)


def remove(path: Path) -> None:
    """Remove a file, a link or a whole folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _flush_to_disk(path: Path) -> None:
    if path.is_symlink():
        return
    for part in [path, *path.rglob("*")] if path.is_dir() else [path]:
        descriptor = os.open(part, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
