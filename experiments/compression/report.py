"""The report of a compression: summary.json, a table in the terminal, and one self-contained page."""

import base64
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from experiments.compression.pipeline import SUMMARY, Asked, Candidate, Outcome, Size
from experiments.run.figures import figure_of, png
from experiments.run.intervals import FEWEST, student_interval, with_interval, written
from tying import palette
from tying.compression.sources import Sources
from tying.files import read_json, write_json, write_text
from tying.models.base import num_params

# The order of patterns says little where the best keeps less than this share of the median's damage away,
_BLIND = 0.2
# and has come farther than this share of the way from the original to a model that knows nothing.
_LOST = 0.5

_PAGE = jinja2.Template(
    """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>{{ title }}</title>
<style>
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1000px; margin: 2em auto; padding: 0 1em; color: #222 }
table { border-collapse: collapse; font-size: 13px } th, td { padding: .25em .7em; text-align: right; white-space: nowrap }
th:first-child, td:first-child, th:nth-child(2), td:nth-child(2) { text-align: left }
tr:nth-child(even) { background: #f5f5f5 } th { border-bottom: 2px solid #999 }
img { max-width: 100% } pre { background: #f5f5f5; padding: .7em; white-space: pre-wrap }
</style>
<h1>{{ title }}</h1>
<pre>{{ command }}</pre>
{% for size in sizes %}<h2>{{ size.title }}</h2>
<p>{{ size.verdict }}</p>
{{ size.table }}
{% endfor %}
<h2>loss against size</h2>
<img alt="loss against size" src="data:image/png;base64,{{ curve }}">
<h2>the patterns that were chosen</h2>
<img alt="patterns" src="data:image/png;base64,{{ maps }}">
<p>{{ notes }}</p>
</html>
""",
    autoescape=True,
)


def write_report(outcome: Outcome) -> None:
    """Write report.html and summary.json."""
    compression = outcome.subject.compression
    summary = _summary(outcome)
    pictures = {"curve": _curve(outcome), "maps": _maps(outcome.sizes)}
    page = _PAGE.render(
        title=f"{compression.flags.model}, compressed",
        command=shlex.join(compression.command),
        sizes=[
            {"title": _title(size), "verdict": size["verdict"], "table": Markup(_html(size))} for size in summary["sizes"]
        ],
        notes=_notes(outcome),
        **{name: base64.b64encode(png(figure)).decode() for name, figure in pictures.items()},
    )
    write_text(compression.out / "report.html", page)
    write_json(compression.out / SUMMARY, summary)


def show_report(folder: Path, console: Console) -> dict[str, Any]:
    """Show the tables of a finished compression, and return its summary."""
    summary: dict[str, Any] = read_json(folder / SUMMARY)
    for size in summary["sizes"]:
        console.print(_terminal(size))
        console.print(size["verdict"])
    console.print(f"model      {shlex.quote(str(folder / 'model'))}", soft_wrap=True)
    console.print(f"report     {shlex.quote(str(folder / 'report.html'))}", soft_wrap=True)
    return summary


def _summary(outcome: Outcome) -> dict[str, Any]:
    compression = outcome.subject.compression
    sizes = [_size_entry(size, outcome) for size in outcome.sizes]
    return {
        "model": compression.flags.model,
        "search": compression.flags.search,
        "objective": compression.flags.objective,
        "original": outcome.original,
        **sizes[0],
        "sizes": sizes,
        "queries": outcome.queries,
        "healing_iterations": compression.config.trainer.iterations,
        "wall_s": outcome.wall_s,
        "memory_mib": outcome.memory_mib,
        **outcome.subject.task.facts(),
    }


def _size_entry(size: Size, outcome: Outcome) -> dict[str, Any]:
    return {
        "num_sets": size.num_sets,
        "share": size.block_params / outcome.block_params,
        "pointers": size.chosen.sources.entries,
        "sources": list(size.chosen.sources),
        "effective_blocks": size.chosen.sources.pointers.effective_blocks,
        "zero_shot": size.chosen.zero_shot,
        "healed_short": list(size.chosen.healed),
        "healed": size.healed,
        "references": {
            other.name: {
                "pointers": other.sources.entries,
                "sources": list(other.sources),
                "zero_shot": other.zero_shot,
                "healed": float(np.mean(other.healed)) if other.healed else None,
                "healed_seeds": list(other.healed),
            }
            for other in size.others
        },
        "verdict": _verdict(size, outcome),
    }


def _title(size: Mapping[str, Any]) -> str:
    return f"{size['num_sets']} of {len(size['sources'])} sets of block weights"


def _verdict(size: Size, outcome: Outcome) -> str:
    """Return the result in words, computed from the figures."""
    chosen, original = size.chosen, outcome.original
    params = num_params(outcome.subject.model)
    left = params - outcome.block_params + size.block_params
    parts = [
        f"'{chosen.sources}' keeps {left / params:.0%} of all parameters and runs {len(chosen.sources.kept)} of "
        f"{len(chosen.sources)} layers; its loss is {chosen.zero_shot:.4f} at once and {size.healed:.4f} after healing "
        f"(original {original:z.4f})."
    ]
    named = {other.name: other for other in size.others if other.healed}
    if "best tying" in named and "best removal" in named:
        equal = (
            "sets of weights (and low-rank deltas)"
            if outcome.subject.compression.config.binding.delta_rank
            else "parameters"
        )
        parts.append(_tying_or_removal(named["best tying"], named["best removal"], equal))
    rules = [other for other in named.values() if not other.name.startswith(("best ", "#"))]
    if rules:
        best = min(rules, key=lambda rule: np.mean(rule.healed))
        parts.append(
            f"After short healing the chosen pattern has {np.mean(chosen.healed):.4f}, the best rule "
            f"({best.name}) {np.mean(best.healed):.4f}."
        )
    if _all_lost(size.asked, outcome.subject.objective.uninformed_loss):
        parts.append("Every pattern of this size loses most of the model: the order among them says little.")
    if len(chosen.healed) < FEWEST:
        parts.append(f"With fewer than {FEWEST} seeds there is no interval: do not read small differences.")
    return " ".join(parts)


def _all_lost(asked: Asked, uninformed_loss: float) -> bool:
    """Return whether the best pattern of a size has lost most of the model, and is hardly better than the median."""
    damage, usual = asked.best - asked.original, asked.median - asked.original
    return damage > _LOST * (uninformed_loss - asked.original) and usual - damage < _BLIND * usual


def _tying_or_removal(tying: Candidate, removal: Candidate, equal: str) -> str:
    differences = np.array(removal.healed) - np.array(tying.healed)
    mean, (low, high) = float(differences.mean()), student_interval(differences)
    if np.isnan(low):
        words = f"ends {'lower' if mean < 0 else 'higher' if mean > 0 else 'level'} ({abs(mean):.4f})"
    else:
        words = "no different" if low <= 0 <= high else "better" if mean < 0 else "worse"
        words = f"is {words} ({written(mean, low, high)})"
    runs = len(removal.sources.kept)
    return (
        f"At equal {equal} and equal short healing, removal {words}: {np.mean(removal.healed):.4f} against "
        f"{np.mean(tying.healed):.4f} for the best tying, and it runs {runs} layer{'s' if runs > 1 else ''} instead of "
        f"{len(tying.sources.kept)}."
    )


def _rows(size: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    """Yield the rows of a size in the summary: the chosen pattern, those that were healed, and the others, best first."""
    short = np.array(size["healed_short"])
    others = sorted(
        size["references"].items(),
        key=lambda other: (not other[1]["healed_seeds"], np.mean(other[1]["healed_seeds"] or other[1]["zero_shot"])),
    )
    for name, values in [("chosen", {**size, "healed_seeds": short}), *others]:
        sources, healed = Sources(values["sources"]), np.array(values["healed_seeds"])
        mean = f"{healed.mean():.4f}" if len(healed) else "-"
        difference = with_interval(healed - short) if len(healed) and name != "chosen" else "-"
        whole = f"{size['healed']:.4f}" if name == "chosen" else "-"
        yield name, str(sources), str(len(sources.kept)), f"{values['zero_shot']:.4f}", mean, difference, whole


_COLUMNS = ("", "sources", "layers", "at once", "short healing", "to chosen", "healed")


def _terminal(size: Mapping[str, Any]) -> Table:
    """Return the table of a size, within 80 columns: intervals stand below their means, and names are folded."""
    shown = Table(title=_title(size), box=box.SIMPLE, padding=(0, 1, 0, 0), pad_edge=False)
    for number, name in enumerate(_COLUMNS):
        wide = number < 2
        title = name.replace(" ", "\n")
        shown.add_column(title, justify="left" if wide else "right", overflow="fold", no_wrap=not wide)
    for row in _rows(size):
        shown.add_row(*(Text(cell.replace(" [", "\n[")) for cell in row))
    return shown


def _html(size: Mapping[str, Any]) -> str:
    cells = jinja2.Template(
        "<table><tr>{% for name in columns %}<th>{{ name }}</th>{% endfor %}</tr>{% for row in rows %}<tr>"
        "{% for cell in row %}<td>{{ cell }}</td>{% endfor %}</tr>{% endfor %}</table>",
        autoescape=True,
    )
    return str(cells.render(columns=_COLUMNS, rows=list(_rows(size))))


def _notes(outcome: Outcome) -> str:
    compression = outcome.subject.compression
    return (
        f"Losses are of {compression.flags.test_batches} batches of the test split; questions were asked on the reward "
        f"split, healing is on the train split. Short healing is {compression.flags.short:.0%} of "
        f"{compression.config.trainer.iterations} iterations; differences to the chosen pattern are paired by seed, with "
        "Student's 95 % interval from three seeds on. "
        f"{outcome.queries} questions, {outcome.wall_s:.0f} s, {outcome.memory_mib} MiB."
    )


def _curve(outcome: Outcome) -> Figure:
    """Draw the loss against parameters and against compute: the chosen patterns before and after healing, and rivals."""
    figure = figure_of(11, 4.6)
    total = outcome.subject.num_layers
    sides: dict[str, Callable[[Sources], int]] = {
        "sets of block weights: parameters": lambda sources: sources.num_sets,
        "layers that run: compute": lambda sources: len(sources.kept),
    }
    for axes, (label, measure) in zip(figure.subplots(1, 2, sharey=True), sides.items(), strict=True):
        for kind, marker, colour in (("tying", "o", "tab:blue"), ("removal", "x", "tab:red")):
            others = [
                (measure(other.sources), other.zero_shot)
                for size in outcome.sizes
                for other in size.others
                if (None in other.sources) == (kind == "removal")
            ]
            x, y = [place for place, _ in others], [loss for _, loss in others]
            axes.scatter(x, y, marker=marker, color=colour, alpha=0.4, label=kind)
        sizes = sorted(outcome.sizes, key=lambda size: measure(size.chosen.sources))
        places = [measure(size.chosen.sources) for size in sizes]
        axes.plot(places, [size.chosen.zero_shot for size in sizes], "s--", color="0.4", label="chosen, at once")
        axes.plot(places, [size.healed for size in sizes], "s-", color="tab:green", label="chosen, healed")
        axes.axhline(outcome.original, color="0.8", linewidth=1, zorder=0, label="original")
        axes.set(xlabel=f"{label} (of {total})", xlim=(0, total + 0.5))
        axes.grid(alpha=0.2)
    figure.axes[0].set_ylabel("test loss")
    figure.axes[0].legend(fontsize=8)
    return figure


def _maps(sizes: Sequence[Size]) -> Figure:
    """Draw the chosen sources: a row per size, a colour per set of weights, white where a layer is removed."""
    num_layers = len(sizes[0].chosen.sources)
    figure = figure_of(0.6 * num_layers + 1.5, 0.5 * len(sizes) + 0.6)
    axes = figure.subplots()
    pixels = np.ones((len(sizes), num_layers, 3))
    for row, size in enumerate(sizes):
        for layer, source in enumerate(size.chosen.sources):
            if source is not None:
                pixels[row, layer] = palette.colour(source, num_layers)
            axes.text(layer, row, _label(size.chosen.sources, layer), ha="center", va="center", size=9)
    axes.imshow(pixels, aspect="auto")
    axes.set_xticks(range(num_layers), [str(layer) for layer in range(num_layers)])
    axes.set_yticks(range(len(sizes)), [f"{size.num_sets} of {num_layers} sets" for size in sizes])
    axes.set_xlabel("layer; the number is the layer whose values it began with")
    return figure


def _label(sources: Sources, layer: int) -> str:
    return "removed" if sources[layer] is None else str(sources[layer])
