"""The tables of a report: the best patterns, the published strategies, and how far a TyingBench table can be trusted.

Losses are nats per token on the test split, means over the seeds, without a charge for parameters. Patterns selected by
their loss (the best of hundreds) are cross-fitted: selected on all seeds but one, and measured on that one.

P patterns, S seeds.
"""

from collections.abc import Callable
from itertools import combinations

import numpy as np
import pandas as pd

from experiments.study.intervals import kendall, on_front, student_interval, with_interval
from tying import strategies
from tying.palette import letter
from tying.pointers import Pointers
from tying.tyingbench import TyingBench

_OTHERS = "selected on the other seeds"


def letters(pattern: Pointers) -> str:
    """Return a pattern as letters in the order of their first use: 0 1 1 3 as ABBC."""
    return "".join(letter(pattern.roots.index(root)) for root in pattern)


def means(bench: TyingBench, budget: float = 1.0) -> np.ndarray:
    """Return the mean test loss of every pattern, (P,)."""
    values: np.ndarray = bench.losses("test", budget).mean(axis=1)
    return values


def num_unique(bench: TyingBench) -> np.ndarray:
    """Return the number of unique layers of every pattern, (P,)."""
    return np.array([pattern.num_unique for pattern in bench.patterns])


def is_private(bench: TyingBench) -> np.ndarray:
    """Return whether layer 0 shares with no other, (P,) of bool."""
    return np.array([len(pattern.groups[0]) == 1 for pattern in bench.patterns])


def ties(bench: TyingBench) -> np.ndarray:
    """Return whether each pair of layers is tied, (P, L(L-1)/2) of 0 and 1."""
    pairs = list(combinations(range(bench.num_layers), 2))
    return np.array([[float(p[i] == p[j]) for i, j in pairs] for p in bench.patterns])


def named_patterns(num_layers: int) -> dict[Pointers, str]:
    """Return every pattern that a registered strategy makes, with its name."""
    sizes = range(1, num_layers + 1)
    return {pattern: text for size in sizes for text, pattern in strategies.of_size(num_layers, size).items()}


def cross_fitted(losses: np.ndarray, sign: int = 1) -> np.ndarray:
    """Return the loss at each seed of the pattern that has the lowest mean at the other seeds, shape (S,).

    Args:
        losses: Of the patterns to select from, (patterns, S), S >= 2.
        sign: -1 for the highest mean.
    """
    seeds = range(losses.shape[1])
    return np.array([losses[(sign * np.delete(losses, seed, axis=1).mean(axis=1)).argmin(), seed] for seed in seeds])


def rank_interval(losses: np.ndarray, index: int) -> str:
    """Return a pattern's rank by mean loss, and the ranks that the seeds allow: "3 [1, 49]"; no bounds below three seeds.

    It ranks behind all patterns that are surely better and before all that are surely worse: those whose paired difference
    has a 95 % interval (Student's, over the seeds) without 0. After Mogstad et al. 2024, without their correction for many
    comparisons.
    """
    mean = losses.mean(axis=1)
    rank = 1 + int((mean < mean[index]).sum())
    low, high = np.array([student_interval(row) for row in losses - losses[index]]).T
    if np.isnan(low).any():
        return str(rank)
    return f"{rank} [{1 + int((high < 0).sum())}, {len(mean) - int((low > 0).sum())}]"


def sizes(bench: TyingBench) -> pd.DataFrame:
    """Return the best and the worst pattern of every number of unique layers."""
    losses, mean, unique = bench.losses(), means(bench), num_unique(bench)
    untied = losses[bench.index("independent")]
    rows = []
    for number in range(1, bench.num_layers + 1):
        own = np.flatnonzero(unique == number)
        best, worst = own[mean[own].argmin()], own[mean[own].argmax()]
        fitted = cross_fitted(losses[own])
        rows.append(
            {
                "unique layers": number,
                "patterns": len(own),
                "block parameters": f"{bench.param_shares[best]:.0%}",
                "best": f"`{letters(bench.patterns[best])}`",
                f"loss of the best, {_OTHERS}": f"{fitted.mean():.4f}",
                "its difference to untied": with_interval(fitted - untied) if number < bench.num_layers else "-",
                "mean": f"{mean[own].mean():.4f}",
                "worst": f"`{letters(bench.patterns[worst])}`",
                f"loss of the worst, {_OTHERS}": f"{cross_fitted(losses[own], -1).mean():.4f}",
            }
        )
    return pd.DataFrame(rows)


def published(bench: TyingBench) -> pd.DataFrame:
    """Return where every strategy of the literature ranks, among all patterns and among those of its size."""
    losses, mean, unique = bench.losses(), means(bench), num_unique(bench)
    untied = bench.index("independent")
    named = {bench.index(pattern): text for pattern, text in named_patterns(bench.num_layers).items()}
    rows = []
    for index in sorted(named, key=lambda index: mean[index]):
        same = np.flatnonzero(unique == unique[index])
        rows.append(
            {
                "strategy": f"`{named[index]}`",
                "pattern": f"`{letters(bench.patterns[index])}`",
                "unique layers": int(unique[index]),
                "loss": f"{mean[index]:.4f}",
                "difference to untied": with_interval(losses[index] - losses[untied]) if index != untied else "-",
                f"rank of {len(mean)} [95 %]": rank_interval(losses, index),
                "rank in its size": f"{1 + int((mean[same] < mean[index]).sum())} of {len(same)}",
            }
        )
    return pd.DataFrame(rows)


def front(bench: TyingBench) -> pd.DataFrame:
    """Return the patterns that no other is below in both size and loss, smallest first."""
    losses, mean, shares = bench.losses(), means(bench), bench.param_shares
    untied = losses[bench.index("independent")]
    found = np.flatnonzero(on_front(shares, mean))
    rows = []
    for index in found[shares[found].argsort()]:
        fitted = cross_fitted(losses[shares <= shares[index]])
        rows.append(
            {
                "pattern": f"`{letters(bench.patterns[index])}`",
                "block parameters": f"{shares[index]:.0%}",
                f"loss of the best of at most that size, {_OTHERS}": f"{fitted.mean():.4f}",
                "its difference to untied": with_interval(fitted - untied),
            }
        )
    return pd.DataFrame(rows)


def trust(bench: TyingBench) -> pd.DataFrame:
    """Return how reliable the table is, by budget.

    Signal and noise are standard deviations of patterns and of seeds within a pattern, after the seeds' own means are
    taken off. The reliability of a mean is the share of its variance that is signal. "Reward with test" is Kendall's
    tau between the two splits.
    """
    rows = []
    for budget in bench.budgets:
        losses = bench.losses("test", budget)
        signal, noise = components(losses)
        of_mean = noise / len(bench.seeds) ** 0.5
        reward = kendall(bench.losses("reward", budget).mean(axis=1), losses.mean(axis=1))
        rows.append(
            {
                "budget": f"{budget:g}",
                "mean loss": f"{losses.mean():.4f}",
                "signal": f"{signal:.4f}",
                "noise of a seed": f"{noise:.4f}",
                "noise of the mean": f"{of_mean:.4f}",
                "reliability of the mean": f"{signal**2 / (signal**2 + of_mean**2):.3f}" if signal or noise else "-",
                "reward with test": f"{reward:.3f}",
            }
        )
    return pd.DataFrame(rows)


def components(losses: np.ndarray) -> tuple[float, float]:
    """Return the standard deviations of signal and noise of losses (P, S), by two-way analysis of variance."""
    patterns, seeds = losses.shape
    residual = losses - losses.mean(axis=1, keepdims=True) - losses.mean(axis=0) + losses.mean()
    noise = (residual**2).sum() / ((patterns - 1) * (seeds - 1))
    between = seeds * losses.mean(axis=1).var(ddof=1)
    return float(np.sqrt(max(0.0, between - noise) / seeds)), float(np.sqrt(noise))


def rules(bench: TyingBench) -> pd.DataFrame:
    """Return how much simple rules explain, and whether the rest is signal.

    A rule is a least-squares fit to the mean losses. "Of the variance" is R squared, corrected for the number of its
    coefficients; "of the signal" is the explained share of the variance that is not noise of the seeds. "What remains" is a
    standard deviation, and "of it signal" the part that the noise of the seeds does not explain.
    """
    mean = means(bench)
    signal, noise = components(bench.losses())
    rows = []
    for name, design in _designs(bench).items():
        left = mean - design @ np.linalg.lstsq(design, mean, rcond=None)[0]
        rank = int(np.linalg.matrix_rank(design))
        if rank == len(left):  # of so few layers it has as many coefficients as there are patterns
            continue
        unexplained = (left**2).sum() / (len(left) - rank)
        real = max(0.0, unexplained - noise**2 / len(bench.seeds))
        rows.append(
            {
                "rule": name,
                "coefficients": rank,
                "of the variance": f"{1 - unexplained / mean.var(ddof=1):.0%}" if np.ptp(mean) else "-",
                "of the signal": f"{1 - real / signal**2:.0%}" if signal else "-",
                "what remains": f"{unexplained**0.5:.4f}",
                "of it signal": f"{real**0.5:.4f}",
            }
        )
    return pd.DataFrame(rows)


def _designs(bench: TyingBench) -> dict[str, np.ndarray]:
    """Return the design matrix of every rule, (P, coefficients)."""
    one, unique, private = np.ones(len(bench.patterns)), num_unique(bench), is_private(bench).astype(float)
    levels = np.stack([unique == number for number in range(1, bench.num_layers + 1)], axis=1).astype(float)
    return {
        "how many unique": np.column_stack([one, unique]),
        "is layer 0 private": np.column_stack([one, private]),
        "both": np.column_stack([one, unique, private]),
        "both, every number of unique layers for itself": np.column_stack([levels, private, private * unique]),
        "which pairs are tied": np.column_stack([one, ties(bench)]),
        "pairs, unique and private": np.column_stack([levels, private, private * unique, ties(bench)]),
    }


def budgets(bench: TyingBench) -> pd.DataFrame:
    """Return how well one seed at a smaller budget predicts the other seeds at the full one.

    Kendall's tau over the patterns, mean over the seeds. At the full budget it is the best that can be expected.
    """
    full, seeds = bench.losses(), range(len(bench.seeds))
    truths = [np.delete(full, seed, axis=1).mean(axis=1) for seed in seeds]
    rows = []
    for budget in bench.budgets:
        early = bench.losses("test", budget).T
        taus = np.array([kendall(early[seed], truths[seed]) for seed in seeds])
        ranks = [1 + int((truth < truth[early[seed].argmin()]).sum()) for seed, truth in enumerate(truths)]
        rows.append(
            {
                "budget": f"{budget:g}",
                "tau of one seed with the others at the full budget": with_interval(taus, digits=2),
                "tau of the mean of all seeds with the full one": f"{kendall(means(bench, budget), means(bench)):+.2f}",
                f"mean rank there of its best, of {len(full)}": f"{np.mean(ranks):.0f}",
            }
        )
    return pd.DataFrame(rows)


TABLES: dict[str, Callable[[TyingBench], pd.DataFrame]] = {
    "sizes": sizes,
    "published": published,
    "front": front,
    "trust": trust,
    "rules": rules,
    "budgets": budgets,
}
