"""The report of a compression: summary.json, a table in the terminal, and one self-contained page."""

import base64
import shlex
from collections.abc import Iterator, Sequence
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from experiments.compression.pipeline import Outcome, Size
from experiments.compression.settings import command
from experiments.study.plots import figure_of
from experiments.study.report import png
from tying import palette
from tying.compression.sources import Sources
from tying.files import write_json, write_text

# A best pattern that keeps less than this share of the distance between the median and the original has lost the model.
_BLIND = 0.2

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


def write_report(outcome: Outcome, console: Console) -> dict[str, Any]:
    """Write summary.json and report.html, show the tables, and return the summary."""
    compression = outcome.subject.compression
    summary = _summary(outcome)
    folder = compression.out
    pictures = {"curve": _curve(outcome), "maps": _maps(outcome.sizes)}
    page = _PAGE.render(
        title=f"{compression.flags.model}, compressed",
        command=command(compression),
        sizes=[
            {"title": _title(size, outcome), "verdict": _verdict(size, outcome), "table": Markup(_html(size))}
            for size in outcome.sizes
        ],
        notes=_notes(outcome),
        **{name: base64.b64encode(png(figure)).decode() for name, figure in pictures.items()},
    )
    write_text(folder / "report.html", page)
    write_json(folder / "summary.json", summary)
    for size in outcome.sizes:
        console.print(_terminal(size, _title(size, outcome)))
        console.print(_verdict(size, outcome))
    console.print(f"model      {shlex.quote(str(folder / 'model'))}", soft_wrap=True)
    console.print(f"report     {shlex.quote(str(folder / 'report.html'))}", soft_wrap=True)
    return summary


def _summary(outcome: Outcome) -> dict[str, Any]:
    compression = outcome.subject.compression
    sizes = [_size_entry(size, outcome) for size in outcome.sizes]
    return {
        "model": compression.flags.model,
        "search": compression.flags.search,
        "original": outcome.original,
        **sizes[0],
        "sizes": sizes,
        "queries": outcome.queries,
        "healing_iterations": compression.config.trainer.iterations,
        "wall_s": outcome.wall_s,
        "peak_mib": outcome.peak_mib,
        **outcome.subject.task.facts(),
    }


def _size_entry(size: Size, outcome: Outcome) -> dict[str, Any]:
    return {
        "num_sets": size.num_sets,
        "share": size.num_sets / outcome.subject.num_layers,
        "pointers": size.chosen.sources.entries,
        "sources": list(size.chosen.sources),
        "zero_shot": size.chosen.zero_shot,
        "healed_short": size.chosen.healed,
        "healed": size.healed,
        "references": {
            other.name: {
                "pointers": other.sources.entries,
                "sources": list(other.sources),
                "zero_shot": other.zero_shot,
                "healed": other.healed,
            }
            for other in size.others
        },
        "verdict": _verdict(size, outcome),
    }


def _title(size: Size, outcome: Outcome) -> str:
    return f"{size.num_sets} of {outcome.subject.num_layers} sets of block weights"


def _verdict(size: Size, outcome: Outcome) -> str:
    """Return the result in words, computed from the figures."""
    chosen, original = size.chosen, outcome.original
    if chosen.healed is None:
        return "The original: nothing is compressed."
    params = sum(parameter.numel() for parameter in outcome.subject.model.parameters())
    left = params - (outcome.subject.num_layers - size.num_sets) * outcome.set_params
    parts = [
        f"'{chosen.sources}' keeps {left / params:.0%} of all parameters and runs {len(chosen.sources.kept)} of "
        f"{len(chosen.sources)} layers; its loss is {chosen.zero_shot:.4f} at once, {chosen.healed:.4f} after short and "
        f"{size.healed:.4f} after whole healing (original {original:.4f})."
    ]
    named = {other.name: other for other in size.others if other.healed is not None}
    tying, removal = named.get("best tying"), named.get("best removal")
    if tying is not None and removal is not None:
        better, worse = sorted((tying, removal), key=lambda candidate: candidate.healed or 0.0)
        parts.append(
            f"After equal short healing the {better.name} ({better.healed:.4f}) is ahead of the {worse.name} "
            f"({worse.healed:.4f}) at equal parameters"
            + (", and it runs fewer layers." if better is removal else "; the removal runs fewer layers.")
        )
    rules = [other for other in named.values() if other not in (tying, removal)]
    if rules:
        best = min(rules, key=lambda rule: rule.healed or 0.0)
        parts.append(f"The best fixed rule that was healed is {best.name} ({best.healed:.4f}).")
    if size.median - chosen.zero_shot < _BLIND * (size.median - original):
        parts.append("Every pattern of this size loses most of the model: the order among them says little.")
    parts.append("One seed of healing: differences of the size of a seed's are no evidence.")
    return " ".join(parts)


def _rows(size: Size) -> Iterator[tuple[str, ...]]:
    healed = sorted(size.others, key=lambda other: (other.healed is None, other.healed or other.zero_shot))
    for candidate in (size.chosen, *healed):
        whole = f"{size.healed:.4f}" if candidate is size.chosen else "-"
        short = "-" if candidate.healed is None else f"{candidate.healed:.4f}"
        layers = str(len(candidate.sources.kept))
        yield candidate.name, str(candidate.sources), layers, f"{candidate.zero_shot:.4f}", short, whole


_COLUMNS = ("", "sources", "layers run", "at once", "short healing", "whole healing")


def _terminal(size: Size, title: str) -> Table:
    shown = Table(title=title, box=box.SIMPLE, padding=(0, 1), pad_edge=False)
    for number, name in enumerate(_COLUMNS):
        shown.add_column(name, justify="left" if number < 2 else "right")
    for row in _rows(size):
        shown.add_row(*map(Text, row))
    return shown


def _html(size: Size) -> str:
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
        f"{compression.config.trainer.iterations} iterations, for each pattern a schedule of its own. "
        f"{outcome.queries} questions, {outcome.wall_s:.0f} s, {outcome.peak_mib} MiB at most."
    )


def _curve(outcome: Outcome) -> Figure:
    """Draw the loss against the share of sets: the chosen patterns before and after healing, and their rivals."""
    figure = figure_of(8, 5)
    axes = figure.subplots()
    total = outcome.subject.num_layers
    kinds: Sequence[tuple[str, str, str]] = (("tying", "o", "tab:blue"), ("removal", "x", "tab:red"))
    for kind, marker, colour in kinds:
        points = [
            (100 * size.num_sets / total, other.zero_shot)
            for size in outcome.sizes
            for other in size.others
            if (None in other.sources) == (kind == "removal")
        ]
        if points:
            x, y = np.array(points).T
            axes.scatter(x, y, marker=marker, color=colour, alpha=0.4, s=22, label=f"{kind}: rules and best")
    sizes = sorted(outcome.sizes, key=lambda size: size.num_sets)
    shares = [100 * size.num_sets / total for size in sizes]
    axes.plot(shares, [size.chosen.zero_shot for size in sizes], "s--", color="0.4", label="chosen, at once")
    axes.plot(shares, [size.healed for size in sizes], "s-", color="tab:green", label="chosen, healed")
    axes.axhline(outcome.original, color="0.8", linewidth=1, zorder=0, label="original")
    axes.set(xlabel="sets of block weights, per cent of the original's", ylabel="test loss")
    axes.legend(fontsize=8)
    axes.grid(alpha=0.2)
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
    axes.set_yticks(range(len(sizes)), [f"{size.num_sets} sets" for size in sizes])
    axes.set_xlabel("layer; the number is the layer whose values it began with")
    return figure


def _label(sources: Sources, layer: int) -> str:
    return "removed" if sources[layer] is None else str(sources[layer])
