"""Walks of random changes through runs, and how their rewards rank patterns beside training from scratch.

A walk takes the same decisions in runs of several seeds. The patterns of three blocks of its decisions (early, in the
middle, late) are trained from scratch. For every kind of reward, Kendall's tau between the reward of a decision and

- minus the test loss of the resulting pattern from scratch ("pattern"),
- the fall of the test loss from scratch from the pattern before to the pattern after ("change"),

with bootstrap intervals over the decisions. Parameters are not charged: the question is about perplexity.

S seeds, N decisions.
"""

from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from gymnasium import spaces
from matplotlib.figure import Figure

from agents.base import Agent
from envs.reward import Reward, RewardConfig
from experiments.run.cli import Failed
from experiments.run.console import make_console
from experiments.run.directory import RunDirectory
from experiments.run.figures import figure_of
from experiments.run.intervals import kendall, written
from experiments.study import grid
from experiments.study.workers import StudyConfig
from tying.errors import InputError
from tying.files import replacing, write_json, write_text
from tying.pointers import Pointers
from tying.training.record import StepRecord

BLOCKS = ("early", "middle", "late")
_RESAMPLES = 2000
# Every kind of reward of the environment that is about perplexity, without a charge for parameters.
_KINDS = (("improvement", 0.0), ("improvement", 0.8), ("level", 0.0), ("level", 0.8), ("paper", 0.0), ("fork", 0.0))
REWARDS = {
    f"{name}, moving baseline {decay}" if decay else name: RewardConfig(name=name, param_weight=0, baseline=decay)
    for name, decay in _KINDS
}
# Walks with a fork, which measures everything that the rewards need, and without, for the time that it takes.
_WALK = f"{__name__}:Walker --env.action-mode cursor --env.freeze-after 1 --reward.param-weight 0 --reward.name"
WALKS = {kind: f"{_WALK} {kind}" for kind in ("fork", "improvement")}


class Walker(Agent):
    """Changes the layer whose turn it is to a random target, the same in runs of every seed."""

    action_spaces = (spaces.Discrete,)

    def begin_episode(self, observation: np.ndarray) -> None:
        """Begin the walk."""
        self._generator = np.random.default_rng(0)

    def predict(self, observation: np.ndarray, action_masks: np.ndarray | None = None, deterministic: bool = False) -> int:
        """Return one of the actions that change something."""
        view = self.view(observation)
        changes = np.flatnonzero(action_masks) if action_masks is not None else np.arange(view.num_layers)
        return int(self._generator.choice(changes[changes != view.pointers[view.cursor or 0]]))


def run_grid(
    folder: Path, texts: Sequence[str], words: Sequence[str], seeds: Sequence[int], config: StudyConfig
) -> dict[str, list[RunDirectory]]:
    """Train the runs of variants that are not finished; return the folders of each variant, one per seed.

    Args:
        folder: New, or of the same grid, which is then resumed.
        texts: The variants, each with single spaces.
        words: Flags of `experiments.train` that hold for all.
        seeds: One run of every variant for each.
        config: How many processes, and where.

    Raises:
        InputError: If the folder holds runs with other settings.
        Incomplete: If this was a shard, and others have not finished theirs.
        Failed: If runs failed.
    """
    variants = grid.parse_variants(texts, words)
    specs = grid.plan(folder, variants, seeds)
    grid.write_plan(folder, variants, seeds, ["python", "-m", "experiments.compare", "--agents", *texts, *words])
    failures = grid.run_all(specs, config, make_console())
    if failures:
        raise Failed(failures)
    return {text: [spec.directory for spec in specs if spec.label == text] for text in texts}


def blocks_of(num_steps: int, count: int) -> dict[int, str]:
    """Return the decisions of a walk that are studied, index to block: three blocks of consecutive ones.

    Raises:
        InputError: If a walk has too few.
    """
    size = count // len(BLOCKS)
    # The very first decisions are left out: nothing has been learned, and a walk from one pattern has no spread yet.
    first = num_steps // 10
    if num_steps - first < len(BLOCKS) * size:
        raise InputError(
            f"--decisions {count}: a run has {num_steps}, and the first {first} are left out; "
            "lower it or env.decision_interval"
        )
    starts = np.linspace(first, num_steps - size, len(BLOCKS)).astype(int)
    return {int(start) + k: name for start, name in zip(starts, BLOCKS, strict=True) for k in range(size)}


def decision_table(
    walks: Sequence[Sequence[StepRecord]], chosen: Mapping[int, str], losses: Mapping[Pointers, Sequence[float]]
) -> pd.DataFrame:
    """Return a row per seed and studied decision: its two ratings from scratch, and its reward of every kind.

    Args:
        walks: The records of every seed; their decisions are equal.
        chosen: From `blocks_of`.
        losses: Pattern to test losses from scratch, one per seed.
    """
    rows = []
    for seed, steps in enumerate(walks):
        rewards = {kind: _rewards(Reward(config), steps) for kind, config in REWARDS.items()}
        for index, block in chosen.items():
            step = steps[index]
            after, before = np.mean(losses[step.pointers]), np.mean(losses[step.previous_pointers])
            row = {"seed": seed, "decision": index, "block": block, "pointers": str(step.pointers)}
            row |= {"pattern": -after, "change": before - after}
            rows.append(row | {kind: values[index] for kind, values in rewards.items()})
    return pd.DataFrame(rows)


def _rewards(reward: Reward, steps: Sequence[StepRecord]) -> list[float]:
    return [reward.rewarded(step).reward for step in steps]


def signal_table(decisions: pd.DataFrame) -> pd.DataFrame:
    """Return a row per kind of reward and block of a `decision_table`."""
    first = decisions[decisions["seed"] == 0]
    rows = []
    for kind in REWARDS:
        rewards = decisions.pivot(index="seed", columns="decision", values=kind)[first["decision"]].to_numpy()  # (S, N)
        noise = float(rewards.std(axis=0, ddof=1).mean())
        # The spread of means over seeds holds a share of the noise; the rest is the decisions' own.
        own = max(0.0, rewards.mean(axis=0).var(ddof=1) - rewards.var(axis=0, ddof=1).mean() / len(rewards))
        for block in ("all", *BLOCKS):
            where = (first["block"] == block).to_numpy() | (block == "all")
            row = {"reward": kind, "block": block, "decisions": int(where.sum())}
            for truth in ("pattern", "change"):
                row |= _taus(truth, rewards[:, where], first[truth].to_numpy()[where])
            rows.append({**row, "noise_sd": noise, "signal_sd": own**0.5})
    return pd.DataFrame(rows)


def _taus(name: str, rewards: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """Return tau, the mean over seeds, with its bootstrap interval over decisions, and tau of the mean reward."""

    def mean_tau(index: np.ndarray) -> float:
        return float(np.mean([kendall(row[index], truth[index]) for row in rewards]))

    generator = np.random.default_rng(0)
    resampled = [mean_tau(generator.integers(0, len(truth), len(truth))) for _ in range(_RESAMPLES)]
    low, high = np.quantile(resampled, [0.025, 0.975])
    values = (mean_tau(np.arange(len(truth))), float(low), float(high), kendall(rewards.mean(axis=0), truth))
    return dict(zip((f"{name}_tau", f"{name}_low", f"{name}_high", f"{name}_tau_of_mean"), values, strict=True))


def seed_tau(losses: Mapping[Pointers, Sequence[float]]) -> float:
    """Return how well training from scratch agrees with itself: tau between two seeds, mean over all pairs of seeds."""
    columns = np.array(list(losses.values())).T
    return float(np.mean([kendall(one, other) for one, other in combinations(columns, 2)]))


def write_report(folder: Path, decisions: pd.DataFrame, facts: Mapping[str, Any]) -> pd.DataFrame:
    """Write decisions.csv and signal.csv, .md, .json and .png, print the table, and return it."""
    table = signal_table(decisions)
    shown = readable(table)
    write_text(folder / "decisions.csv", decisions.to_csv(index=False))
    write_text(folder / "signal.csv", table.to_csv(index=False))
    write_text(folder / "signal.md", shown.to_markdown(index=False, disable_numparse=True) + "\n")
    write_json(folder / "signal.json", facts)
    with replacing(folder / "signal.png") as temporary:
        picture(decisions).savefig(temporary, format="png", dpi=110)
    print(shown.to_string(index=False), *(f"{name:10} {value}" for name, value in facts.items()), sep="\n")
    return table


def readable(table: pd.DataFrame) -> pd.DataFrame:
    """Return a `signal_table` in words."""
    rows = [
        {
            "reward": row["reward"],
            "block": row["block"],
            "decisions": str(row["decisions"]),
            "tau with the pattern": tau_cell(row, "pattern"),
            "tau with the change": tau_cell(row, "change"),
            "noise SD": f"{row['noise_sd']:.4f}",
            "signal SD": f"{row['signal_sd']:.4f}",
        }
        for row in table.to_dict("records")
    ]
    return pd.DataFrame(rows)


def tau_cell(row: Mapping[str, Any], name: str) -> str:
    """Return a tau of a row with its interval in words; `name` is pattern or change."""
    return written(row[f"{name}_tau"], row[f"{name}_low"], row[f"{name}_high"], digits=2)


def picture(decisions: pd.DataFrame) -> Figure:
    """Draw the reward of decisions (mean over seeds) against the fall of the loss from scratch."""
    kinds = ("improvement", "level", "fork")
    means = decisions.groupby(["block", "decision"])[["change", *kinds]].mean()
    figure = figure_of(4.3 * len(kinds), 4.2)
    for axes, kind in zip(figure.subplots(1, len(kinds)), kinds, strict=True):
        for block in BLOCKS:
            axes.plot(means.loc[block, "change"], means.loc[block, kind], "o", label=block, alpha=0.7)
        axes.axvline(0, color="0.8", zorder=0)
        axes.set(xlabel="fall of the loss from scratch [nats per token]", ylabel="reward in the run", title=kind)
    axes.legend()
    return figure
