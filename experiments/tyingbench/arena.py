"""The environment in which an entry meets a table. What `agents` and `pretrain` have in common."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import gymnasium

import agents
import envs  # noqa: F401 (registers the environments)
from envs.tyingbench import TyingBench
from experiments import grid
from tying.errors import InputError

# What holds unless an entry says otherwise: every decision counts.
_COMMON = ("--preset", "table", "--env.freeze-after", "1")


def entries(texts: Sequence[str], bench: TyingBench) -> list[grid.Entry]:
    """Return entries: an agent's name and flags of `experiments.train` each.

    Raises:
        InputError: With one line for every mistake.
    """
    return grid.parse_entries(texts, [*_COMMON, "--model.num-layers", str(bench.num_layers)])


def blind(entry: grid.Entry) -> bool:
    """Return whether an entry decides by what a table does not have: gradients."""
    return entry.settings.setup.env.gradient_statistics


def require_sight(chosen: Sequence[grid.Entry]) -> None:
    """Check that no entry is blind.

    Raises:
        InputError: Naming those that are.
    """
    lines = [f"{entry.label!r} decides by gradients, and a table has none" for entry in chosen if blind(entry)]
    if lines:
        raise InputError(lines)


def make(
    entry: grid.Entry, bench: TyingBench, num_decisions: int, param_weight: float, budget: float = 1.0
) -> gymnasium.Env[Any, Any]:
    """Return `tying/TyingBench-v0` as an entry wishes it; a decision is a query."""
    setup = entry.settings.setup
    reward = {**asdict(setup.reward), "param_weight": param_weight}
    settings = {**asdict(setup.env), "decision_interval": 1}
    return gymnasium.make(
        "tying/TyingBench-v0", table=bench, num_decisions=num_decisions, budget=budget, reward=reward, **settings
    )


def agent(entry: grid.Entry, env: gymnasium.Env[Any, Any], seed: int) -> agents.Agent:
    """Return an entry's agent."""
    return agents.make(entry.settings.agent, env, seed, **entry.settings.hyperparameters)
