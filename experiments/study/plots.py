"""Pictures of a comparison: perplexity against parameters, learning curves, tying maps."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from adjustText import adjust_text
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.run import pointer_map
from experiments.run.figures import figure_of
from experiments.run.intervals import on_front, student_interval
from experiments.study.results import Run
from tying.training.record import perplexity

_MAPS_PER_ROW = 3


def pareto(table: pd.DataFrame, baseline: str, references: Mapping[str, float]) -> Figure:
    """Draw test perplexity against the share of block parameters, with intervals of the paired difference.

    Args:
        table: From `results.variant_table`.
        baseline: The variant that differences are against; its own point has no interval.
        references: Losses of models that need no training, by name, nats per token.
    """
    figure = figure_of(9.5, 6.5)
    axes = figure.subplots()
    reference, num_layers = table.loc[table["variant"] == baseline, ["test_loss", "num_layers"]].iloc[0]
    texts = []
    for row in table.itertuples():
        decides = row.decides
        x, y = 100 * row.block_params_share, row.test_ppl
        low, high = perplexity(reference + row.low), perplexity(reference + row.high)
        if np.isfinite([low, high]).all():
            axes.vlines(x, low, high, color="tab:blue" if decides else "0.75", linewidth=1, alpha=0.5)
        marker = "o" if decides else "s" if row.num_layers == num_layers else "^"
        axes.plot(x, y, marker, color="tab:blue" if decides else "0.35", markersize=7)
        texts.append(axes.text(x, y, row.variant, size=8, color="tab:blue" if decides else "0.2"))
    front = table[on_front(table["block_params_share"].to_numpy(), table["test_loss"].to_numpy())]
    front = front.sort_values("block_params_share")
    axes.step(100 * front["block_params_share"], front["test_ppl"], where="post", color="tab:green", alpha=0.6, zorder=0)
    axes.axhline(perplexity(reference), color="0.8", linewidth=1, zorder=0)
    axes.set(
        xlabel="trainable block parameters at the end, per cent of the untied model's",
        ylabel="test perplexity",
        title="circles decide, squares are fixed, triangles have another number of layers; green: the front;\n"
        f"bars: 95 % of the paired difference to {baseline}",
    )
    # The points set the scale; with few seeds Student's bars reach far beyond it.
    spread = max(table["test_ppl"].max() - table["test_ppl"].min(), 0.01 * table["test_ppl"].max())
    axes.set_ylim(table["test_ppl"].min() - 0.25 * spread, table["test_ppl"].max() + 0.25 * spread)
    _level_lines(axes, {name: perplexity(loss) for name, loss in references.items()})
    axes.margins(x=0.12)
    axes.grid(alpha=0.2)
    adjust_text(texts, ax=axes, arrowprops={"arrowstyle": "-", "color": "0.6", "linewidth": 0.5})
    return figure


def _level_lines(axes: Axes, levels: Mapping[str, float]) -> None:
    """Draw a line for every level between the limits of an axis; those beyond are named where they would be."""
    low, high = axes.get_ylim()
    style: dict[str, Any] = {"color": "tab:red", "size": 7, "transform": axes.get_yaxis_transform(), "va": "bottom"}
    for name, level in levels.items():
        if low <= level <= high:
            axes.axhline(level, color="tab:red", linewidth=0.8, linestyle=":", zorder=0)
            axes.text(0.005, level, name, **style)
    for sign, place, beyond in (
        ("below", 0.0, {name: level for name, level in levels.items() if level < low}),
        ("above", 0.97, {name: level for name, level in levels.items() if level > high}),
    ):
        if beyond:
            listed = ", ".join(f"{name} {level:.3f}" for name, level in beyond.items())
            axes.text(0.005, place, f"{sign} the picture: {listed}", **{**style, "transform": axes.transAxes})


def curves(runs: Sequence[Run], baseline: str, references: Mapping[str, float]) -> Figure:
    """Draw reward loss against tokens: on the left as it is, on the right minus the baseline's, with 95 % intervals."""
    figure = figure_of(13, 5.5)
    left, right = figure.subplots(1, 2)
    labels = list(dict.fromkeys(run.label for run in runs))
    reference = {run.seed: run.curve for run in runs if run.label == baseline}
    palette = colormaps["tab20"]
    for index, label in enumerate(labels):
        own = [run for run in runs if run.label == label]
        style = {"color": palette(index % 20), "linestyle": "-" if own[0].decides else "--", "linewidth": 1.3}
        tokens = own[0].curve["tokens"].to_numpy()
        left.plot(tokens, np.mean([_on(tokens, run.curve) for run in own], axis=0), label=label, **style)
        paired = [_on(tokens, run.curve) - _on(tokens, reference[run.seed]) for run in own if run.seed in reference]
        if label != baseline and paired:
            right.plot(tokens, np.mean(paired, axis=0), **style)
            low, high = np.array([student_interval(column) for column in np.array(paired).T]).T
            right.fill_between(tokens, low, high, color=style["color"], alpha=0.1, linewidth=0)
    right.axhline(0, color="0.5", linewidth=1)
    final = runs[0].curve["reward_loss"].iloc[-1]
    left.set(xlabel="training tokens", ylabel="reward loss [nats per token]", ylim=(final - 0.15, final + 1.2))
    _level_lines(left, references)
    right.set(xlabel="training tokens", ylabel=f"reward loss minus that of {baseline}", ylim=(-0.15, 0.3))
    figure.legend(loc="outside right upper", fontsize=8)
    return figure


def _on(tokens: np.ndarray, curve: pd.DataFrame) -> np.ndarray:
    measured = curve[curve["evaluated"]]
    values: np.ndarray = np.interp(tokens, measured["tokens"].to_numpy(), measured["reward_loss"].to_numpy())
    return values


def maps(runs: Sequence[Run]) -> Figure:
    """Draw the tying of every variant's first seed over the run, side by side."""
    first = {run.label: run for run in reversed(runs)}
    chosen = [first[label] for label in dict.fromkeys(run.label for run in runs)]
    rows = -(-len(chosen) // _MAPS_PER_ROW)
    num_layers = max(len(run.history[0][1]) for run in chosen)
    figure = figure_of(5.2 * _MAPS_PER_ROW, rows * (0.9 + 0.3 * num_layers))
    grid = np.atleast_1d(figure.subplots(rows, _MAPS_PER_ROW, squeeze=False)).ravel()
    for axes, run in zip(grid, chosen, strict=False):
        pointer_map.draw_on(axes, run.history)
        axes.set_title(f"{run.label}   (seed {run.seed}, test loss {run.summary['test_loss']:.3f})", size=10)
        axes.tick_params(labelsize=7)
    for axes in grid[len(chosen) :]:
        axes.set_visible(False)
    return figure
