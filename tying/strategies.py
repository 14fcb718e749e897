"""Fixed tying patterns of the literature, by name and arguments: `make("sequence:3", num_layers=6)`.

A strategy is a function from the number of layers N (and whole-number arguments) to labels: layers with equal labels
share. To add one, write the function under `@strategy`. A *schedule* changes the pattern at a share of the run; to add
one, write a function under `@schedule`. Another person's strategy is named "package.module:function", with its arguments
behind another colon.
"""

import inspect
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from tying import registry
from tying.errors import InputError, unknown
from tying.pointers import FORMS, Pointers, begins_pointers

_Labels = Sequence[Hashable]
_MOST_RUNS = 20
_STRATEGIES: dict[str, Callable[..., _Labels]] = {}


def strategy(function: Callable[..., _Labels]) -> Callable[..., _Labels]:
    """Register a function under its name: (num_layers, *whole numbers) to one label per layer."""
    _STRATEGIES[function.__name__] = function
    return function


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise InputError(message)


@strategy
def independent(num_layers: int) -> _Labels:
    """ABCDEF: conventional training."""
    return range(num_layers)


@strategy
def all_tied(num_layers: int) -> _Labels:
    """AAAAAA: ALBERT (1909.11942), Universal Transformer (1807.03819), Recurrent Stacking (1807.05353)."""
    return [0] * num_layers


@strategy
def sequence(num_layers: int, unique: int) -> _Labels:
    """AABBCC: floor(i * M / N), exactly M unique layers for every M <= N. Takase & Kiyono (2104.06022)."""
    _require(1 <= unique <= num_layers, f"sequence:{unique} needs 1 to {num_layers} unique layers")
    return [layer * unique // num_layers for layer in range(num_layers)]


@strategy
def cycle(num_layers: int, unique: int) -> _Labels:
    """ABCABC: i mod M. Takase & Kiyono (2104.06022)."""
    _require(1 <= unique <= num_layers, f"cycle:{unique} needs 1 to {num_layers} unique layers")
    return [layer % unique for layer in range(num_layers)]


@strategy
def sandwich(num_layers: int) -> _Labels:
    """ABBBBC: first and last own their weights, the middle shares one set. Subformer (2101.00234)."""
    return [min(layer, 1) if layer < num_layers - 1 else layer for layer in range(num_layers)]


@strategy
def private_first(num_layers: int) -> _Labels:
    """ABBBBB: the first layer owns its weights, the others share one set. The best place to start: docs/results.md."""
    return [min(layer, 1) for layer in range(num_layers)]


@strategy
def cycle_rev(num_layers: int, unique: int) -> _Labels:
    """ABCCBA: cycle with its last pass reversed, and cut short where N < 2M (ABCDDC). The code of 2104.06022."""
    _require(1 <= unique <= num_layers, f"cycle_rev:{unique} needs 1 to {num_layers} unique layers")
    last_pass = max(unique, num_layers - unique)
    return [layer % unique if layer < last_pass else unique - 1 - (layer - last_pass) for layer in range(num_layers)]


@strategy
def middle_cycle(num_layers: int, unique: int) -> _Labels:
    """ABCBCD: first and last own their weights, the middle cycles M - 2. Mixture-of-Recursions (2507.10524)."""
    _require(3 <= unique <= num_layers, f"middle_cycle:{unique} needs 3 to {num_layers} unique layers")
    middle = [1 + layer % (unique - 2) for layer in range(num_layers - 2)]
    return [0, *middle, unique - 1]


@strategy
def immediate_repeat(num_layers: int, run: int = 2) -> _Labels:
    """AABBCC: every set of weights is used `run` times in a row. MobileLLM-LS (2402.14905)."""
    _require(1 <= run <= num_layers, f"immediate_repeat:{run} needs runs of 1 to {num_layers} layers")
    return [layer // run for layer in range(num_layers)]


@strategy
def front_loaded(num_layers: int, *runs: int) -> _Labels:
    """AAAABBCD for 4,2,1,1: runs of given lengths, the longest first. Intra-Layer Recurrence (2505.01855)."""
    text = ",".join(map(str, runs))
    _require(
        bool(runs) and min(runs) >= 1 and sum(runs) == num_layers and list(runs) == sorted(runs, reverse=True),
        f"front_loaded:{text} needs runs that never grow and add up to {num_layers} layers, as in 4,2,1,1 for 8",
    )
    return [label for label, run in enumerate(runs) for _ in range(run)]


@dataclass(frozen=True)
class Schedule:
    """Patterns over a run: `stages` is ((start share of the run, pointers), ...), the first starting at 0."""

    stages: tuple[tuple[float, Pointers], ...]

    def at(self, share: float) -> Pointers:
        """Return the pattern in force once `share` (0 to 1) of the run's iterations are done."""
        return [pointers for start, pointers in self.stages if start <= share][-1]


def of_size(num_layers: int, num_unique: int) -> dict[str, Pointers]:
    """Return the fixed strategies with that many unique layers: text to pattern, each pattern once.

    Strategies of runs, such as `front_loaded`, are among them where at most `_MOST_RUNS` lists of runs fit.
    """
    found: dict[Pointers, str] = {}
    for text in (text for name in _STRATEGIES for text in _texts(name, num_layers, num_unique)):
        try:
            pattern = make(text, num_layers)
        except InputError:  # no such strategy for these numbers
            continue
        if pattern.num_unique == num_unique:
            found.setdefault(pattern, text)
    return {text: pattern for pattern, text in found.items()}


def _texts(name: str, num_layers: int, num_unique: int) -> list[str]:
    """Return a strategy's texts with every argument that may fit, by its parameters behind the number of layers."""
    parameters = list(inspect.signature(_STRATEGIES[name]).parameters.values())[1:]
    if not parameters:
        return [name]
    if parameters[0].kind is not inspect.Parameter.VAR_POSITIONAL:
        return [f"{name}:{number}" for number in range(1, num_layers + 1)]
    runs = list(islice(_partitions(num_layers, num_unique, num_layers), _MOST_RUNS + 1))
    # Deep models have thousands of lists; a few of them would be an arbitrary choice.
    return [f"{name}:{','.join(map(str, run))}" for run in runs] if len(runs) <= _MOST_RUNS else []


def _partitions(total: int, parts: int, largest: int) -> Iterator[tuple[int, ...]]:
    """Yield the ways to write a total as that many whole numbers that never grow."""
    if parts == 0:
        if total == 0:
            yield ()
        return
    for first in range(min(total, largest), 0, -1):
        for rest in _partitions(total - first, parts - 1, first):
            yield (first, *rest)


# A schedule of two stages: from the text behind its P to the pattern before P per cent of the run, and the pattern after.
_SCHEDULES: dict[str, Callable[..., tuple[str, str]]] = {}


def schedule(function: Callable[..., tuple[str, str]]) -> Callable[..., tuple[str, str]]:
    """Register a function under its name: (pattern, if any) to the patterns before and after P per cent of the run."""
    _SCHEDULES[function.__name__] = function
    return function


@schedule
def share_then_unshare() -> tuple[str, str]:
    """share_then_unshare:P is all tied, then independent. 2110.03848 with a fixed time of untying."""
    return "all_tied", "independent"


@schedule
def tie_after(pattern: str) -> tuple[str, str]:
    """tie_after:P:PATTERN is independent, then PATTERN. The layers learn a start of their own before they share."""
    return "independent", pattern


@schedule
def untie_after(pattern: str) -> tuple[str, str]:
    """untie_after:P:PATTERN is PATTERN, then independent. share_then_unshare from any pattern."""
    return pattern, "independent"


def names(without_arguments: bool = False) -> tuple[str, ...]:
    """Return the names that `make` knows, or those of them that are patterns without an argument."""
    return tuple(name for name in _STRATEGIES if not (without_arguments and _required(name)))


def _required(name: str) -> bool:
    """Return whether a strategy needs arguments behind its name."""
    parameters = list(inspect.signature(_STRATEGIES[name]).parameters.values())[1:]
    return any(parameter.default is parameter.empty for parameter in parameters)


def make(text: str, num_layers: int) -> Pointers:
    """Return the pattern that a text names for this many layers.

    Args:
        text: A strategy with its arguments ("independent", "sequence:3", "front_loaded:4,2,1,1") or the pointers
            themselves, in any form that `Pointers.parse` reads ("0 1 1 3", "1-2-2-3").
        num_layers: Number of layers N.

    Raises:
        InputError: For an unknown name (with the nearest one), arguments that do not fit, or pointers of another length.
    """
    if not isinstance(text, str):
        raise InputError(f"pattern {text!r}: expected a text: a strategy as in 'sequence:3', {FORMS}")
    name, _, arguments = text.strip().partition(":")
    if begins_pointers(name):
        pointers = Pointers.parse(text)
        _require(
            len(pointers) == num_layers, f"pointers {text!r} are for {len(pointers)} layers, the model has {num_layers}"
        )
        return pointers
    if name in _SCHEDULES:
        raise InputError(f"{name} is a schedule, and one pattern is needed here: {', '.join(_STRATEGIES)}, or pointers")
    function, arguments = _find(text, name, arguments)
    try:
        labels = function(num_layers, *[int(word) for word in arguments.split(",")] if arguments else [])
        pointers = Pointers.from_labels(labels)
    except (TypeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        form = (function.__doc__ or "").partition(".")[0]
        raise InputError(f"strategy {text!r}: wrong arguments (whole numbers behind a colon); {name} is {form}") from error
    _require(len(pointers) == num_layers, f"strategy {text!r}: {len(pointers)} labels for {num_layers} layers")
    return pointers


def _find(text: str, name: str, arguments: str) -> tuple[Callable[..., _Labels], str]:
    """Return the function of a strategy and its arguments; a name with a dot is another person's."""
    if name in _STRATEGIES:
        return _STRATEGIES[name], arguments
    attribute, _, rest = arguments.partition(":")
    if registry.is_foreign(f"{name}:{attribute}"):
        function: Callable[..., _Labels] = registry.load("strategy", text, f"{name}:{attribute}")
        return function, rest
    allowed = [*_STRATEGIES, *_SCHEDULES]
    raise InputError(unknown(f"strategy {name!r}", name, allowed, f"{FORMS}, or package.module:function"))


def schedule_names() -> tuple[str, ...]:
    """Return the names of the schedules."""
    return tuple(_SCHEDULES)


def make_schedule(text: str, num_layers: int) -> Schedule:
    """Return a schedule by name; any pattern that `make` knows is a schedule of one stage.

    Raises:
        InputError: For wrong arguments, or whatever `make` raises.
    """
    name, _, arguments = text.strip().partition(":")
    if name not in _SCHEDULES:
        return Schedule(((0.0, make(text, num_layers)),))
    percent, colon, rest = arguments.partition(":")
    if not percent.isdecimal() or not 0 < int(percent) < 100:
        raise InputError(f"strategy {text!r}: expected {name}:P with P from 1 to 99, per cent of the run")
    try:
        before, after = _SCHEDULES[name](*([rest] if colon else []))
    except TypeError as error:
        form = (_SCHEDULES[name].__doc__ or "").partition(".")[0]
        raise InputError(f"strategy {text!r}: wrong arguments; {form}") from error
    return Schedule(((0.0, make(before, num_layers)), (int(percent) / 100, make(after, num_layers))))
