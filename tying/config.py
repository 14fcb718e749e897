"""Configurations: frozen values whose fields carry their help, unit and range, checked when they are made.

A configuration is a dataclass beside its owner: `@config class XConfig`, with fields `name: type = setting("help [unit,
range]", default=..., ge=...)`. A field may be a configuration itself (a *section*). The class of a section may depend on
its `name` (a model, an agent): `by_name` checks such a field. `override` is the one way to change settings.
"""

import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar, dataclass_transform

import pydantic
from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic.dataclasses import dataclass

from tying.errors import InputError, unknown

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
            raise InputError(_lines(error, list(fields_of(made)))) from error

    made.__init__ = init
    return made  # type: ignore[no-any-return]


def build(cls: type[T], values: Mapping[str, Any], where: str = "") -> T:
    """Make a configuration from plain values, as read from JSON, flags or keywords.

    Args:
        cls: A configuration class.
        values: Field names to values; sections as mappings or instances.
        where: A prefix of the fields' names in error lines ("agent.").

    Raises:
        InputError: With one line per mistake: the field, the value, what is allowed, the nearest right name.
    """
    try:
        made: T = _adapter(cls).validate_python(dict(values))
        return made
    except ValidationError as error:
        raise InputError(_lines(error, list(fields_of(cls)), where)) from error


def to_dict(value: Any) -> dict[str, Any]:
    """Return a configuration as JSON-ready plain values."""
    plain: dict[str, Any] = _adapter(type(value)).dump_python(value, mode="json")
    return plain


def override(base: T, *changes: Mapping[str, Any]) -> T:
    """Return a configuration with some settings changed; later changes win.

    A section whose `name` changes begins with its own defaults, since another model's sizes say nothing of it.

    Args:
        base: Where to begin.
        changes: Settings by section (`{"reward": {"param_weight": 0.3}}`) or dotted name
            (`{"reward.param_weight": 0.3}`).

    Raises:
        InputError: With one line for every wrong name or value.
    """
    values = to_dict(base)
    for change in changes:
        for section, new in nested(change).items():
            old = values.get(section)
            if isinstance(old, Mapping) and isinstance(new, Mapping):
                renamed = new.get("name", old.get("name")) != old.get("name")
                values[section] = {**({} if renamed else old), **new}
            else:
                values[section] = new
    return build(type(base), values)


def nested(changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings by section: `{"reward.name": "fork"}` as `{"reward": {"name": "fork"}}`; later names win."""
    found: dict[str, Any] = {}
    for name, value in changes.items():
        section, dot, field = name.partition(".")
        new = {field: value} if dot else to_dict(value) if hasattr(value, "__pydantic_fields__") else value
        if isinstance(new, Mapping) and isinstance(found.get(section), Mapping):
            new = {**found[section], **new}
        found[section] = new
    return found


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return dotted names to values: the inverse of `nested`."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        found |= flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {prefix + name: value}
    return found


def fields_of(cls: Any, prefix: str = "") -> dict[str, Any]:
    """Return all dotted field names of a configuration class, to pydantic's field information.

    Args:
        cls: The class, or an instance: then sections are of the classes that they have in it.
        prefix: Put before the names.
    """
    found: dict[str, Any] = {}
    for name, field in getattr(cls, "__pydantic_fields__", {}).items():
        inner = field.annotation if isinstance(cls, type) else getattr(cls, name)
        found |= fields_of(inner, f"{prefix}{name}.") or {prefix + name: field}
    return found


def by_name(section: str, base: type[T], find: Callable[[str], type[T]]) -> BeforeValidator:
    """Return the check of a section whose class depends on its `name`.

    The field's type is `Annotated[SerializeAsAny[Base], by_name(...)]`.

    Args:
        section: The section's own name, for error lines.
        base: What all its classes derive from; its `name` has a default.
        find: Returns the configuration class of a name, or raises InputError.
    """

    def choose(values: Any) -> Any:
        if not isinstance(values, Mapping):
            return values
        name = values.get("name", base().name)  # type: ignore[attr-defined]
        if not isinstance(name, str):
            raise InputError(f"{section}.name = {name!r}: expected a text")
        return build(find(name), values, f"{section}.")

    return BeforeValidator(choose)


def one_of(names: Callable[[], Iterable[str]], foreign: Callable[[str], bool] = lambda name: False) -> AfterValidator:
    """Return the check of a field that names an entry of a registry; asked late, when the registry is full.

    Args:
        names: Returns the right names.
        foreign: Says whether another name is accepted, such as "package.module:function".
    """

    def check(value: str) -> str:
        allowed = list(names())
        if value not in allowed and not foreign(value):
            raise ValueError(unknown("name", value, allowed).removeprefix("unknown name: "))
        return value

    return AfterValidator(check)


@functools.cache
def _cached_adapter(cls: Any) -> pydantic.TypeAdapter[Any]:
    return pydantic.TypeAdapter(cls)


def _adapter(cls: Any) -> pydantic.TypeAdapter[Any]:
    return _cached_adapter(cls)


def _lines(error: ValidationError, known: list[str], where: str = "") -> list[str]:
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
