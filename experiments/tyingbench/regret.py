"""The benchmark of agents as a table and as a picture: normalised regret against queries."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from experiments.run.figures import figure_of
from experiments.run.intervals import student_interval

_SHOWN = (10, 20, 40, 60, 100)


def table(regrets: Mapping[tuple[str, float], np.ndarray]) -> pd.DataFrame:
    """Return mean normalised regret with Student's 95 % interval, a row per agent, weight and number of queries.

    Args:
        regrets: (agent, param_weight) to regrets, (trials, queries).
    """
    rows = []
    for (label, weight), values in regrets.items():
        for query, column in enumerate(values.T, start=1):
            low, high = student_interval(column)
            row = {"agent": label, "param_weight": weight, "queries": query, "trials": len(column)}
            rows.append({**row, "regret": column.mean(), "low": np.maximum(0.0, low), "high": high})
    return pd.DataFrame(rows)


def trials(regrets: Mapping[tuple[str, float], np.ndarray]) -> pd.DataFrame:
    """Return the raw rows: the regret of every trial after some numbers of queries, a column for each number.

    Args:
        regrets: (agent, param_weight) to regrets, (trials, queries).
    """
    rows = []
    for (label, weight), values in regrets.items():
        last = values.shape[1]
        shown = [*(query for query in _SHOWN if query < last), last]
        for number, row in enumerate(values):
            after = {f"after_{query}": row[query - 1] for query in shown}
            rows.append({"agent": label, "param_weight": weight, "trial": number, **after})
    return pd.DataFrame(rows)


def cell(row: Mapping[str, float], digits: int = 4) -> str:
    """Return a row's regret with its interval in words; without bounds where too few trials give none."""
    bounds = f" [{row['low']:.{digits}f}, {row['high']:.{digits}f}]" if np.isfinite(row["high"]) else ""
    return f"{row['regret']:.{digits}f}{bounds}"


def readable(table: pd.DataFrame) -> pd.DataFrame:
    """Return a row per weight and agent with its regret after some numbers of queries."""
    last = table["queries"].max()
    own = table[table["queries"].isin([*(query for query in _SHOWN if query < last), last])].copy()
    own["cell"] = own.apply(cell, axis=1)
    order = list(dict.fromkeys(zip(own["param_weight"], own["agent"], strict=True)))
    wide = own.pivot(index=["param_weight", "agent"], columns="queries", values="cell").loc[order].reset_index()
    wide["param_weight"] = wide["param_weight"].map("{:g}".format)
    wide.columns = ["weight", "agent", *(f"{query} queries" for query in wide.columns[2:])]
    return wide


def picture(table: pd.DataFrame) -> Figure:
    """Draw regret against queries, a panel per weight."""
    weights = sorted(table["param_weight"].unique())
    figure = figure_of(5.2 * len(weights), 5.6)
    labels = list(dict.fromkeys(table["agent"]))
    for axes, weight in zip(np.atleast_1d(figure.subplots(1, len(weights), sharey=True)), weights, strict=True):
        for index, label in enumerate(labels):
            own = table[(table["agent"] == label) & (table["param_weight"] == weight)]
            line = {"color": f"C{index % 10}", "linestyle": ("-", "--", ":")[index // 10 % 3]}
            axes.plot(own["queries"], own["regret"], label=label, linewidth=1.4, **line)
            axes.fill_between(own["queries"], own["low"], own["high"], color=line["color"], alpha=0.12, linewidth=0)
        axes.set(yscale="log", ylim=(1e-3, 1), xlabel="queries", title=f"param_weight {weight:g}")
        axes.grid(alpha=0.2)
    figure.axes[0].set_ylabel("normalised regret of the pattern kept, mean and 95 %")
    handles, names = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=4, fontsize=8, frameon=False)
    return figure
