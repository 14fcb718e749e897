"""How every script reads its flags and how it ends.

Exit status: 0 done, 1 stopped by a failure, 2 bad input, 130 and 143 interrupted; one line for each complaint.
"""

import json
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from types import FrameType
from typing import TypeVar

from pydantic import ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict
from pydantic_settings.exceptions import SettingsError

from tying.config import complaints, known_fields
from tying.errors import DivergenceError, InputError

S = TypeVar("S", bound=BaseSettings)


class Failed(Exception):
    """Work that could not be done, one line for each piece; the script ends with status 1."""

    def __init__(self, lines: Sequence[str]) -> None:
        super().__init__("\n".join(lines))
        self.lines = tuple(lines)


class Terminated(BaseException):
    """SIGTERM arrived."""


def run(main: Callable[[Sequence[str]], None]) -> None:
    """Run a script's main function on the command line's arguments and leave with its status."""
    signal.signal(signal.SIGTERM, _terminate)
    threading.excepthook = _leave_to_main_thread
    sys.exit(status(main, sys.argv[1:]))


def status(main: Callable[[Sequence[str]], None], arguments: Sequence[str]) -> int:
    """Return the exit status of a main function; complaints go to standard error."""
    try:
        main(arguments)
    except InputError as error:
        return _complain(2, *error.lines)
    except Failed as error:
        return _complain(1, *error.lines)
    except DivergenceError as error:
        return _complain(1, str(error))
    except OSError as error:
        return _complain(1, f"stopped: {error}")
    except KeyboardInterrupt:
        return _complain(130, "interrupted")
    except Terminated:
        return _complain(143, "terminated")
    return 0


def script_config(name: str) -> SettingsConfigDict:
    """Return how a script's settings class is turned into flags."""
    return SettingsConfigDict(
        extra="forbid",
        cli_prog_name=f"python -m experiments.{name}",
        cli_kebab_case=True,
        cli_implicit_flags=True,
        cli_avoid_json=True,
        cli_hide_none_type=True,
        cli_exit_on_error=False,
    )


def read(cls: type[S], arguments: Sequence[str]) -> S:
    """Return a script's settings, read from the flags alone.

    Raises:
        InputError: With one line for every mistake.
    """
    try:
        return cls(_cli_parse_args=list(arguments))
    except ValidationError as error:
        raise InputError(complaints(error, known_fields(cls))) from error
    except SettingsError as error:
        raise InputError(str(error).removeprefix("error parsing CLI: ")) from error


def read_known(cls: type[S], arguments: Sequence[str]) -> tuple[S, list[str]]:
    """Return a script's settings, and the arguments that are not its own; its class has a field `unknown` for them.

    Raises:
        InputError: With one line for every mistake.
    """
    settings = read(cls, arguments)
    return settings, list(settings.unknown)  # type: ignore[attr-defined]


def gather(flag: str, arguments: Sequence[str]) -> list[str]:
    """Write the words behind a flag as one JSON list: `--agents A "B --x 1"` as `--agents ["A", "B --x 1"]`."""
    gathered: list[str] = []
    words: list[str] | None = None
    for argument in arguments:
        if argument == flag:
            words = words or []
        elif words is not None and not argument.startswith("-"):
            words.append(argument)
        else:
            gathered += [flag, json.dumps(words), argument] if words is not None else [argument]
            words = None
    return [*gathered, flag, json.dumps(words)] if words is not None else gathered


def _complain(code: int, *lines: str) -> int:
    for line in lines:
        print(f"error: {line}" if code in (1, 2) else line, file=sys.stderr)
    return code


def _leave_to_main_thread(args: threading.ExceptHookArgs) -> None:
    """Say nothing of a failed write in TensorBoard's thread: it is raised again in the main thread, and told there."""
    if not issubclass(args.exc_type, OSError):
        threading.__excepthook__(args)


def _terminate(number: int, frame: FrameType | None) -> None:
    raise Terminated
