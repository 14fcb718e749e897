"""Snapshots: the agent in the middle of a run, so that a resumed run shows it only the end of the record again.

snapshots/<decisions>/: the files of `Agent.snapshot`, and snapshot.json with their checksums. A snapshot fits one run: the
digest of its settings and of its first decisions is in it.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

from agents.base import Agent, is_resumable
from experiments.run.directory import RunDirectory
from tying.errors import InputError
from tying.files import read_json, replacing

FORMAT = 1
_FILE = "snapshot.json"


def digest(directory: RunDirectory, decisions: int) -> "hashlib._Hash":
    """Return the digest of a run's settings and first decisions; `update` takes further lines of the record."""
    found = hashlib.sha256(directory.config_file.read_bytes())
    if decisions:
        found.update(b"".join(directory.decisions_file.read_bytes().splitlines(keepends=True)[:decisions]))
    return found


def save(agent: Agent, folder: Path, run: str) -> None:
    """Write a snapshot to a folder that does not exist yet.

    Args:
        agent: Between two decisions.
        folder: The snapshot's own.
        run: Digest of the run up to now.
    """
    with replacing(folder) as temporary:
        temporary.mkdir()
        agent.snapshot(temporary)
        facts = {"format": FORMAT, "run": run, "files": _checksums(temporary)}
        (temporary / _FILE).write_text(json.dumps(facts, indent=2) + "\n")


def require(folder: Path, run: str, agent: Any) -> None:
    """Check that a snapshot is whole and of this run, and that its agent can be restored.

    Raises:
        InputError: If it is not.
    """
    way_out = f"; remove {folder.parent}: the record is then replayed whole"
    if not is_resumable(agent):
        raise InputError(f"{folder}: {type(agent).__name__} no longer declares itself resumable{way_out}")
    try:
        facts: Any = read_json(folder / _FILE)
    except InputError as error:
        raise InputError(f"{error}{way_out}") from error
    if not isinstance(facts, dict) or facts.get("format") != FORMAT:
        raise InputError(f"{folder}: not a snapshot of format {FORMAT}{way_out}")
    if facts.get("files") != _checksums(folder):
        raise InputError(f"{folder}: damaged, its files are not those that were written{way_out}")
    if facts.get("run") != run:
        raise InputError(
            f"{folder}: a snapshot of another run, or config.json or decisions.jsonl were changed since{way_out}"
        )


def _checksums(folder: Path) -> dict[str, str]:
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != _FILE)
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}
