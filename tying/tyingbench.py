"""TyingBench: a table of every tying of a small Transformer, each trained from scratch at several seeds.

    bench = TyingBench.load()
    bench.query(Pointers((0, 1, 1, 1, 1, 1)), budget=0.5, seed=0)["test_loss"]
    bench.regret(Pointers.independent(6), param_weight=0.1)

A table is a CSV file with a line for every (pattern, seed, budget), and a JSON file of the same name with what it was made
from. `python -m experiments.tyingbench build` makes one; the shipped ones are in `tying/tables`, with their data card.

P patterns, S seeds, B budgets.
"""

import csv
import functools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np

from tying.errors import InputError, unknown
from tying.files import read_json
from tying.pointers import Pointers
from tying.training.record import perplexity

FORMAT = 1
DEFAULT = "shakespeare-6"
FOLDER = Path(__file__).parent / "tables"
# Shares of the run at which a pattern is judged.
BUDGETS = (0.25, 0.5, 1.0)
Split = Literal["reward", "test"]


@dataclass(frozen=True)
class Row:
    """One pattern, trained from scratch at one seed up to a budget.

    Attributes:
        pointers: The pattern.
        seed: Of initial weights and batches: equal seeds have equal ones, whatever the pattern.
        budget: Share of the run's iterations that are done.
        tokens: Training tokens seen.
        reward_loss: On the reward split's batches, nats per token.
        test_loss: On the whole test split, nats per token.
        seconds: Processor seconds of training up to here, on one thread.
        trainable_params: Of the whole model, each counted once.
        block_params: Of the blocks.
    """

    pointers: Pointers
    seed: int
    budget: float
    tokens: int
    reward_loss: float
    test_loss: float
    seconds: float
    trainable_params: int
    block_params: int

    def to_text(self) -> list[str]:
        """Return the cells of its line."""
        return [
            str(self.pointers),
            str(self.seed),
            f"{self.budget:g}",
            str(self.tokens),
            f"{self.reward_loss:.6f}",
            f"{self.test_loss:.6f}",
            f"{self.seconds:.3f}",
            str(self.trainable_params),
            str(self.block_params),
        ]

    @classmethod
    def from_text(cls, cells: Sequence[str]) -> Self:
        """Read the cells of a line.

        Raises:
            ValueError: If they are not those of a row (an InputError where the pattern is wrong).
        """
        pointers, *numbers = cells
        types: tuple[Callable[[str], Any], ...] = (int, _finite, int, _finite, _finite, _finite, int, int)
        return cls(Pointers.parse(pointers), *(kind(n) for kind, n in zip(types, numbers, strict=True)))


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is no figure")
    return value


COLUMNS = tuple(field.name for field in fields(Row))


def read_rows(path: Path) -> list[Row]:
    """Read a table's lines; a last line that was cut short by a kill is left out.

    Raises:
        InputError: If the file is missing, has other columns, or another line is damaged.
    """
    try:
        text = path.read_bytes().decode()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: unreadable ({error})") from error
    whole = text.split("\n")[:-1]  # what is behind the last newline was cut short
    header, *lines = whole or [""]
    columns = header.rstrip("\r").split(",")
    if tuple(columns) != COLUMNS:
        raise InputError(f"{path}: its columns are {', '.join(columns)}; a table has {', '.join(COLUMNS)}")
    rows = []
    for number, line in enumerate(lines, start=2):
        try:
            rows.append(Row.from_text(next(csv.reader([line]), [])))
        except (ValueError, csv.Error) as error:
            raise InputError(f"{path}: line {number} is damaged ({error})") from error
    return rows


class TyingBench:
    """A complete table, and the answers to what people ask it.

    Args:
        rows: One for every pattern of L layers, seed and budget.
        facts: What it was made from, as `build` writes it down.

    Raises:
        InputError: If rows are missing or there twice.

    Attributes:
        facts: Corpus, settings, versions, hardware.
        patterns: All Pointers of L layers, in lexicographic order.
        seeds: In rising order.
        budgets: Shares of the run, in rising order; the last is 1.
    """

    def __init__(self, rows: Sequence[Row], facts: dict[str, Any] | None = None) -> None:
        if not rows:
            raise InputError("a table without rows")
        self.facts = facts or {}
        self.patterns = tuple(Pointers.all(len(rows[0].pointers)))
        self.seeds = tuple(sorted({row.seed for row in rows}))
        self.budgets = tuple(sorted({row.budget for row in rows}))
        self._rows = {(row.pointers, row.seed, row.budget): row for row in rows}
        wanted = len(self.patterns) * len(self.seeds) * len(self.budgets)
        odd = {row.pointers for row in rows}.difference(self.patterns)
        if odd:
            raise InputError(f"a table of {len(self.patterns[0])} layers with a row of {len(min(odd))}: '{min(odd)}'")
        if len(rows) != wanted or len(self._rows) != wanted:
            raise InputError(
                f"a table of {len(self.patterns)} patterns, {len(self.seeds)} seeds and {len(self.budgets)} budgets has "
                f"{wanted} rows; here are {len(rows)}, {len(self._rows)} of them different"
            )
        self._index = {pattern: number for number, pattern in enumerate(self.patterns)}

    @classmethod
    def load(cls, table: str | Path = DEFAULT) -> Self:
        """Read a table: a shipped one by its name, or one of your own by the path of its CSV file.

        Raises:
            InputError: If there is none, or it is damaged.
        """
        path = FOLDER / f"{table}.csv"
        if not path.is_file():
            path = Path(table)
        if not path.is_file():
            raise InputError(unknown(f"table {str(table)!r}", str(table), names(), "or the path of a CSV file"))
        facts = read_json(path.with_suffix(".json"))
        if facts.get("format") != FORMAT:
            raise InputError(f"{path}: written by format {facts.get('format')}, this version reads format {FORMAT}")
        try:
            return cls(read_rows(path), facts)
        except InputError as error:
            raise InputError([line if line.startswith(str(path)) else f"{path}: {line}" for line in error.lines]) from error

    @property
    def num_layers(self) -> int:
        """Number of layers L."""
        return len(self.patterns[0])

    @functools.cached_property
    def param_shares(self) -> np.ndarray:
        """Trainable block parameters of every pattern as a share of the untied model's, shape (P,)."""
        params = np.array([self._rows[pattern, self.seeds[0], self.budgets[-1]].block_params for pattern in self.patterns])
        shares: np.ndarray = params / params.max()
        shares.setflags(write=False)  # one array for all who ask
        return shares

    @property
    def uninformed_loss(self) -> float:
        """Loss of a model that knows nothing, log(vocabulary), in nats per token."""
        return math.log(self.facts["vocab_size"])

    def losses(self, split: Split = "test", budget: float = 1.0) -> np.ndarray:
        """Return the loss of every pattern at every seed in nats per token, shape (P, S)."""
        self._require_budget(budget)
        return self._losses(split, budget)

    @functools.cache  # noqa: B019 (a handful of entries, and tables live as long as the process)
    def _losses(self, split: Split, budget: float) -> np.ndarray:
        losses = np.array([[getattr(self._rows[p, s, budget], f"{split}_loss") for s in self.seeds] for p in self.patterns])
        losses.setflags(write=False)
        return losses

    def query(self, pointers: Iterable[int], budget: float = 1.0, seed: int | None = None) -> dict[str, Any]:
        """Return what training a pattern came to.

        Args:
            pointers: The pattern.
            budget: Share of the run, one of `budgets`.
            seed: One of `seeds`; None for the mean over them.

        Returns:
            reward_loss, test_loss (nats per token), test_ppl (its exponential), seconds (processor time of training),
            tokens, trainable_params, block_params and param_share (0 to 1).

        Raises:
            InputError: If the pattern, the budget or the seed is not in the table.
        """
        pattern = self.patterns[self.index(pointers)]
        self._require_budget(budget)
        if seed is not None and seed not in self.seeds:
            raise InputError(f"seed {seed} is not in the table: allowed are {', '.join(map(str, self.seeds))}, or None")
        rows = [self._rows[pattern, s, budget] for s in (self.seeds if seed is None else [seed])]
        measured = ("reward_loss", "test_loss", "seconds")
        means = {name: float(np.mean([getattr(row, name) for row in rows])) for name in measured}
        return {
            **means,
            "test_ppl": perplexity(means["test_loss"]),
            "tokens": rows[0].tokens,
            "trainable_params": rows[0].trainable_params,
            "block_params": rows[0].block_params,
            "param_share": float(self.param_shares[self._index[pattern]]),
        }

    def objectives(self, param_weight: float = 0.0, budget: float = 1.0, split: Split = "test") -> np.ndarray:
        """Return what is to be as low as possible for every pattern, in nats per token, shape (P,).

        It is the mean loss over the seeds plus `param_weight` x the share of block parameters: the environment's price.
        """
        values: np.ndarray = self.losses(split, budget).mean(axis=1) + param_weight * self.param_shares
        return values

    def best(self, param_weight: float = 0.0, budget: float = 1.0) -> Pointers:
        """Return the pattern with the lowest objective."""
        return self.patterns[int(self.objectives(param_weight, budget).argmin())]

    def rank(self, pointers: Iterable[int], param_weight: float = 0.0, budget: float = 1.0) -> int:
        """Return a pattern's place, 1 for the best to P for the worst."""
        values = self.objectives(param_weight, budget)
        return 1 + int((values < values[self.index(pointers)]).sum())

    def regret(self, pointers: Iterable[int], param_weight: float = 0.0, budget: float = 1.0) -> float:
        """Return how far a pattern's objective lies above the best, in nats per token (at least 0)."""
        values = self.objectives(param_weight, budget)
        return float(values[self.index(pointers)] - values.min())

    def normalised_regret(self, pointers: Iterable[int], param_weight: float = 0.0, budget: float = 1.0) -> float:
        """Return the regret as a share of the worst pattern's: 0 for the best, 1 for the worst."""
        values = self.objectives(param_weight, budget)
        return self.regret(pointers, param_weight, budget) / float(values.max() - values.min())

    def index(self, pointers: Iterable[int]) -> int:
        """Return a pattern's place in `patterns`.

        Raises:
            InputError: If it is not valid, or not of the table's number of layers.
        """
        pattern = Pointers(pointers)
        if pattern not in self._index:
            raise InputError(f"pattern '{pattern}' has {len(pattern)} layers: the table is of {self.num_layers} layers")
        return self._index[pattern]

    def _require_budget(self, budget: float) -> None:
        if budget not in self.budgets:
            allowed = ", ".join(f"{known:g}" for known in self.budgets)
            raise InputError(f"budget {budget} is not in the table: allowed are {allowed}")


def names() -> tuple[str, ...]:
    """Return the names of the shipped tables."""
    return tuple(sorted(path.stem for path in FOLDER.glob("*.csv")))
