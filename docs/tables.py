"""Write the tables and pictures of the pages of results from docs/data and the shipped tables: `python docs/tables.py`.

A table stands between `<!-- table KIND NAME -->` and `<!-- end -->`; NAME is a folder of data, or a part of it.
"""

import re
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import kendalltau

from agents.registry import is_fixed
from experiments.run.intervals import student_interval, with_interval, written
from experiments.study import reward_signal
from experiments.study.plots import pareto
from experiments.tyingbench import goals, pictures, regret
from experiments.tyingbench.tables import TABLES
from tying.compression import Sources, rules
from tying.files import read_json
from tying.pointers import Pointers
from tying.tyingbench import DEFAULT, TyingBench

_ROOT = Path(__file__).resolve().parent
_DATA = _ROOT / "data"
PAGES = (_ROOT / "results.md", _ROOT / "tyingbench.md", _ROOT / "compressing.md")
_BASELINE = "independent"
_QUERIES = (10, 20, 40, 60)
_SETS_QUERIES = (20, 50, 100, 200)
_OURS = ("private_first",)  # fixed strategies that are not from the literature


def _comparison(path: Path) -> pd.DataFrame:
    """Return the variants of a comparison with today's names of columns; older files have bootstrap intervals too."""
    table = pd.read_csv(path)
    if "t_low" not in table:
        return table[table["seeds"] > 0]  # below them stand models that need no training
    table = table.drop(columns=["low", "high"]).rename(columns={"entry": "variant", "t_low": "low", "t_high": "high"})
    decides = [not is_fixed(variant.partition(" --")[0]) for variant in table["variant"]]
    return table.assign(num_layers=6, decides=decides)


def _row(row: dict[str, float], digits: int) -> dict[str, str]:
    """Return the cells that all comparisons have."""
    same = row["variant"] == _BASELINE
    return {
        "agent": f"`{row['variant']}`",
        "unique layers": f"{row['num_unique_layers']:.1f}",
        "changes": f"{row['changes']:.{digits}f}" if row["changes"] else "none",
        "test loss": f"{row['test_loss']:.3f}",
        f"difference to {_BASELINE}": "" if same else written(row["difference"], row["low"], row["high"], digits=3),
        "lower in": "" if same else f"{row['better_in']:.0f} of {row['pairs']:.0f}",
    }


def variants(name: str) -> pd.DataFrame:
    """Return a comparison, lowest test loss first."""
    rows = []
    table = _comparison(_DATA / "results" / name / "table.csv").sort_values("test_loss")
    alike = table["num_layers"].nunique() == 1
    for row in table.to_dict("records"):
        equal_time = "" if row["variant"] == _BASELINE else f"{row['equal_time_difference']:+.3f}"
        rows.append(
            _row(row, digits=0)
            | {
                "block parameters": f"{row['block_params_share']:.0%}",
                "perplexity": f"{row['test_ppl']:.2f}",
                "at equal time": equal_time,
                "deciding": f"{row['decision_share']:.0%}",
            }
            | ({} if alike else {"layers": f"{row['num_layers']:.0f}"})
        )
    return pd.DataFrame(rows)


def depth(name: str) -> pd.DataFrame:
    """Return, of a comparison, each model beside the untied one of its size, and `independent` beside the shallow ones."""
    runs = pd.read_csv(_DATA / "results" / name / "runs.csv")
    losses = runs.pivot(index="seed", columns="variant", values="test_loss")
    sets = runs.groupby("variant")["num_unique_layers"].first()
    shallow = [variant for variant in sets.index if variant.startswith("shallow:")]
    pairs = [(_BASELINE, other) for other in shallow]
    pairs += [(variant, f"shallow:{size}") for variant, size in sets.items() if variant not in shallow]
    rows = []
    for model, other in pairs:
        if other not in losses:
            continue
        paired = losses[[model, other]].dropna()
        rows.append(
            {
                "model": f"`{model}`",
                "test loss": f"{paired[model].mean():.3f}",
                "beside": f"`{other}`",
                "its test loss": f"{paired[other].mean():.3f}",
                "difference": with_interval((paired[model] - paired[other]).to_numpy(), digits=3),
                "seeds": len(paired),
            }
        )
    return pd.DataFrame(rows)


def transfer(name: str) -> pd.DataFrame:
    """Return a comparison of policies that learned on a table, of those that did not, and of the fixed rule."""
    table = _comparison(_DATA / "tyingbench" / f"transfer_{name}" / "table.csv")
    return pd.DataFrame([_row(row, digits=1) for row in table.to_dict("records")])


def rivals(name: str) -> pd.DataFrame:
    """Return the differences of every agent that decides to fixed strategies of its size, and to random.

    Each of its runs is set beside the run of the same seed of the best fixed strategy (mean test loss) with at most as
    many unique layers as it ended with.
    """
    runs = pd.read_csv(_DATA / "results" / name / "runs.csv").rename(columns={"entry": "variant"})
    # Those with settings of their own, such as another learning rate, are no rivals at equal settings.
    fixed = {v for v in runs["variant"] if is_fixed(v) and " --" not in v and v != _BASELINE}
    rows = []
    for variant in dict.fromkeys(runs["variant"]):
        if is_fixed(variant.partition(" --")[0]):
            continue
        rows.append(
            {
                "agent": f"`{variant}`",
                "best published strategy of its size": _against(runs, variant, fixed - {*_OURS}),
                "private_first included": _against(runs, variant, fixed),
                "random": _against(runs, variant, {"random"}) if variant != "random" else "",
            }
        )
    return pd.DataFrame(rows)


def _against(runs: pd.DataFrame, variant: str, others: set[str]) -> str:
    """Return the difference of a variant to the best of others; fixed ones have at most as many unique layers."""
    differences = []
    for own in runs[runs["variant"] == variant].to_dict("records"):
        rivals = runs[runs["variant"].isin(others)]
        if others != {"random"}:
            rivals = rivals[rivals["num_unique_layers"] <= own["num_unique_layers"]]
        best = rivals.groupby("variant")["test_loss"].mean().idxmin()
        other = rivals[(rivals["variant"] == best) & (rivals["seed"] == own["seed"])]
        differences.append(own["test_loss"] - float(other["test_loss"].iloc[0]))
    return with_interval(np.array(differences), digits=3)


def signal(name: str) -> pd.DataFrame:
    """Return the table of experiments.signal_study: the whole run for every reward, its parts for `fork`."""
    table = pd.read_csv(_DATA / "results" / name / "signal.csv")
    return reward_signal.readable(table[(table["block"] == "all") | (table["reward"] == "fork")])


def bench(name: str) -> pd.DataFrame:
    """Return a table of experiments.tyingbench report: "TABLE.NAME", or "NAME" of the shipped one that is the default."""
    table, _, name = name.rpartition(".")
    return TABLES[name](TyingBench.load(table or DEFAULT))


def agents(name: str) -> pd.DataFrame:
    """Return the benchmark of agents at a weight of parameters, the lowest regret after the most queries first."""
    table = _trials()
    own = table[(table["param_weight"] == float(name)) & table["queries"].isin(_QUERIES)]
    last = own[own["queries"] == _QUERIES[-1]].set_index("agent")["regret"]
    rows = []
    for agent in last.sort_values().index:
        cells = own[own["agent"] == agent].to_dict("records")
        answers = {f"{cell['queries']} queries": regret.cell(cell, digits=3) for cell in cells}
        rows.append({"agent": f"`{agent}`", "trials": cells[0]["trials"], **answers})
    return pd.DataFrame(rows)


def sets(name: str) -> pd.DataFrame:
    """Return the benchmark of agents within a budget of sets, "TABLE.K", the lowest regret after the most queries first.

    The last rows are no agents: the best of all rules of that size, and of all patterns, by the slices that agents see.
    """
    table, _, number = name.rpartition(".")
    bench, size = TyingBench.load(table), int(number)
    files = [path for path in sorted((_DATA / "tyingbench").glob("sets_*.csv")) if path.stem.split("_")[1] == table]
    trials = pd.concat([pd.read_csv(path) for path in files])
    own = trials[trials["sets"] == size]
    last = own.groupby("agent")[f"after_{_SETS_QUERIES[-1]}"].mean()
    rows = []
    for agent in last.sort_values().index:
        values = own[own["agent"] == agent]
        cells = {f"{n} queries": _mean(values[f"after_{n}"].to_numpy()) for n in _SETS_QUERIES}
        rows.append({"agent": f"`{agent}`", "trials": len(values), **cells})
    removing, layers, kinds = bench.parts.removing, bench.parts.num_layers, range(len(bench.parts.shares))
    named = {*rules.tyings(layers, size).values(), *(rules.removals(layers, size).values() if removing else ())}
    labels = [[None if source is None else (kind, source) for kind in kinds for source in rule] for rule in named]
    for text, patterns in (
        ("every rule", [Pointers.from_labels([*[None] * removing, *own]) for own in labels]),
        ("every pattern", list(bench.patterns)),
    ):
        cell = _mean(goals.after_asking(bench, size, patterns))
        asked = {f"{n} queries": cell if n >= len(patterns) else "" for n in _SETS_QUERIES[:-1]}
        rows.append({"agent": f"{text}, {len(patterns)} queries", "trials": len(bench.seeds), **asked})
        rows[-1][f"{_SETS_QUERIES[-1]} queries"] = cell
    return pd.DataFrame(rows)


def _mean(values: np.ndarray) -> str:
    """Return the mean of regrets with Student's interval, which does not go below 0."""
    low, high = student_interval(values)
    return regret.cell({"regret": values.mean(), "low": max(0.0, low), "high": high}, digits=3)


def compressing(name: str) -> pd.DataFrame:
    """Return the patterns of a compression at every size, the lowest loss after healing first."""
    rows = []
    for size in read_json(_DATA / "compressing" / f"{name}.json")["sizes"]:
        chosen = {"zero_shot": size["zero_shot"], "healed_seeds": size["healed_short"], "sources": size["sources"]}
        names: dict[str, list[str]] = {}  # of equal patterns
        patterns = {"chosen": chosen, **{n: r for n, r in size["references"].items() if r["healed_seeds"]}}
        for kind, pattern in patterns.items():
            names.setdefault(str(Sources(pattern["sources"])), []).append(kind)
        for text, kinds in sorted(names.items(), key=lambda item: float(np.mean(patterns[item[1][0]]["healed_seeds"]))):
            pattern = patterns[kinds[0]]
            healed = np.array(pattern["healed_seeds"])
            rows.append(
                {
                    "sets": size["num_sets"],
                    "pattern": f"`{text}`",
                    "which is": ", ".join(kind for kind in kinds if not kind.startswith("#")),
                    "layers run": len(Sources.parse(text).kept),
                    "at once": f"{pattern['zero_shot']:.3f}",
                    "healed": f"{healed.mean():.4f}",
                    "to chosen": "" if "chosen" in kinds else with_interval(healed - np.array(chosen["healed_seeds"])),
                }
            )
    return pd.DataFrame(rows)


def healed(name: str) -> pd.DataFrame:
    """Return the patterns of a healing, the first one first, and the differences of the others to it, paired by seed."""
    lines = pd.read_json(_DATA / "compressing" / f"{name}_healed.jsonl", lines=True)
    wide = lines.pivot_table(index="sources", columns="seed", values="test_loss", sort=False)
    first = wide.iloc[0]
    rows = []
    for text, losses in wide.iterrows():
        both = (losses - first).dropna().to_numpy()
        rows.append(
            {
                "pattern": f"`{text}`",
                "layers run": len(Sources.parse(str(text)).kept),
                "seeds": int(losses.notna().sum()),
                "healed": f"{losses.mean():.4f}",
                "to the first": "" if text == wide.index[0] else with_interval(both),
            }
        )
    return pd.DataFrame(rows)


def every(name: str) -> pd.DataFrame:
    """Return what questions say of healing, of all tyings of a size: order, the pattern that they choose, and rules."""
    lines = pd.read_csv(_DATA / "compressing" / f"{name}.csv")
    each = lines.groupby("pattern", sort=False).agg(asked=("asked_loss", "first"), healed=("test_loss", "mean"))
    each["sets"] = [Pointers.parse(text).num_unique for text in each.index]
    rows = []
    for size, found in each.groupby("sets", sort=False):
        half = found.nsmallest(len(found) // 2, "healed")
        chosen = found["asked"].idxmin()
        named = {str(sources): rule for rule, sources in rules.tyings(6, size).items()}
        rule = found.loc[list(named)]["healed"].idxmin()
        rows.append(
            {
                "sets": size,
                "patterns": len(found),
                "Kendall's tau": f"{kendalltau(found['asked'], found['healed']).statistic:.2f}",
                "of the better half": f"{kendalltau(half['asked'], half['healed']).statistic:.2f}",
                "first by questions": f"`{chosen}`",
                "its loss": f"{found['healed'][chosen]:.4f}",
                "its place": f"{(found['healed'] < found['healed'][chosen]).sum() + 1}",
                "second best": f"{found['healed'].nsmallest(2).iloc[1]:.4f}",
                "best rule": f"{named[rule]} {found['healed'][rule]:.4f}",
                "median": f"{found['healed'].median():.4f}",
            }
        )
    return pd.DataFrame(rows)


def searched(name: str) -> pd.DataFrame:
    """Return the losses that agents and searches reach on a model without a table, by their number of questions."""
    lines = pd.read_csv(_DATA / "compressing" / f"{name}.csv")
    wide = lines.pivot_table(index="who", columns="queries", values="test_loss", aggfunc=list)
    last = {who: np.mean(cells.dropna().iloc[-1]) for who, cells in wide.iterrows()}
    rows = []
    for who in sorted(last, key=last.__getitem__):
        cells = wide.loc[who].dropna()
        asked = {f"{number} questions": np.array(cells.get(number, [])) for number in _SETS_QUERIES}
        alone = len(cells) == 1
        rows.append(
            {
                "who": who if alone else f"`{who}`",
                "trials": "" if alone else len(cells.iloc[-1]),
                **{title: _mean(losses) if losses.size else "" for title, losses in asked.items()},
                "others": f"{last[who]:.3f} after {cells.index[-1]}" if alone else "",
            }
        )
    return pd.DataFrame(rows)


def _trials() -> pd.DataFrame:
    """Return the benchmark; the library's agents take long to learn, and had fewer trials in a run of their own."""
    return pd.concat([pd.read_csv(path) for path in sorted((_DATA / "tyingbench").glob("agents*.csv"))])


_KINDS: dict[str, Callable[[str], pd.DataFrame]] = {
    "variants": variants,
    "depth": depth,
    "rivals": rivals,
    "signal": signal,
    "bench": bench,
    "agents": agents,
    "sets": sets,
    "transfer": transfer,
    "compressing": compressing,
    "healed": healed,
    "every": every,
    "searched": searched,
}


def filled(page: str) -> str:
    """Return a page with its tables made anew."""

    def table(match: re.Match[str]) -> str:
        kind, name = match["kind"], match["name"]
        body = _KINDS[kind](name).to_markdown(index=False, disable_numparse=True)
        return f"<!-- table {kind} {name} -->\n{body}\n<!-- end -->"

    return re.sub(r"<!-- table (?P<kind>\w+) (?P<name>[\w.-]+) -->\n.*?<!-- end -->", table, page, flags=re.DOTALL)


def _draw(name: str) -> None:
    """Draw the variants at the preset's own settings; with all others nobody could read the picture."""
    table = _comparison(_DATA / "results" / name / "table.csv")
    plain = table[~table["variant"].str.contains(" --")]
    pareto(plain, _BASELINE, {}).savefig(_ROOT / "img" / f"results_{name}.png", dpi=100)


if __name__ == "__main__":
    _draw("shakespeare_rich")
    pictures.draw(TyingBench.load(), _ROOT / "img", "tyingbench_")
    regret.picture(_trials()).savefig(_ROOT / "img" / "tyingbench_agents.png", dpi=100)
    for page in PAGES:
        before = page.read_text(encoding="utf-8")
        after = filled(before)
        page.write_text(after, encoding="utf-8")
        sys.stdout.write(f"{page.name} {'changed' if after != before else 'is up to date'}\n")
