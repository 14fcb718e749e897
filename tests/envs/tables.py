"""Small tables with known losses, for the tests of all that reads tables."""

import csv
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tying import Pointers
from tying.files import write_json, write_text
from tying.tyingbench import BUDGETS, COLUMNS, FORMAT, Row

Loss = Callable[[Pointers, int, float], float]
FACTS: dict[str, Any] = {"format": FORMAT, "vocab_size": 256}


def loss_of(pattern: Pointers, seed: int, budget: float) -> float:
    """Return a loss that falls with the budget, rises with every pair of tied layers, and scatters between seeds."""
    tied = sum((i + 1) * (j + 2) for j in range(len(pattern)) for i in range(j) if pattern[i] == pattern[j])
    place = sum((layer + 1) ** 2 * root for layer, root in enumerate(pattern))
    scatter = (7 * place + 5 * seed * seed + 3 * seed * place) % 13
    return round(3 - budget + 0.013 * tied + 0.003 * scatter * (1.5 - budget), 6)


def make_rows(
    num_layers: int = 3, num_seeds: int = 3, budgets: Sequence[float] = BUDGETS, loss: Loss = loss_of
) -> list[Row]:
    """Return a complete table; the reward loss is a tenth above the test loss and a little more, by pattern and seed."""
    return [
        Row(
            pointers=pattern,
            seed=seed,
            budget=budget,
            tokens=round(4000 * budget),
            reward_loss=round(loss(pattern, seed, budget) + 0.1 + 0.001 * ((3 * number + seed) % 5), 6),
            test_loss=round(loss(pattern, seed, budget), 6),
            seconds=round(10 * budget + 0.5 * seed + 0.125 * number, 3),
            trainable_params=500 + 1000 * pattern.num_unique,
            block_params=1000 * pattern.num_unique,
        )
        for number, pattern in enumerate(Pointers.all(num_layers))
        for seed in range(num_seeds)
        for budget in budgets
    ]


def write_table(path: Path, rows: Sequence[Row], **facts: Any) -> Path:
    """Write a table's two files and return the path of the first."""
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows([COLUMNS, *(row.to_text() for row in rows)])
    write_text(path, buffer.getvalue())
    write_json(path.with_suffix(".json"), {**FACTS, **facts})
    return path
