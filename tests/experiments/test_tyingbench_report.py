"""A report's figures, against tables whose signal, noise and rule are known, and against brute force."""

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from scipy import stats

from experiments.run.intervals import with_interval
from experiments.tyingbench import pictures, tables
from experiments.tyingbench.tables import components, cross_fitted, letters, rank_interval
from tests.envs.tables import FACTS, Loss, make_rows
from tying import Pointers, strategies
from tying.config import override
from tying.tyingbench import TyingBench

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


def losses_of(pattern: Pointers) -> np.ndarray:
    """Return a pattern's losses, from the rows themselves."""
    return np.array([row.test_loss for row in make_rows(4, 4, (1.0,)) if row.pointers == pattern])


UNTIED = losses_of(Pointers.independent(4))


def by_hand(patterns: Sequence[Pointers], worst: bool = False) -> np.ndarray:
    """Return at each seed the loss of the pattern that is best (or worst) at the other three."""
    found = []
    for seed in range(4):
        others = {p: sum(x for s, x in enumerate(losses_of(p)) if s != seed) for p in patterns}
        chosen = (max if worst else min)(others, key=lambda p: others[p])
        found.append(losses_of(chosen)[seed])
    return np.array(found)


# Letters.


@pytest.mark.parametrize(
    ("pattern", "expected"), [((0, 1, 1, 3), "ABBC"), ((0, 0, 0), "AAA"), ((0, 1, 2), "ABC"), ((0, 0, 2, 0, 4), "AABAC")]
)
def test_letters_come_in_the_order_of_their_first_use(pattern: tuple[int, ...], expected: str) -> None:
    assert tables.letters(Pointers(pattern)) == expected


# Sizes, the front, and what was published.


def test_a_cross_fitted_loss_is_of_a_seed_that_did_not_select() -> None:
    losses = np.array([[1.0, 1.0, 9.0], [2.0, 2.0, 2.0], [3.0, 3.0, 0.0]])
    # Without seed 0 the third is best (1.5 against 5 and 2), without seed 1 too, without seed 2 the first.
    assert cross_fitted(losses).tolist() == [3.0, 3.0, 9.0]
    assert cross_fitted(losses, -1).tolist() == [1.0, 1.0, 0.0]


def test_selection_among_equals_shows_no_gain() -> None:
    """The best of patterns that differ by noise alone is no better than their mean, measured on another seed."""
    tables_of_noise = np.random.default_rng(0).normal(size=(1000, 20, 5))
    assert tables_of_noise.mean(axis=2).min(axis=1).mean() < -0.8
    assert abs(np.mean([cross_fitted(losses) for losses in tables_of_noise])) < 0.05


def test_every_size_has_its_best_and_its_worst() -> None:
    found = records(tables.sizes(bench()))
    assert [row["unique layers"] for row in found] == [1, 2, 3, 4]
    assert [row["patterns"] for row in found] == [1, 7, 6, 1]
    for row in found:
        own = {pattern: loss for pattern, loss in means().items() if pattern.num_unique == row["unique layers"]}
        best, worst = min(own, key=lambda p: own[p]), max(own, key=lambda p: own[p])
        fitted = by_hand(list(own))
        assert row["best"] == f"`{letters(best)}`"
        assert row["loss of the best, selected on the other seeds"] == f"{fitted.mean():.4f}"
        assert row["its difference to untied"] == with_interval(fitted - UNTIED)
        assert row["mean"] == f"{sum(own.values()) / len(own):.4f}"
        assert row["worst"] == f"`{letters(worst)}`"
        assert row["loss of the worst, selected on the other seeds"] == f"{by_hand(list(own), worst=True).mean():.4f}"
        assert row["block parameters"] == f"{row['unique layers'] / 4:.0%}"


def test_the_front_is_of_patterns_that_no_smaller_one_is_as_good_as() -> None:
    best = [min(loss for pattern, loss in means().items() if pattern.num_unique == size) for size in (1, 2, 3, 4)]
    expected = ["yes" if all(loss < smaller for smaller in best[:place]) else "no" for place, loss in enumerate(best)]
    assert tables.sizes(bench())["on the front"].tolist() == expected
    rising = made_by_rule(3, 2, lambda pattern, seed, _: 2 + 0.1 * pattern.num_unique + 0.01 * sum(pattern) + 0.001 * seed)
    assert tables.sizes(rising)["on the front"].tolist() == ["yes", "no", "no"]


def test_published_strategies_have_their_ranks() -> None:
    loss = means()
    found = records(tables.published(bench()))
    assert [float(row["loss"]) for row in found] == sorted(float(row["loss"]) for row in found)
    shown = {row["strategy"].strip("`"): row for row in found}
    assert {"independent", "all_tied", "sandwich", "private_first", "sequence:2", "cycle:2"} <= shown.keys()
    for text, row in shown.items():
        pattern = strategies.make(text, 4)
        same = [other for other in PATTERNS if other.num_unique == pattern.num_unique]
        assert row["pattern"] == f"`{letters(pattern)}`"
        assert row["unique layers"] == pattern.num_unique
        assert row["loss"] == f"{loss[pattern]:.4f}"
        rank = 1 + sum(loss[other] < loss[pattern] for other in PATTERNS)
        assert row["rank of 15 [95 %]"].startswith(f"{rank} [")
        low, high = (int(bound) for bound in row["rank of 15 [95 %]"].partition("[")[2].strip("]").split(", "))
        assert low <= rank <= high
        assert row["rank in its size"] == f"{1 + sum(loss[other] < loss[pattern] for other in same)} of {len(same)}"
        assert row["difference to untied"] == with_interval(losses_of(pattern) - UNTIED)


def test_a_rank_is_as_sure_as_the_seeds_allow() -> None:
    shared = np.array([0.0, 5.0, 2.0, 1.0])  # of seeds: paired differences do not see it
    losses = np.array([1.0, 2.0, 3.0, 4.0])[:, None] + shared
    assert [rank_interval(losses, index) for index in range(4)] == ["1 [1, 1]", "2 [2, 2]", "3 [3, 3]", "4 [4, 4]"]
    losses[1] += [3.0, -3.0, 3.0, -2.9]  # so noisy that it may be anywhere
    assert rank_interval(losses, 1) == "2 [1, 4]"
    assert rank_interval(losses, 0) == "1 [1, 2]"
    assert rank_interval(losses[:, :2], 0) == "1"  # two seeds say nothing


@pytest.mark.parametrize("num_layers", [3, 4, 5, 6, 7])
def test_every_strategy_is_there_under_its_own_name(num_layers: int) -> None:
    bench = TyingBench(make_rows(num_layers, 1, (1.0,)), FACTS)
    named = {bench.patterns[index]: text for index, text in tables.named_patterns(bench).items()}
    for pattern, text in named.items():
        assert strategies.make(text, num_layers) == pattern
    assert {pattern.num_unique for pattern in named} == set(range(1, num_layers + 1))
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


def test_trust_is_told_for_every_budget() -> None:
    found = records(tables.trust(bench()))
    assert [row["budget"] for row in found] == ["0.25", "0.5", "1"]
    for row, budget in zip(found, bench().budgets, strict=True):
        losses = bench().losses("test", budget)
        signal, noise = components(losses)
        assert (row["signal"], row["noise of a seed"]) == (f"{signal:.4f}", f"{noise:.4f}")
        assert row["noise of the mean"] == f"{noise / 2:.4f}"
        assert row["mean loss"] == f"{losses.mean():.4f}"
        assert row["reliability of the mean"] == f"{signal**2 / (signal**2 + noise**2 / 4):.3f}"
        rewards = bench().losses("reward", budget).mean(axis=1)
        assert row["reward with test"] == f"{stats.kendalltau(rewards, losses.mean(axis=1)).statistic:.3f}"
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
    found = {row["rule"]: row for row in records(tables.rules(table))}
    assert found[rule]["of the variance"] == found[rule]["of the signal"] == "100%"
    assert float(found[rule]["what remains"]) <= NOISE
    assert float(found[rule]["of it signal"]) <= NOISE / 2


def test_a_rule_that_leaves_signal_behind_is_told_so() -> None:
    table = made_by_rule(5, 4, lambda p, seed, _: 3 - 0.1 * p.num_unique - 0.2 * is_private(p) + wobble(p, seed))
    found = {row["rule"]: row for row in records(tables.rules(table))}
    for rule in ("how many unique", "is layer 0 private"):
        assert found[rule]["of the variance"] != "100%"
        left = float(found[rule]["of it signal"])
        assert left > 0.01
        assert left == pytest.approx(float(found[rule]["what remains"]), abs=1e-4)


def test_a_rule_of_one_variable_is_a_straight_line() -> None:
    unique = np.array([pattern.num_unique for pattern in PATTERNS])
    values = np.array([means()[pattern] for pattern in PATTERNS])
    line = stats.linregress(unique, values)
    signal, noise = components(bench().losses())
    row = records(tables.rules(bench()))[0]
    unexplained = ((values - line.intercept - line.slope * unique) ** 2).sum() / 13
    assert (row["rule"], row["coefficients"]) == ("how many unique", 2)
    assert row["of the variance"] == f"{1 - (1 - line.rvalue**2) * 14 / 13:.0%}"
    assert row["what remains"] == f"{unexplained**0.5:.4f}"
    real = max(0.0, unexplained - noise**2 / 4)
    assert row["of it signal"] == f"{real**0.5:.4f}"
    assert row["of the signal"] == f"{1 - real / signal**2:.0%}"


def test_coefficients_of_a_rule_are_counted_once() -> None:
    found = {row["rule"]: row["coefficients"] for row in records(tables.rules(bench()))}
    assert found["how many unique"] == found["is layer 0 private"] == 2
    assert found["both"] == 3
    assert found["which pairs are tied"] == 1 + 6
    # Four levels; private and its product with their number: one unique layer is never private, four always are.
    assert found["both, every number of unique layers for itself"] == 4 + 2


def test_a_rule_with_as_many_coefficients_as_patterns_is_left_out() -> None:
    """Of three layers there are five patterns."""
    table = TyingBench(make_rows(num_layers=3, num_seeds=4), FACTS)
    found = records(tables.rules(table))
    assert "how many unique" in {row["rule"] for row in found}
    assert all(row["coefficients"] < 5 for row in found)
    assert not any(word in str(row) for row in found for word in ("nan", "inf"))


# The gate.


def gate_of(losses: Callable[[Pointers], float], noise: float, **facts: Any) -> dict[str, tuple[str, str]]:
    """Return the gate of a table of four layers with three seeds: condition to what was found and whether it holds."""
    generator = np.random.default_rng(0)
    rows = make_rows(num_layers=4, num_seeds=3, budgets=(1.0,))
    noisy = {(row.pointers, row.seed): losses(row.pointers) + noise * float(generator.normal()) for row in rows}
    changed = [override(row, {"test_loss": noisy[row.pointers, row.seed]}) for row in rows]
    found = records(tables.gate(TyingBench(changed, facts)))
    return {row["condition"]: (row["found"], row["holds"]) for row in found}


def test_a_table_of_one_bit_fails_its_gate() -> None:
    found = gate_of(lambda pointers: 2.0 + (pointers[1] == pointers[2]), noise=0.01, four_gram_loss=1.5)
    ratio, bit, known = found.values()
    assert ratio[1] == "no"
    assert bit == ("100%, by whether layers 1 and 2 share", "stated")
    assert known[1] == "no"


def test_a_table_of_many_answers_passes_its_gate() -> None:
    weights = np.random.default_rng(1).uniform(0.5, 1.5, (4, 4))
    pairs = list(itertools.combinations(range(4), 2))
    found = gate_of(lambda p: 1 + sum(weights[i, j] * (p[i] == p[j]) for i, j in pairs), noise=0.01, four_gram_loss=1.5)
    assert [holds for _, holds in found.values()] == ["yes", "stated", "yes"]


def test_bits_of_a_table_with_removal_name_the_models_own_layers() -> None:
    found = gate_of(lambda pointers: 2.0 + (pointers[3] == 0), noise=0.0, removing=True)
    assert list(found.values())[1][0] == "100%, by whether layer 2 is removed"
    assert len(found) == 2  # without a 4-gram, two conditions


# Smaller budgets.


def test_smaller_budgets_are_judged_by_other_seeds() -> None:
    found = records(tables.budgets(bench()))
    full = bench().losses()
    assert [row["budget"] for row in found] == ["0.25", "0.5", "1"]
    for row, budget in zip(found, bench().budgets, strict=True):
        early = bench().losses("test", budget)
        taus, ranks = [], []
        for seed in range(4):
            truth = full[:, [other for other in range(4) if other != seed]].mean(axis=1)
            taus.append(stats.kendalltau(early[:, seed], truth).statistic)
            ranks.append(1 + sum(value < truth[early[:, seed].argmin()] for value in truth))
        assert row["tau of one seed with the others at the full budget"] == with_interval(np.array(taus), digits=2)
        assert row["mean rank there of its best, of 15"] == f"{np.mean(ranks):.0f}"
        every = stats.kendalltau(early.mean(axis=1), full.mean(axis=1)).statistic
        assert row["tau of the mean of all seeds with the full one"] == f"{every:+.2f}"
    assert found[-1]["tau of the mean of all seeds with the full one"] == "+1.00"


def test_budgets_that_rank_alike_agree_wholly() -> None:
    table = made_by_rule(4, 3, lambda p, seed, budget: 3 - budget + (1.5 - budget) * 0.01 * PATTERNS.index(p) + seed)
    for row in records(tables.budgets(table)):
        assert row["tau of one seed with the others at the full budget"] == "+1.00 [+1.00, +1.00]"
        assert row["mean rank there of its best, of 15"] == "1"


def test_a_table_of_equal_losses_has_no_signal_and_no_warnings() -> None:
    table = made_by_rule(4, 3, lambda *_: 2.0)
    for make in tables.TABLES.values():
        assert not any(word in str(row) for row in records(make(table)) for word in ("nan", "inf"))


# Pictures.


@pytest.mark.parametrize("num_layers", [3, 4])
@pytest.mark.parametrize("name", pictures.PICTURES)
def test_pictures_of_few_patterns_are_drawn(name: str, num_layers: int) -> None:
    figure = pictures.PICTURES[name](TyingBench(make_rows(num_layers, num_seeds=2), FACTS))
    figure.canvas.draw()
    assert figure.axes


def test_the_landscape_shows_every_pattern_once() -> None:
    axes = pictures.landscape(bench()).axes[0]
    shown = np.concatenate([line.get_ydata() for line in axes.lines if line.get_marker() == "o"])
    assert sorted(shown) == pytest.approx(sorted(means().values()))


def test_what_a_pair_costs_is_what_the_table_was_made_with() -> None:
    table = made_by_rule(4, 2, lambda p, seed, _: 3 + 0.02 * (p[0] == p[1]) - 0.005 * (p[2] == p[3]) + 0.1 * seed)
    texts = {text.get_position(): text.get_text() for text in pictures.pairs(table).axes[0].texts}
    assert len(texts) == 6
    assert (texts[0, 1], texts[2, 3]) == ("+20", "-5")
    assert {text.strip("+-") for place, text in texts.items() if place not in ((0, 1), (2, 3))} == {"0"}


def test_the_extremes_are_in_order() -> None:
    best, worst = pictures.extremes(bench()).axes
    in_order = sorted(means(), key=lambda pattern: means()[pattern])
    for axes, chosen, first in ((best, in_order[:8], 1), (worst, in_order[-8:], 8)):
        labels = [label.get_text() for label in axes.get_yticklabels()]
        assert labels == [f"{place}.  {means()[pattern]:.3f}" for place, pattern in enumerate(chosen, start=first)]
        written = "".join(text.get_text() for text in axes.texts)
        assert written == "".join(letters(pattern) for pattern in chosen)
