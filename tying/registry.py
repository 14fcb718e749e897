"""From a name to an object: ours by name, another person's by "package.module:attribute".

A registry is a mapping from names to objects, or to texts "package.module:attribute" that are imported when they are
named: choosing one agent or model does not import the libraries of the others.

Importing runs code. A person who types a name wants that; a name in a file is refused unless the person trusts the file.
"""

import importlib
from collections.abc import Container, Mapping
from itertools import pairwise
from typing import Any

from tying.errors import InputError, unknown


def is_foreign(name: str) -> bool:
    """Return whether a name has the form "package.module:attribute"."""
    module, colon, attribute = name.partition(":")
    return bool(colon) and attribute.isidentifier() and all(part.isidentifier() for part in module.split("."))


def find(kind: str, name: str, known: Mapping[str, Any]) -> Any:
    """Return the object that a name stands for.

    Args:
        kind: What is named, for errors: "model", "reward".
        name: A key of `known`, or "package.module:attribute".
        known: The registry.

    Raises:
        InputError: If the name is unknown (with the nearest), or cannot be imported (with the reason).
    """
    target = known.get(name, name if is_foreign(name) else None)
    if target is None:
        raise InputError(unknown(f"{kind} {name!r}", name, known, "or package.module:NAME"))
    return load(kind, name, target) if isinstance(target, str) else target


def find_class(kind: str, name: str, known: Mapping[str, Any], base: str) -> Any:
    """Return the class that a name stands for; another person's must have a `Config`, as classes derived from `base` do.

    Raises:
        InputError: As `find` does, or if it is not such a class.
    """
    found = find(kind, name, known)
    if name not in known and not hasattr(found, "Config"):
        raise InputError(f"{kind} {name!r} is no {kind}: expected a class derived from {base}")
    return found


def load(kind: str, name: str, target: str) -> Any:
    """Import "package.module:attribute".

    Raises:
        InputError: If the import fails, or the module has no such attribute.
    """
    module, _, attribute = target.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except Exception as error:  # another person's module can raise anything while it is imported
        reason = (str(error).splitlines() or [""])[0]
        raise InputError(f"{kind} {name!r} cannot be imported: {type(error).__name__}: {reason}") from error


# Settings whose texts are paths, which are never imported.
_PATHS = ("data", "init_from")
# This project's own agents import them.
_LIBRARIES = ("stable_baselines3", "sb3_contrib")


def foreign_names(values: Any) -> list[str]:
    """Return the names "package.module:attribute" in plain values, as JSON has them.

    They are also found inside a longer text, such as the schedule "tie_after:50:package.module:function". Those of
    stable-baselines3 and sb3-contrib are left out.
    """
    if isinstance(values, Mapping):
        return [name for key, value in values.items() if not _is_path(str(key)) for name in foreign_names(value)]
    if isinstance(values, list):
        return [name for value in values for name in foreign_names(value)]
    parts = [part.strip() for part in values.split(":")] if isinstance(values, str) else []
    names = map(":".join, pairwise(parts))
    return [name for name in names if is_foreign(name) and name.partition(":")[0] not in _LIBRARIES]


def _is_path(key: str) -> bool:
    return key.partition(".")[0] in _PATHS or key.rpartition(".")[2] in _PATHS


def require_trusted(where: Any, values: Any, trust: bool, ours: Container[str] = ()) -> None:
    """Check that a file names nothing to import, unless a person trusts it.

    Args:
        where: The file, for the error.
        values: What it says.
        trust: Whether the person said so.
        ours: Names that may be imported without.

    Raises:
        InputError: Naming what would be imported.
    """
    names = [name for name in dict.fromkeys(foreign_names(values)) if not trust and name not in ours]
    if names:
        raise InputError(
            f"{where} would import {', '.join(names)}, which runs code: if you trust who wrote it, say so with --trust "
            "(trust=True from Python)"
        )
