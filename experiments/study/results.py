"""Results of a grid: one row per run, then one row per entry with what sets it apart from the baseline.

All differences are paired: runs of the same seed had the same initial weights and the same batches.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from tying.files import read_json
from tying.pointers import Pointers
from tying.records import RunDirectory, perplexity

_RESAMPLES = 9999
_CONFIDENCE = 0.95


@dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
        label: The entry that it is of.
        seed: Its seed.
        summary: final/summary.json.
        curve: One row per decision: iteration, tokens, reward_loss, wall_s, cpu_s, param_share.
        history: Of its pointers, as `pointer_map.draw` takes it.
    """

    label: str
    seed: int
    summary: dict[str, Any]
    curve: pd.DataFrame
    history: list[tuple[int, Pointers]]

    @classmethod
    def load(cls, label: str, folder: RunDirectory) -> "Run":
        """Read a finished run, to be shown under a label.

        Raises:
            InputError: If its record is damaged or lacks a clock.
        """
        lines = folder.read_decisions()
        summary = read_json(folder.final / "summary.json")
        folder.require_clocks(lines)
        curve = pd.DataFrame(
            {name: [line[name] for line in lines] for name in ("iteration", "tokens", "reward_loss", "wall_s", "cpu_s")}
        )
        curve["param_share"] = [line["block_params"] / line["independent_block_params"] for line in lines]
        history = [(line["iteration"], Pointers(line["pointers"])) for line in lines]
        return cls(label, summary["seed"], summary, curve, history)

    def reward_loss_at(self, seconds: float, clock: str) -> float:
        """Return the reward loss once that many seconds had passed, interpolated; NaN if the run ended before."""
        times = self.curve[clock].to_numpy()
        if seconds > times[-1] * (1 + 1e-9):
            return float("nan")
        return float(np.interp(seconds, times, self.curve["reward_loss"].to_numpy()))


def run_table(runs: Sequence[Run], clock: str) -> pd.DataFrame:
    """Return one row per run.

    Args:
        runs: All finished runs.
        clock: "wall_s" or "cpu_s": which seconds make equal time.
    """
    # Equal time: when the first of the runs of a seed ends, everybody is asked where it stands.
    shortest = {run.seed: min(r.curve[clock].iloc[-1] for r in runs if r.seed == run.seed) for run in runs}
    rows = []
    for run in runs:
        s = run.summary
        rows.append(
            {
                "entry": run.label,
                "seed": run.seed,
                "pattern": str(Pointers(s["pointers"])),
                "test_loss": s["test_loss"],
                "reward_loss": s["reward_loss"],
                "equal_time_reward_loss": run.reward_loss_at(shortest[run.seed], clock),
                "num_unique_layers": s["num_unique_layers"],
                "trainable_params": s["trainable_params"],
                "block_params_share": s["trainable_block_params"] / s["independent_block_params"],
                "mean_block_params_share": float(np.average(run.curve["param_share"], weights=_durations(run.curve))),
                "tokens": s["tokens"],
                "decisions": s["decisions"],
                "changes": sum(a != b for (_, a), (_, b) in pairwise(run.history)),
                "seconds": float(run.curve[clock].iloc[-1]),
                "tokens_per_s": s["tokens"] / float(run.curve[clock].iloc[-1]),
                "decision_share": s["decision_s"] / s["wall_s"],
            }
        )
    return pd.DataFrame(rows)


def _durations(curve: pd.DataFrame) -> np.ndarray:
    return np.diff(curve["iteration"].to_numpy(), prepend=0)


def entry_table(runs: pd.DataFrame, baseline: str) -> pd.DataFrame:
    """Return one row per entry, in the order of the runs' first appearance.

    Columns ending in `difference` are means of (entry - baseline), nats per token, over the `pairs`: the seeds that both
    have; `better_in` counts those in which the entry is lower. `low` and `high` bound the bootstrap interval
    (percentile, 95 %) of that mean, `t_low` and `t_high` Student's, which is wider and, with five seeds, the one to
    trust. All other columns are means over the entry's own seeds. Perplexities are exp of the mean loss.
    """
    reference = runs[runs["entry"] == baseline].set_index("seed")
    rows = []
    for label in dict.fromkeys(runs["entry"]):
        own = runs[runs["entry"] == label].set_index("seed")
        row = {"entry": label, "seeds": len(own), "test_loss": own["test_loss"].mean()}
        row["reward_loss"] = own["reward_loss"].mean()
        row["test_ppl"] = perplexity(row["test_loss"])
        row["pairs"] = len(own.index.intersection(reference.index))
        row |= _compared(own, reference, "test_loss", "")
        row |= _compared(own, reference, "equal_time_reward_loss", "equal_time_")
        for name in (
            "num_unique_layers",
            "changes",
            "block_params_share",
            "mean_block_params_share",
            "trainable_params",
            "tokens_per_s",
            "decision_share",
        ):
            row[name] = own[name].mean()
        rows.append(row)
    return pd.DataFrame(rows)


def _compared(own: pd.DataFrame, reference: pd.DataFrame, column: str, prefix: str) -> dict[str, float]:
    differences = (own[column] - reference[column]).dropna().to_numpy()
    low, high = bootstrap_interval(differences)
    t_low, t_high = student_interval(differences)
    return {
        f"{prefix}difference": float(differences.mean()) if differences.size else float("nan"),
        f"{prefix}low": low,
        f"{prefix}high": high,
        f"{prefix}t_low": t_low,
        f"{prefix}t_high": t_high,
        f"{prefix}better_in": int((differences < 0).sum()),
    }


def bootstrap_interval(values: np.ndarray) -> tuple[float, float]:
    """Return the 95 % percentile-bootstrap interval of a mean; NaN for fewer than two values."""
    if len(values) < 2:
        return float("nan"), float("nan")
    found = stats.bootstrap(
        (values,), np.mean, confidence_level=_CONFIDENCE, n_resamples=_RESAMPLES, method="percentile", rng=0
    ).confidence_interval
    return float(found.low), float(found.high)


def student_interval(values: np.ndarray) -> tuple[float, float]:
    """Return Student's 95 % interval of a mean; NaN for fewer than two values."""
    if len(values) < 2:
        return float("nan"), float("nan")
    if np.ptp(values) == 0:
        return float(values[0]), float(values[0])
    low, high = stats.t.interval(_CONFIDENCE, len(values) - 1, loc=values.mean(), scale=stats.sem(values))
    return float(low), float(high)


def on_front(table: pd.DataFrame) -> pd.Series:
    """Return which entries no other beats in both share of block parameters and test loss."""
    share, loss = table["block_params_share"].to_numpy(), table["test_loss"].to_numpy()
    beaten = [
        bool((((share <= s) & (loss < x)) | ((share < s) & (loss <= x))).any()) for s, x in zip(share, loss, strict=True)
    ]
    return ~pd.Series(beaten, index=table.index)
