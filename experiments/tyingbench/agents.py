"""The league: agents judged by what they find in a table, in as many queries.

    python -m experiments.tyingbench agents --trials 200

A trial is one run of an agent in `tying/TyingBench-v0`. After every query the pattern that it would keep is judged by its
normalised regret: 0 is the best pattern of the table and 1 the worst, by mean test loss over the seeds plus the price of
parameters. Agents are paid on the reward split of single seeds, so they see neither. Where an agent does not say what it
would keep, it is the pattern with the best mean pay of those that it tried.
"""

import shlex
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict
from rich.console import Console

from agents import registry
from envs.tyingbench import DEFAULT, TyingBench
from experiments import cli, grid, workers
from experiments.results import student_interval
from experiments.settings import hyperparameters_of
from experiments.tyingbench import arena
from tying.files import replacing, require_room, write_json, write_text
from tying.pointers import Pointers

_SHOWN = (10, 20, 40, 60, 100)


class LeagueSettings(BaseSettings):
    """Judge agents by the regret of what they find in a table."""

    model_config = SettingsConfigDict(**cli.script_config("tyingbench agents"))
    agents: list[str] = Field(
        [], description="--agents A B ...; an agent's own flags in quotes: 'surrogate --agent.features rule'; none: all"
    )
    trials: int = Field(200, description="runs of each agent at each weight [>= 2]", ge=2)
    queries: int = Field(100, description="rows that a trial may look up [>= 1]", ge=1)
    param_weights: list[float] = Field(
        [0.0, 0.1, 0.3], min_length=1, description="prices of parameters [nats per token, >= 0]"
    )
    budget: float = Field(1.0, description="share of the run after which patterns are judged")
    table: str = Field(DEFAULT, description="a shipped table, or the path of a CSV file")
    jobs: int = Field(joblib.cpu_count(), description="processes at a time, one thread each [>= 1]", ge=1)
    backend: workers.Backend = Field("loky", description="loky: this machine; ray: a Ray cluster (extra 'ray')")
    out: str | None = Field(None, description="folder for league.csv, .md, .json and .png, new or to write over")


@dataclass(frozen=True)
class Errand:
    """Some trials of one entry at one price."""

    entry: grid.Entry
    param_weight: float
    seeds: tuple[int, ...]
    queries: int
    budget: float
    table: str


@dataclass
class Judge:
    """Knows what was tried and what it paid; the pattern with the best mean is what it would keep."""

    pays: dict[Pointers, list[float]] = field(default_factory=dict)

    def see(self, pattern: Pointers, objective: float) -> None:
        """Take in a query's answer, lower is better."""
        self.pays.setdefault(pattern, []).append(objective)

    @property
    def best(self) -> Pointers:
        """The pattern with the lowest mean; the first of equals."""
        return min(self.pays, key=lambda pattern: float(np.mean(self.pays[pattern])))


def default_entries() -> list[str]:
    """Return every registered agent that can work without gradients, the rule, and random search over whole patterns."""
    entries = ["random --env.action-mode joint", "surrogate --agent.features rule --agent.explore 1"]
    for name in registry.names():
        if registry.is_fixed(name):
            continue
        explores = "explore" in getattr(hyperparameters_of(registry.agent_class(name)[0]), "__dataclass_fields__", {})
        entries.append(f"{name} --agent.explore 1" if explores else name)
    return entries


def main(arguments: Sequence[str]) -> None:
    """Carry out the trials and show the league."""
    settings = cli.read(LeagueSettings, cli.gather("--agents", cli.gather("--param-weights", arguments)))
    console = Console()
    if settings.out is not None:
        require_room(Path(settings.out) / "league.csv", "--out")
    workers.require_backend(settings.backend)
    bench = TyingBench.load(settings.table)
    entries, left_out = _entries(settings, bench)
    for line in left_out:
        console.print(f"left out: {line}", highlight=False, soft_wrap=True)
    start = time.monotonic()
    regrets = _carry_out(entries, settings, console)
    table = _table(regrets)
    readable = _readable(table)
    console.print(readable.to_string(index=False), highlight=False, soft_wrap=True)
    if settings.out is not None:
        folder = Path(settings.out)
        command = shlex.join(["python", "-m", "experiments.tyingbench", "agents", *arguments])
        facts = {"command": command, "trials": settings.trials, "left_out": left_out, "seconds": time.monotonic() - start}
        write_text(folder / "league.csv", table.to_csv(index=False, float_format="%.5f"))
        write_text(folder / "league.md", readable.to_markdown(index=False, disable_numparse=True) + "\n")
        write_json(folder / "league.json", facts)
        with replacing(folder / "league.png") as temporary:
            picture(table).savefig(temporary, format="png", dpi=110)


def _entries(settings: LeagueSettings, bench: TyingBench) -> tuple[list[grid.Entry], list[str]]:
    """Return what takes part, and a line for each registered agent that cannot."""
    entries = arena.entries(settings.agents or default_entries(), bench)
    if settings.agents:
        arena.require_sight(entries)
    left_out = [f"{entry.label}: decides by gradients, and a table has none" for entry in entries if arena.blind(entry)]
    return [entry for entry in entries if not arena.blind(entry)], left_out


def _carry_out(
    entries: Sequence[grid.Entry], settings: LeagueSettings, console: Console
) -> dict[tuple[str, float], np.ndarray]:
    """Return normalised regrets by entry and price, shape (trials, queries)."""
    parts = np.array_split(np.arange(settings.trials), min(settings.trials, 2 * settings.jobs))
    errands = [
        Errand(entry, weight, tuple(map(int, seeds)), settings.queries, settings.budget, settings.table)
        for entry in entries
        for weight in dict.fromkeys(settings.param_weights)
        for seeds in parts
    ]
    found: dict[tuple[str, float], list[tuple[tuple[int, ...], np.ndarray]]] = {}
    with workers.Countdown(console, len(errands), "errands") as countdown:
        for errand, regrets in workers.carry_out(_run, errands, settings.jobs, settings.backend):
            where = countdown.advance()
            key = (errand.entry.label, errand.param_weight)
            found.setdefault(key, []).append((errand.seeds, regrets))
            if len(found[key]) == len(parts):
                line = f"{where}  {errand.entry.label}, weight {errand.param_weight:g}"
                console.print(line, highlight=False, soft_wrap=True)
    keys = [(entry.label, weight) for weight in settings.param_weights for entry in entries]
    return {key: np.concatenate([values for _, values in sorted(found[key], key=lambda part: part[0])]) for key in keys}


def _run(errand: Errand) -> tuple[Errand, np.ndarray]:
    torch.set_num_threads(1)
    bench = TyingBench.load(errand.table)
    return errand, np.array([trial(errand, bench, seed) for seed in errand.seeds])


def trial(errand: Errand, bench: TyingBench, seed: int) -> np.ndarray:
    """Return the normalised regret of what an agent would keep after 1, 2, ... queries, shape (queries,)."""
    env = arena.make(errand.entry, bench, errand.queries, errand.param_weight, errand.budget)
    inner: Any = env.unwrapped
    judge = Judge()

    def see(decision: Any, *_: Any) -> None:
        window = decision.window
        judge.see(decision.pointers, window.reward_loss + errand.param_weight * window.param_share)

    inner.on_decision = see
    regrets = np.full(errand.queries, np.nan)
    known = {pattern: bench.normalised_regret(pattern, errand.param_weight, errand.budget) for pattern in bench.patterns}

    def keep(agent: Any) -> bool:
        said = agent.recommend() if hasattr(agent, "recommend") else None
        if inner.backend.queries <= errand.queries:  # a fork may take one query too many
            regrets[inner.backend.queries - 1] = known[said or judge.best]
        return bool(inner.backend.queries < errand.queries)

    agent = arena.agent(errand.entry, env, seed)
    agent.learn(env, errand.queries, callback=keep)
    # A fork takes two queries: what was kept before holds for the one in between. Before the first answer nobody knows
    # anything, and the pattern at the start is kept.
    start = known[Pointers(inner.initial_pointers)]
    filled: np.ndarray = pd.Series([start, *regrets]).ffill().to_numpy()[1:]
    return filled


def _table(regrets: dict[tuple[str, float], np.ndarray]) -> pd.DataFrame:
    """Return mean normalised regret with its 95 % interval, a row per entry, price and number of queries."""
    rows = []
    for (label, weight), values in regrets.items():
        for query, column in enumerate(values.T, start=1):
            low, high = student_interval(column)
            row = {"agent": label, "param_weight": weight, "queries": query, "trials": len(column)}
            rows.append({**row, "regret": column.mean(), "low": max(0.0, low), "high": high})
    return pd.DataFrame(rows)


def _readable(table: pd.DataFrame) -> pd.DataFrame:
    last = table["queries"].max()
    shown = [*(query for query in _SHOWN if query < last), last]
    rows = []
    for (weight, label), own in table.groupby(["param_weight", "agent"], sort=False):
        cells = {
            f"{row['queries']} queries": f"{row['regret']:.4f} [{row['low']:.4f}, {row['high']:.4f}]"
            for row in own[own["queries"].isin(shown)].to_dict("records")
        }
        rows.append({"weight": f"{weight:g}", "agent": label, **cells})
    return pd.DataFrame(rows)


def picture(table: pd.DataFrame) -> Figure:
    """Draw regret against queries, a panel per price."""
    weights = sorted(table["param_weight"].unique())
    figure = Figure(figsize=(5.2 * len(weights), 5.6), layout="constrained")
    FigureCanvasAgg(figure)
    labels = list(dict.fromkeys(table["agent"]))
    for axes, weight in zip(np.atleast_1d(figure.subplots(1, len(weights), sharey=True)), weights, strict=True):
        for index, label in enumerate(labels):
            own = table[(table["agent"] == label) & (table["param_weight"] == weight)]
            line = {"color": f"C{index % 10}", "linestyle": ("-", "--", ":")[index // 10 % 3]}
            axes.plot(own["queries"], own["regret"], label=label, linewidth=1.4, **line)
            axes.fill_between(own["queries"], own["low"], own["high"], color=line["color"], alpha=0.12, linewidth=0)
        axes.set(yscale="log", ylim=(1e-3, 1), xlabel="queries", title=f"param_weight {weight:g}")
        axes.grid(alpha=0.2)
    figure.axes[0].set_ylabel("normalised regret of what is kept, mean and 95 %")
    handles, names = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=4, fontsize=8, frameon=False)
    return figure
