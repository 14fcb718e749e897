"""The report of a comparison: tables, pictures, and one self-contained page."""

import base64
from collections.abc import Sequence
from pathlib import Path

import jinja2
import pandas as pd
from markupsafe import Markup
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from experiments.run.figures import png
from experiments.run.intervals import written
from experiments.study import plots
from experiments.study.results import Run, metrics_of, missing_depths, references, run_table, variant_table, with_references
from tying.files import replacing, write_text

_PAGE = jinja2.Template(
    """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>{{ title }}</title>
<style>
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1200px; margin: 2em auto; padding: 0 1em; color: #222 }
table { border-collapse: collapse; font-size: 13px } th, td { padding: .25em .7em; text-align: right; white-space: nowrap }
th:first-child, td:first-child { text-align: left }
tr:nth-child(even) { background: #f5f5f5 } th { border-bottom: 2px solid #999 }
img { max-width: 100% } pre { background: #f5f5f5; padding: .7em; white-space: pre-wrap } .failed { color: #b00 }
</style>
<h1>{{ title }}</h1>
<pre>{{ command }}</pre>
{% for line in notes %}<p>{{ line }}</p>{% endfor %}
{% for line in failures %}<p class="failed">{{ line }}</p>{% endfor %}
{{ table }}
{% for name, data in pictures.items() %}<h2>{{ name }}</h2><img alt="{{ name }}" src="data:image/png;base64,{{ data }}">
{% endfor %}
<h2>final patterns</h2>
{{ patterns }}
</html>
""",
    autoescape=True,
)


def write_report(
    folder: Path, runs: Sequence[Run], failed: Sequence[str], baseline: str, clock: str, command: str
) -> pd.DataFrame:
    """Write runs.csv, table.csv, table.md, the pictures and report.html; return the table of variants."""
    each = run_table(runs, clock, baseline)
    table = variant_table(each, baseline)
    known = references(runs, baseline)
    figures = {
        "pareto": plots.pareto(table, baseline, known),
        "curves": plots.curves(runs, baseline, known),
        "maps": plots.maps(runs),
    }
    write_text(folder / "runs.csv", each.to_csv(index=False))
    whole = with_references(table, known)
    write_text(folder / "table.csv", whole.to_csv(index=False))
    readable = _readable(whole, baseline)
    write_text(folder / "table.md", readable.to_markdown(index=False, disable_numparse=True) + "\n")
    pictures = {name: png(figure) for name, figure in figures.items()}
    for name, data in pictures.items():
        with replacing(folder / f"{name}.png") as temporary:
            temporary.write_bytes(data)
    unit = runs[0].summary.get("loss_unit", "nats per token")
    page = _PAGE.render(
        title=f"{len(table)} variants, {each['seed'].nunique()} seeds",
        command=command,
        notes=[_notes(baseline, clock, unit), *remarks(runs, table, baseline)],
        failures=failed,
        table=Markup(readable.to_html(index=False, border=0)),
        pictures={name: base64.b64encode(data).decode() for name, data in pictures.items()},
        patterns=Markup(_patterns(each).to_html(border=0)),
    )
    write_text(folder / "report.html", page)
    return table


def remarks(runs: Sequence[Run], table: pd.DataFrame, baseline: str) -> list[str]:
    """Return what a table should be read with, a line each: variants that know less than counting models, what is missing.

    Args:
        runs: All of them.
        table: From `results.variant_table`.
        baseline: The variant whose text it is.
    """
    lines = []
    if known := references(runs, baseline):
        best = min(known, key=lambda name: known[name])
        above = int((table["test_loss"] > known[best]).sum())
        lines.append(f"{above} of {len(table)} variants know less than the best counting model, {best}: {known[best]:.3f}")
    if missing := missing_depths(runs):
        sizes, rivals = (" ".join(f"{name}{depth}" for depth in missing) for name in ("", "shallow:"))
        lines.append(f"no untied model has as many layers as the tied ones have sets of weights ({sizes}): add {rivals}")
    return lines


def print_table(table: pd.DataFrame, baseline: str, console: Console) -> None:
    """Print the table of variants and references within 80 columns; table.csv has the rest."""
    shown = Table(box=box.SIMPLE, padding=(0, 1), pad_edge=False)
    readable = _readable(table, baseline)
    names = {"agent": "agent", "test loss": "loss", "difference": "difference", "block parameters": "share"}
    names |= {"unique layers": "unique", "better in": "better"}
    for name, title in names.items():
        wide = name == "agent"
        shown.add_column(
            title, justify="left" if wide else "right", overflow="fold", no_wrap=not wide, max_width=28 if wide else None
        )
    for row in readable[list(names)].itertuples(index=False):
        shown.add_row(*(Text(str(cell)) for cell in row))
    console.print(shown)


def _notes(baseline: str, clock: str, unit: str) -> str:
    wall = "wall time, left out where runs of a seed were made under different load"
    return (
        f"Differences are to {baseline}, paired by seed (same initial weights, same batches), in {unit} on the "
        "test split, which no decision saw; in brackets Student's 95 % interval of their mean, from three pairs on. "
        "'Equal time' is the loss on the reward split when the fastest run of a seed ended, in seconds of "
        f"{wall if clock == 'wall_s' else 'processor time'}."
    )


def _readable(table: pd.DataFrame, baseline: str) -> pd.DataFrame:
    rows = []
    metrics = metrics_of(table)
    with_perplexity = {"test_bits_per_byte"}.issuperset(metrics)  # a task with metrics of its own is not read by it
    for row in table.to_dict("records"):
        if not row["seeds"]:
            reference = {"agent": row["variant"], "test loss": f"{row['test_loss']:.4f}"}
            rows.append(reference | ({"perplexity": f"{row['test_ppl']:.3f}"} if with_perplexity else {}))
            continue
        own = {name.removeprefix("test_").replace("_", " "): f"{row[name]:.4f}" for name in metrics}
        rows.append(
            {
                "agent": row["variant"],
                "seeds": str(row["seeds"]),
                "layers": f"{row['num_layers']:.0f}",
                "unique layers": f"{row['num_unique_layers']:.1f}",
                "changes": f"{row['changes']:.1f}",
                "block parameters": f"{row['block_params_share']:.0%}",
                "test loss": f"{row['test_loss']:.4f}",
                "difference": _interval(row, "") if row["variant"] != baseline else "-",
                "better in": f"{row['better_in']}/{row['pairs']}" if row["variant"] != baseline else "-",
                **({"perplexity": f"{row['test_ppl']:.3f}"} if with_perplexity else {}),
                **own,
                "equal time": _interval(row, "equal_time_") if row["variant"] != baseline else "-",
                "tokens/s": f"{row['tokens_per_s']:,.0f}",
                "deciding": f"{row['decision_share']:.0%}",
                "parameters": f"{row['trainable_params']:,.0f}",
            }
        )
    return pd.DataFrame(rows).fillna("")


def _interval(row: dict[str, float], prefix: str) -> str:
    mean, low, high = (row[prefix + name] for name in ("difference", "low", "high"))
    return written(mean, low, high)


def _patterns(runs: pd.DataFrame) -> pd.DataFrame:
    order = list(dict.fromkeys(runs["variant"]))
    return runs.pivot(index="variant", columns="seed", values="pattern").loc[order]
