"""Is the in-run signal worth anything? Rewards of decisions in a run, beside losses of the same patterns from scratch.

python -m experiments.signal --preset mini --decisions 45 --seeds 3

A walk of random changes goes through runs of several seeds, the same changes in each. The patterns that it came
through in three blocks, early, in the middle and late, are trained from scratch with the same budget and seeds. For
every kind of reward: Kendall's tau between what a decision was paid and

- minus the test loss of the resulting pattern from scratch ("pattern"),
- the test loss from scratch of the pattern before it minus that of the pattern after it ("change"),

with bootstrap intervals over the decisions. Parameters cost nothing here: the question is about perplexity.
"""

import functools
import shlex
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pandas as pd
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from pydantic import Field
from pydantic_settings import CliUnknownArgs, SettingsConfigDict
from rich.console import Console
from scipy import stats

from envs.layer_tying import LayerTyingEnv
from envs.presets import Setup
from envs.reward import Outcome, Reward, RewardConfig
from experiments import cli, comparison, grid, workers
from tying.config import to_dict
from tying.errors import InputError
from tying.files import read_json, replacing, require_room, write_json, write_text
from tying.layout import View
from tying.pointers import Pointers
from tying.records import Window

_BLOCKS = ("early", "middle", "late")
_RESAMPLES = 2000
# Every kind of reward that the environment offers for perplexity, at a price of 0.
_KINDS = {
    "improvement": RewardConfig(name="improvement", param_weight=0),
    "improvement, moving baseline 0.8": RewardConfig(name="improvement", param_weight=0, baseline=0.8),
    "level": RewardConfig(name="level", param_weight=0),
    "level, moving baseline 0.8": RewardConfig(name="level", param_weight=0, baseline=0.8),
    "paper": RewardConfig(name="paper", param_weight=0),
    "fork": RewardConfig(name="fork", param_weight=0),
}


class SignalSettings(comparison.ComparisonSettings):
    """Measure whether in-run rewards rank patterns as training from scratch does. Other flags are experiments.train's."""

    model_config = SettingsConfigDict(**cli.script_config("signal"), cli_ignore_unknown_args=True)
    unknown: CliUnknownArgs
    seeds: int = Field(3, description="of the walks and of training from scratch [>= 2]", ge=2)
    decisions: int = Field(45, description="that are looked at, in three blocks of the run [>= 6]", ge=6)
    out: str | None = Field(None, description="folder, new or to go on with; None for comparisons/signal__<date>")


@dataclass(frozen=True)
class Step:
    """A decision of a walk: the pattern before it, the window that followed, and the run's loss before that window."""

    before: Pointers
    pointers: Pointers
    window: Window
    previous_loss: float
    window_share: float


@dataclass(frozen=True)
class Walk:
    """A run under random changes, and the seconds that it took."""

    steps: list[Step]
    seconds: float


def main(arguments: Sequence[str]) -> None:
    """Walk, train the patterns from scratch, and report."""
    settings, rest = cli.read_known(SignalSettings, arguments)
    console = Console()
    folder = Path(settings.out or f"comparisons/signal__{time.strftime('%Y%m%d-%H%M%S')}")
    workers.require_backend(settings.backend)
    require_room(folder, "--out")
    setup = grid.Entry.parse("random", rest).settings.setup
    _blocks(-(-setup.trainer.iterations // setup.env.decision_interval), settings.decisions)
    walks = {name: _walks(folder, setup, name, settings, console) for name in ("fork", "improvement")}
    chosen = _blocks(len(walks["fork"][0].steps), settings.decisions)
    patterns = _patterns(walks["fork"][0], chosen)
    losses = _from_scratch(folder, patterns, rest, settings, ["python", "-m", "experiments.signal", *arguments])
    table = pd.DataFrame(_rows(walks["fork"], chosen, losses))
    facts = {
        "patterns": len(patterns),
        "decisions": len(chosen),
        "seeds": settings.seeds,
        "split_half_tau": _split_half(losses),
        "fork_cost": sum(w.seconds for w in walks["fork"]) / sum(w.seconds for w in walks["improvement"]),
        "command": shlex.join(["python", "-m", "experiments.signal", *arguments]),
    }
    write_text(folder / "signal.csv", table.to_csv(index=False))
    write_text(folder / "signal.md", _readable(table).to_markdown(index=False, disable_numparse=True) + "\n")
    write_json(folder / "signal.json", facts)
    with replacing(folder / "signal.png") as temporary:
        _picture(walks["fork"], chosen, losses).savefig(temporary, format="png", dpi=110)
    console.print(_readable(table).to_string(index=False), highlight=False, soft_wrap=True)
    console.print(facts)


def _walks(folder: Path, setup: Setup, reward: str, settings: SignalSettings, console: Console) -> list[Walk]:
    """Return one walk per seed; those that are in the folder already are read."""
    setup = replace(
        setup,
        env=replace(setup.env, action_mode="cursor", freeze_after=1.0),
        reward=replace(setup.reward, name=reward, param_weight=0.0),
    )
    paths = {seed: folder / "walks" / f"{reward}__s{seed}.json" for seed in range(settings.seeds)}
    walk = functools.partial(_walk, setup)
    for path in workers.carry_out(walk, list(paths.items()), settings.jobs, settings.backend):
        console.print(f"walk {path}", highlight=False, soft_wrap=True)
    return [_read_walk(path) for path in paths.values()]


def _walk(setup: Setup, errand: tuple[int, Path]) -> Path:
    """Walk through the run of a seed and write its record, unless that is there.

    Raises:
        InputError: If the record is of a run with other settings.
    """
    seed, path = errand
    plain = to_dict(setup)
    if path.is_file():
        if read_json(path).get("setup") != plain:
            raise InputError(f"{path}: made with other settings: name a new folder with --out")
        return path
    torch.set_num_threads(1)
    env: gymnasium.Env[Any, Any] = LayerTyingEnv(setup)
    inner: Any = env.unwrapped
    generator = np.random.default_rng(0)  # not the run's seed: every run takes the same decisions
    observation, _ = env.reset(seed=seed)
    steps: list[dict[str, Any]] = []
    loss = inner.backend.uniform_loss()
    iteration = 0
    inner.on_decision = lambda decision, *_: windows.append(decision.window)
    windows: list[Window] = []
    start = time.process_time()
    terminated = False
    while not terminated:
        before = inner.pointers
        unchanged = inner.mode.unchanged(before, View(observation).cursor)
        changes = np.flatnonzero(inner.action_masks() & ~unchanged)
        observation, _, terminated, _, _ = env.step(int(generator.choice(changes)))
        window = windows[-1]
        steps.append(
            {
                "before": list(before),
                "pointers": list(inner.pointers),
                "window": asdict(window),
                "previous_loss": loss,
                "window_share": (window.iteration - iteration) / setup.trainer.iterations,
            }
        )
        loss, iteration = window.reward_loss, window.iteration
    write_json(path, {"setup": plain, "seconds": time.process_time() - start, "steps": steps})
    return path


def _read_walk(path: Path) -> Walk:
    values = read_json(path)
    steps = [
        Step(
            Pointers(step["before"]),
            Pointers(step["pointers"]),
            Window.from_dict(step["window"]),
            step["previous_loss"],
            step["window_share"],
        )
        for step in values["steps"]
    ]
    return Walk(steps, values["seconds"])


def _blocks(num_steps: int, count: int) -> dict[int, str]:
    """Return the decisions of a walk that are looked at, index to block: three blocks of consecutive ones."""
    size = count // len(_BLOCKS)
    # The very first decisions are left out: nothing has been learned, and a walk from one pattern has no spread yet.
    first = num_steps // 10
    if num_steps - first < len(_BLOCKS) * size:
        raise InputError(
            f"--decisions {count}: a run has {num_steps}, and the first {first} are left out; "
            "lower it or env.decision_interval"
        )
    starts = np.linspace(first, num_steps - size, len(_BLOCKS)).astype(int)
    return {int(start) + k: name for start, name in zip(starts, _BLOCKS, strict=True) for k in range(size)}


def _patterns(walk: Walk, chosen: dict[int, str]) -> list[Pointers]:
    steps = [walk.steps[index] for index in chosen]
    return list(dict.fromkeys(pattern for step in steps for pattern in (step.before, step.pointers)))


def _from_scratch(
    folder: Path, patterns: Sequence[Pointers], flags: Sequence[str], settings: SignalSettings, command: Sequence[str]
) -> dict[Pointers, np.ndarray]:
    """Return the test loss of every pattern, one value per seed."""
    entries = grid.parse_entries([str(pattern) for pattern in patterns], flags)
    cells = grid.plan(folder, entries, range(settings.seeds))
    grid.write_plan(folder, entries, range(settings.seeds), command)
    outcomes = grid.carry_out(cells, settings.jobs, settings.backend, Console())
    failed = [f"{o.cell.entry.label}, seed {o.cell.seed}: {o.failure}" for o in outcomes if o.failure is not None]
    if failed:
        raise cli.Failed(failed)
    losses: dict[Pointers, list[float]] = {pattern: [] for pattern in patterns}
    for cell in cells:
        summary = read_json(cell.run.final / "summary.json")
        losses[Pointers(summary["pointers"])].append(summary["test_loss"])
    return {pattern: np.array(values) for pattern, values in losses.items()}


def _rewards(walk: Walk, config: RewardConfig) -> np.ndarray:
    """Return what every decision of a walk was paid under a kind of reward."""
    reward = Reward(config)
    paid = []
    share = 1.0
    for step in walk.steps:
        outcome = Outcome(step.previous_loss, share, step.window, step.window_share)
        paid.append(sum(reward.terms(outcome).values()))
        share = step.window.param_share
    return np.array(paid)


def _rows(walks: Sequence[Walk], chosen: dict[int, str], losses: dict[Pointers, np.ndarray]) -> list[dict[str, Any]]:
    steps = walks[0].steps
    pattern = np.array([-losses[steps[i].pointers].mean() for i in chosen])
    change = np.array([losses[steps[i].before].mean() - losses[steps[i].pointers].mean() for i in chosen])
    blocks = np.array(list(chosen.values()))
    rows = []
    for kind, config in _KINDS.items():
        paid = np.array([_rewards(walk, config)[list(chosen)] for walk in walks])
        noise = float(paid.std(axis=0, ddof=1).mean())
        # The spread of means over seeds holds a share of the noise; what is left is what decisions have of their own.
        own = max(0.0, float(paid.mean(axis=0).var(ddof=1)) - float(paid.var(axis=0, ddof=1).mean()) / len(walks))
        for block in ("all", *_BLOCKS):
            where = (blocks == block) | (block == "all")
            rows.append(
                {
                    "reward": kind,
                    "block": block,
                    "decisions": int(where.sum()),
                    **_tau("pattern", paid[:, where], pattern[where]),
                    **_tau("change", paid[:, where], change[where]),
                    "noise_sd": noise,
                    "signal_sd": own**0.5,
                }
            )
    return rows


def _tau(name: str, paid: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """Return tau, the mean over seeds, with its bootstrap interval over decisions, and tau of the mean reward."""

    def mean_tau(index: np.ndarray) -> float:
        return float(np.mean([_kendall(row[index], truth[index]) for row in paid]))

    everyone = np.arange(len(truth))
    low, high = _bootstrap(mean_tau, len(truth))
    return {
        f"{name}_tau": mean_tau(everyone),
        f"{name}_low": low,
        f"{name}_high": high,
        f"{name}_tau_of_mean": _kendall(paid.mean(axis=0), truth),
    }


def _kendall(paid: np.ndarray, truth: np.ndarray) -> float:
    """Return tau-b; 0 where a side is constant, since a constant ranks nothing."""
    if np.ptp(paid) == 0 or np.ptp(truth) == 0:
        return 0.0
    return float(stats.kendalltau(paid, truth).statistic)


def _bootstrap(statistic: Callable[[np.ndarray], float], size: int) -> tuple[float, float]:
    generator = np.random.default_rng(0)
    values = [statistic(generator.integers(0, size, size)) for _ in range(_RESAMPLES)]
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)


def _split_half(losses: dict[Pointers, np.ndarray]) -> float:
    """Return how well training from scratch agrees with itself: tau between seeds, mean over pairs of seeds."""
    table = np.array(list(losses.values()))
    pairs = [(a, b) for a in range(table.shape[1]) for b in range(a)]
    return float(np.mean([_kendall(table[:, a], table[:, b]) for a, b in pairs]))


def _readable(table: pd.DataFrame) -> pd.DataFrame:
    def interval(row: Any, name: str) -> str:
        return f"{row[f'{name}_tau']:+.2f} [{row[f'{name}_low']:+.2f}, {row[f'{name}_high']:+.2f}]"

    rows = [
        {
            "reward": row["reward"],
            "block": row["block"],
            "decisions": str(row["decisions"]),
            "tau with the pattern's loss": interval(row, "pattern"),
            "tau with the change of loss": interval(row, "change"),
            "mean over seeds": f"{row['pattern_tau_of_mean']:+.2f}, {row['change_tau_of_mean']:+.2f}",
            "noise SD": f"{row['noise_sd']:.4f}",
            "signal SD": f"{row['signal_sd']:.4f}",
        }
        for row in table.to_dict("records")
    ]
    return pd.DataFrame(rows)


def _picture(walks: Sequence[Walk], chosen: dict[int, str], losses: dict[Pointers, np.ndarray]) -> Figure:
    """Draw what decisions were paid (mean over seeds) against what the change is worth from scratch."""
    kinds = ("improvement", "level", "fork")
    steps = walks[0].steps
    figure = Figure(figsize=(4.3 * len(kinds), 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, kind in zip(figure.subplots(1, len(kinds)), kinds, strict=True):
        paid = np.mean([_rewards(walk, _KINDS[kind]) for walk in walks], axis=0)
        for block in _BLOCKS:
            index = [i for i, name in chosen.items() if name == block]
            worth = [losses[steps[i].before].mean() - losses[steps[i].pointers].mean() for i in index]
            axes.plot(worth, paid[index], "o", label=block, alpha=0.7)
        axes.axvline(0, color="0.8", zorder=0)
        axes.set(xlabel="worth of the change from scratch [nats per token]", ylabel="paid in the run", title=kind)
    axes.legend()
    return figure


if __name__ == "__main__":
    cli.run(main)
