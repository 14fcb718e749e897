"""How every script ends: 0 done, 1 stopped by a failure, 2 bad input, 130 and 143 interrupted. One line each."""

import signal
import sys
from collections.abc import Callable, Sequence
from types import FrameType

from tying.errors import DivergenceError, InputError


class Terminated(BaseException):
    """SIGTERM arrived."""


def run(main: Callable[[Sequence[str]], None]) -> None:
    """Run a script's main function on the command line's arguments and leave with its status."""
    signal.signal(signal.SIGTERM, _terminate)
    sys.exit(status(main, sys.argv[1:]))


def status(main: Callable[[Sequence[str]], None], arguments: Sequence[str]) -> int:
    """Return the exit status of a main function; complaints go to standard error."""
    try:
        main(arguments)
    except InputError as error:
        return _complain(2, *error.lines)
    except DivergenceError as error:
        return _complain(1, str(error))
    except OSError as error:
        return _complain(1, f"stopped: {error}")
    except KeyboardInterrupt:
        return _complain(130, "interrupted")
    except Terminated:
        return _complain(143, "terminated")
    return 0


def _complain(code: int, *lines: str) -> int:
    for line in lines:
        print(f"error: {line}" if code in (1, 2) else line, file=sys.stderr)
    return code


def _terminate(number: int, frame: FrameType | None) -> None:
    raise Terminated
