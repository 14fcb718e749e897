"""Intervals, fronts and how they are written: the one place for statistics that all reports share."""

import numpy as np
from scipy import stats

_CONFIDENCE = 0.95
FEWEST = 3  # two values say almost nothing of their own spread


def student_interval(values: np.ndarray) -> tuple[float, float]:
    """Return Student's 95 % interval of a mean; NaN for fewer than three values."""
    if len(values) < FEWEST:
        return float("nan"), float("nan")
    if np.ptp(values) == 0:
        return float(values[0]), float(values[0])
    low, high = stats.t.interval(_CONFIDENCE, len(values) - 1, loc=values.mean(), scale=stats.sem(values))
    return float(low), float(high)


def with_interval(values: np.ndarray, digits: int = 4) -> str:
    """Return "mean [low, high]" with signs, for differences; the mean alone for fewer than three values, "-" for none."""
    if not len(values):
        return "-"
    return written(float(np.mean(values)), *student_interval(np.asarray(values)), digits=digits)


def written(mean: float, low: float, high: float, digits: int = 4) -> str:
    """Return "mean [low, high]" with signs; without bounds where these are not known, "-" where the mean is not."""
    if not np.isfinite(mean):
        return "-"
    bounds = f" [{low:+.{digits}f}, {high:+.{digits}f}]" if np.isfinite(low) else ""
    return f"{mean:+.{digits}f}{bounds}"


def on_front(size: np.ndarray, loss: np.ndarray) -> np.ndarray:
    """Return which points no other is below in both coordinates, bool of the arrays' shape (the Pareto front)."""
    return np.array(
        [not bool((((size <= s) & (loss < x)) | ((size < s) & (loss <= x))).any()) for s, x in zip(size, loss, strict=True)]
    )


def kendall(one: np.ndarray, other: np.ndarray) -> float:
    """Return Kendall's tau-b; 0 where a side is constant, since a constant ranks nothing."""
    if np.ptp(one) == 0 or np.ptp(other) == 0:
        return 0.0
    return float(stats.kendalltau(one, other).statistic)
