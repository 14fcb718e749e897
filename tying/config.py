"""What every configuration class is, and how its mistakes are told.

A configuration is a frozen dataclass beside its owner: `@config class XConfig`, whose fields are declared as
`name: type = setting("help [unit, range]", default=..., ge=...)`. Values are checked when it is made, all of them at
once; unknown keys are mistakes too.
"""

import functools
from collections.abc import Callable, Iterable
from difflib import get_close_matches
from typing import Any, TypeVar, dataclass_transform

import pydantic
from pydantic import AfterValidator, ConfigDict, Field, ValidationError
from pydantic.dataclasses import dataclass

from tying.errors import InputError

T = TypeVar("T")

_STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)


def setting(description: str, *, default: Any, **limits: Any) -> Any:
    """Declare a field: one line of help with unit and range, its default, and pydantic's limits (ge, gt, le, lt)."""
    return Field(default, description=description, **limits)


@dataclass_transform(kw_only_default=True, frozen_default=True, field_specifiers=(setting,))
def config(cls: type[T]) -> type[T]:
    """Make a class a checked, frozen, keyword-only dataclass; wrong values raise InputError, all of them together."""
    made: Any = dataclass(frozen=True, kw_only=True, config=_STRICT)(cls)
    check = made.__init__

    @functools.wraps(check)
    def init(self: Any, *args: Any, **values: Any) -> None:
        try:
            check(self, *args, **values)
        except ValidationError as error:
            raise InputError(complaints(error, known_fields(made))) from error

    made.__init__ = init
    return made  # type: ignore[no-any-return]


def build(cls: type[T], values: dict[str, Any], where: str = "") -> T:
    """Make a configuration from plain values, as read from JSON or keywords.

    Args:
        cls: A configuration class.
        values: Field names to values; nested configurations as dicts or instances.
        where: A name put before the fields in complaints ("agent.").

    Raises:
        InputError: With one line per mistake: the field, what was given, what is allowed, the nearest right name.
    """
    try:
        return pydantic.TypeAdapter(cls).validate_python(values)
    except ValidationError as error:
        raise InputError(complaints(error, known_fields(cls), where)) from error


def to_dict(value: Any) -> dict[str, Any]:
    """Return a configuration as JSON-ready plain values."""
    plain: dict[str, Any] = pydantic.TypeAdapter(type(value)).dump_python(value, mode="json")
    return plain


def known_fields(cls: Any, prefix: str = "") -> list[str]:
    """Return all dotted field names of a configuration class ("trainer.iterations")."""
    fields = getattr(cls, "model_fields", None) or getattr(cls, "__pydantic_fields__", {})
    names: list[str] = []
    for name, field in fields.items():
        nested = known_fields(field.annotation, f"{prefix}{name}.")
        names += nested or [f"{prefix}{name}"]
    return names


def complaints(error: ValidationError, known: list[str], where: str = "") -> list[str]:
    """Turn a validation error into one line per mistake."""
    lines = []
    for problem in error.errors(include_url=False):
        name = where + ".".join(str(part) for part in problem["loc"] if isinstance(part, str))
        if problem["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
            lines.append(unknown(f"setting {name!r}", name, [where + k for k in known]))
        elif problem["type"] == "value_error":
            lines += _of_own_check(name, problem)
        else:
            lines.append(f"{name} = {problem['input']!r}: {problem['msg'][0].lower()}{problem['msg'][1:]}")
    return lines


def _of_own_check(name: str, problem: Any) -> list[str]:
    """Return the lines of a check of ours: InputError speaks for itself, ValueError is about the field's one value."""
    cause = problem["ctx"]["error"]
    if isinstance(cause, InputError):
        return [line if not name or name in line else f"{name}: {line}" for line in cause.lines]
    return [f"{name} = {problem['input']!r}: {cause}"]


def one_of(names: Callable[[], Iterable[str]]) -> AfterValidator:
    """Return the check of a field that names an entry of a registry; asked late, when the registry is full."""

    def check(value: str) -> str:
        allowed = list(names())
        if value not in allowed:
            raise ValueError(_nearest(value, allowed))
        return value

    return AfterValidator(check)


def unknown(what: str, given: str, allowed: list[str]) -> str:
    """Return the line for an unknown name: the nearest right one, or all of them when none is near."""
    return f"unknown {what}: {_nearest(given, allowed)}"


def _nearest(given: str, allowed: list[str]) -> str:
    near = get_close_matches(given, allowed, n=1, cutoff=0.5)
    return f"did you mean {near[0]!r}?" if near else f"allowed are {', '.join(allowed)}"
