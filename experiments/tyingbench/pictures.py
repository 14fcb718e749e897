"""The pictures of a report. Losses are nats per token on the test split, means over the seeds."""

from collections.abc import Callable
from itertools import combinations
from pathlib import Path

import numpy as np
from adjustText import adjust_text
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.study.intervals import kendall, on_front
from experiments.study.plots import figure_of
from experiments.tyingbench.tables import components, is_private, letters, means, named_patterns, num_unique, ties
from tying.files import replacing
from tying.palette import colour
from tying.tyingbench import TyingBench

_MAPS = 8  # of the best and of the worst patterns


def landscape(bench: TyingBench) -> Figure:
    """Draw every pattern's loss against its unique layers, the front, and the strategies of the literature."""
    figure = figure_of(10, 6.5)
    axes = figure.subplots()
    mean, unique, private = means(bench), num_unique(bench), is_private(bench)
    x = unique + np.random.default_rng(0).uniform(-0.18, 0.18, len(mean))
    for own, name, tint in ((private, "layer 0 private", "tab:blue"), (~private, "layer 0 shared", "tab:orange")):
        axes.plot(x[own], mean[own], "o", color=tint, label=name, markersize=4, alpha=0.55)
    front = np.flatnonzero(on_front(unique, mean))
    front = front[unique[front].argsort()]
    axes.step(unique[front], mean[front], where="post", color="tab:green", label="front", zorder=0)
    texts = []
    for pattern, name in named_patterns(bench.num_layers).items():
        place = x[bench.index(pattern)], mean[bench.index(pattern)]
        axes.plot(*place, "s", color="black", markersize=5, markerfacecolor="none")
        texts.append(axes.text(*place, name, size=8))
    noise = components(bench.losses())[1] / len(bench.seeds) ** 0.5
    middle = (mean.min() + mean.max()) / 2  # where no pattern of so few unique layers is
    axes.errorbar([0.6], [middle], yerr=[1.96 * noise], color="0.3", capsize=3)
    axes.text(0.68, middle, "95 % of one mean", size=8, va="center", color="0.3")
    axes.set(xlabel="unique layers", ylabel="test loss [nats per token]", xlim=(0.45, bench.num_layers + 0.6))
    axes.legend(loc="upper right")
    axes.grid(alpha=0.2)
    adjust_text(texts, ax=axes, arrowprops={"arrowstyle": "-", "color": "0.6", "linewidth": 0.5})
    return figure


def extremes(bench: TyingBench) -> Figure:
    """Draw the patterns with the lowest and the highest losses as rows of colour; equal colours share."""
    figure = figure_of(11, 3.6)
    order = means(bench).argsort()
    panels = {"the lowest losses": order[:_MAPS], "the highest losses": order[-_MAPS:]}
    for axes, (title, chosen) in zip(figure.subplots(1, 2), panels.items(), strict=True):
        _draw_patterns(axes, bench, chosen)
        axes.set_title(title)
    return figure


def _draw_patterns(axes: Axes, bench: TyingBench, chosen: np.ndarray) -> None:
    patterns = [bench.patterns[index] for index in chosen]
    axes.imshow([[colour(p.roots.index(root), bench.num_layers) for root in p] for p in patterns], aspect="auto")
    for row, pattern in enumerate(patterns):
        for layer, name in enumerate(letters(pattern)):
            axes.text(layer, row, name, color="white", ha="center", va="center", weight="bold")
    losses = means(bench)[chosen]
    axes.set_yticks(range(len(patterns)), [f"{bench.rank(p)}.  {x:.3f}" for p, x in zip(patterns, losses, strict=True)])
    axes.set_xticks(range(bench.num_layers))
    axes.set_xlabel("layer")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


def pairs(bench: TyingBench) -> Figure:
    """Draw the cost of tying each pair of layers, by least squares over all patterns."""
    figure = figure_of(5.6, 4.8)
    axes = figure.subplots()
    tied = ties(bench)
    costs = 1000 * np.linalg.lstsq(np.column_stack([np.ones(len(tied)), tied]), means(bench), rcond=None)[0][1:]
    grid = np.full((bench.num_layers, bench.num_layers), np.nan)
    limit = np.abs(costs).max()
    for (i, j), cost in zip(combinations(range(bench.num_layers), 2), costs, strict=True):
        grid[j, i] = cost
        axes.text(i, j, f"{cost:+.0f}", ha="center", va="center", color="white" if abs(cost) > 0.6 * limit else "black")
    image = axes.imshow(grid, cmap="RdBu_r", vmin=-limit, vmax=limit)
    figure.colorbar(image, label="cost of tying [thousandths of a nat per token]")
    axes.set(xlabel="layer", ylabel="layer", title="the cost of tying two layers")
    return figure


def early(bench: TyingBench) -> Figure:
    """Draw the losses at smaller budgets against those at the full one, and one half of the seeds against the other."""
    losses, half = bench.losses(), len(bench.seeds) // 2
    panels = {
        f"test loss at {budget:g} of the budget": (means(bench, budget), means(bench), "at the full budget")
        for budget in bench.budgets[:-1]
    }
    halves = losses[:, :half].mean(axis=1), losses[:, half:].mean(axis=1)
    panels[f"test loss, first {half} seeds"] = (*halves, "the other seeds")
    figure = figure_of(4.3 * len(panels), 4.2)
    for axes, (name, (x, y, other)) in zip(np.atleast_1d(figure.subplots(1, len(panels))), panels.items(), strict=True):
        axes.plot(x, y, "o", markersize=3.5, alpha=0.6)
        axes.set(xlabel=name, ylabel=other, title=f"tau {kendall(x, y):.2f}")
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
