"""The shape of every JSON file of this project, and the one reader that checks it.

A shape is a set of entries with their types, checked strictly: no number is read from a text, no number is infinite. Other
entries are left as they are.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError, create_model

from tying.errors import InputError
from tying.files import read_json
from tying.pointers import Pointers

Shape = type[BaseModel]
_STRICT = ConfigDict(strict=True, allow_inf_nan=False, extra="allow", protected_namespaces=())


def _valid(pointers: list[int | str]) -> list[int | str]:
    Pointers(pointers)
    return pointers


# As `Pointers.to_list` has them.
PointerList = Annotated[list[int | str], AfterValidator(_valid)]


def shape(**entries: Any) -> Shape:
    """Return the shape of a JSON object: the names of entries that it must have, and their types."""
    fields: dict[str, Any] = {name: (kind, ...) for name, kind in entries.items()}
    return create_model("Object", __config__=_STRICT, **fields)


def check(entries: Shape, values: Any) -> dict[str, Any]:
    """Return a JSON object that has a shape.

    Raises:
        InputError: Naming the first wrong entry.
    """
    if not isinstance(values, Mapping):
        raise InputError("expected a JSON object")
    try:
        entries.model_validate(values)
    except ValidationError as error:
        first, *others = error.errors(include_url=False)
        where = ".".join(map(str, first["loc"]))
        more = f", and {len(others)} more" if others else ""
        raise InputError(f"{where}: {first['msg'][0].lower()}{first['msg'][1:]}{more}") from error
    except RecursionError as error:
        raise InputError("nested too deeply") from error
    return dict(values)


def read(path: Path, entries: Shape, way_out: str = "") -> dict[str, Any]:
    """Read a JSON file that holds an object of a shape.

    Args:
        path: The file.
        entries: The shape.
        way_out: Behind every error: what a person can do.

    Raises:
        InputError: In one line, if it is missing, damaged or of another shape.
    """
    end = f"; {way_out}" if way_out else ""
    try:
        values = read_json(path)
    except InputError as error:
        raise InputError(f"{error}{end}") from error
    try:
        return check(entries, values)
    except InputError as error:
        raise InputError(f"{path}: damaged or of another version ({error}){end}") from error
