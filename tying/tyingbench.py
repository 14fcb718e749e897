"""TyingBench: a table of every tying of a small Transformer, each trained from scratch at several seeds.

    bench = TyingBench.load()
    bench.query("0 1 1 1 1 1", budget=0.5, seed=0)["test_loss"]
    bench.regret("independent", param_weight=0.1)

A table is a CSV file with a line for every (pattern, seed, budget), compressed where its name ends in .gz, and a JSON file
of the same name with its settings. Patterns are over layers, or over halves of layers (`parts`, see tying.parts).
`python -m experiments.tyingbench build` makes one; the shipped ones are in `tying/tables`, with their data card.

P patterns, S seeds.
"""

import csv
import functools
import gzip
import math
import os
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
from pydantic import Field, PlainValidator

from tying.config import build, config
from tying.errors import InputError, unknown
from tying.files import read_json, replacing
from tying.parts import Parts
from tying.pointers import Pointers
from tying.training.record import perplexity

FORMAT = 1
DEFAULT = "shakespeare-6"
FOLDER = Path(__file__).parent / "tables"
# Shares of the run at which a pattern is evaluated.
BUDGETS = (0.25, 0.5, 1.0)
Split = Literal["reward", "test"]
_KEPT_REGRETS = 64
_Count = Annotated[int, Field(ge=0)]
_Amount = Annotated[float, Field(ge=0)]
_Pattern = Annotated[Pointers, PlainValidator(lambda v: v if isinstance(v, Pointers) else Pointers.parse(str(v)))]


@config
class Row:
    """One pattern, trained from scratch at one seed up to a budget.

    Attributes:
        pointers: The pattern.
        seed: Of initial weights and batches: equal seeds have equal ones, whatever the pattern.
        budget: Share of the run's iterations that are done, above 0 to 1.
        tokens: Training tokens seen.
        reward_loss: On the reward split's batches, nats per token.
        test_loss: On the whole test split, nats per token.
        seconds: Processor seconds of training up to here, on one thread.
        trainable_params: Of the whole model, each counted once.
        block_params: Of the blocks.
    """

    pointers: _Pattern
    seed: _Count
    budget: Annotated[float, Field(gt=0, le=1)]
    tokens: _Count
    reward_loss: _Amount
    test_loss: _Amount
    seconds: _Amount
    trainable_params: Annotated[int, Field(ge=1)]
    block_params: _Count  # 0 where all layers are removed

    def to_text(self) -> list[str]:
        """Return the cells of its line."""
        forms = {"budget": "g", "reward_loss": ".6f", "test_loss": ".6f", "seconds": ".3f"}
        values = {name: getattr(self, name) for name in COLUMNS}
        return [format(value, forms[name]) if name in forms else str(value) for name, value in values.items()]

    @classmethod
    def from_text(cls, cells: Sequence[str]) -> Self:
        """Read the cells of a line.

        Raises:
            ValueError: If they are not those of a row (an InputError where a value is wrong).
        """
        return build(cls, dict(zip(COLUMNS, cells, strict=True)))


COLUMNS = tuple(field.name for field in fields(Row))


def to_csv(rows: Iterable[Row]) -> str:
    """Return the lines of rows, without the line of columns."""
    return "".join(",".join(row.to_text()) + "\n" for row in rows)


def facts_of(path: Path) -> Path:
    """Return the JSON file of a table's CSV file: of "a.csv" and of "a.csv.gz" it is "a.json"."""
    return (path.with_suffix("") if path.suffix == ".gz" else path).with_suffix(".json")


def write_table(path: Path, rows: Iterable[Row]) -> None:
    """Write a table's lines in one step, compressed if the name ends in .gz; equal rows are equal bytes."""
    data = (",".join(COLUMNS) + "\n" + to_csv(rows)).encode()
    with replacing(path) as temporary:
        temporary.write_bytes(gzip.compress(data, mtime=0) if path.suffix == ".gz" else data)


def read_rows(path: Path) -> list[Row]:
    """Read a table's lines; a last line that was cut short by a kill is left out.

    Raises:
        InputError: If the file is missing, has other columns, or another line is damaged.
    """
    try:
        data = path.read_bytes()
        text = (gzip.decompress(data) if path.suffix == ".gz" else data).decode()
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise InputError(f"{path}: unreadable ({error})") from error
    header, *lines = text.split("\n")[:-1] or [""]  # the text behind the last newline was cut short
    columns = header.rstrip("\r").split(",")
    if tuple(columns) != COLUMNS:
        raise InputError(f"{path}: its columns are {', '.join(columns)}; a table has {', '.join(COLUMNS)}")
    rows = []
    for number, line in enumerate(lines, start=2):
        try:
            rows.append(Row.from_text(next(csv.reader([line]), [])))
        except (ValueError, csv.Error) as error:
            reason = str(error).replace("\n", "; ")
            raise InputError(f"{path}: line {number} is damaged ({reason})") from error
    return rows


def _read_facts(path: Path) -> dict[str, Any]:
    facts = read_json(path)
    found = facts.get("format") if isinstance(facts, dict) else None
    if found != FORMAT:
        raise InputError(f"{path}: written by format {found}, this version reads format {FORMAT}")
    loss, size = facts.get("uninformed_loss"), facts.get("vocab_size")
    if loss is None and (type(size) is not int or size < 2):
        raise InputError(f"{path}: vocab_size = {size!r}: expected a whole number of at least 2")
    if loss is not None and not (isinstance(loss, int | float) and 0 < loss < math.inf):
        raise InputError(f"{path}: uninformed_loss = {loss!r}: expected a number above 0")
    return dict(facts)


class TyingBench:
    """A complete table, and the answers to queries.

    Args:
        rows: One for every pattern, seed and budget.
        facts: The settings and the text that it was made from, as `build` writes them.

    Raises:
        InputError: If rows are missing or there twice.

    Attributes:
        facts: Corpus, settings, versions, hardware.
        parts: The layers that patterns are over, as the facts `parts` and `removing` have it.
        patterns: All of them, in lexicographic order.
        seeds: In rising order.
        budgets: Shares of the run, in rising order; the last is 1.
    """

    def __init__(self, rows: Sequence[Row], facts: dict[str, Any] | None = None) -> None:
        self._rows = {(row.pointers, row.seed, row.budget): row for row in rows}
        self.facts = facts or {}
        self.parts = _parts(rows, self.facts)
        _require_whole(rows, len(self._rows), self.parts.number)
        self.patterns = tuple(sorted({row.pointers for row in rows}))
        self.seeds = tuple(sorted({row.seed for row in rows}))
        self.budgets = tuple(sorted({row.budget for row in rows}))
        self._index = {pattern: number for number, pattern in enumerate(self.patterns)}
        self._losses = {(split, b): self.column(f"{split}_loss", b) for split in ("reward", "test") for b in self.budgets}
        self._regrets: dict[tuple[float, float], tuple[np.ndarray, float]] = {}

    def column(self, name: str, budget: float = 1.0) -> np.ndarray:
        """Return a field of `Row` for every pattern and seed, shape (P, S)."""
        self._require_budget(budget)
        values = np.array([[getattr(self._rows[p, s, budget], name) for s in self.seeds] for p in self.patterns])
        values.setflags(write=False)  # callers share it
        return values

    @classmethod
    def load(cls, table: str | Path = DEFAULT) -> Self:
        """Read a table: a shipped one by its name, or one of your own by the path of its CSV file.

        Raises:
            InputError: If there is none, or it is damaged.
        """
        if not isinstance(table, str | Path):
            raise InputError(f"table = {table!r}: expected a name or the path of a CSV file")
        path = _shipped().get(str(table), Path(table))
        if not os.path.isfile(path):  # unlike Path's own, False for names that no file can have
            raise InputError(unknown(f"table {str(table)!r}", str(table), names(), "or the path of a CSV file"))
        facts, rows = _read_facts(facts_of(path)), read_rows(path)
        try:
            return cls(rows, facts)
        except InputError as error:
            raise InputError([f"{path}: {line}" for line in error.lines]) from error

    @property
    def rows(self) -> list[Row]:
        """All rows, in the order that they were given in."""
        return list(self._rows.values())

    @property
    def num_layers(self) -> int:
        """Number of layers L."""
        return len(self.patterns[0])

    @functools.cached_property
    def independent_block_params(self) -> int:
        """Trainable block parameters of the untied model."""
        return max(row.block_params for row in self._rows.values())

    @functools.cached_property
    def param_shares(self) -> np.ndarray:
        """Trainable block parameters of every pattern as a share of the untied model's, shape (P,)."""
        shares: np.ndarray = self.column("block_params", self.budgets[-1])[:, 0] / self.independent_block_params
        shares.setflags(write=False)
        return shares

    @property
    def uninformed_loss(self) -> float:
        """Loss of a model that knows nothing: log(vocabulary) in nats per token, or what the table says."""
        known = self.facts.get("uninformed_loss")
        return math.log(self.facts["vocab_size"]) if known is None else float(known)

    def losses(self, split: Split = "test", budget: float = 1.0) -> np.ndarray:
        """Return the loss of every pattern at every seed in nats per token, shape (P, S)."""
        self._require_budget(budget)
        return self._losses[split, budget]

    def query(self, pointers: str | Iterable[int], budget: float = 1.0, seed: int | None = None) -> dict[str, Any]:
        """Return the result of training a pattern.

        Args:
            pointers: The pattern, as a value or a text ("0 1 1 3", "sandwich").
            budget: Share of the run, one of `budgets`.
            seed: One of `seeds`; None for the mean over them.

        Returns:
            reward_loss, test_loss (nats per token), test_ppl (its exponential), seconds (processor time of training),
            tokens, trainable_params, block_params and param_share (0 to 1).

        Raises:
            InputError: If the pattern, the budget or the seed is not in the table.
        """
        index = self.index(pointers)
        self._require_budget(budget)
        if seed is not None and seed not in self.seeds:
            raise InputError(f"seed {seed} is not in the table: allowed are {', '.join(map(str, self.seeds))}, or None")
        rows = [self._rows[self.patterns[index], s, budget] for s in (self.seeds if seed is None else [seed])]
        measured = ("reward_loss", "test_loss", "seconds")
        means = {name: float(np.mean([getattr(row, name) for row in rows])) for name in measured}
        return {
            **means,
            "test_ppl": perplexity(means["test_loss"]),
            **{name: getattr(rows[0], name) for name in ("tokens", "trainable_params", "block_params")},
            "param_share": float(self.param_shares[index]),
        }

    def objectives(self, param_weight: float = 0.0, budget: float = 1.0, split: Split = "test") -> np.ndarray:
        """Return the objective of every pattern, lower is better, in nats per token, shape (P,).

        It is the mean loss over the seeds plus `param_weight` x the share of block parameters, as in the rewards.
        """
        values: np.ndarray = self.losses(split, budget).mean(axis=1) + param_weight * self.param_shares
        return values

    def best(self, param_weight: float = 0.0, budget: float = 1.0) -> Pointers:
        """Return the pattern with the lowest objective."""
        return self.patterns[int(self.objectives(param_weight, budget).argmin())]

    def rank(self, pointers: str | Iterable[int], param_weight: float = 0.0, budget: float = 1.0) -> int:
        """Return a pattern's rank, 1 for the best to P for the worst."""
        values = self.objectives(param_weight, budget)
        return 1 + int((values < values[self.index(pointers)]).sum())

    def regret(self, pointers: str | Iterable[int], param_weight: float = 0.0, budget: float = 1.0) -> float:
        """Return how far a pattern's objective lies above the best, in nats per token (at least 0)."""
        return float(self.regrets(param_weight, budget)[0][self.index(pointers)])

    def regrets(self, param_weight: float = 0.0, budget: float = 1.0) -> tuple[np.ndarray, float]:
        """Return the regret of every pattern, shape (P,), and the worst one's; kept for the next call."""
        known = self._regrets.get((param_weight, budget))
        if known is None:
            if len(self._regrets) >= _KEPT_REGRETS:  # a steered weight is another one at every step
                self._regrets.clear()
            values = self.objectives(param_weight, budget)
            known = self._regrets[param_weight, budget] = values - values.min(), float(np.ptp(values))
            known[0].setflags(write=False)
        return known

    def normalised_regret(self, pointers: str | Iterable[int], param_weight: float = 0.0, budget: float = 1.0) -> float:
        """Return the regret as a share of the worst pattern's: 0 for the best, 1 for the worst; 0 where all are equal."""
        regrets, spread = self.regrets(param_weight, budget)
        return float(regrets[self.index(pointers)]) / spread if spread else 0.0

    def index(self, pointers: str | Iterable[int]) -> int:
        """Return a pattern's place in `patterns`.

        Raises:
            InputError: If it is not valid, or not of the table's layers.
        """
        pattern = self.parts.make(pointers) if isinstance(pointers, str) else pointers
        pattern = pattern if isinstance(pattern, Pointers) else Pointers(pattern)
        if pattern not in self._index:
            of_other_kinds = len(pattern) == self.num_layers
            found = "ties halves of different kinds" if of_other_kinds else f"has {len(pattern)} layers"
            raise InputError(f"pattern '{pattern}' {found}: the table is of {self.num_layers} layers")
        return self._index[pattern]

    def _require_budget(self, budget: float) -> None:
        if budget not in self.budgets:
            allowed = ", ".join(f"{known:g}" for known in self.budgets)
            raise InputError(f"budget {budget} is not in the table: allowed are {allowed}")


def _parts(rows: Sequence[Row], facts: dict[str, Any]) -> Parts:
    """Return the layers that rows are over, if they are all over the same."""
    if not rows:
        raise InputError("a table without rows")
    depths = sorted({len(row.pointers) for row in rows})
    if len(depths) > 1 or depths[0] < 2:
        raise InputError(f"a table has rows of one number of layers, at least 2; here are {', '.join(map(str, depths))}")
    one = Parts(1, str(facts.get("parts", "block")), bool(facts.get("removing")))
    parts = replace(one, num_layers=(depths[0] - one.removing) // len(one.shares))
    wrong = next((row.pointers for row in rows if parts.apart and not parts.holds(row.pointers)), None)
    if wrong is not None:
        raise InputError(f"a table of {parts.name} has the pattern '{wrong}', which ties halves of different kinds")
    return parts


def _require_whole(rows: Sequence[Row], num_different: int, num_patterns: int) -> None:
    """Check that there is one row for every pattern, seed and budget; too many patterns to enumerate are still counted."""
    seeds, budgets = {row.seed for row in rows}, {row.budget for row in rows}
    wanted = num_patterns * len(seeds) * len(budgets)
    if len(rows) != wanted or num_different != wanted:
        raise InputError(
            f"a table of {num_patterns} patterns, {len(seeds)} seeds and {len(budgets)} budgets has "
            f"{wanted} rows; here are {len(rows)}, {num_different} of them different"
        )
    if max(budgets) != 1:
        raise InputError(f"a table has rows of the whole run (budget 1); these end at budget {max(budgets):g}")
    if not any(row.block_params for row in rows):
        raise InputError("a table without block parameters: block_params = 0 in every row")


def _shipped() -> dict[str, Path]:
    return {path.name.partition(".")[0]: path for path in sorted(FOLDER.glob("*.csv*"))}


def names() -> tuple[str, ...]:
    """Return the names of the shipped tables."""
    return tuple(_shipped())
