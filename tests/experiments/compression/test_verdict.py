"""The report of experiments.compress in words: true of the figures that it is computed from."""

import types
from typing import Any

import pytest
from torch import nn

from experiments.compression import report
from experiments.compression.pipeline import Asked, Candidate, Outcome, Size
from tying.compression.sources import Sources

DESTROYED = "Every pattern of this size loses most of the model"


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
