"""Clock: the wall seconds of all processes that worked on something."""

import time
from pathlib import Path

from tying import schema
from tying.files import write_json

_SHAPE = schema.shape(wall_s=float)
_PRECISION_S = 1.0  # lost by a kill, at most, besides the piece of work that is lost with it


class Clock:
    """Runs on from the seconds in a file, where there is one.

    Args:
        path: The file, as JSON {"wall_s": seconds}; None: of this process alone.

    Raises:
        InputError: If the file is damaged.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        before = 0.0
        if path is not None and path.is_file():
            before = schema.read(path, _SHAPE, "remove it to begin at 0")["wall_s"]
        self._zero = time.monotonic() - before
        self._written = before

    @property
    def seconds(self) -> float:
        """Wall seconds so far."""
        return time.monotonic() - self._zero

    def tick(self) -> None:
        """Write the file, unless that was done a moment ago; called after every piece of work."""
        if self.seconds - self._written >= _PRECISION_S:
            self.write()

    def write(self) -> None:
        """Write the file."""
        self._written = self.seconds
        if self._path is not None:
            write_json(self._path, {"wall_s": self._written})
