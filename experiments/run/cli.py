"""The command line of every script: argparse flags made from the fields of configuration classes, and exit statuses.

argparse finds names and writes help. Values stay text until the configuration classes check them, so all mistakes of a
call are reported together, one line each. Exit status: 0 done, 1 stopped by a failure, 2 bad input, 130 and 143
interrupted.
"""

import argparse
import importlib
import shlex
import signal
import sys
import threading
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import Any, TypeVar

from pydantic import Field
from pydantic.fields import FieldInfo

from tying.config import build, fields_of
from tying.errors import DivergenceError, InputError, nearest, unknown

T = TypeVar("T")
Flags = Mapping[str, FieldInfo]  # "reward.param_weight" to its field; a script's own flags have no dot
_BOOLS = ("true", "false")


@dataclass
class Given:
    """What a call gives.

    Attributes:
        values: Field to text, list of texts or None.
        rest: Words that are no flags of the script, a flag and its value joined by "=".
        mistakes: One line each.
    """

    values: dict[str, Any] = field(default_factory=dict)
    rest: list[str] = field(default_factory=list)
    mistakes: list[str] = field(default_factory=list)

    def refuse_rest(
        self, flags: Flags, shorts: Mapping[str, str] | None = None, answers: Mapping[str, str] | None = None
    ) -> None:
        """Count the words that are no flags as mistakes; `answers` has lines of their own for flags of habit."""
        known = [name.replace("_", "-") for name in (*flags, *(shorts or {}))]
        behind_unknown = False  # values of an unknown flag are no mistakes of their own
        for word in self.rest:
            name = word[2:].partition("=")[0].replace("_", "-")
            if not word.startswith("--"):
                if not behind_unknown:
                    self.mistakes.append(f"unexpected argument {word!r}: settings are given as --flags; see --help")
                continue
            behind_unknown = True
            near = nearest(name, known)
            answer = (answers or {}).get(name) or (f"did you mean --{near}?" if near else "see --help")
            self.mistakes.append(f"unknown flag --{name}: {answer}")


def positional(description: str) -> Any:
    """Declare a field of a script's flags that is given without its name."""
    return Field(description=description, json_schema_extra={"positional": True})


def read(flags: Flags, words: Sequence[str], shorts: Mapping[str, str] | None = None) -> Given:
    """Read a call's words; nothing raises and no value is checked.

    Args:
        flags: Field names with `_`; on the command line `-` and `_` are alike.
        words: The call without the script's name.
        shorts: Other names of flags: "lr" to "optim.learning_rate".
    """
    parsed, rest = parser(flags).parse_known_args(_joined(words, flags, shorts or {}))
    given = Given(rest=rest)
    for name, value in vars(parsed).items():
        info = flags[name]
        if value is None or value == []:
            if not _is_positional(info):
                given.mistakes.append(f"--{name.replace('_', '-')}: a value is missing")
        elif isinstance(value, str) and value.lower() in ("none", "null") and type(None) in _types(info):
            given.values[name] = None
        else:
            given.values[name] = value
    return given


def read_own(cls: type[T], words: Sequence[str], program: str, keep_rest: bool = False) -> tuple[T, list[str]]:
    """Return a script's own flags as an instance of its configuration class, and the words that are none of them.

    Args:
        cls: Its docstring is the description in --help.
        words: The call without the script's name.
        program: The name of the script, as "experiments.sample".
        keep_rest: Whether other words are allowed: flags of `experiments.train`.

    Raises:
        InputError: With one line for every mistake.
        SystemExit: After --help.
    """
    flags = fields_of(cls)
    if {"-h", "--help"} & set(words):
        show_help(parser(flags, program, cls.__doc__ or ""))
    given = read(flags, words)
    if not keep_rest:
        given.refuse_rest(flags)
    missing = [name for name, info in flags.items() if info.is_required() and name not in given.values]
    given.mistakes += [f"{name.upper()} is missing: {flags[name].description}" for name in missing]
    values = {**given.values, **dict.fromkeys(missing, "-")}
    try:
        made = build(cls, values)
    except InputError as error:
        raise InputError([*given.mistakes, *error.lines]) from error
    if given.mistakes:
        raise InputError(given.mistakes)
    return made, given.rest


def parser(
    flags: Flags,
    program: str = "",
    description: str = "",
    defaults: Mapping[str, Any] | None = None,
    shorts: Mapping[str, str] | None = None,
    epilog: str = "",
) -> argparse.ArgumentParser:
    """Return the parser, one group of help for each section; `defaults` are shown in place of the fields' own."""
    others: dict[str, list[str]] = {}
    for short, name in (shorts or {}).items():
        others.setdefault(name, []).append(f"--{short.replace('_', '-')}")
    made = argparse.ArgumentParser(
        prog=f"python -m {program}",
        usage=f"%(prog)s {' '.join(n.upper() for n, f in flags.items() if _is_positional(f))} [--flags]".replace("  ", " "),
        description=description,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
        add_help=False,
    )
    groups: dict[str, Any] = {}
    for name, info in flags.items():
        section = name.rpartition(".")[0]
        if section not in groups:
            groups[section] = made.add_argument_group(section or "flags")
        group = groups[section]
        text = (info.description or "").replace("%", "%%")
        if _is_positional(info):
            group.add_argument(name, nargs="?", metavar=name.upper(), help=text)
            continue
        default = (defaults or {}).get(name, None if info.is_required() else info.get_default(call_default_factory=True))
        shown = "" if info.is_required() else f" (default {default})".replace("%", "%%")
        count = "*" if _is_list(info) else "?"  # "?": a missing value is reported with the other mistakes
        names = (f"--{name.replace('_', '-')}", *others.get(name, []))
        group.add_argument(*names, dest=name, nargs=count, metavar=_kind(info), help=text + shown)
    return made


def show_help(made: argparse.ArgumentParser) -> None:
    """Print the help and end."""
    print(made.format_help().rstrip())
    raise SystemExit(0)


def _joined(words: Sequence[str], flags: Flags, shorts: Mapping[str, str]) -> list[str]:
    """Write flags in full and join them to their values: `--lr -1e-3` as `--optim.learning-rate=-1e-3`."""
    names = {name.replace("_", "-"): name for name in flags}
    names |= {short.replace("_", "-"): name for short, name in shorts.items() if name in flags}
    out: list[str] = []
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if not word.startswith("--"):
            out.append(word)
            continue
        text, equals, value = word[2:].partition("=")
        dashed = text.replace("_", "-")
        name = names.get(dashed, dashed)
        positive = names.get(dashed.removeprefix("no-") if dashed.startswith("no-") else dashed.replace(".no-", ".", 1))
        if name not in flags and positive is not None and bool in _types(flags[positive]):
            name, equals, value = positive, "=", {"": "false", "false": "true", "true": "false"}.get(value, value)
        elif not equals and name in flags and bool in _types(flags[name]):
            equals, value = "=", rest.pop(0) if rest and rest[0].lower() in _BOOLS else "true"
        elif not equals and rest and not rest[0].startswith("--") and not (name in flags and _is_list(flags[name])):
            equals, value = "=", rest.pop(0)
        out.append(f"--{name.replace('_', '-') if name in flags else text}{equals}{value}")
    return out


def _types(info: FieldInfo) -> tuple[Any, ...]:
    union = typing.get_origin(info.annotation) in (types.UnionType, typing.Union)
    return typing.get_args(info.annotation) if union else (info.annotation,)


def _is_list(info: FieldInfo) -> bool:
    return any(typing.get_origin(kind) in (list, tuple) for kind in _types(info))


def _is_positional(info: FieldInfo) -> bool:
    extra = info.json_schema_extra
    return isinstance(extra, dict) and bool(extra.get("positional"))


def _kind(info: FieldInfo) -> str:
    """Return the name of a field's values in the help."""
    kind = _types(info)[0]
    if typing.get_origin(kind) is typing.Literal:
        return "|".join(str(choice) for choice in typing.get_args(kind))
    return "true|false" if kind is bool else getattr(kind, "__name__", "value").upper()


class Failed(Exception):
    """Work that failed, one line for each piece; the script ends with status 1."""

    status = 1

    def __init__(self, lines: Sequence[str]) -> None:
        super().__init__("\n".join(lines))
        self.lines = tuple(lines)


class Incomplete(Failed):
    """This call's part of the work is done, but not that of others; the script ends well."""

    status = 0


class Terminated(BaseException):
    """SIGTERM arrived."""


def run(main: Callable[[Sequence[str]], Any]) -> None:
    """Run a script's main function on the command line's words and leave with its status."""
    signal.signal(signal.SIGTERM, _terminate)
    threading.excepthook = _leave_to_main_thread
    sys.exit(status(main, sys.argv[1:]))


def dispatch(program: str, description: str, commands: Mapping[str, str], words: Sequence[str]) -> Any:
    """Run the `main` of the module that the first word names, on the words behind it.

    Raises:
        InputError: If the first word names no command.
    """
    name, *rest = words or [""]
    if name in ("-h", "--help"):
        print(f"{description.strip()}\n\ncommands: {', '.join(commands)}; each has its own --help")
        return None
    if name not in commands:
        raise InputError(unknown(f"command {name!r} of {program}", name, commands))
    return importlib.import_module(commands[name]).main(rest)


@contextmanager
def resumable(command: Sequence[str]) -> Iterator[None]:
    """Print the command that resumes the work of a block, where it ends otherwise than by what would end it again."""
    try:
        yield
    except (InputError, DivergenceError):
        raise
    except BaseException:
        print(f"to resume: {shlex.join(command)}", file=sys.stderr)
        raise


def status(main: Callable[[Sequence[str]], Any], words: Sequence[str]) -> int:
    """Return the exit status of a main function; error lines go to standard error."""
    try:
        main(words)
    except InputError as error:
        return _report(2, *error.lines)
    except Failed as error:
        return _report(error.status, *error.lines)
    except DivergenceError as error:
        return _report(1, str(error))
    except OSError as error:
        return _report(1, f"stopped: {error}")
    except (MemoryError, RuntimeError, ValueError) as error:
        if not _is_of_memory(error):
            raise
        return _report(1, f"stopped: out of memory ({_first_line(error)}); choose smaller sizes, or free some memory")
    except KeyboardInterrupt:
        return _report(130, "interrupted")
    except Terminated:
        return _report(143, "terminated")
    except SystemExit as error:
        return int(error.code or 0)
    return 0


# torch and numpy say in their own ways that there is no room, or that no machine could have it.
_OF_MEMORY = ("out of memory", "can't allocate memory", "Storage size calculation overflowed", "Maximum allowed dimension")


def _is_of_memory(error: Exception) -> bool:
    return isinstance(error, MemoryError) or any(text in str(error) for text in _OF_MEMORY)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0].partition("] ")[2] or (str(error).splitlines() or ["no more"])[0]


def _report(code: int, *lines: str) -> int:
    for line in lines:
        print(f"error: {line}" if code in (1, 2) else line, file=sys.stderr)
    return code


def _leave_to_main_thread(args: threading.ExceptHookArgs) -> None:
    """Say nothing of a failed write in TensorBoard's thread: it is raised again in the main thread, and reported there."""
    if not issubclass(args.exc_type, OSError):
        threading.__excepthook__(args)


def _terminate(number: int, frame: FrameType | None) -> None:
    raise Terminated
