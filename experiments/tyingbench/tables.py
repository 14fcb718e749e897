"""The tables of a report: the best patterns, the published strategies, and how far a TyingBench table can be trusted.

Losses are nats per token on the test split, means over the seeds, without a charge for parameters. Patterns selected by
their loss (the best of hundreds) are cross-fitted: selected on all seeds but one, and measured on that one.

P patterns, S seeds.
"""

from collections.abc import Callable
from itertools import combinations

import numpy as np
import pandas as pd

from experiments.run.intervals import kendall, on_front, student_interval, with_interval
from tying import strategies
from tying.palette import letter
from tying.pointers import Pointers
from tying.tyingbench import TyingBench

_OTHERS = "selected on the other seeds"
# What a table has to be, to tell agents apart.
GATE_RATIO = 2


def letters(pattern: Pointers) -> str:
    """Return a pattern as letters in the order of their first use: 0 1 1 3 as ABBC."""
    return "".join(letter(pattern.roots.index(root)) for root in pattern)


def frame(bench: TyingBench) -> pd.DataFrame:
    """Return a row per pattern, in the table's order: letters, unique, private (layer 0 is not shared), share, loss."""
    rows = [(letters(p), p.num_unique, len(p.groups[0]) == 1) for p in bench.patterns]
    made = pd.DataFrame(rows, columns=["letters", "unique", "private"])
    return made.assign(share=bench.param_shares, loss=bench.losses().mean(axis=1))


def ties(bench: TyingBench) -> np.ndarray:
    """Return whether each pair of layers is tied, (P, L(L-1)/2) of 0 and 1."""
    pairs = list(combinations(range(bench.num_layers), 2))
    return np.array([[float(p[i] == p[j]) for i, j in pairs] for p in bench.patterns])


def named_patterns(bench: TyingBench) -> dict[int, str]:
    """Return the place of every pattern that a registered strategy makes, and its name."""
    num_layers = bench.parts.num_layers if bench.parts.apart else bench.num_layers
    named = (strategies.of_size(num_layers, size).items() for size in range(1, num_layers + 1))
    return {bench.index(text if bench.parts.apart else pattern): text for found in named for text, pattern in found}


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
    low, high = np.array([student_interval(row) for row in losses - losses[index]]).T
    bounds = "" if np.isnan(low).any() else f" [{1 + (high < 0).sum()}, {len(mean) - (low > 0).sum()}]"
    return f"{1 + (mean < mean[index]).sum()}{bounds}"


def sizes(bench: TyingBench) -> pd.DataFrame:
    """Return the best and the worst pattern of every number of unique layers; on the front: no smaller one is as good."""
    patterns, losses, untied = frame(bench), bench.losses(), bench.losses()[bench.index("independent")]
    patterns["front"] = on_front(patterns["share"], patterns["loss"])
    rows = []
    for number, own in patterns.groupby("unique"):
        best, worst = own.loc[own["loss"].idxmin()], own.loc[own["loss"].idxmax()]
        fitted = cross_fitted(losses[own.index])
        rows.append(
            {
                "unique layers": number,
                "patterns": len(own),
                "block parameters": f"{best['share']:.0%}",
                "best": f"`{best['letters']}`",
                "on the front": "yes" if best["front"] else "no",
                f"loss of the best, {_OTHERS}": f"{fitted.mean():.4f}",
                "its difference to untied": with_interval(fitted - untied),
                "mean": f"{own['loss'].mean():.4f}",
                "worst": f"`{worst['letters']}`",
                f"loss of the worst, {_OTHERS}": f"{cross_fitted(losses[own.index], -1).mean():.4f}",
            }
        )
    return pd.DataFrame(rows)


def published(bench: TyingBench) -> pd.DataFrame:
    """Return where every strategy of the literature ranks, among all patterns and among those of its size."""
    patterns, losses, named = frame(bench), bench.losses(), named_patterns(bench)
    patterns["rank"] = patterns.groupby("unique")["loss"].rank(method="min").astype(int)
    rows = []
    for index, row in patterns.loc[list(named)].sort_values("loss").iterrows():
        rows.append(
            {
                "strategy": f"`{named[index]}`",
                "pattern": f"`{row['letters']}`",
                "unique layers": row["unique"],
                "loss": f"{row['loss']:.4f}",
                "difference to untied": with_interval(losses[index] - losses[bench.index("independent")]),
                f"rank of {len(losses)} [95 %]": rank_interval(losses, index),
                "rank in its size": f"{row['rank']} of {(patterns['unique'] == row['unique']).sum()}",
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
        rows.append(
            {
                "budget": f"{budget:g}",
                "mean loss": f"{losses.mean():.4f}",
                "signal": f"{signal:.4f}",
                "noise of a seed": f"{noise:.4f}",
                "noise of the mean": f"{of_mean:.4f}",
                "reliability of the mean": f"{signal**2 / (signal**2 + of_mean**2):.3f}" if signal or noise else "-",
                "reward with test": f"{kendall(bench.losses('reward', budget).mean(axis=1), losses.mean(axis=1)):.3f}",
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
    mean = bench.losses().mean(axis=1)
    signal, noise = components(bench.losses())
    rows = []
    for name, columns in _designs(bench).items():
        design = np.column_stack(columns).astype(float)
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


def _designs(bench: TyingBench) -> dict[str, list[np.ndarray]]:
    """Return the columns of every rule's design matrix."""
    patterns = frame(bench)
    one, unique, private = np.ones(len(patterns)), patterns["unique"], patterns["private"]
    levels = [pd.get_dummies(unique), private, private * unique]
    effective = [pattern.effective_blocks for pattern in bench.patterns]
    return {
        "how many unique": [one, unique],
        "effective blocks": [one, effective],
        "is layer 0 private": [one, private],
        "both": [one, unique, private],
        "both, every number of unique layers for itself": levels,
        "which pairs are tied": [one, ties(bench)],
        "pairs, unique and private": [*levels, ties(bench)],
    }


def gate(bench: TyingBench) -> pd.DataFrame:
    """Return whether a table can tell agents apart: conditions, what was found, and whether they hold.

    A bit is whether two layers share, or whether a layer shares with none. The best bit explains most of the variance of
    the means; the best family are the patterns on its better side. For a language model, the loss of a 4-gram on
    the same split stands in the table's facts (`four_gram_loss`).
    """
    losses = bench.losses()
    mean = losses.mean(axis=1)
    signal, _ = components(losses)
    name, bit = max(_bits(bench).items(), key=lambda item: _explained(mean, item[1]))
    family = losses[bit == (mean[bit].mean() < mean[~bit].mean())]
    inside, own_noise = components(family)
    of_signal = min(1.0, _explained(mean, bit) * mean.var(ddof=1) / signal**2) if signal else 1.0
    rows = [
        (
            f"in the best family, signal is at least {GATE_RATIO} x the noise of a seed",
            f"{inside:.4f} against {own_noise:.4f} among {len(family)} patterns",
            bool(inside >= GATE_RATIO * own_noise),
        ),
        ("the best bit explains of the signal", f"{of_signal:.0%}, by whether {name}", None),
    ]
    known = bench.facts.get("four_gram_loss")
    if known is not None:
        rows.append(
            (
                "the untied model is better than a 4-gram",
                f"{mean[bench.index('independent')]:.3f} against {known:.3f}",
                bool(mean[bench.index("independent")] < known),
            )
        )
    said = {None: "stated", True: "yes", False: "no"}
    return pd.DataFrame(
        [(text, found, said[holds]) for text, found, holds in rows], columns=["condition", "found", "holds"]
    )


def _bits(bench: TyingBench) -> dict[str, np.ndarray]:
    """Return every bit by its name in words, (P,) of bool; those that are the same for all patterns are left out."""
    removing, label = bench.parts.removing, bench.parts.label
    layers, patterns = range(bench.num_layers), np.array(bench.patterns)
    bits = {}
    for i, j in combinations(layers, 2):
        name = f"{label(j)} is removed" if removing and i == 0 else f"{label(i, j)} share"
        bits[name] = patterns[:, i] == patterns[:, j]
    for layer in layers[removing:]:
        bits[f"{label(layer)} shares with none"] = (patterns == patterns[:, [layer]]).sum(axis=1) == 1
    return {name: bit for name, bit in bits.items() if 0 < bit.sum() < len(bit)}


def _explained(mean: np.ndarray, bit: np.ndarray) -> float:
    """Return the share of the variance that a bit explains."""
    between = bit.mean() * (1 - bit.mean()) * (mean[bit].mean() - mean[~bit].mean()) ** 2
    return float(between / mean.var()) if mean.var() else 0.0


def budgets(bench: TyingBench) -> pd.DataFrame:
    """Return how well one seed at a smaller budget predicts the other seeds at the full one.

    Kendall's tau over the patterns, mean over the seeds. At the full budget it is the best that can be expected.
    """
    full = bench.losses()
    truths = [np.delete(full, seed, axis=1).mean(axis=1) for seed in range(len(bench.seeds))]
    rows = []
    for budget in bench.budgets:
        early = bench.losses("test", budget)
        pairs = list(zip(early.T, truths, strict=True))
        ranks = [1 + (truth < truth[own.argmin()]).sum() for own, truth in pairs]
        rows.append(
            {
                "budget": f"{budget:g}",
                "tau of one seed with the others at the full budget": with_interval(
                    np.array([kendall(*pair) for pair in pairs]), digits=2
                ),
                "tau of the mean of all seeds with the full one": f"{kendall(early.mean(axis=1), full.mean(axis=1)):+.2f}",
                f"mean rank there of its best, of {len(full)}": f"{np.mean(ranks):.0f}",
            }
        )
    return pd.DataFrame(rows)


TABLES: dict[str, Callable[[TyingBench], pd.DataFrame]] = {
    table.__name__: table for table in (sizes, published, trust, rules, budgets, gate)
}
