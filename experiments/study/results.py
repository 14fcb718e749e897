"""Results of a grid: one row per run, then one row per variant with its paired differences to the baseline.

All differences are paired: runs of the same seed had the same initial weights and the same batches.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import pandas as pd

from agents import registry
from experiments.run.directory import RunDirectory
from experiments.run.intervals import student_interval
from tying.pointers import Pointers
from tying.training.record import perplexity

# Runs whose wall time per processor time differs by more than this were made under different load.
_LOAD = 1.15


@dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
        label: The variant that it is of.
        seed: Its seed.
        summary: final/summary.json.
        curve: One row per decision: iteration, tokens, reward_loss, evaluated, wall_s, cpu_s, param_share.
        history: Of its pointers, as `pointer_map.draw` takes it.
    """

    label: str
    seed: int
    summary: dict[str, Any]
    curve: pd.DataFrame
    history: list[tuple[int, Pointers]]

    @classmethod
    def load(cls, label: str, directory: RunDirectory) -> Self:
        """Read a finished run, to be shown under a label.

        Raises:
            InputError: If its record is damaged.
        """
        summary, lines = directory.read_summary(), directory.read_decisions()
        columns = ("iteration", "tokens", "reward_loss", "evaluated", "param_share")
        curve = pd.DataFrame(
            {
                **{name: [getattr(line.record, name) for line in lines] for name in columns},
                **{name: [getattr(line, name) for line in lines] for name in ("wall_s", "cpu_s")},
            }
        )
        history = [(line.record.iteration, line.record.pointers) for line in lines]
        return cls(label, summary["seed"], summary, curve, history)

    @property
    def decides(self) -> bool:
        """Whether its agent decides, in contrast to a fixed pattern or schedule."""
        return not registry.is_fixed(self.summary["agent"])

    @property
    def mean_share(self) -> float:
        """Mean over the run's iterations of the share of trainable block parameters."""
        iterations = np.diff(self.curve["iteration"].to_numpy(), prepend=0)
        return float(np.average(self.curve["param_share"], weights=iterations))

    @property
    def load_factor(self) -> float:
        """Wall seconds per processor second: higher on a busier machine."""
        last = self.curve.iloc[-1]
        return float(last["wall_s"] / max(last["cpu_s"], 1e-9))

    def reward_loss_at(self, seconds: float, clock: str) -> float:
        """Return the reward loss once that many seconds had passed, interpolated; NaN if the run ended before."""
        if seconds > self.curve[clock].iloc[-1] * (1 + 1e-9):
            return float("nan")
        measured = self.curve[self.curve["evaluated"]]
        return float(np.interp(seconds, measured[clock].to_numpy(), measured["reward_loss"].to_numpy()))


def references(runs: Sequence[Run], baseline: str) -> dict[str, float]:
    """Return the reference losses of the baseline's text, nats per token; none where its task has none."""
    found: dict[str, float] = next(run.summary.get("references", {}) for run in runs if run.label == baseline)
    return found


def missing_depths(runs: Sequence[Run]) -> list[int]:
    """Return the numbers of sets of weights with which tied runs ended and for which no untied run has as many layers.

    Pretrained models are left out, since their layers are given.
    """
    known = [run.summary for run in runs if run.summary.get("task") != "hf"]
    sizes = {(summary["num_layers"], summary["num_unique_layers"]) for summary in known}
    untied = {layers for layers, unique in sizes if layers == unique}
    return sorted({unique for _, unique in sizes} - untied)


def run_table(runs: Sequence[Run], clock: str, baseline: str) -> pd.DataFrame:
    """Return one row per run, with the metrics of its task that do not follow from the loss (`test_accuracy`).

    Args:
        runs: All finished runs.
        clock: "wall_s" or "cpu_s": which seconds make equal time.
        baseline: The variant whose untied model shares are of, so that a model with fewer layers counts as smaller.
    """
    untied = next(run.summary["independent_block_params"] for run in runs if run.label == baseline)
    equal_time = _equal_times(runs, clock)
    rows = []
    for run in runs:
        s, seconds = run.summary, float(run.curve[clock].iloc[-1])
        pattern = Pointers(s["pointers"])
        rows.append(
            {
                "variant": run.label,
                "seed": run.seed,
                "decides": run.decides,
                "pattern": str(pattern),
                "test_loss": s["test_loss"],
                **{name: s[name] for name in s if name.startswith("test_") and not name.endswith(("_loss", "_ppl"))},
                "reward_loss": s["reward_loss"],
                "equal_time_reward_loss": run.reward_loss_at(equal_time[run.seed], clock),
                "num_layers": s["num_layers"],
                "num_unique_layers": s["num_unique_layers"],
                "effective_blocks": pattern.effective_blocks,
                "trainable_params": s["trainable_params"],
                "block_params_share": s["trainable_block_params"] / untied,
                "mean_block_params_share": run.mean_share * s["independent_block_params"] / untied,
                "tokens": s["tokens"],
                "decisions": s["decisions"],
                "changes": s["changes"],
                "seconds": seconds,
                "tokens_per_s": s["tokens"] / seconds,
                "decision_share": (s["decision_s"] + s["evaluate_s"]) / s["wall_s"],
            }
        )
    return pd.DataFrame(rows)


def _equal_times(runs: Sequence[Run], clock: str) -> dict[int, float]:
    """Return the time at which the runs of each seed are compared: the end of the fastest.

    By the wall clock, infinity (no comparison) where runs of a seed were made under different load.
    """
    times = {}
    for seed in {run.seed for run in runs}:
        own = [run for run in runs if run.seed == seed]
        loads = [run.load_factor for run in own]
        alike = clock == "cpu_s" or max(loads) <= _LOAD * min(loads)
        times[seed] = min(float(run.curve[clock].iloc[-1]) for run in own) if alike else float("inf")
    return times


_MEANS = (
    "num_layers",
    "num_unique_layers",
    "effective_blocks",
    "changes",
    "block_params_share",
    "mean_block_params_share",
    "trainable_params",
    "tokens_per_s",
    "decision_share",
)


def variant_table(runs: pd.DataFrame, baseline: str) -> pd.DataFrame:
    """Return one row per variant, in the order of the runs' first appearance.

    Columns ending in `difference` are means of (variant - baseline), nats per token, over the `pairs`: the seeds that
    both have; `better_in` counts those in which the variant is lower, `low` and `high` bound Student's 95 % interval of
    that mean (none for fewer than three pairs). All other columns are means over the variant's own seeds. Perplexities
    are exp of the mean loss.
    """
    reference = runs[runs["variant"] == baseline].set_index("seed")
    rows = []
    for label in dict.fromkeys(runs["variant"]):
        own = runs[runs["variant"] == label].set_index("seed")
        row: dict[str, Any] = {"variant": label, "decides": bool(own["decides"].any()), "seeds": len(own)}
        row |= {name: own[name].mean() for name in ("test_loss", "reward_loss")}
        row["test_ppl"] = perplexity(row["test_loss"])
        row |= {name: own[name].mean() for name in metrics_of(runs)}
        row["pairs"] = len(own.index.intersection(reference.index))
        row |= _compared(own, reference, "test_loss", "")
        row |= _compared(own, reference, "equal_time_reward_loss", "equal_time_")
        rows.append(row | {name: own[name].mean() for name in _MEANS})
    return pd.DataFrame(rows)


def with_references(table: pd.DataFrame, known: Mapping[str, float]) -> pd.DataFrame:
    """Return a table of variants, and below them a row for every model that needs no training: loss, perplexity, no seeds.

    Args:
        table: From `variant_table`.
        known: From `references`.
    """
    none = {"decides": False, "seeds": 0, "pairs": 0, "better_in": 0, "equal_time_better_in": 0}
    rows = [{"variant": n, **none, "test_loss": loss, "test_ppl": perplexity(loss)} for n, loss in known.items()]
    return pd.DataFrame([*table.to_dict("records"), *rows], columns=table.columns)


def metrics_of(table: pd.DataFrame) -> list[str]:
    """Return the columns of a table that are a task's own metrics, such as `test_accuracy`."""
    return [name for name in table.columns if name.startswith("test_") and name not in ("test_loss", "test_ppl")]


def _compared(own: pd.DataFrame, reference: pd.DataFrame, column: str, prefix: str) -> dict[str, float]:
    differences = (own[column] - reference[column]).dropna().to_numpy()
    low, high = student_interval(differences)
    return {
        f"{prefix}difference": float(differences.mean()) if differences.size else float("nan"),
        f"{prefix}low": low,
        f"{prefix}high": high,
        f"{prefix}better_in": int((differences < 0).sum()),
    }
