"""Draw the figures of the documentation: `python docs/figures.py [FOLDER]` (default: docs/img)."""

import json
import sys
from pathlib import Path
from statistics import fmean

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyArrowPatch, FancyBboxPatch

from tying.compression.sources import Sources
from tying.pointers import Pointers

_COLOURS = {"w0": "#3b6fb6", "w1": "#d1772a", "w2": "#4f9a4a", "w3": "#8d5bb0", "copy": "#e8b98a"}
_NAMES = {"w0": "W0", "w1": "W1", "w2": "W2", "w3": "W3", "copy": "copy\nof W1"}

# (title, explanation, (pointers, root -> weights) before, the same after)
_CASES = (
    (
        "tie: layer 2 joins layer 1",
        "Layer 2 uses W1 from now on.\nNobody uses W2 any more: it is freed,\nwith its gradient and optimizer state.",
        (Pointers((0, 1, 2, 3)), {0: "w0", 1: "w1", 2: "w2", 3: "w3"}),
        (Pointers((0, 1, 1, 3)), {0: "w0", 1: "w1", 3: "w3"}),
    ),
    (
        "untie: layer 2 gets its own weights",
        "Layers 1 and 2 were using W1. The first keeps it,\nthe later gets a copy (values and optimizer moments).\n"
        "The loss does not change.",
        (Pointers((0, 1, 1, 3)), {0: "w0", 1: "w1", 3: "w3"}),
        (Pointers((0, 1, 2, 3)), {0: "w0", 1: "w1", 2: "copy", 3: "w3"}),
    ),
    (
        "promote: root 1 leaves its group",
        "Layer 1 joins layer 0. Layers 2 and 3 stay together:\nlayer 2, the next of the group, takes over W1.\n"
        "Its values do not change.",
        (Pointers((0, 1, 1, 1)), {0: "w0", 1: "w1"}),
        (Pointers((0, 0, 2, 2)), {0: "w0", 2: "w1"}),
    ),
    (
        "jump: to any pattern at once",
        "The same rule for every new root: 0 and 1 keep W0 and W1,\nroot 3 was using W1 too: a copy. Layer 2 uses W0.\n"
        "One call, whatever the two patterns are.",
        (Pointers((0, 1, 1, 1)), {0: "w0", 1: "w1"}),
        (Pointers((0, 1, 0, 3)), {0: "w0", 1: "w1", 3: "copy"}),
    ),
)


def _state(axes, left, pointers, weights):
    """Draw layers (circles) and the sets of weights that exist (boxes), each layer joined to the set it uses."""
    box_x = left + 1.75
    for layer, root in enumerate(pointers):
        name = weights[root]
        axes.add_patch(
            FancyArrowPatch(
                (left + 0.3, -layer),
                (box_x - 0.42, -root),
                arrowstyle="-|>",
                mutation_scale=11,
                linewidth=2.4 if layer == root else 1.6,
                linestyle="-" if layer == root else (0, (4, 2)),
                color=_COLOURS[name],
                shrinkA=0,
                shrinkB=0,
            )
        )
        axes.add_patch(Circle((left, -layer), 0.3, facecolor="white", edgecolor=_COLOURS[name], linewidth=2.2))
        axes.text(left, -layer, str(layer), ha="center", va="center", fontsize=11)
    for root, name in weights.items():
        axes.add_patch(
            FancyBboxPatch(
                (box_x - 0.38, -root - 0.3), 0.96, 0.6, boxstyle="round,pad=0.02,rounding_size=0.1",
                facecolor=_COLOURS[name], edgecolor="none",
            )
        )  # fmt: skip
        colour = "black" if name == "copy" else "white"
        axes.text(
            box_x + 0.1, -root, _NAMES[name], ha="center", va="center", color=colour, fontsize=9.5, linespacing=0.95,
            weight="bold",
        )  # fmt: skip
    axes.text(left + 1.0, -len(pointers) + 0.12, f"pointers {pointers}", ha="center", family="monospace", fontsize=10)


def _freed(axes, left, row, name):
    box_x = left + 1.75
    axes.add_patch(
        FancyBboxPatch(
            (box_x - 0.38, -row - 0.3), 0.96, 0.6, boxstyle="round,pad=0.02,rounding_size=0.1",
            facecolor="none", edgecolor="#999999", linestyle=(0, (2, 2)), linewidth=1.4,
        )
    )  # fmt: skip
    axes.text(
        box_x + 0.1, -row, f"{_NAMES[name]}\nfreed", ha="center", va="center", color="#777777", fontsize=9, linespacing=0.95
    )


def rebind() -> Figure:
    """Draw the rule of rebind: four moves, before and after."""
    figure = Figure(figsize=(12, 9.2), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, (title, text, before, after) in zip(figure.subplots(2, 2).flat, _CASES, strict=True):
        _state(axes, 0.0, *before)
        _state(axes, 4.2, *after)
        for root, name in before[1].items():
            if name not in after[1].values():
                _freed(axes, 4.2, root, name)
        axes.annotate(
            "", (3.65, -1.5), (2.6, -1.5), arrowprops={"arrowstyle": "simple", "color": "#bbbbbb", "mutation_scale": 34}
        )
        axes.text(-0.35, 1.0, title, fontsize=14, weight="bold", va="center")
        axes.text(-0.35, -4.45, text, fontsize=11, va="top", linespacing=1.35)
        axes.text(0.0, 0.5, "layer", ha="center", fontsize=9, color="#666666")
        axes.text(1.85, 0.5, "weights", ha="center", fontsize=9, color="#666666")
        axes.text(4.2, 0.5, "layer", ha="center", fontsize=9, color="#666666")
        axes.text(6.05, 0.5, "weights", ha="center", fontsize=9, color="#666666")
        axes.set(xlim=(-0.6, 6.9), ylim=(-5.9, 1.4), aspect="equal")
        axes.axis("off")
    return figure


# Kinds of patterns: what they do, colour, marker, and where they stand beside their number of sets.
_KINDS = (
    ("tie layers", "#3b6fb6", "o", -0.12),
    ("remove layers", "#d1772a", "^", 0.12),
    ("both", "#4f9a4a", "D", 0.0),
)


def _kind(sources):
    """Return the number of a pattern's kind."""
    removes, ties = None in sources, sources.num_sets < len(sources.kept)
    return 2 if removes and ties else int(removes)


def compressing() -> Figure:
    """Draw the loss of MiniLM's copies after short healing, every pattern that was healed, and after long healing."""
    figure = Figure(figsize=(12, 5.6), layout="constrained")
    FigureCanvasAgg(figure)
    short, long = figure.subplots(1, 2, sharey=True)
    folder = Path(__file__).parent / "data" / "compressing"
    for axes, names in ((short, ["short"]), (long, ["long", "long3", "long2"])):
        losses = {}
        for name in names:
            for line in map(json.loads, (folder / f"{name}_healed.jsonl").read_text().splitlines()):
                losses.setdefault(Sources.parse(line["sources"]), []).append(line["test_loss"])
        for number, (words, colour, marker, offset) in enumerate(_KINDS):
            points = [(s.num_sets + offset, fmean(values)) for s, values in losses.items() if _kind(s) == number]
            axes.plot(*zip(*points, strict=True), marker, color=colour, alpha=0.75, label=words, markersize=7)
        best = {}
        for sources, values in losses.items():
            best.setdefault(sources.num_sets, []).append((fmean(values), str(sources)))
        for num_sets, found in best.items():
            loss, text = min(found)
            axes.annotate(
                text, (num_sets, loss), (0, -16), textcoords="offset points", ha="center", family="monospace", fontsize=9
            )
        axes.grid(alpha=0.25)
        axes.set(xlabel="sets of block weights, of 6", xticks=[5, 4, 3, 2], xlim=(5.5, 1.5), ylim=(0, 0.72))
    short.set(ylabel="1 - cosine to the original's embeddings", title="20 iterations of healing, five seeds, all rules")
    long.set(title="400 iterations, three seeds, the best of each kind")
    short.legend(loc="upper left", frameon=False)
    return figure


def main() -> None:
    """Write every figure."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "img"
    folder.mkdir(parents=True, exist_ok=True)
    for draw in (rebind, compressing):
        draw().savefig(folder / f"{draw.__name__}.png", dpi=110)


if __name__ == "__main__":
    main()
