"""The pictures of a report. Losses are nats per token on the test split, means over the seeds."""

from collections.abc import Callable
from itertools import combinations
from pathlib import Path

import numpy as np
from adjustText import adjust_text
from matplotlib.figure import Figure

from experiments.run.figures import figure_of
from experiments.run.intervals import kendall, on_front
from experiments.tyingbench.tables import components, frame, named_patterns, ties
from tying.files import replacing
from tying.palette import colour
from tying.tyingbench import TyingBench

_MAPS = 8  # of the best and of the worst patterns


def landscape(bench: TyingBench) -> Figure:
    """Draw every pattern's loss against its unique layers, the front, and the strategies of the literature."""
    figure = figure_of(10, 6.5)
    axes = figure.subplots()
    patterns = frame(bench)
    patterns["x"] = patterns["unique"] + np.random.default_rng(0).uniform(-0.18, 0.18, len(patterns))
    for private, name, tint in ((True, "layer 0 private", "tab:blue"), (False, "layer 0 shared", "tab:orange")):
        own = patterns[patterns["private"] == private]
        axes.plot(own["x"], own["loss"], "o", color=tint, label=name, markersize=4, alpha=0.55)
    front = patterns[on_front(patterns["unique"], patterns["loss"])].sort_values("unique")
    axes.step(front["unique"], front["loss"], where="post", color="tab:green", label="front", zorder=0)
    texts = []
    for index, name in named_patterns(bench).items():
        x, y = patterns.loc[index, ["x", "loss"]]
        axes.plot(x, y, "s", color="black", markersize=5, markerfacecolor="none")
        texts.append(axes.text(x, y, name, size=8))
    noise = components(bench.losses())[1] / len(bench.seeds) ** 0.5
    middle = patterns["loss"].agg(["min", "max"]).mean()  # where no pattern of so few unique layers is
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
    in_order = frame(bench).sort_values("loss")
    panels = {"the lowest losses": in_order[:_MAPS], "the highest losses": in_order[-_MAPS:]}
    for axes, (title, chosen) in zip(figure.subplots(1, 2), panels.items(), strict=True):
        groups = [[ord(name) - ord("A") for name in text] for text in chosen["letters"]]
        axes.imshow([[colour(group, bench.num_layers) for group in row] for row in groups], aspect="auto")
        for row, text in enumerate(chosen["letters"]):
            for layer, name in enumerate(text):
                axes.text(layer, row, name, color="white", ha="center", va="center", weight="bold")
        ranks = [bench.rank(bench.patterns[index]) for index in chosen.index]
        labels = [f"{rank}.  {loss:.3f}" for rank, loss in zip(ranks, chosen["loss"], strict=True)]
        axes.set(title=title, xlabel="layer", xticks=range(bench.num_layers))
        axes.set_yticks(range(len(labels)), labels)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
    return figure


def pairs(bench: TyingBench) -> Figure:
    """Draw the cost of tying each pair of layers, by least squares over all patterns."""
    figure = figure_of(5.6, 4.8)
    axes = figure.subplots()
    tied = ties(bench)
    design = np.column_stack([np.ones(len(tied)), tied])
    costs = 1000 * np.linalg.lstsq(design, bench.losses().mean(axis=1), rcond=None)[0][1:]
    grid = np.full((bench.num_layers, bench.num_layers), np.nan)
    limit = np.abs(costs).max()
    for (i, j), cost in zip(combinations(range(bench.num_layers), 2), costs, strict=True):
        if not bench.parts.joins(j, i):  # halves of different kinds are never tied
            continue
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
        (f"test loss at {budget:g} of the budget", "at the full budget"): (bench.losses("test", budget), losses)
        for budget in bench.budgets[:-1]
    }
    panels[f"test loss, first {half} seeds", "the other seeds"] = (losses[:, :half], losses[:, half:])
    figure = figure_of(4.3 * len(panels), 4.2)
    for axes, (names, values) in zip(np.atleast_1d(figure.subplots(1, len(panels))), panels.items(), strict=True):
        x, y = (value.mean(axis=1) for value in values)
        axes.plot(x, y, "o", markersize=3.5, alpha=0.6)
        axes.set(xlabel=names[0], ylabel=names[1], title=f"tau {kendall(x, y):.2f}")
    return figure


PICTURES: dict[str, Callable[[TyingBench], Figure]] = {
    picture.__name__: picture for picture in (landscape, extremes, pairs, early)
}


def draw(bench: TyingBench, folder: Path, prefix: str = "") -> None:
    """Write all pictures to a folder."""
    for name, function in PICTURES.items():
        with replacing(folder / f"{prefix}{name}.png") as temporary:
            function(bench).savefig(temporary, format="png", dpi=100)
