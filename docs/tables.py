"""Write the tables and pictures of the pages of results from docs/data and the shipped tables: `python docs/tables.py`.

A table stands between `<!-- table KIND NAME -->` and `<!-- end -->`; NAME is a folder of data, or what of it is shown.
"""

import re
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from agents.registry import is_fixed
from envs.tyingbench import TyingBench
from experiments.plots import pareto
from experiments.results import student_interval
from experiments.tyingbench import report
from experiments.tyingbench.league import picture

_ROOT = Path(__file__).resolve().parent
_DATA = _ROOT / "data" / "results"
PAGES = (_ROOT / "results.md", _ROOT / "tyingbench.md")
_BASELINE = "independent"
_QUERIES = (10, 20, 40, 60)
_OURS = ("private_first",)  # fixed strategies that are not from the literature


def _interval(mean: float, low: float, high: float) -> str:
    return f"{mean:+.3f} [{low:+.3f}, {high:+.3f}]"


def entries(name: str) -> pd.DataFrame:
    """Return a comparison, best test loss first."""
    table = pd.read_csv(_DATA / name / "table.csv").sort_values("test_loss")
    rows = []
    for row in table.to_dict("records"):
        same = row["entry"] == _BASELINE
        rows.append(
            {
                "agent": f"`{row['entry']}`",
                "unique layers": f"{row['num_unique_layers']:.1f}",
                "block parameters": f"{row['block_params_share']:.0%}",
                "changes": f"{row['changes']:.0f}",
                "test loss": f"{row['test_loss']:.3f}",
                "difference to independent": "" if same else _interval(row["difference"], row["t_low"], row["t_high"]),
                "lower in": "" if same else f"{row['better_in']:.0f} of {row['pairs']:.0f}",
                "perplexity": f"{row['test_ppl']:.2f}",
                "at equal time": "" if same else f"{row['equal_time_difference']:+.3f}",
                "deciding": f"{row['decision_share']:.0%}",
            }
        )
    return pd.DataFrame(rows)


def rivals(name: str) -> pd.DataFrame:
    """Return how every agent that decides stands to fixed strategies of its size, to random and to independent.

    Each of its runs is set beside the run of the same seed of the best fixed strategy (mean test loss) with at most as
    many unique layers as it ended with.
    """
    runs = pd.read_csv(_DATA / name / "runs.csv")
    # Those with settings of their own, such as another learning rate, are no rivals at equal settings.
    fixed = {entry for entry in runs["entry"] if is_fixed(entry) and " --" not in entry and entry != _BASELINE}
    rows = []
    for entry in dict.fromkeys(runs["entry"]):
        if is_fixed(entry.partition(" --")[0]):
            continue
        rows.append(
            {
                "agent": f"`{entry}`",
                "best published strategy of its size": _against(runs, entry, lambda k: _best(runs, fixed - {*_OURS}, k)),
                "private_first included": _against(runs, entry, lambda k: _best(runs, fixed, k)),
                "random": _against(runs, entry, lambda k: "random") if entry != "random" else "",
            }
        )
    return pd.DataFrame(rows)


def _best(runs: pd.DataFrame, allowed: set[str], num_unique: int) -> str:
    fitting = runs[runs["entry"].isin(allowed) & (runs["num_unique_layers"] <= num_unique)]
    return str(fitting.groupby("entry")["test_loss"].mean().idxmin())


def _against(runs: pd.DataFrame, entry: str, rival: Callable[[int], str]) -> str:
    differences = []
    for own in runs[runs["entry"] == entry].to_dict("records"):
        other = runs[(runs["entry"] == rival(own["num_unique_layers"])) & (runs["seed"] == own["seed"])]
        differences.append(own["test_loss"] - float(other["test_loss"].iloc[0]))
    values = np.array(differences)
    return _interval(float(values.mean()), *student_interval(values))


def rates(name: str) -> pd.DataFrame:
    """Return a tuning of the learning rate: reward loss by pattern and rate, the lowest of a pattern in bold."""
    table = pd.read_csv(_DATA / name / "table.csv")
    table["pattern"] = table["entry"].str.partition(" --")[0]
    table["rate"] = table["entry"].str.extract(r"learning-rate (\S+)")[0].astype(float)
    wide = table.pivot(index="pattern", columns="rate", values="reward_loss").loc[list(dict.fromkeys(table["pattern"]))]
    marked = wide.apply(
        lambda row: [f"**{v:.3f}**" if v == row.min() else f"{v:.3f}" for v in row], axis=1, result_type="expand"
    )
    marked.columns = [f"{rate:g}" for rate in wide.columns]
    marked.insert(0, "reward loss at learning rate", [f"`{pattern}`" for pattern in wide.index])
    return marked


def signal(name: str) -> pd.DataFrame:
    """Return the table of experiments.signal: the whole run for every reward, its parts for `fork`."""
    table = pd.read_csv(_DATA / name / "signal.csv")
    table = table[(table["block"] == "all") | (table["reward"] == "fork")]
    rows = []
    for row in table.to_dict("records"):
        rows.append(
            {
                "reward": f"`{row['reward']}`",
                "part of the run": row["block"],
                "decisions": row["decisions"],
                "tau with the pattern": _tau(row, "pattern"),
                "tau with the change": _tau(row, "change"),
                "noise": f"{row['noise_sd']:.4f}",
                "signal": f"{row['signal_sd']:.4f}",
            }
        )
    return pd.DataFrame(rows)


def _tau(row: dict[str, float], name: str) -> str:
    return f"{row[f'{name}_tau']:+.2f} [{row[f'{name}_low']:+.2f}, {row[f'{name}_high']:+.2f}]"


def bench(name: str) -> pd.DataFrame:
    """Return a table of experiments.tyingbench report, of the shipped table."""
    return report.tables(TyingBench.load())[name]


def league(name: str) -> pd.DataFrame:
    """Return the league at a price of parameters, the lowest regret after the most queries first."""
    table = _trials()
    own = table[(table["param_weight"] == float(name)) & table["queries"].isin(_QUERIES)]
    last = own[own["queries"] == _QUERIES[-1]].set_index("agent")["regret"]
    rows = []
    for agent in last.sort_values().index:
        cells = own[own["agent"] == agent].to_dict("records")
        answers = {f"{cell['queries']} queries": _regret(cell) for cell in cells}
        rows.append({"agent": f"`{agent}`", "trials": cells[0]["trials"], **answers})
    return pd.DataFrame(rows)


def _trials() -> pd.DataFrame:
    """Return the league; the library's agents take long to learn, and had fewer trials in a run of their own."""
    return pd.concat([pd.read_csv(path) for path in sorted((_DATA.parent / "tyingbench").glob("league*.csv"))])


def transfer(name: str) -> pd.DataFrame:
    """Return a comparison of policies that begin with what was learned elsewhere and of those that do not."""
    table = pd.read_csv(_DATA.parent / "tyingbench" / f"transfer_{name}.csv")
    rows = []
    for row in table.to_dict("records"):
        same = row["entry"] == _BASELINE
        rows.append(
            {
                "agent": f"`{row['entry']}`",
                "unique layers": f"{row['num_unique_layers']:.1f}",
                "changes": f"{row['changes']:.1f}",
                "test loss": f"{row['test_loss']:.3f}",
                "difference to independent": "" if same else _interval(row["difference"], row["t_low"], row["t_high"]),
                "lower in": "" if same else f"{row['better_in']:.0f} of {row['pairs']:.0f}",
            }
        )
    return pd.DataFrame(rows)


def _regret(cell: dict[str, float]) -> str:
    return f"{cell['regret']:.3f} [{cell['low']:.3f}, {cell['high']:.3f}]"


_KINDS = {
    "entries": entries,
    "rivals": rivals,
    "rates": rates,
    "signal": signal,
    "bench": bench,
    "league": league,
    "transfer": transfer,
}


def filled(page: str) -> str:
    """Return a page with its tables made anew."""

    def table(match: re.Match[str]) -> str:
        kind, name = match["kind"], match["name"]
        body = _KINDS[kind](name).to_markdown(index=False, disable_numparse=True)
        return f"<!-- table {kind} {name} -->\n{body}\n<!-- end -->"

    return re.sub(r"<!-- table (?P<kind>\w+) (?P<name>[\w.]+) -->\n.*?<!-- end -->", table, page, flags=re.DOTALL)


def _draw(name: str) -> None:
    """Draw the entries at the preset's own settings; with all their variants nobody could read them."""
    table = pd.read_csv(_DATA / name / "table.csv")
    plain = table[~table["entry"].str.contains(" --")]
    pareto(plain, _BASELINE).savefig(_ROOT / "img" / f"results_{name}.png", dpi=100)


if __name__ == "__main__":
    _draw("shakespeare_rich")
    report.draw(TyingBench.load(), _ROOT / "img", "tyingbench_")
    picture(_trials()).savefig(_ROOT / "img" / "tyingbench_league.png", dpi=100)
    for page in PAGES:
        before = page.read_text(encoding="utf-8")
        after = filled(before)
        page.write_text(after, encoding="utf-8")
        sys.stdout.write(f"{page.name} {'changed' if after != before else 'is up to date'}\n")
