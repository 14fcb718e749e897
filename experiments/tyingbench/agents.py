"""Benchmark agents: what they find in a table, in as many queries.

    python -m experiments.tyingbench agents --trials 200
    python -m experiments.tyingbench agents --table minilm-6 --sets 4 3 2 --queries 200 --trials 50

A trial is one run of an agent in `tying/TyingBench-v0`. After every query the pattern that it would keep is judged by its
normalised regret: 0 is the best pattern of the table and 1 the worst, by mean test loss over the seeds plus `param_weight`
times the share of parameters. Agents see neither: they are rewarded on the reward split of single seeds. An agent that does
not say which pattern it would keep is taken to keep the tried pattern with the lowest mean. With `--sets` the goal is the
lowest loss within a budget of sets of weights, on slices of the text that are not asked (`goals`).
"""

import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import gymnasium
import numpy as np
from pydantic import Field
from rich.console import Console

import agents
from agents import registry
from envs.table import Answers
from experiments.run import cli
from experiments.run.console import make_console
from experiments.study import workers
from experiments.study.grid import Variant, parse_variants
from experiments.study.workers import WorkerConfig
from experiments.tyingbench import goals
from experiments.tyingbench.goals import Goal
from tying.config import config, setting
from tying.errors import InputError
from tying.files import replacing, require_room, write_json, write_text
from tying.pointers import Pointers
from tying.tyingbench import DEFAULT, TyingBench


@config
class AgentsFlags(WorkerConfig):
    """Judge agents by the regret of the patterns that they find in a table."""

    agents: list[str] = setting(
        "--agents A B ...; a variant's own flags in quotes: 'surrogate --agent.explore 0.5'; none: all",
        default=[],
    )
    trials: int = setting("runs of each agent at each weight [>= 2]", default=200, ge=2)
    queries: int = setting("rows that a trial may look up [>= 1]", default=100, ge=1)
    param_weights: list[Annotated[float, Field(ge=0, le=1e6)]] = setting(
        "weights of the share of parameters [nats per token, >= 0]", default=[0.0, 0.1, 0.3], min_length=1
    )
    sets: list[int] = setting(
        "in place of weights: budgets of sets of weights, judged on slices of the text that agents do not see [sets, >= 1]",
        default=[],
    )
    budget: float = setting("share of the run after which patterns are judged", default=1.0)
    table: str = setting("a shipped table, or the path of a CSV file", default=DEFAULT)
    out: str | None = setting(
        "folder for trials.csv (raw rows) and agents.csv, .md, .json, .png; files are replaced", default=None
    )

    @property
    def aim(self) -> str:
        """The name of what trials differ in beside the agent: "sets" or "param_weight"."""
        return "sets" if self.sets else "param_weight"

    @property
    def aims(self) -> list[float]:
        """Its values, each once."""
        return list(dict.fromkeys(self.sets or self.param_weights))

    def goal(self, bench: TyingBench, aim: float, seed: int) -> Goal:
        """Return the goal of the trial of a seed."""
        if self.sets:
            return goals.within(bench, int(aim), seed % len(bench.seeds), self.budget)
        return goals.weighted(bench, aim, self.budget)


@dataclass(frozen=True)
class TrialBatch:
    """Some trials of one variant at one weight or budget of sets, done by one process."""

    label: str
    aim: float
    seeds: tuple[int, ...]
    flags: AgentsFlags


def main(words: Sequence[str]) -> Any:
    """Run the trials, show and write the benchmark, and return its table."""
    flags, _ = cli.read_own(AgentsFlags, words, "experiments.tyingbench agents")
    folder = Path(flags.out) if flags.out is not None else None
    if folder is not None:
        require_room(folder / "agents.csv", "--out")
    bench = TyingBench.load(flags.table)
    bench.losses(budget=flags.budget)  # a budget that is not there is reported now, and so are sets
    for sets in flags.sets:
        goals.check(bench, sets)
    console, start = make_console(), time.monotonic()
    regrets = run_trials([variant.label for variant in variants(flags.agents or default_texts(), bench)], flags, console)
    # Imported now: mistakes are answered before the libraries of tables and pictures are there.
    from experiments.tyingbench import regret

    table = regret.table(regrets, flags.aim)
    readable = regret.readable(table, flags.aim)
    console.print(readable.to_string(index=False), soft_wrap=True)
    if folder is not None:
        command = shlex.join(["python", "-m", "experiments.tyingbench", "agents", *words])
        facts = {"command": command, "trials": flags.trials, "seconds": time.monotonic() - start}
        write_text(folder / "agents.csv", table.to_csv(index=False, float_format="%.5f"))
        write_text(folder / "trials.csv", regret.trials(regrets, flags.aim).to_csv(index=False, float_format="%.5f"))
        write_text(folder / "agents.md", readable.to_markdown(index=False, disable_numparse=True) + "\n")
        write_json(folder / "agents.json", facts)
        with replacing(folder / "agents.png") as temporary:
            regret.picture(table, flags.aim).savefig(temporary, format="png", dpi=110)
    return table


def default_texts() -> list[str]:
    """Return random search over whole patterns, and all agents that need no gradients."""
    texts = ["random --env.action-mode joint"]
    for name in registry.AGENTS:
        cls, _ = registry.agent_class(name)
        texts += [name] if not cls.recommended(cls.Config()).get("env.gradient_statistics") else []
    return texts


def variants(texts: Sequence[str], bench: TyingBench) -> list[Variant]:
    """Return the variants that texts mean: an agent's name and flags of `experiments.train`.

    Unless a text says otherwise, every decision counts, and agents explore to the end: `explore` is a share of a training
    run, in which trying patterns costs training; queries of a table cost the same whatever the pattern.

    Raises:
        InputError: With one line for every mistake, and for every agent that decides by gradients.
    """
    common = ["--preset", "table", "--env.freeze-after", "1", "--model.num-layers", str(bench.num_layers)]
    made = []
    for variant in parse_variants(texts, common):
        settings = variant.config
        if "explore" in settings.hyperparameters and "agent.explore" not in settings.chosen:
            variant = Variant.parse(variant.label, [*common, "--agent.explore", "1"])
        made.append(variant)
    lacking = [variant.label for variant in made if variant.config.env.gradient_statistics]
    if lacking:
        raise InputError([f"{label!r} decides by gradients, and a table has none" for label in lacking])
    return made


def make_env(
    variant: Variant,
    bench: TyingBench,
    num_decisions: int,
    reward: Mapping[str, float],
    budget: float = 1.0,
    answers: Answers = "seed",
) -> gymnasium.Env[Any, Any]:
    """Return `tying/TyingBench-v0` with a variant's settings, and those of the reward above them; a decision is a query."""
    settings: dict[str, Any] = {**asdict(variant.config.env), "decision_interval": 1}
    settings["reward"] = {**asdict(variant.config.reward), **reward}
    return gymnasium.make(
        "envs:tying/TyingBench-v0", table=bench, num_decisions=num_decisions, budget=budget, answers=answers, **settings
    )


def make_agent(variant: Variant, env: gymnasium.Env[Any, Any], seed: int) -> agents.Agent:
    """Return a variant's agent."""
    return agents.make(variant.config.agent.name, env, seed, **variant.config.hyperparameters)


def run_trials(labels: Sequence[str], flags: AgentsFlags, console: Console) -> dict[tuple[str, float], np.ndarray]:
    """Return normalised regrets by variant and weight or budget of sets, shape (trials, queries)."""
    parts = np.array_split(np.arange(flags.trials), min(flags.trials, 2 * flags.jobs))
    keys = [(label, aim) for aim in flags.aims for label in labels]
    batches = [TrialBatch(*key, tuple(map(int, seeds)), flags) for key in keys for seeds in parts]
    found: dict[tuple[str, float], dict[tuple[int, ...], np.ndarray]] = {key: {} for key in keys}
    with workers.Countdown(console, len(batches), "batches of trials") as countdown:
        for batch, regrets in workers.run_all(_run, batches, flags):
            progress = countdown.advance()
            own = found[batch.label, batch.aim]
            own[batch.seeds] = regrets
            if len(own) == len(parts):
                console.print(f"{progress}  {batch.label}, {flags.aim} {batch.aim:g}", soft_wrap=True)
    return {key: np.concatenate([own[seeds] for seeds in sorted(own)]) for key, own in found.items()}


def _run(batch: TrialBatch) -> tuple[TrialBatch, np.ndarray]:
    import torch

    torch.set_num_threads(1)
    bench, flags = TyingBench.load(batch.flags.table), batch.flags
    (variant,) = variants([batch.label], bench)
    trials = [trial(variant, flags.goal(bench, batch.aim, seed), seed, flags.queries) for seed in batch.seeds]
    return batch, np.array(trials)


def trial(variant: Variant, goal: Goal, seed: int, queries: int) -> np.ndarray:
    """Return the normalised regret of the pattern that an agent would keep after 1, 2, ... queries, shape (queries,)."""
    env = make_env(variant, goal.table, queries, goal.reward, goal.budget, goal.answers)
    inner: Any = env.unwrapped
    tried: dict[Pointers, list[float]] = {}
    kept: dict[int, Pointers] = {0: inner.initial_pointers}  # nothing is known before the first answer

    def see(record: Any, *_: Any) -> None:
        tried.setdefault(record.pointers, []).append(goal.objective(record.reward_loss, record.param_share))

    def keep(agent: Any) -> bool:
        says = goal.answers == "seed" and hasattr(agent, "recommend")
        kept[inner.simulator.queries] = (agent.recommend() if says else None) or incumbent(tried)
        return bool(inner.simulator.queries < queries)

    inner.on_decision = see
    make_agent(variant, env, seed).learn(env, queries, callback=keep)
    # A fork takes two queries; the pattern kept before holds in between.
    held = [kept[max(done for done in kept if done <= query)] for query in range(1, queries + 1)]
    return np.array([goal.regrets[pattern] for pattern in held])


def incumbent(tried: dict[Pointers, list[float]]) -> Pointers:
    """Return the pattern with the lowest mean of what its queries answered; the first of equals."""
    return min(tried, key=lambda pattern: float(np.mean(tried[pattern])))
