"""From a name to an object: ours by name, another person's by "package.module:attribute".

A registry is a mapping from names to objects, or to texts "package.module:attribute" that are imported when they are
named: choosing one agent or model does not import the libraries of the others.
"""

import importlib
from collections.abc import Mapping
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
