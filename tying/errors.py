"""The two ways in which a run can fail through no fault of the code."""

from collections.abc import Iterable


class InputError(ValueError):
    """Bad input from a person: settings, files, names. Scripts print its lines and exit with status 2.

    Args:
        lines: One complaint, or several that belong together; each says what, where and what is allowed.
    """

    def __init__(self, lines: str | Iterable[str]) -> None:
        self.lines = (lines,) if isinstance(lines, str) else tuple(lines)
        super().__init__("\n".join(self.lines))


class DivergenceError(RuntimeError):
    """A loss or gradient is not finite; an iteration that met one has changed no parameter."""
