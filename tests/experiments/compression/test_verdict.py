"""The report of experiments.compress in words: true of the figures that it is computed from."""

import io
import types
from typing import Any

import pytest
from torch import nn

from experiments.compression import report
from experiments.compression.pipeline import Asked, Candidate, Outcome, Size
from experiments.compression.settings import CompressFlags
from experiments.run.console import make_console
from tying.compression.sources import Sources
from tying.errors import InputError

DESTROYED = "Every pattern of this size loses most of the model"


RULES = ("similar_outputs", "front_loaded:6,2,1,1,1,1", "immediate_repeat:11")


def table(num_seeds: int) -> str:
    """Return the table of a model of twelve layers in a terminal of 80 columns."""
    healed = [0.1234] * num_seeds
    values = {"sources": [0, 0, 1, 3, 4, 5, 6, 7, 8, 9, 10, 11], "zero_shot": 0.2, "healed_seeds": healed}
    size = {**values, "num_sets": 11, "healed_short": healed, "healed": 0.1, "references": dict.fromkeys(RULES, values)}
    console = make_console(file=io.StringIO(), width=80)
    console.print(report._terminal(size))
    return console.file.getvalue()


@pytest.mark.parametrize("num_seeds", [1, 3])
def test_tables_of_80_columns_cut_nothing(num_seeds: int) -> None:
    lines = table(num_seeds).splitlines()
    assert max(map(len, lines)) <= 80
    first = lines[next(i for i, line in enumerate(lines) if "sources" in line)].index("sources")
    names = "".join(line[:first].strip() for line in lines if "─" not in line and "sets of" not in line)
    assert names == "chosen" + "".join(RULES)
    assert "".join(lines).count("0.1234") == 1 + len(RULES)
    assert "".join(lines).count("[+0.0000, +0.0000]") == (len(RULES) if num_seeds > 1 else 0)


def compared(tying: tuple[float, ...], removal: tuple[float, ...]) -> str:
    """Return the sentence on the best tying and the best removal after short healing."""
    return report._tying_or_removal(
        Candidate("best tying", Sources.parse("0 0 0"), 1.0, tying, tying),
        Candidate("best removal", Sources.parse("- - 2"), 1.0, removal, removal),
        "parameters",
    )


def test_removal_and_tying_are_compared_in_words_that_fit_the_figures() -> None:
    end = "against 0.1000 for the best tying, and it runs 1 layer instead of 3."
    begin = "At equal parameters and equal short healing, removal"
    assert compared((0.1,), (0.1076,)) == f"{begin} ends higher (0.0076): 0.1076 {end}"
    assert compared((0.1,), (0.09,)) == f"{begin} ends lower (0.0100): 0.0900 {end}"
    assert compared((0.1,), (0.1,)) == f"{begin} ends level (0.0000): 0.1000 {end}"
    assert compared((0.1, 0.1, 0.1), (0.2, 0.2, 0.2)) == f"{begin} is worse (+0.1000 [+0.1000, +0.1000]): 0.2000 {end}"
    assert f"{begin} is no different (" in compared((0.1, 0.1, 0.1), (0.05, 0.1, 0.15))


def test_a_model_of_one_layer_is_refused() -> None:
    with pytest.raises(InputError, match=r"^the model has 1 layer: there is nothing to tie or to remove$"):
        CompressFlags(model="m").sizes(1)


def verdict(asked: Asked, at_once: float, original: float, uninformed_loss: float = 5.0) -> str:
    """Return the verdict on a pattern with a test loss, of an original with a test loss."""
    subject: Any = types.SimpleNamespace(
        model=nn.Linear(4, 4),
        num_layers=3,
        objective=types.SimpleNamespace(uninformed_loss=uninformed_loss),
        compression=types.SimpleNamespace(config=types.SimpleNamespace(binding=types.SimpleNamespace(delta_rank=0))),
    )
    size = Size(2, Candidate("chosen", Sources.parse("0 0 2"), at_once, (at_once,), (at_once,)), at_once, [], asked, 10)
    return report._verdict(size, Outcome([size], original, subject, 15, 3, 1.0, 1))


def test_a_test_split_that_is_harder_is_no_loss_of_the_model() -> None:
    assert DESTROYED not in verdict(Asked(original=3.0, best=3.01, median=3.05), at_once=4.01, original=4.0)


def test_patterns_that_all_lose_equally_little_are_not_destroyed() -> None:
    assert DESTROYED not in verdict(Asked(original=1.0, best=1.1, median=1.1), at_once=1.1, original=1.0)


def test_patterns_that_are_told_apart_are_not_said_to_be_alike() -> None:
    assert DESTROYED not in verdict(Asked(original=1.0, best=3.5, median=5.0), at_once=3.5, original=1.0)


@pytest.mark.parametrize("worst", [4.9, 50.0])
def test_a_model_that_is_lost_in_every_pattern_is_said_to_be(worst: float) -> None:
    """Also where the test split is easier, and where tied models are worse than one that knows nothing."""
    asked = Asked(original=1.0, best=0.95 * worst, median=worst)
    assert DESTROYED in verdict(asked, at_once=2.0, original=0.5)
    assert DESTROYED in verdict(asked, at_once=60.0, original=1.0)


def test_few_seeds_are_said() -> None:
    words = verdict(Asked(original=1.0, best=1.1, median=1.1), at_once=1.1, original=1.0)
    assert words.endswith("With fewer than 3 seeds there is no interval: do not read small differences.")
