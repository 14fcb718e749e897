"""A figure of a benchmark, and how candidates are timed side by side."""

import time
from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import NamedTuple, Self

from tying.models.config import GPTConfig


class Figure(NamedTuple):
    """A measurement.

    Attributes:
        name: What was measured.
        value: The median.
        form: How it is written.
        aim: In words.
        reached: Whether the aim is reached; None: there is none.
        spread: The lowest and the highest of the repeats, where there were some.
    """

    name: str
    value: float
    form: str
    aim: str = ""
    reached: bool | None = None
    spread: tuple[float, float] | None = None

    @classmethod
    def of(
        cls, name: str, values: Sequence[float], form: str, aim: str = "", limit: float | None = None, less: bool = False
    ) -> Self:
        """Return the median of repeats, with their range; the aim is reached above the limit, or below it (`less`)."""
        middle = median(values)
        reached = None if limit is None else middle < limit if less else middle >= limit
        return cls(name, middle, form, aim, reached, (min(values), max(values)))

    @property
    def text(self) -> str:
        """The value, and the range of the repeats."""
        shown = self.form.format(self.value)
        if self.spread is None:
            return shown
        low, high = (self.form.format(value) for value in self.spread)
        return f"{shown} [{low}, {high}]"

    @property
    def verdict(self) -> str:
        """The aim, and whether it is reached."""
        return self.aim if self.reached is None else f"{self.aim}  {'reached' if self.reached else 'MISSED'}"


def interleaved(
    runs: Mapping[str, Callable[[int], object]],
    repeats: int,
    iterations: int,
    clock: Callable[[], float] = time.process_time,
) -> dict[str, list[float]]:
    """Return seconds per repeat; in every repeat each candidate has its turn, so a drift is fair to all.

    Args:
        runs: Candidates by name: what does so many iterations.
        repeats: Turns of each, after one of 3 iterations that warms up.
        iterations: Of a turn.
        clock: Seconds so far; those of this process, unless the work is elsewhere.
    """
    for run in runs.values():
        run(3)
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            start = clock()
            run(iterations)
            seconds[name].append(clock() - start)
    return seconds


def ratios(seconds: Mapping[str, Sequence[float]], name: str, base: str) -> list[float]:
    """Return how many times as fast as another a candidate was, in every repeat."""
    return [b / a for a, b in zip(seconds[name], seconds[base], strict=True)]


def flops(model: GPTConfig, vocab_size: int) -> int:
    """Return the floating-point operations of matrix products and attention in an iteration, of one sequence."""
    per_token = model.num_layers * 12 * model.width**2 + model.width * vocab_size
    attention = model.num_layers * 2 * model.context * model.width
    return 6 * model.context * (per_token + attention)


def repeat(call: Callable[[], object], count: int) -> None:
    """Call something so many times, as a candidate of `interleaved` does."""
    for _ in range(count):
        call()
