"""TyingBench: a small table against brute force, damaged files, and the shipped tables themselves."""

import functools
import gzip
import math
import os
import random
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from envs.config import TrainingConfig
from tests.envs.tables import FACTS, loss_of, make_rows, write_table
from tying import Pointers, Trainer, strategies, tasks, tyingbench
from tying.config import build
from tying.errors import InputError
from tying.files import read_json
from tying.models.base import num_params
from tying.models.gpt import GPT
from tying.parts import Parts
from tying.tyingbench import BUDGETS, COLUMNS, DEFAULT, FOLDER, Row, Split, TyingBench, names, read_rows

ROWS = make_rows()
PATTERNS = list(Pointers.all(3))
weights = st.floats(0, 2)
budgets = st.sampled_from(BUDGETS)


@functools.cache
def small() -> TyingBench:
    """Return a table of 5 patterns, 3 seeds and 3 budgets."""
    return TyingBench(ROWS, FACTS)


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """The small table in files."""
    return write_table(tmp_path / "mine.csv", ROWS)


def refused(action: Callable[[], object]) -> str:
    """Return the one line with which something is refused."""
    with pytest.raises(InputError) as caught:
        action()
    (line,) = caught.value.lines
    assert "\n" not in line
    return line


def objective(pattern: Pointers, weight: float, budget: float, split: Split = "test") -> float:
    """Return a pattern's objective, from the rows themselves."""
    rows = [row for row in ROWS if row.pointers == pattern and row.budget == budget]
    losses = [row.test_loss if split == "test" else row.reward_loss for row in rows]
    return sum(losses) / len(losses) + weight * rows[0].block_params / 3000


# What is in a table.


def test_a_table_knows_what_is_in_it() -> None:
    bench = small()
    assert bench.patterns == tuple(PATTERNS)
    assert (bench.num_layers, bench.seeds, bench.budgets) == (3, (0, 1, 2), (0.25, 0.5, 1.0))
    assert bench.uninformed_loss == math.log(256)
    assert bench.facts == FACTS
    assert bench.param_shares.tolist() == [1 / 3, 2 / 3, 2 / 3, 2 / 3, 1]


def test_the_order_of_rows_does_not_matter() -> None:
    rows = [*ROWS]
    random.Random(0).shuffle(rows)
    mixed = TyingBench(rows, FACTS)
    assert (mixed.patterns, mixed.seeds, mixed.budgets) == (small().patterns, small().seeds, small().budgets)
    assert np.array_equal(mixed.losses("reward", 0.5), small().losses("reward", 0.5))


def test_losses_are_those_of_the_rows() -> None:
    for budget in BUDGETS:
        expected = [[loss_of(pattern, seed, budget) for seed in range(3)] for pattern in PATTERNS]
        assert small().losses("test", budget).tolist() == expected
    rewards = [[row.reward_loss for row in ROWS if (row.pointers, row.budget) == (p, 1.0)] for p in PATTERNS]
    assert small().losses("reward").tolist() == rewards


def test_a_table_survives_its_files(table: Path) -> None:
    loaded = TyingBench.load(table)
    assert read_rows(table) == ROWS
    assert loaded.facts == FACTS
    for budget in BUDGETS:
        assert np.array_equal(loaded.losses("test", budget), small().losses("test", budget))


def test_arrays_of_a_table_cannot_be_used_to_change_it() -> None:
    bench = TyingBench(ROWS, FACTS)
    for array in (bench.losses(), bench.param_shares):
        with suppress(ValueError):  # read-only arrays will do
            array[:] = 0
    assert np.array_equal(bench.losses(), small().losses())
    assert np.array_equal(bench.param_shares, small().param_shares)


@given(
    pointers=st.integers(0, 14).map(list(Pointers.all(4)).__getitem__),
    counts=st.tuples(*[st.integers(1, 10**12)] * 4),
    budget=st.integers(1, 1000).map(lambda thousandths: thousandths / 1000),
    losses=st.tuples(*[st.integers(0, 10**8).map(lambda millionths: millionths / 10**6)] * 2),
    seconds=st.integers(0, 10**9).map(lambda thousandths: thousandths / 1000),
)
def test_a_row_survives_its_line(
    pointers: Pointers, counts: tuple[int, int, int, int], budget: float, losses: tuple[float, float], seconds: float
) -> None:
    row = Row(**dict(zip(COLUMNS, (pointers, counts[0], budget, counts[1], *losses, seconds, *counts[2:]), strict=True)))
    cells = row.to_text()
    assert len(cells) == len(COLUMNS)
    assert Row.from_text(cells) == row
    assert Row.from_text(cells).to_text() == cells


def test_a_line_reads_as_a_person_expects() -> None:
    values = (Pointers((0, 1, 1)), 4, 0.25, 81_920, 2.6524912, 2.5, 2.8284, 119_104, 98_560)
    row = Row(**dict(zip(COLUMNS, values, strict=True)))
    assert ",".join(row.to_text()) == "0 1 1,4,0.25,81920,2.652491,2.500000,2.828,119104,98560"


# What is asked of it.


def test_a_query_is_the_row_of_its_seed() -> None:
    for row in ROWS:
        found = small().query(row.pointers, row.budget, row.seed)
        assert found == {
            "reward_loss": row.reward_loss,
            "test_loss": row.test_loss,
            "test_ppl": pytest.approx(math.exp(row.test_loss)),
            "seconds": row.seconds,
            "tokens": row.tokens,
            "trainable_params": row.trainable_params,
            "block_params": row.block_params,
            "param_share": row.pointers.num_unique / 3,
        }


def test_a_query_without_a_seed_is_the_mean_over_seeds() -> None:
    for pattern in PATTERNS:
        for budget in BUDGETS:
            rows = [row for row in ROWS if (row.pointers, row.budget) == (pattern, budget)]
            found = small().query(list(pattern), budget)
            for name in ("reward_loss", "test_loss", "seconds"):
                assert found[name] == pytest.approx(sum(getattr(row, name) for row in rows) / 3), name
            assert found["test_ppl"] == pytest.approx(math.exp(found["test_loss"]))
            assert found["tokens"] == rows[0].tokens


@given(weight=weights, budget=budgets)
def test_places_and_regrets_are_those_of_brute_force(weight: float, budget: float) -> None:
    bench = small()
    values = {pattern: objective(pattern, weight, budget) for pattern in PATTERNS}
    in_order = sorted(values, key=lambda pattern: values[pattern])
    assume(all(values[b] - values[a] > 1e-9 for a, b in pairwise(in_order)))  # equals have a test of their own
    low, high = values[in_order[0]], values[in_order[-1]]
    assert bench.objectives(weight, budget) == pytest.approx(list(values.values()))
    assert bench.objectives(weight, budget, "reward") == pytest.approx(
        [objective(p, weight, budget, "reward") for p in PATTERNS]
    )
    assert bench.best(weight, budget) == in_order[0]
    for place, pattern in enumerate(in_order, start=1):
        assert bench.rank(pattern, weight, budget) == place
        assert bench.regret(pattern, weight, budget) == pytest.approx(values[pattern] - low, abs=1e-12)
        share = (values[pattern] - low) / (high - low)
        assert bench.normalised_regret(pattern, weight, budget) == pytest.approx(share, abs=1e-9)


@given(weight=weights, budget=budgets)
def test_regret_is_nothing_for_the_best_and_one_for_the_worst(weight: float, budget: float) -> None:
    bench = small()
    best = bench.best(weight, budget)
    assert bench.rank(best, weight, budget) == 1
    assert bench.regret(best, weight, budget) == bench.normalised_regret(best, weight, budget) == 0
    worst = max(PATTERNS, key=lambda pattern: bench.regret(pattern, weight, budget))
    assert bench.normalised_regret(worst, weight, budget) == 1
    assert bench.rank(worst, weight, budget) > 1
    assert all(0 <= bench.normalised_regret(pattern, weight, budget) <= 1 for pattern in PATTERNS)


def test_a_weight_moves_the_best_towards_few_parameters() -> None:
    assert small().best(0.0).num_unique == 3
    assert small().best(10.0).num_unique == 1


def test_equals_have_one_place_and_the_next_counts_all_of_them() -> None:
    losses = dict(zip(PATTERNS, [2.5, 1.5, 2.0, 1.5, 3.0], strict=True))
    bench = TyingBench(make_rows(loss=lambda pattern, *_: losses[pattern]))
    assert [bench.rank(pattern) for pattern in PATTERNS] == [4, 1, 3, 1, 5]
    assert bench.regret(PATTERNS[1]) == bench.regret(PATTERNS[3]) == 0
    assert bench.best() == PATTERNS[1]


@pytest.mark.parametrize(
    ("ask", "line"),
    [
        (lambda bench: bench.query((0, 1)), "pattern '0 1' has 2 layers: the table is of 3 layers"),
        (lambda bench: bench.regret((0, 1, 2, 3)), "pattern '0 1 2 3' has 4 layers: the table is of 3 layers"),
        (
            lambda bench: bench.rank((0, 2, 2)),
            "pointers[1] = 2: a layer points at itself or an earlier one (0 to 1)",
        ),
        (
            lambda bench: bench.query((0, 1, 1), budget=0.3),
            "budget 0.3 is not in the table: allowed are 0.25, 0.5, 1",
        ),
        (lambda bench: bench.losses("test", 2), "budget 2 is not in the table: allowed are 0.25, 0.5, 1"),
        (lambda bench: bench.best(0.1, budget=0.3), "budget 0.3 is not in the table: allowed are 0.25, 0.5, 1"),
        (lambda bench: bench.query((0, 1, 1), seed=3), "seed 3 is not in the table: allowed are 0, 1, 2, or None"),
    ],
)
def test_what_is_not_in_the_table_is_refused(ask: Callable[[TyingBench], object], line: str) -> None:
    assert refused(lambda: ask(small())) == line


# Tables that are not whole.


@pytest.mark.parametrize(
    ("rows", "part"),
    [
        ([], "a table without rows"),
        (ROWS[:-1], "has 45 rows; here are 44, 44 of them different"),
        ([*ROWS, ROWS[7]], "has 45 rows; here are 46, 45 of them different"),
        ([*ROWS[:-1], ROWS[7]], "has 45 rows; here are 45, 44 of them different"),
        (ROWS[9:], "a table of 5 patterns, 3 seeds and 3 budgets has 45 rows; here are 36"),
        ([*ROWS[:-1], replace(ROWS[-1], pointers=Pointers((0, 1)))], ""),
        ([*ROWS[:-1], replace(ROWS[-1], pointers=Pointers((0, 1, 2, 3)))], ""),
        ([*ROWS[:-1], replace(ROWS[-1], seed=3)], "4 seeds"),
        ([replace(row, block_params=0) for row in ROWS], "a table without block parameters"),
    ],
    ids=[
        "empty",
        "missing",
        "doubled",
        "doubled for another",
        "a pattern",
        "fewer layers",
        "more layers",
        "another seed",
        "no parameters",
    ],
)
def test_a_table_that_is_not_whole_is_refused(rows: list[Row], part: str) -> None:
    assert part in refused(lambda: TyingBench(rows))


def test_a_table_file_that_is_not_whole_is_refused_by_its_name(tmp_path: Path) -> None:
    path = write_table(tmp_path / "mine.csv", ROWS[:-1])
    assert refused(lambda: TyingBench.load(path)).startswith(f"{path}: a table of 5 patterns, 3 seeds and 3 budgets has 45")


@pytest.mark.parametrize(
    "line",
    [
        "0 0 2,0,0.25,1000,2.9,two,3.0,2500,2000",
        "0 0 2,0,0.25,1000,2.9,2.8,3.0,2500",
        "0 0 2,0,0.25,1000,2.9,2.8,3.0,2500,2000,1",
        "0 2 2,0,0.25,1000,2.9,2.8,3.0,2500,2000",
        "0 0 2,0.5,0.25,1000,2.9,2.8,3.0,2500,2000",
        "0 0 2,0,0.25,1000,2.9,nan,3.0,2500,2000",
        "0 0 2,0,0.25,1000,inf,2.8,3.0,2500,2000",
        "0 0 2,0,0.25,10\r00,2.9,2.8,3.0,2500,2000",
        "\0\0\0\0",
        "",
    ],
    ids=["word", "too few", "too many", "pattern", "seed", "nan", "inf", "carriage return", "zeros", "empty"],
)
def test_a_damaged_line_is_named(table: Path, line: str) -> None:
    lines = table.read_text().split("\n")
    lines[4] = line
    table.write_bytes("\n".join(lines).encode())
    assert refused(lambda: TyingBench.load(table)).startswith(f"{table}: line 5 is damaged (")


def test_a_file_that_is_no_text_is_refused(table: Path) -> None:
    table.write_bytes(table.read_bytes()[:-10] + b"\xff\xfe\n")
    assert refused(lambda: TyingBench.load(table)).startswith(f"{table}: unreadable (")


@pytest.mark.parametrize("lost", [1, 10, len(",".join(ROWS[-1].to_text()))])
def test_a_last_line_that_was_cut_short_is_left_out(table: Path, lost: int) -> None:
    table.write_bytes(table.read_bytes()[:-lost])
    assert read_rows(table) == ROWS[:-1]
    assert "has 45 rows; here are 44" in refused(lambda: TyingBench.load(table))


@pytest.mark.parametrize(
    "columns", [COLUMNS[:-1], (*COLUMNS, "more"), COLUMNS[::-1], ROWS[0].to_text()], ids=["fewer", "more", "order", "none"]
)
def test_other_columns_are_refused(table: Path, columns: Sequence[str]) -> None:
    table.write_text("\n".join([",".join(columns), *table.read_text().split("\n")[1:]]))
    line = refused(lambda: TyingBench.load(table))
    assert line == f"{table}: its columns are {', '.join(columns)}; a table has {', '.join(COLUMNS)}"


def test_an_empty_file_is_refused(table: Path) -> None:
    table.write_text("")
    assert refused(lambda: TyingBench.load(table)).startswith(f"{table}: its columns are ")


@pytest.mark.parametrize("found", [0, 2, None])
def test_a_table_of_another_format_is_refused(tmp_path: Path, found: int | None) -> None:
    path = write_table(tmp_path / "mine.csv", ROWS, format=found)
    assert (
        refused(lambda: TyingBench.load(path))
        == f"{path.with_suffix('.json')}: written by format {found}, this version reads format 1"
    )


@pytest.mark.parametrize("facts", ["[]", "3", "null", '"text"', '{"format": 1}', '{"format": 1, "vocab_size": "256"}'])
def test_damaged_facts_of_a_table_are_refused(table: Path, facts: str) -> None:
    table.with_suffix(".json").write_text(facts)
    assert refused(lambda: TyingBench.load(table)).startswith(f"{table.with_suffix('.json')}: ")


def test_a_table_of_one_pattern_is_refused() -> None:
    assert refused(lambda: TyingBench(make_rows(num_layers=1), FACTS)) == (
        "a table has rows of one number of layers, at least 2; here are 1"
    )


def test_a_table_whose_patterns_are_all_equal_has_no_regret() -> None:
    bench = TyingBench(make_rows(loss=lambda *_: 2.0), FACTS)
    assert [bench.normalised_regret(pattern) for pattern in bench.patterns] == [0.0] * 5
    assert [bench.rank(pattern) for pattern in bench.patterns] == [1] * 5


@pytest.mark.parametrize("num_layers", [13, 25])
def test_a_table_of_too_many_layers_is_refused_at_once(num_layers: int) -> None:
    """Their patterns are counted, not enumerated: there are 27,644,437 of 13 layers."""
    row = replace(ROWS[0], pointers=Pointers.independent(num_layers))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Pointers, "all", lambda *_: pytest.fail("patterns were enumerated"))
        assert "patterns, 1 seeds and 1 budgets has" in refused(lambda: TyingBench([row]))
    assert Parts(13).number == 27_644_437


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("block_params", -1),
        ("test_loss", -1.0),
        ("reward_loss", -0.1),
        ("seconds", -3.0),
        ("budget", 2.0),
        ("budget", -1.0),
    ],
)
def test_figures_that_no_training_has_are_refused(table: Path, name: str, value: float) -> None:
    cells = dict(zip(COLUMNS, ROWS[3].to_text(), strict=True)) | {name: str(value)}
    lines = table.read_text().split("\n")
    lines[4] = ",".join(cells.values())
    table.write_text("\n".join(lines))
    assert refused(lambda: TyingBench.load(table)).startswith(f"{table}: line 5 is damaged ({name} = ")


@pytest.mark.parametrize("size", [None, 0, -3, 1, "x", 2.5, True])
def test_a_vocabulary_that_is_none_is_refused(tmp_path: Path, size: object) -> None:
    path = write_table(tmp_path / "mine.csv", ROWS, vocab_size=size)
    line = f"{path.with_suffix('.json')}: vocab_size = {size!r}: expected a whole number of at least 2"
    assert refused(lambda: TyingBench.load(path)) == line


def test_a_table_that_ends_early_is_refused() -> None:
    line = refused(lambda: TyingBench(make_rows(budgets=(0.25, 0.5))))
    assert line == "a table has rows of the whole run (budget 1); these end at budget 0.5"


@pytest.mark.parametrize("table", ["a" * 300, "\0", "", 5, None, ["x"]])
def test_names_that_no_table_can_have_are_refused(table: Any) -> None:
    assert "table" in refused(lambda: TyingBench.load(table))


def test_patterns_may_be_given_as_text() -> None:
    bench = small()
    for text in ("0 1 1", "011", "private_first"):
        assert bench.index(text) == PATTERNS.index(Pointers((0, 1, 1)))
        assert bench.query(text) == bench.query((0, 1, 1))
        assert bench.rank(text) == bench.rank((0, 1, 1)) and bench.regret(text, 0.1) == bench.regret((0, 1, 1), 0.1)
    assert "are for 2 layers, the model has 3" in refused(lambda: bench.index("0 1"))


def test_a_table_without_its_facts_is_refused(table: Path) -> None:
    facts = table.with_suffix(".json")
    facts.unlink()
    assert refused(lambda: TyingBench.load(table)) == f"{facts}: no such file"


# Tables by name.


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of shipped tables, with two of them."""
    folder = tmp_path / "shelf"
    write_table(folder / "shakespeare-3.csv", ROWS)
    write_table(folder / "poe-2.csv", make_rows(num_layers=2, num_seeds=1))
    monkeypatch.setattr(tyingbench, "FOLDER", folder)
    return folder


def test_shipped_tables_go_by_their_names(shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert names() == ("poe-2", "shakespeare-3")
    assert (TyingBench.load("poe-2").num_layers, TyingBench.load("shakespeare-3").num_layers) == (2, 3)
    monkeypatch.chdir(tmp_path)
    write_table(tmp_path / "own.csv", make_rows(num_layers=4, num_seeds=1))
    assert TyingBench.load("own.csv").num_layers == 4


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("shakspeare-3", "did you mean 'shakespeare-3'?"),
        ("zzz", "allowed are poe-2, shakespeare-3, or the path of a CSV file"),
    ],
)
def test_a_name_that_is_none_is_refused_with_the_nearest(shelf: Path, name: str, answer: str) -> None:
    assert refused(lambda: TyingBench.load(name)) == f"unknown table {name!r}: {answer}"


def test_a_folder_is_no_table(shelf: Path) -> None:
    assert refused(lambda: TyingBench.load(shelf)).startswith(f"unknown table {str(shelf)!r}: ")


# The shipped tables.

SHIPPED = names()


@functools.cache
def shipped(name: str) -> TyingBench:
    return TyingBench.load(name)


def config_of(name: str) -> TrainingConfig:
    """Return what a shipped table was made from."""
    return build(TrainingConfig, shipped(name).facts["config"])


def test_the_default_table_is_shipped() -> None:
    assert DEFAULT in SHIPPED


def test_the_default_table_is_all_tyings_of_six_layers_on_tinyshakespeare() -> None:
    bench = TyingBench.load()
    assert len(bench.patterns) == 203
    assert len(bench.seeds) >= 5
    assert bench.budgets == BUDGETS
    assert len(read_rows(FOLDER / f"{DEFAULT}.csv")) == 203 * len(bench.seeds) * 3
    assert bench.facts["text_sha256"] == "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"


# Tables of models trained from scratch; the others are of questions to a trained model.
TRAINED = [name for name in SHIPPED if "removing" not in read_json(FOLDER / f"{name}.json")]
ASKED = [name for name in SHIPPED if name not in TRAINED]


@pytest.mark.parametrize("name", TRAINED)
def test_shipped_parameters_are_those_of_a_real_model(name: str) -> None:
    """A model whose layers are tied by putting one block into several places counts each block once."""
    config, bench = config_of(name), shipped(name)
    assert (config.binding.share, config.binding.norms) == ("block", "shared")
    model = GPT(config.model, bench.facts["vocab_size"], seed=0)
    blocks = list(model.h)
    for pattern in bench.patterns:
        for layer, root in enumerate(pattern):
            model.h[layer] = blocks[root]
        found = bench.query(pattern)
        assert found["block_params"] == num_params(model.h)
        assert found["trainable_params"] == num_params(model)
        assert found["param_share"] == pytest.approx(pattern.num_unique / len(pattern))


@pytest.mark.parametrize("name", TRAINED)
def test_shipped_rows_are_of_one_run_each(name: str) -> None:
    config, rows = config_of(name), read_rows(FOLDER / f"{name}.csv")
    assert {row.pointers.num_layers for row in rows} == {config.model.num_layers}
    runs: dict[tuple[Pointers, int], list[Row]] = {}
    for row in rows:
        assert row.tokens == row.budget * config.trainer.iterations * config.trainer.batch_size * config.model.context
        assert 0 < row.test_loss < shipped(name).uninformed_loss and 0 < row.reward_loss < shipped(name).uninformed_loss
        runs.setdefault((row.pointers, row.seed), []).append(row)
    for run in runs.values():
        assert tuple(row.budget for row in run) == BUDGETS
        assert 0 < run[0].tokens < run[1].tokens < run[2].tokens
        assert 0 < run[0].seconds < run[1].seconds < run[2].seconds
        assert len({(row.trainable_params, row.block_params) for row in run}) == 1
    means = [shipped(name).losses("test", budget).mean() for budget in BUDGETS]
    assert means[0] > means[1] > means[2]
    assert rows == sorted(rows, key=lambda row: (row.pointers, row.seed, row.budget))


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_facts_say_how_it_was_made(name: str) -> None:
    facts, rows = shipped(name).facts, shipped(name).rows
    command = "questions" if name in ASKED else "build"
    assert facts["command"].startswith(f"python -m experiments.tyingbench {command} ")
    seconds = sum(row.seconds for row in rows if row.budget == 1)
    assert facts["seconds"] == pytest.approx(seconds, rel=0.1 if name in ASKED else 1e-6)  # with the loading of the model
    assert facts["made_by"]["packages"]["torch"]
    assert facts["made_by"]["processor"]


@pytest.mark.parametrize("name", ASKED)
def test_shipped_questions_are_of_one_model(name: str) -> None:
    """The untied model has the least damage, one without layers has no parameters, and sets of a kind count the same."""
    bench, parts = shipped(name), shipped(name).parts
    untied = Pointers.independent(bench.num_layers)
    assert bench.patterns == tuple(sorted(parts.every()))
    assert bench.losses().mean(axis=1).argmin() == bench.index(untied)
    if bench.uninformed_loss == 1:  # the distance to the original
        assert bench.losses()[bench.index(untied)] == pytest.approx(np.zeros(len(bench.seeds)), abs=1e-5)
    params = dict(zip(bench.patterns, bench.column("block_params")[:, 0].tolist(), strict=True))
    kinds = set(parts.kinds) - {None}
    # Of one set of every kind: by how much the model shrinks if its last layer of the kind joins the one before.
    last = {kind: max(layer for layer, own in enumerate(parts.kinds) if own == kind) for kind in kinds}
    size = {kind: params[untied] - params[untied.move(layer, layer - 1)] for kind, layer in last.items()}
    assert params[untied] == parts.num_layers * sum(size.values())
    for pattern in bench.patterns:
        assert params[pattern] == sum(size[kind] for kind in (parts.kinds[root] for root in pattern.roots) if kind in size)
    assert bench.param_shares == pytest.approx(np.array([params[pattern] for pattern in bench.patterns]) / params[untied])


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_files_hold_figures_and_no_text(name: str) -> None:
    (path,) = FOLDER.glob(f"{name}.csv*")
    _, *lines = (gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()).decode().splitlines()
    assert all(re.fullmatch(r"[0-9 ,.]+", line) for line in lines)
    assert (FOLDER / f"{name}.json").stat().st_size < 4_000


@pytest.mark.slow
@pytest.mark.skipif("TYING_SHAKESPEARE" not in os.environ, reason="needs the text: TYING_SHAKESPEARE=PATH")
@pytest.mark.parametrize(("strategy", "seed"), [("independent", 0), ("all_tied", 1), ("sandwich", 2), ("0 1 0 3 1 3", 3)])
def test_rows_can_be_made_again(strategy: str, seed: int) -> None:
    """Within four standard deviations of a seed's noise, since other processors and versions round otherwise."""
    bench, config = shipped(DEFAULT), config_of(DEFAULT)
    pattern = strategies.make(strategy, bench.num_layers)
    task = tasks.make(config.task, config.model, replace(config.data, path=os.environ["TYING_SHAKESPEARE"]))
    trainer = Trainer(task, config.trainer, config.optim, config.binding, seed)
    trainer.rebind(pattern)
    for budget in BUDGETS:
        trainer.train(round(budget * config.trainer.iterations) - trainer.iteration)
        there = bench.query(pattern, budget, seed)
        assert (trainer.tokens, trainer.binding.trainable_params) == (there["tokens"], there["block_params"])
        for split, num_batches in (("test", None), ("reward", config.reward.num_batches)):
            losses = bench.losses(split, budget)  # (P, S)
            residuals = losses - losses.mean(axis=1, keepdims=True) - losses.mean(axis=0) + losses.mean()
            noise = np.sqrt((residuals**2).sum() / ((losses.shape[0] - 1) * (losses.shape[1] - 1)))
            assert trainer.evaluate(split, num_batches) == pytest.approx(there[f"{split}_loss"], abs=4 * noise)
