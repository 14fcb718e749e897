"""A report's figures, against tables whose signal, noise and rule are known, and against brute force."""

import functools
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from scipy import stats

from envs.tyingbench import TyingBench
from experiments.results import student_interval
from experiments.tyingbench import report
from experiments.tyingbench.report import components, split_half
from tests.envs.tables import FACTS, Loss, make_rows
from tying import Pointers, strategies

PATTERNS = list(Pointers.all(4))


@functools.cache
def bench() -> TyingBench:
    """Return a table of 15 patterns and 4 seeds."""
    return TyingBench(make_rows(num_layers=4, num_seeds=4), FACTS)


def means() -> dict[Pointers, float]:
    """Return every pattern's mean test loss, from the rows themselves."""
    losses: dict[Pointers, list[float]] = {}
    for row in make_rows(num_layers=4, num_seeds=4, budgets=(1.0,)):
        losses.setdefault(row.pointers, []).append(row.test_loss)
    return {pattern: sum(values) / 4 for pattern, values in losses.items()}


def made_by_rule(num_layers: int, num_seeds: int, loss: Loss) -> TyingBench:
    return TyingBench(make_rows(num_layers, num_seeds, loss=loss), FACTS)


def is_private(pattern: Pointers) -> bool:
    return 0 not in pattern[1:]


def records(table: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = table.to_dict("records")
    return found


def paired(pattern: Pointers) -> str:
    """Return how a pattern differs from the untied one, in words."""
    if pattern == Pointers.independent(4):
        return ""
    losses = {p: np.array([row.test_loss for row in make_rows(4, 4, (1.0,)) if row.pointers == p]) for p in PATTERNS}
    difference = losses[pattern] - losses[Pointers.independent(4)]
    low, high = student_interval(difference)
    return f"{difference.mean():+.4f} [{low:+.4f}, {high:+.4f}]"


# Letters.


@pytest.mark.parametrize(
    ("pattern", "letters"), [((0, 1, 1, 3), "ABBC"), ((0, 0, 0), "AAA"), ((0, 1, 2), "ABC"), ((0, 0, 2, 0, 4), "AABAC")]
)
def test_letters_come_in_the_order_of_their_first_use(pattern: tuple[int, ...], letters: str) -> None:
    assert report.letters(Pointers(pattern)) == letters


# Sizes, the front, and what was published.


def test_every_size_has_its_best_and_its_worst() -> None:
    found = records(report.sizes(bench()))
    assert [row["unique layers"] for row in found] == [1, 2, 3, 4]
    assert [row["patterns"] for row in found] == [1, 7, 6, 1]
    for row in found:
        own = {pattern: loss for pattern, loss in means().items() if pattern.num_unique == row["unique layers"]}
        best, worst = min(own, key=lambda p: own[p]), max(own, key=lambda p: own[p])
        assert row["best"] == f"`{report.letters(best)}`"
        assert row["its loss"] == f"{own[best]:.4f}"
        assert row["to untied"] == paired(best)
        assert row["mean"] == f"{sum(own.values()) / len(own):.4f}"
        assert (row["worst"], row["loss"]) == (f"`{report.letters(worst)}`", f"{own[worst]:.4f}")
        assert row["block parameters"] == f"{row['unique layers'] / 4:.0%}"


def test_nobody_beats_who_is_on_the_front_and_somebody_whoever_is_not() -> None:
    loss = means()

    def beaten(pattern: Pointers) -> bool:
        return any(
            other.num_unique <= pattern.num_unique
            and loss[other] <= loss[pattern]
            and (other.num_unique, loss[other]) != (pattern.num_unique, loss[pattern])
            for other in PATTERNS
        )

    expected = sorted((p for p in PATTERNS if not beaten(p)), key=lambda p: p.num_unique)
    found = records(report.front(bench()))
    assert [row["pattern"] for row in found] == [f"`{report.letters(pattern)}`" for pattern in expected]
    assert [row["loss"] for row in found] == [f"{loss[pattern]:.4f}" for pattern in expected]
    assert [row["to untied"] for row in found] == [paired(pattern) for pattern in expected]
    assert 1 < len(expected) < 5


def test_a_larger_pattern_that_is_worse_is_not_on_the_front() -> None:
    table = made_by_rule(3, 2, lambda pattern, seed, _: 2 + 0.1 * pattern.num_unique + 0.01 * sum(pattern) + 0.001 * seed)
    assert [row["pattern"] for row in records(report.front(table))] == ["`AAA`"]


def test_published_strategies_have_their_ranks() -> None:
    loss = means()
    found = records(report.published(bench()))
    assert [float(row["loss"]) for row in found] == sorted(float(row["loss"]) for row in found)
    shown = {row["strategy"].split(",")[0].strip("`"): row for row in found}
    assert {"independent", "all_tied", "sandwich", "private_first", "sequence:2", "cycle:2"} <= shown.keys()
    for text, row in shown.items():
        pattern = strategies.make(text, 4)
        same = [other for other in PATTERNS if other.num_unique == pattern.num_unique]
        assert row["pattern"] == f"`{report.letters(pattern)}`"
        assert row["unique layers"] == pattern.num_unique
        assert row["loss"] == f"{loss[pattern]:.4f}"
        assert row["rank"] == f"{1 + sum(loss[other] < loss[pattern] for other in PATTERNS)} of 15"
        assert row["of its size"] == f"{1 + sum(loss[other] < loss[pattern] for other in same)} of {len(same)}"
        assert row["to untied"] == paired(pattern)


@pytest.mark.parametrize("num_layers", [3, 4, 5, 6, 7, 8])
def test_every_strategy_is_there_under_its_own_names(num_layers: int) -> None:
    named = report.named_patterns(num_layers)
    for pattern, texts in named.items():
        assert 1 <= len(texts)
        assert {strategies.make(text, num_layers) for text in texts} == {pattern}
    unique = {pattern.num_unique for pattern in named}
    assert unique == set(range(1, num_layers + 1))
    for text in ("independent", "all_tied", "sandwich", "private_first", "sequence:2", "cycle:2", "immediate_repeat:2"):
        assert strategies.make(text, num_layers) in named
    if num_layers == 6:
        for text in ("cycle_rev:3", "middle_cycle:4", "front_loaded:3,2,1", "immediate_repeat:3"):
            assert strategies.make(text, 6) in named


# Signal and noise.


def test_components_are_those_that_a_table_was_made_with() -> None:
    generator = np.random.default_rng(0)
    patterns, seeds = generator.normal(0, 0.05, 4000), generator.normal(0, 3.0, 6)
    losses = 2 + patterns[:, None] + seeds + generator.normal(0, 0.02, (4000, 6))
    signal, noise = components(losses)
    assert signal == pytest.approx(0.05, rel=0.03)
    assert noise == pytest.approx(0.02, rel=0.03)


def test_without_noise_all_is_signal_and_without_signal_all_is_noise() -> None:
    patterns = np.array([0.3, 0.1, 0.2, 0.8])
    signal, noise = components(patterns[:, None] + np.array([5.0, 7.0, 4.0]))
    assert signal == pytest.approx(patterns.std(ddof=1))
    assert noise == pytest.approx(0, abs=1e-12)
    residual = np.array([[1.0, -1.0], [-1.0, 1.0]])  # means of patterns and of seeds are all 0
    assert components(residual) == (0.0, pytest.approx(2.0))


def spearman(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.corrcoef(stats.rankdata(one), stats.rankdata(other))[0, 1])


@pytest.mark.parametrize(("num_seeds", "num_ways"), [(2, 1), (3, 3), (4, 3), (5, 15), (6, 10)])
def test_halves_are_compared_in_all_ways(num_seeds: int, num_ways: int) -> None:
    generator = np.random.default_rng(num_seeds)
    losses = generator.normal(size=(12, 1)) + generator.normal(size=(12, num_seeds))
    half, every = num_seeds // 2, set(range(num_seeds))
    ways = {
        frozenset([frozenset(one), frozenset(other)])
        for one in combinations(every, half)
        for other in combinations(every - set(one), half)
    }
    assert len(ways) == num_ways
    found = [spearman(*(losses[:, sorted(side)].mean(axis=1) for side in way)) for way in ways]
    assert split_half(losses) == pytest.approx(np.mean(found))


def test_halves_that_agree_correlate_with_one() -> None:
    losses = np.array([0.3, 0.1, 0.2, 0.8])[:, None] + np.array([5.0, 7.0, 4.0, 0.0])
    assert split_half(losses) == pytest.approx(1)
    assert split_half(np.column_stack([losses[:, 0], -losses[:, 0]])) == pytest.approx(-1)


@pytest.mark.parametrize(
    ("num_seeds", "half", "whole"),
    [(4, 0.5, 2 / 3), (2, 0.5, 2 / 3), (5, 0.5, 1.25 / 1.75), (4, 1.0, 1.0), (4, -0.2, -0.2)],
)
def test_a_correlation_of_halves_is_corrected_to_all_seeds(num_seeds: int, half: float, whole: float) -> None:
    table = TyingBench(make_rows(num_seeds=num_seeds), FACTS)
    assert report.spearman_brown(half, table) == pytest.approx(whole)


def test_trust_is_told_for_every_budget() -> None:
    found = records(report.trust(bench()))
    assert [row["budget"] for row in found] == ["0.25", "0.5", "1"]
    for row, budget in zip(found, bench().budgets, strict=True):
        losses = bench().losses("test", budget)
        signal, noise = components(losses)
        assert (row["signal"], row["noise of a seed"]) == (f"{signal:.4f}", f"{noise:.4f}")
        assert row["noise of the mean"] == f"{noise / 2:.4f}"
        assert row["mean loss"] == f"{losses.mean():.4f}"
        half = split_half(losses)
        assert (row["halves of the seeds"], row["all seeds"]) == (f"{half:.3f}", f"{2 * half / (1 + half):.3f}")
        rewards = bench().losses("reward", budget).mean(axis=1)
        assert row["reward with test"] == f"{spearman(rewards, losses.mean(axis=1)):.3f}"
    assert float(found[0]["noise of a seed"]) > float(found[2]["noise of a seed"]) > 0


# Rules.

NOISE = 1e-4


def wobble(pattern: Pointers, seed: int) -> float:
    """Return noise that is the same every time."""
    return NOISE * float(np.random.default_rng([seed, *pattern]).standard_normal())


@pytest.mark.parametrize(
    ("rule", "loss"),
    [
        ("how many unique", lambda p: -0.1 * p.num_unique),
        ("is layer 0 private", lambda p: -0.1 * is_private(p)),
        ("both", lambda p: -0.1 * p.num_unique - 0.2 * is_private(p)),
        (
            "both, every number of unique layers for itself",
            lambda p: 0.3 / p.num_unique**2 - 0.2 * is_private(p) + 0.05 * p.num_unique * is_private(p),
        ),
        ("which pairs are tied", lambda p: 0.1 * (p[1] == p[4]) + 0.2 * (p[0] == p[2]) - 0.05 * (p[2] == p[3])),
    ],
)
def test_a_table_made_by_a_rule_is_explained_by_it(rule: str, loss: Any) -> None:
    table = made_by_rule(5, 4, lambda pattern, seed, _: 3 + 0.5 * seed + loss(pattern) + wobble(pattern, seed))
    found = {row["rule"]: row for row in records(report.rules(table))}
    assert found[rule]["of the variance"] == found[rule]["of the signal"] == "100%"
    assert float(found[rule]["what remains"]) <= NOISE
    assert abs(float(found[rule]["what remains agrees"])) < 0.6  # nothing but noise


def test_a_rule_that_leaves_signal_behind_is_told_so() -> None:
    table = made_by_rule(5, 4, lambda p, seed, _: 3 - 0.1 * p.num_unique - 0.2 * is_private(p) + wobble(p, seed))
    found = {row["rule"]: row for row in records(report.rules(table))}
    for rule in ("how many unique", "is layer 0 private"):
        assert found[rule]["of the variance"] != "100%"
        assert float(found[rule]["what remains agrees"]) > 0.9
        left = float(found[rule]["of it signal"])
        assert left > 0.01
        assert left == pytest.approx(float(found[rule]["what remains"]), abs=1e-4)


def test_a_rule_of_one_variable_is_a_straight_line() -> None:
    unique = np.array([pattern.num_unique for pattern in PATTERNS])
    values = np.array([means()[pattern] for pattern in PATTERNS])
    line = stats.linregress(unique, values)
    signal, noise = components(bench().losses())
    row = records(report.rules(bench()))[0]
    unexplained = ((values - line.intercept - line.slope * unique) ** 2).sum() / 13
    assert (row["rule"], row["figures"]) == ("how many unique", 2)
    assert row["of the variance"] == f"{1 - (1 - line.rvalue**2) * 14 / 13:.0%}"
    assert row["what remains"] == f"{unexplained**0.5:.4f}"
    real = max(0.0, unexplained - noise**2 / 4)
    assert row["of it signal"] == f"{real**0.5:.4f}"
    assert row["of the signal"] == f"{1 - real / signal**2:.0%}"


def test_figures_of_a_rule_are_counted_once() -> None:
    found = {row["rule"]: row["figures"] for row in records(report.rules(bench()))}
    assert found["how many unique"] == found["is layer 0 private"] == 2
    assert found["both"] == 3
    assert found["which pairs are tied"] == 1 + 6
    # Four levels; private and its product with their number: one unique layer is never private, four always are.
    assert found["both, every number of unique layers for itself"] == 4 + 2


def test_a_rule_with_as_many_figures_as_patterns_says_nothing() -> None:
    """Of three layers there are five patterns."""
    table = TyingBench(make_rows(num_layers=3, num_seeds=4), FACTS)
    found = records(report.rules(table))
    assert "how many unique" in {row["rule"] for row in found}
    assert all(row["figures"] < 5 for row in found)
    assert not any(word in str(row) for row in found for word in ("nan", "inf"))


# Smaller budgets.


def test_smaller_budgets_are_judged_by_other_seeds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "_RESAMPLES", 20)
    found = records(report.budgets(bench()))
    truth = bench().losses()[:, 2:].mean(axis=1)
    assert [row["budget"] for row in found] == ["0.25", "0.5", "1"]
    for row, budget in zip(found, bench().budgets, strict=True):
        cheap = bench().losses("test", budget)[:, :2].mean(axis=1)
        tau = stats.kendalltau(cheap, truth).statistic
        assert row["2 seeds with 2 others at the full budget"].startswith(f"{tau:.2f} [")
        place = 1 + sum(value < truth[cheap.argmin()] for value in truth)
        assert row["rank of its best at the full budget"] == f"{place} of 15"
        every = stats.kendalltau(bench().losses("test", budget).mean(axis=1), bench().losses().mean(axis=1)).statistic
        assert row["all seeds with all"].startswith(f"{every:.2f} [" if budget < 1 else "")
    assert found[-1]["all seeds with all"] == ""


def test_budgets_that_rank_alike_agree_wholly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "_RESAMPLES", 20)
    table = made_by_rule(4, 2, lambda p, seed, budget: 3 - budget + (1.5 - budget) * 0.01 * PATTERNS.index(p) + seed)
    for row in records(report.budgets(table)):
        assert row["1 seeds with 1 others at the full budget"] == "1.00 [1.00, 1.00]"
        assert row["rank of its best at the full budget"] == "1 of 15"


# Pictures.


@pytest.mark.parametrize("num_layers", [3, 4])
@pytest.mark.parametrize("name", report.PICTURES)
def test_pictures_of_few_patterns_are_drawn(name: str, num_layers: int) -> None:
    figure = report.PICTURES[name](TyingBench(make_rows(num_layers, num_seeds=2), FACTS))
    figure.canvas.draw()
    assert figure.axes


def test_the_landscape_shows_every_pattern_once() -> None:
    axes = report.landscape(bench()).axes[0]
    shown = np.concatenate([line.get_ydata() for line in axes.lines if line.get_marker() == "o"])
    assert sorted(shown) == pytest.approx(sorted(means().values()))


def test_what_a_pair_costs_is_what_the_table_was_made_with() -> None:
    table = made_by_rule(4, 2, lambda p, seed, _: 3 + 0.02 * (p[0] == p[1]) - 0.005 * (p[2] == p[3]) + 0.1 * seed)
    texts = {text.get_position(): text.get_text() for text in report.pairs(table).axes[0].texts}
    assert len(texts) == 6
    assert (texts[0, 1], texts[2, 3]) == ("+20", "-5")
    assert {text.strip("+-") for place, text in texts.items() if place not in ((0, 1), (2, 3))} == {"0"}


def test_the_extremes_are_in_order() -> None:
    best, worst = report.extremes(bench()).axes
    in_order = sorted(means(), key=lambda pattern: means()[pattern])
    for axes, chosen, first in ((best, in_order[:8], 1), (worst, in_order[-8:], 8)):
        labels = [label.get_text() for label in axes.get_yticklabels()]
        assert labels == [f"{place}.  {means()[pattern]:.3f}" for place, pattern in enumerate(chosen, start=first)]
        letters = "".join(text.get_text() for text in axes.texts)
        assert letters == "".join(report.letters(pattern) for pattern in chosen)
