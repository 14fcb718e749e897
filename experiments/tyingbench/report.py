"""What a table says: which layers can share, where the published strategies stand, and how far it can be trusted.

    python -m experiments.tyingbench report --out reports/shakespeare-6

Losses are nats per token on the test split, means over the seeds; objectives without a price. P patterns, S seeds.
"""

from collections.abc import Callable, Sequence
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
from adjustText import adjust_text
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict
from rich.console import Console
from scipy import stats

from envs.tyingbench import DEFAULT, TyingBench
from experiments import cli
from experiments.results import student_interval
from tying import strategies
from tying.errors import InputError
from tying.files import replacing, require_room, write_text
from tying.palette import colour, letter
from tying.pointers import Pointers

_RESAMPLES = 1000
_MAPS = 8  # of the best and of the worst patterns


class ReportSettings(BaseSettings):
    """Write down what is in a table."""

    model_config = SettingsConfigDict(**cli.script_config("tyingbench report"))
    table: str = Field(DEFAULT, description="a shipped table, or the path of a CSV file")
    out: str = Field("reports/tyingbench", description="folder for report.md and the pictures, new or to write over")


def main(arguments: Sequence[str]) -> None:
    """Write the report of a table."""
    settings = cli.read(ReportSettings, arguments)
    bench = TyingBench.load(settings.table)
    folder = Path(settings.out)
    require_room(folder / "report.md", "--out")
    if bench.num_layers < 3 or len(bench.seeds) < 2:
        raise InputError(
            f"--table {settings.table}: {bench.num_layers} layers, {len(bench.seeds)} seeds; a report needs 3 and 2"
        )
    page = [f"# {settings.table}: {len(bench.patterns)} patterns, {len(bench.seeds)} seeds\n"]
    for name, table in tables(bench).items():
        page.append(f"## {name}\n\n{table.to_markdown(index=False, disable_numparse=True)}\n")
    draw(bench, folder)
    page += [f"![{name}]({name}.png)\n" for name in PICTURES]
    write_text(folder / "report.md", "\n".join(page))
    Console().print(f"report     {folder / 'report.md'}", highlight=False, soft_wrap=True)


def tables(bench: TyingBench) -> dict[str, pd.DataFrame]:
    """Return all tables by name, in words."""
    return {name: function(bench) for name, function in _TABLES.items()}


def letters(pattern: Pointers) -> str:
    """Return a pattern as letters in the order of their first use: 0 1 1 3 as ABBC."""
    return "".join(letter(pattern.roots.index(root)) for root in pattern)


def _means(bench: TyingBench, budget: float = 1.0) -> np.ndarray:
    means: np.ndarray = bench.losses("test", budget).mean(axis=1)
    return means


def sizes(bench: TyingBench) -> pd.DataFrame:
    """Return the best and the worst pattern of every number of unique layers."""
    means = _means(bench)
    unique = np.array([pattern.num_unique for pattern in bench.patterns])
    untied = bench.index(Pointers.independent(bench.num_layers))
    rows = []
    for number in range(1, bench.num_layers + 1):
        own = np.flatnonzero(unique == number)
        best, worst = own[means[own].argmin()], own[means[own].argmax()]
        rows.append(
            {
                "unique layers": number,
                "patterns": len(own),
                "block parameters": f"{bench.param_shares[best]:.0%}",
                "best": f"`{letters(bench.patterns[best])}`",
                "its loss": f"{means[best]:.4f}",
                "to untied": _paired(bench, best, untied),
                "mean": f"{means[own].mean():.4f}",
                "worst": f"`{letters(bench.patterns[worst])}`",
                "loss": f"{means[worst]:.4f}",
            }
        )
    return pd.DataFrame(rows)


def published(bench: TyingBench) -> pd.DataFrame:
    """Return where every strategy of the literature ranks, among all patterns and among those of its size."""
    means = _means(bench)
    untied = bench.index(Pointers.independent(bench.num_layers))
    unique = np.array([pattern.num_unique for pattern in bench.patterns])
    rows = []
    for pattern, names in named_patterns(bench.num_layers).items():
        index = bench.index(pattern)
        same = unique == pattern.num_unique
        row = {
            "loss_": means[index],
            "strategy": ", ".join(f"`{name}`" for name in names),
            "pattern": f"`{letters(pattern)}`",
            "unique layers": pattern.num_unique,
            "loss": f"{means[index]:.4f}",
            "to untied": _paired(bench, index, untied),
            "rank": f"{bench.rank(pattern)} of {len(means)}",
            "of its size": f"{1 + int((means[same] < means[index]).sum())} of {int(same.sum())}",
        }
        rows.append(row)
    return pd.DataFrame(rows).sort_values("loss_").drop(columns="loss_")


def named_patterns(num_layers: int) -> dict[Pointers, list[str]]:
    """Return every pattern that a strategy of ours makes, with all its names, the first that was found first."""
    texts = ["independent", "all_tied", "sandwich", "private_first"]
    for name in ("sequence", "cycle"):
        texts += [f"{name}:{unique}" for unique in range(2, num_layers)]
    texts += [f"cycle_rev:{unique}" for unique in range(2, num_layers // 2 + 1)]
    texts += [f"middle_cycle:{unique}" for unique in range(4, num_layers)]
    texts += [f"immediate_repeat:{run}" for run in range(2, num_layers // 2 + 1)]
    texts += [f"front_loaded:{','.join(map(str, runs))}" for runs in _falling_runs(num_layers)]
    named: dict[Pointers, list[str]] = {}
    for text in texts:
        named.setdefault(strategies.make(text, num_layers), []).append(text)
    # A schedule of runs says most when nothing else has that pattern.
    return {pattern: names if len(names) < 3 else names[:2] for pattern, names in named.items()}


def _falling_runs(num_layers: int) -> list[tuple[int, ...]]:
    """Return runs that fall and add up to L, beginning with half of the layers, such as 3,2,1."""

    def runs(left: int, most: int) -> list[tuple[int, ...]]:
        return [()] if left == 0 else [(n, *rest) for n in range(min(left, most), 0, -1) for rest in runs(left - n, n - 1)]

    return [found for found in runs(num_layers, num_layers // 2) if len(found) > 1]


def front(bench: TyingBench) -> pd.DataFrame:
    """Return the patterns that no other beats in both size and loss."""
    means = _means(bench)
    untied = bench.index(Pointers.independent(bench.num_layers))
    rows = []
    for index in _front(bench):
        rows.append(
            {
                "pattern": f"`{letters(bench.patterns[index])}`",
                "block parameters": f"{bench.param_shares[index]:.0%}",
                "loss": f"{means[index]:.4f}",
                "to untied": _paired(bench, index, untied),
            }
        )
    return pd.DataFrame(rows)


def _front(bench: TyingBench) -> list[int]:
    means = _means(bench)
    best = np.inf
    found = []
    for index in np.lexsort((means, bench.param_shares)):
        if means[index] < best:
            best = means[index]
            found.append(int(index))
    return found


def _paired(bench: TyingBench, index: int, other: int) -> str:
    """Return the mean difference of two patterns over the seeds with Student's 95 % interval, in words."""
    if index == other:
        return ""
    losses = bench.losses()
    difference = losses[index] - losses[other]
    low, high = student_interval(difference)
    return f"{difference.mean():+.4f} [{low:+.4f}, {high:+.4f}]"


def trust(bench: TyingBench) -> pd.DataFrame:
    """Return how reliable the table is, by budget.

    Signal and noise are standard deviations of patterns and of seeds within a pattern, after the seeds' own means are
    taken off (two-way analysis of variance). The split-half correlation is Spearman's between the means of two halves of
    the seeds, averaged over all halves, and corrected to the full number of seeds (Spearman 1910, Brown 1910).
    """
    rows = []
    for budget in bench.budgets:
        losses = bench.losses("test", budget)
        signal, noise = components(losses)
        half = split_half(losses)
        reward = stats.spearmanr(bench.losses("reward", budget).mean(axis=1), losses.mean(axis=1)).statistic
        rows.append(
            {
                "budget": f"{budget:g}",
                "mean loss": f"{losses.mean():.4f}",
                "signal": f"{signal:.4f}",
                "noise of a seed": f"{noise:.4f}",
                "noise of the mean": f"{noise / len(bench.seeds) ** 0.5:.4f}",
                "halves of the seeds": f"{half:.3f}",
                "all seeds": f"{spearman_brown(half, bench):.3f}",
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


def split_half(losses: np.ndarray) -> float:
    """Return Spearman's correlation of pattern means between halves of the seeds, mean over all ways to halve them.

    With an odd number of seeds each half leaves one out.
    """
    seeds = set(range(losses.shape[1]))
    size = len(seeds) // 2
    found = []
    for one in combinations(sorted(seeds), size):
        for other in combinations(sorted(seeds - set(one)), size):
            if one < other:
                pair = losses[:, one].mean(axis=1), losses[:, other].mean(axis=1)
                found.append(stats.spearmanr(*pair).statistic)
    return float(np.mean(found))


def spearman_brown(half: float, bench: TyingBench) -> float:
    """Return what the correlation of halves comes to for the mean over all seeds; one that is not positive stays."""
    if half <= 0:
        return half
    longer = len(bench.seeds) / (len(bench.seeds) // 2)
    return longer * half / (1 + (longer - 1) * half)


def rules(bench: TyingBench) -> pd.DataFrame:
    """Return how much simple rules explain, and whether what they leave is signal.

    A rule is a least-squares fit to the mean losses. "Of the variance" is R squared, corrected for the number of its
    figures; "of the signal" is what it explains of the variance that is not noise of the seeds. "What remains agrees" is
    the correlation of residuals between halves of the seeds (fitted apart), corrected to all seeds: about 0 if only noise
    is left.
    """
    losses = bench.losses()
    signal, noise = components(losses)
    rows = []
    for name, design in _designs(bench).items():
        left = _residuals(design, losses.mean(axis=1))
        freedom = len(left) - np.linalg.matrix_rank(design)
        if freedom == 0:  # of so few layers it has as many figures as there are patterns
            continue
        variance = losses.mean(axis=1).var(ddof=1)
        unexplained = (left**2).sum() / freedom
        real = max(0.0, unexplained - noise**2 / len(bench.seeds))
        agrees = split_half(np.column_stack([_residuals(design, column) for column in losses.T]))
        rows.append(
            {
                "rule": name,
                "figures": int(np.linalg.matrix_rank(design)),
                "of the variance": f"{1 - unexplained / variance:.0%}",
                "of the signal": f"{1 - real / signal**2:.0%}" if signal else "",
                "what remains": f"{unexplained**0.5:.4f}",
                "of it signal": f"{real**0.5:.4f}",
                "what remains agrees": f"{spearman_brown(agrees, bench):+.2f}",
            }
        )
    return pd.DataFrame(rows)


def _designs(bench: TyingBench) -> dict[str, np.ndarray]:
    """Return the design matrix of every rule, (P, figures)."""
    patterns = bench.patterns
    one = np.ones(len(patterns))
    unique = np.array([pattern.num_unique for pattern in patterns])
    private = np.array([len(pattern.groups[0]) == 1 for pattern in patterns], dtype=float)
    levels = np.stack([unique == number for number in range(1, bench.num_layers + 1)], axis=1).astype(float)
    ties = _ties(bench)
    return {
        "how many unique": np.column_stack([one, unique]),
        "is layer 0 private": np.column_stack([one, private]),
        "both": np.column_stack([one, unique, private]),
        "both, every number of unique layers for itself": np.column_stack([levels, private, private * unique]),
        "which pairs are tied": np.column_stack([one, ties]),
        "pairs, unique and private": np.column_stack([levels, private, private * unique, ties]),
    }


def _ties(bench: TyingBench) -> np.ndarray:
    """Return whether each pair of layers is tied, (P, L(L-1)/2) of 0 and 1."""
    pairs = list(combinations(range(bench.num_layers), 2))
    return np.array([[float(p[i] == p[j]) for i, j in pairs] for p in bench.patterns])


def _residuals(design: np.ndarray, values: np.ndarray) -> np.ndarray:
    fitted: np.ndarray = values - design @ np.linalg.lstsq(design, values, rcond=None)[0]
    return fitted


def budgets(bench: TyingBench) -> pd.DataFrame:
    """Return how well the ranking at smaller budgets predicts that at the full one.

    Kendall's tau with its 95 % bootstrap interval over patterns. The smaller budget is of other seeds than the full one, as
    for somebody who trains a few to choose what to train; "same budget, other seeds" is the best that can be hoped for.
    """
    half = len(bench.seeds) // 2
    few, others = slice(0, half), slice(half, None)
    truth = bench.losses("test", 1.0)[:, others].mean(axis=1)
    rows = []
    for budget in bench.budgets:
        cheap = bench.losses("test", budget)[:, few].mean(axis=1)
        same = "" if budget == 1 else _words(*_tau(_means(bench, budget), _means(bench)))
        best = int(cheap.argmin())
        rows.append(
            {
                "budget": f"{budget:g}",
                f"{half} seeds with {len(bench.seeds) - half} others at the full budget": _words(*_tau(cheap, truth)),
                "all seeds with all": same,
                "rank of its best at the full budget": f"{1 + int((truth < truth[best]).sum())} of {len(truth)}",
            }
        )
    return pd.DataFrame(rows)


def _tau(one: np.ndarray, other: np.ndarray) -> tuple[float, float, float]:
    generator = np.random.default_rng(0)
    draws = [generator.integers(0, len(one), len(one)) for _ in range(_RESAMPLES)]
    values = [stats.kendalltau(one[index], other[index]).statistic for index in draws]
    low, high = np.quantile(values, [0.025, 0.975])
    return float(stats.kendalltau(one, other).statistic), float(low), float(high)


def _words(mean: float, low: float, high: float) -> str:
    return f"{mean:.2f} [{low:.2f}, {high:.2f}]"


_TABLES: dict[str, Callable[[TyingBench], pd.DataFrame]] = {
    "sizes": sizes,
    "published": published,
    "front": front,
    "trust": trust,
    "rules": rules,
    "budgets": budgets,
}


def _figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def landscape(bench: TyingBench) -> Figure:
    """Draw every pattern's loss against its unique layers, the front, and the strategies of the literature."""
    figure = _figure(10, 6.5)
    axes = figure.subplots()
    means = _means(bench)
    unique = np.array([pattern.num_unique for pattern in bench.patterns])
    private = np.array([len(pattern.groups[0]) == 1 for pattern in bench.patterns])
    shift = np.random.default_rng(0).uniform(-0.18, 0.18, len(means))
    for own, name, tint in ((private, "layer 0 private", "tab:blue"), (~private, "layer 0 shared", "tab:orange")):
        axes.plot((unique + shift)[own], means[own], "o", color=tint, label=name, markersize=4, alpha=0.55)
    on_front = _front(bench)
    axes.step(unique[on_front], means[on_front], where="post", color="tab:green", label="front", zorder=0)
    texts = []
    for pattern, names in named_patterns(bench.num_layers).items():
        index = bench.index(pattern)
        x, y = unique[index] + shift[index], means[index]
        axes.plot(x, y, "s", color="black", markersize=5, markerfacecolor="none")
        texts.append(axes.text(x, y, names[0], size=8))
    noise = components(bench.losses())[1] / len(bench.seeds) ** 0.5
    middle = (means.min() + means.max()) / 2  # where no pattern of so few unique layers is
    axes.errorbar([0.6], [middle], yerr=[1.96 * noise], color="0.3", capsize=3)
    axes.text(0.68, middle, "95 % of one mean", size=8, va="center", color="0.3")
    axes.set(
        xlabel="unique layers", ylabel="test loss, mean over seeds [nats per token]", xlim=(0.45, bench.num_layers + 0.6)
    )
    axes.legend(loc="upper right")
    axes.grid(alpha=0.2)
    adjust_text(texts, ax=axes, arrowprops={"arrowstyle": "-", "color": "0.6", "linewidth": 0.5})
    return figure


def extremes(bench: TyingBench) -> Figure:
    """Draw the best and the worst patterns as rows of colour, equal colours share."""
    figure = _figure(11, 3.6)
    order = _means(bench).argsort()
    for axes, chosen, title in zip(
        figure.subplots(1, 2), (order[:_MAPS], order[-_MAPS:]), ("the best patterns", "the worst patterns"), strict=True
    ):
        _rows(axes, bench, chosen)
        axes.set_title(title)
    return figure


def _rows(axes: Axes, bench: TyingBench, chosen: Sequence[int] | np.ndarray) -> None:
    patterns = [bench.patterns[index] for index in chosen]
    axes.pcolormesh(
        np.arange(bench.num_layers + 1) - 0.5,
        np.arange(len(patterns) + 1) - 0.5,
        np.array([[colour(p.roots.index(root), bench.num_layers) for root in p] for p in patterns]),
        edgecolor="white",
        linewidth=2,
    )
    for row, pattern in enumerate(patterns):
        for layer, name in enumerate(letters(pattern)):
            axes.text(layer, row, name, color="white", ha="center", va="center", weight="bold")
    means = _means(bench)
    labels = [f"{bench.rank(p)}.  {means[i]:.3f}" for p, i in zip(patterns, chosen, strict=True)]
    axes.set_yticks(range(len(patterns)), labels)
    axes.set_xticks(range(bench.num_layers))
    axes.set(xlabel="layer", ylim=(len(patterns) - 0.5, -0.5))
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)


def pairs(bench: TyingBench) -> Figure:
    """Draw what tying each pair of layers costs, by least squares over all patterns."""
    figure = _figure(5.6, 4.8)
    axes = figure.subplots()
    ties = _ties(bench)
    costs = np.linalg.lstsq(np.column_stack([np.ones(len(ties)), ties]), _means(bench), rcond=None)[0][1:]
    grid = np.full((bench.num_layers, bench.num_layers), np.nan)
    limit = 1000 * np.abs(costs).max()
    for (i, j), cost in zip(combinations(range(bench.num_layers), 2), 1000 * costs, strict=True):
        grid[j, i] = cost
        ink = "white" if abs(cost) > 0.6 * limit else "black"
        axes.text(i, j, f"{cost:+.0f}", ha="center", va="center", color=ink)
    image = axes.imshow(grid, cmap="RdBu_r", vmin=-limit, vmax=limit)
    figure.colorbar(image, label="cost of tying [thousandths of a nat per token]")
    axes.set(xlabel="layer", ylabel="layer", title="what tying two layers costs")
    return figure


def early(bench: TyingBench) -> Figure:
    """Draw the losses at smaller budgets against those at the full one, and one half of the seeds against the other."""
    smaller = [budget for budget in bench.budgets if budget < 1]
    figure = _figure(4.3 * (len(smaller) + 1), 4.2)
    panels = np.atleast_1d(figure.subplots(1, len(smaller) + 1))
    means = _means(bench)
    for axes, budget in zip(panels, smaller, strict=False):
        other = _means(bench, budget)
        tau = stats.kendalltau(other, means).statistic
        axes.plot(other, means, "o", markersize=3.5, alpha=0.6)
        axes.set(xlabel=f"test loss at {budget:g} of the budget", ylabel="at the full budget", title=f"tau {tau:.2f}")
    losses, half = bench.losses(), len(bench.seeds) // 2
    one, other = losses[:, :half].mean(axis=1), losses[:, half:].mean(axis=1)
    panels[-1].plot(one, other, "o", markersize=3.5, alpha=0.6, color="tab:purple")
    tau = stats.kendalltau(one, other).statistic
    panels[-1].set(
        xlabel=f"test loss, first {half} seeds", ylabel="the other seeds", title=f"full budget, other seeds: tau {tau:.2f}"
    )
    return figure


PICTURES: dict[str, Callable[[TyingBench], Figure]] = {
    "landscape": landscape,
    "extremes": extremes,
    "pairs": pairs,
    "early": early,
}


def draw(bench: TyingBench, folder: Path, prefix: str = "") -> None:
    """Write all pictures to a folder."""
    for name, function in PICTURES.items():
        with replacing(folder / f"{prefix}{name}.png") as temporary:
            function(bench).savefig(temporary, format="png", dpi=100)
