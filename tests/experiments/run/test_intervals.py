"""Intervals: Student's alone and from three values on, the Pareto front, and how figures are written."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from experiments.run.intervals import kendall, on_front, student_interval, with_interval, written

losses = st.floats(-10, 10, allow_nan=False, width=32)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(losses, losses), min_size=3, max_size=9))
def test_student_interval_is_that_of_the_paired_t_test(pairs: list[tuple[float, float]]) -> None:
    one, two = np.array(pairs).T
    differences = one - two
    if np.ptp(differences) < 1e-6:  # scipy warns of lost precision there
        return
    expected = stats.ttest_rel(one, two).confidence_interval(0.95)
    assert student_interval(differences) == pytest.approx((expected.low, expected.high))


@pytest.mark.parametrize("values", [[], [1.0], [1.0, 2.0]])
def test_fewer_than_three_values_have_no_interval(values: list[float]) -> None:
    assert np.isnan(student_interval(np.array(values))).all()


@pytest.mark.parametrize("value", [0.0, 0.1])
def test_constant_values_have_an_interval_of_no_width(value: float) -> None:
    assert student_interval(np.full(5, value)) == (value, value)


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ([], "-"),
        ([0.5], "+0.5000"),
        ([0.5, -1.5], "-0.5000"),
        ([0.25, 0.25, 0.25], "+0.2500 [+0.2500, +0.2500]"),
        ([1.0, 2.0, 3.0], "+2.0000 [-0.4841, +4.4841]"),  # t(0.975, 2) = 4.3027, over the square root of 3
    ],
)
def test_a_mean_is_written_with_its_interval_where_there_is_one(values: list[float], text: str) -> None:
    assert with_interval(np.array(values)) == text


def test_a_mean_that_is_not_known_is_written_as_none() -> None:
    nan = float("nan")
    assert written(nan, nan, nan) == written(float("inf"), 0.0, 1.0) == "-"
    assert written(1.0, -0.25, 2.0, digits=1) == "+1.0 [-0.2, +2.0]"


@given(st.lists(st.tuples(st.integers(1, 4), st.integers(1, 4)), min_size=1, max_size=9))
def test_front_is_what_nobody_beats(points: list[tuple[int, int]]) -> None:
    size, loss = np.array(points).T
    expected = []
    for point in points:
        others = [other for other in points if other != point]  # who is equal does not beat
        expected.append(not any(other[0] <= point[0] and other[1] <= point[1] for other in others))
    front = on_front(size, loss)
    assert front.tolist() == expected
    assert front.any()


def test_kendall_is_that_of_scipy_and_nothing_for_constants() -> None:
    generator = np.random.default_rng(0)
    one, other = generator.normal(size=(2, 20)).round(0)  # with ties
    assert kendall(one, other) == stats.kendalltau(one, other).statistic
    assert kendall(one, one) == 1.0
    assert kendall(one, np.zeros(20)) == kendall(np.ones(20), other) == 0.0
