"""The pointer map: layers over iterations, one colour and one letter per root. Shows who shares, and since when."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from experiments.run.figures import figure_of
from tying.palette import colour, letter
from tying.pointers import Pointers

_NARROWEST = 0.025  # share of the width that a letter needs


def draw(history: Sequence[tuple[int, Pointers]], start: int = 0, title: str = "") -> Figure:
    """Draw the tying of a run.

    Args:
        history: (iteration at the end of the window, pointers in force in it), in rising order; at least one.
        start: Iteration at which the first window began.
        title: Shown above.
    """
    figure = figure_of(7.5, 1.4 + 0.45 * len(history[0][1]))  # legible at TensorBoard's size
    axes = figure.subplots()
    draw_on(axes, history, start)
    axes.set(xlabel="training iteration", ylabel="layer", title=title)
    return figure


def draw_on(axes: Axes, history: Sequence[tuple[int, Pointers]], start: int = 0) -> None:
    """Draw the tying of a run on axes of a larger figure; see `draw`."""
    num_layers = len(history[0][1])
    ends = [iteration for iteration, _ in history]
    edges = [start, *ends]
    colours = np.array([[colour(pointers[layer], num_layers) for _, pointers in history] for layer in range(num_layers)])
    axes.pcolormesh(edges, np.arange(num_layers + 1) - 0.5, colours)
    axes.hlines(np.arange(num_layers + 1) - 0.5, start, ends[-1], color="white", linewidth=2)
    for layer in range(num_layers):
        for window, last_window in _stretches([pointers[layer] for _, pointers in history]):
            if edges[last_window + 1] - edges[window] < _NARROWEST * (ends[-1] - start):
                continue
            root = history[window][1][layer]
            weight = "bold" if root == layer else "normal"
            axes.text(
                edges[window], layer, f" {letter(root)}", va="center", color="white", weight=weight, size=12, clip_on=True
            )
    axes.set(xlim=(start, ends[-1]), ylim=(num_layers - 0.5, -0.5))
    axes.set_yticks(range(num_layers))
    last = axes.secondary_yaxis("right")
    final = history[-1][1]
    last.set_yticks(
        range(num_layers), [letter(root) + (" own" if root == layer else "") for layer, root in enumerate(final)]
    )
    last.tick_params(length=0)
    axes.tick_params(axis="y", length=0)
    for spine in (*axes.spines.values(), *last.spines.values()):
        spine.set_visible(False)


def _stretches(roots: Sequence[int]) -> list[tuple[int, int]]:
    """Return the first and the last window of every stretch in which a layer keeps its root."""
    firsts = [window for window, root in enumerate(roots) if window == 0 or root != roots[window - 1]]
    return list(zip(firsts, [first - 1 for first in firsts[1:]] + [len(roots) - 1], strict=True))


def to_array(figure: Figure, dpi: int = 90) -> np.ndarray:
    """Return a figure as pixels, (height, width, 3) uint8."""
    figure.set_dpi(dpi)
    canvas: FigureCanvasAgg = figure.canvas  # type: ignore[assignment]
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3]
