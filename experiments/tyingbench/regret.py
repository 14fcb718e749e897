"""The benchmark of agents as a table and as a picture: normalised regret against queries."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from experiments.run.figures import figure_of
from experiments.run.intervals import student_interval

_SHOWN = (10, 20, 50, 100)
_WEIGHT = "param_weight"


def table(regrets: Mapping[tuple[str, float], np.ndarray], aim: str = _WEIGHT) -> pd.DataFrame:
    """Return mean normalised regret with Student's 95 % interval, a row per agent, aim and number of queries.

    Args:
        regrets: (agent, weight or budget of sets) to regrets, (trials, queries).
        aim: Which of the two, the name of the column.
    """
    rows = []
    for (label, value), values in regrets.items():
        for query, column in enumerate(values.T, start=1):
            low, high = student_interval(column)
            row = {"agent": label, aim: value, "queries": query, "trials": len(column)}
            rows.append({**row, "regret": column.mean(), "low": np.maximum(0.0, low), "high": high})
    return pd.DataFrame(rows)


def trials(regrets: Mapping[tuple[str, float], np.ndarray], aim: str = _WEIGHT) -> pd.DataFrame:
    """Return the raw rows: the regret of every trial after some numbers of queries, a column for each number.

    Args:
        regrets: As in `table`.
        aim: As in `table`.
    """
    rows = []
    for (label, value), values in regrets.items():
        last = values.shape[1]
        shown = [*(query for query in _SHOWN if query < last), last]
        for number, row in enumerate(values):
            after = {f"after_{query}": row[query - 1] for query in shown}
            rows.append({"agent": label, aim: value, "trial": number, **after})
    return pd.DataFrame(rows)


def cell(row: Mapping[str, float], digits: int = 4) -> str:
    """Return a row's regret with its interval in words; without bounds where too few trials give none."""
    bounds = f" [{row['low']:.{digits}f}, {row['high']:.{digits}f}]" if np.isfinite(row["high"]) else ""
    return f"{row['regret']:.{digits}f}{bounds}"


def readable(table: pd.DataFrame, aim: str = _WEIGHT) -> pd.DataFrame:
    """Return a row per aim and agent with its regret after some numbers of queries."""
    last = table["queries"].max()
    own = table[table["queries"].isin([*(query for query in _SHOWN if query < last), last])].copy()
    own["cell"] = own.apply(cell, axis=1)
    order = list(dict.fromkeys(zip(own[aim], own["agent"], strict=True)))
    wide = own.pivot(index=[aim, "agent"], columns="queries", values="cell").loc[order].reset_index()
    wide[aim] = wide[aim].map("{:g}".format)
    wide.columns = [aim.removeprefix("param_"), "agent", *(f"{query} queries" for query in wide.columns[2:])]
    return wide


def picture(table: pd.DataFrame, aim: str = _WEIGHT) -> Figure:
    """Draw regret against queries, a panel per weight or budget of sets."""
    values = sorted(table[aim].unique())
    figure = figure_of(5.2 * len(values), 5.6)
    labels = list(dict.fromkeys(table["agent"]))
    for axes, value in zip(np.atleast_1d(figure.subplots(1, len(values), sharey=True)), values, strict=True):
        for index, label in enumerate(labels):
            own = table[(table["agent"] == label) & (table[aim] == value)]
            line = {"color": f"C{index % 10}", "linestyle": ("-", "--", ":")[index // 10 % 3]}
            axes.plot(own["queries"], own["regret"], label=label, linewidth=1.4, **line)
            axes.fill_between(own["queries"], own["low"], own["high"], color=line["color"], alpha=0.12, linewidth=0)
        axes.set(yscale="log", ylim=(1e-3, 1), xlabel="queries", title=f"{aim} {value:g}")
        axes.grid(alpha=0.2)
    figure.axes[0].set_ylabel("normalised regret of the pattern kept, mean and 95 %")
    handles, names = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=4, fontsize=8, frameon=False)
    return figure
