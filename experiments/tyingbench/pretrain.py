"""Let an agent learn on a table, and keep it for real runs to begin with.

python -m experiments.tyingbench pretrain "double_dqn --agent.network per_layer" --decisions 8000 --out policies/table
python -m experiments.train --agent double_dqn --agent.network per_layer --agent.init-from policies/table
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import Field
from pydantic_settings import BaseSettings, CliPositionalArg, SettingsConfigDict
from rich.console import Console

import agents
from agents.base import masks_of
from envs.tyingbench import DEFAULT, TyingBench
from experiments import cli, workers
from experiments.tyingbench import arena
from tying.errors import InputError
from tying.files import require_room


class PretrainSettings(BaseSettings):
    """Let an agent learn on a table and save it."""

    model_config = SettingsConfigDict(**cli.script_config("tyingbench pretrain"))
    agent: CliPositionalArg[str] = Field(description="an agent's name, with flags of experiments.train in the same quotes")
    decisions: int = Field(8000, description="that it learns from [>= 1]", ge=1)
    episode: int = Field(20, description="decisions between two new beginnings [>= 1]", ge=1)
    param_weight: float = Field(0.1, description="price of all block parameters [nats per token, >= 0]", ge=0)
    seed: int = Field(0, description="of the agent and of the rows drawn", ge=0)
    table: str = Field(DEFAULT, description="a shipped table, or the path of a CSV file")
    out: str = Field(description="folder to save it in, new")


def main(arguments: Sequence[str]) -> None:
    """Learn, save, and say what it keeps now."""
    settings = cli.read(PretrainSettings, arguments)
    folder = Path(settings.out)
    if folder.exists():
        raise InputError(f"--out {folder}: exists; name a new folder")
    require_room(folder, "--out")
    bench = TyingBench.load(settings.table)
    (entry,) = arena.entries([settings.agent], bench)
    arena.require_sight([entry])
    torch.set_num_threads(1)
    env = arena.make(entry, bench, settings.episode, settings.param_weight)
    agent = arena.agent(entry, env, settings.seed)
    console = Console()
    with workers.Countdown(console, settings.decisions, "decisions") as countdown:
        agent.learn(env, settings.decisions, callback=lambda _: bool(countdown.advance()))
    agent.save(folder)
    regret = _final_regret(agent, env)
    console.print(f"saved      {folder}\nregret     {regret:.4f} after an episode without exploring", highlight=False)


def _final_regret(agent: agents.Agent, env: Any) -> float:
    """Return the normalised regret of the pattern at the end of an episode of its best decisions."""
    observation, _ = env.reset(seed=0)
    terminated = False
    info: dict[str, Any] = {}
    while not terminated:
        action = agent.predict(observation, masks_of(env), deterministic=True)
        observation, _, terminated, _, info = env.step(action)
    return float(info["normalised_regret"])
