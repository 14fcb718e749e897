"""Let an agent learn on a table, and save it for real runs to begin with.

python -m experiments.tyingbench pretrain "double_dqn --agent.network per_layer" --decisions 8000 --out policies/table
python -m experiments.train --agent double_dqn --agent.network per_layer --agent.init-from policies/table
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import agents
from agents.environment import masks_of
from experiments.run import cli
from experiments.run.console import make_console
from experiments.study import workers
from experiments.tyingbench.agents import make_agent, make_env, variants
from tying.config import config, setting
from tying.errors import InputError
from tying.files import require_room
from tying.tyingbench import DEFAULT, TyingBench


@config
class PretrainFlags:
    """Let an agent learn on a table and save it."""

    agent: str = cli.positional("an agent's name, with flags of experiments.train in the same quotes")
    out: str | None = setting("new folder to save it in", default=None)
    decisions: int = setting("decisions to learn from [>= 1]", default=8000, ge=1)
    episode: int = setting("decisions in an episode [>= 1]", default=20, ge=1)
    param_weight: float = setting(
        "weight of the share of block parameters [nats per token, >= 0]", default=0.1, ge=0, le=1e6
    )
    seed: int = setting("of the agent and of the rows drawn [>= 0]", default=0, ge=0)
    table: str = setting("a shipped table, or the path of a CSV file", default=DEFAULT)


def main(words: Sequence[str]) -> agents.Agent:
    """Train the agent, save it, show its regret, and return it."""
    flags, _ = cli.read_own(PretrainFlags, words, "experiments.tyingbench pretrain")
    if flags.out is None or Path(flags.out).exists():
        raise InputError(f"--out {flags.out or 'is missing'}: name a new folder")
    require_room(Path(flags.out), "--out")
    bench = TyingBench.load(flags.table)
    (variant,) = variants([flags.agent], bench)
    env = make_env(variant, bench, flags.episode, {"param_weight": flags.param_weight})
    agent = make_agent(variant, env, flags.seed)
    console = make_console()
    with workers.Countdown(console, flags.decisions, "decisions") as countdown:
        agent.learn(env, flags.decisions, callback=lambda _: bool(countdown.advance()))
    agent.save(flags.out)
    regret = final_regret(agent, env)
    console.print(f"saved      {flags.out}\nregret     {regret:.4f} after an episode without exploring")
    return agent


def final_regret(agent: agents.Agent, env: Any) -> float:
    """Return the normalised regret of the pattern at the end of an episode of an agent's best decisions."""
    observation, _ = env.reset(seed=0)
    agent.begin_episode(observation)
    terminated = False
    info: dict[str, Any] = {}
    while not terminated:
        action = agent.predict(observation, masks_of(env), deterministic=True)
        observation, _, terminated, _, info = env.step(action)
    return float(info["normalised_regret"])
