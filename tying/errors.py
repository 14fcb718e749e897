"""The two ways in which a run can fail through no fault of the code, and how an unknown name is answered."""

from collections.abc import Iterable
from difflib import SequenceMatcher

# Names less alike than this are no hint: "mistyped" is then a guess.
_ALIKE = 0.6
_MOST_LISTED = 40


class InputError(ValueError):
    """Bad input from a person: settings, files, names. Scripts print its lines and exit with status 2.

    Args:
        lines: One line, or several that belong together; each says what, where and what is allowed.
    """

    def __init__(self, lines: str | Iterable[str]) -> None:
        self.lines = (lines,) if isinstance(lines, str) else tuple(lines)
        super().__init__("\n".join(self.lines))


class DivergenceError(RuntimeError):
    """A loss or gradient is not finite; an iteration that met one has changed no parameter."""


def nearest(given: str, allowed: Iterable[str]) -> str | None:
    """Return the allowed name most like a given one, or None when no name is alike enough.

    Dotted names are also compared by their last part, so that "learning_rat" finds "optim.learning_rate".
    """

    def likeness(name: str) -> float:
        pairs = [(given, name)] if "." in given else [(given, name), (given, name.rpartition(".")[2])]
        return max(SequenceMatcher(None, a.lower(), b.lower()).ratio() for a, b in pairs)

    best = max(allowed, key=likeness, default=None)
    return best if best is not None and likeness(best) >= _ALIKE else None


def unknown(kind: str, given: str, allowed: Iterable[str], otherwise: str = "") -> str:
    """Return the line for an unknown name: the nearest right one, or else all of them.

    Args:
        kind: What was named, with the name ("preset 'tny'").
        given: The name.
        allowed: The right names.
        otherwise: What else is allowed, behind the list ("or package.module:Class").
    """
    names = list(allowed)
    near = nearest(given, names)
    if near is not None:
        return f"unknown {kind}: did you mean {near!r}?"
    listed = ", ".join(names[:_MOST_LISTED]) + (", ..." if len(names) > _MOST_LISTED else "")
    return f"unknown {kind}: allowed are {listed}{f', {otherwise}' if otherwise else ''}"
