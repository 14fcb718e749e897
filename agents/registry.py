"""From a name to an agent: ours by name, a fixed strategy by its text, a stranger's by "package.module:Class".

To add an agent, write its file and a line in `_AGENTS`.
"""

import importlib
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import gymnasium

from agents.base import Agent
from tying import strategies
from tying.errors import InputError
from tying.files import read_json

# Named by text, so that choosing one agent does not import the libraries of all others.
_AGENTS = {
    "dqn": "agents.sb3:DQNAgent",
    "qrdqn": "agents.sb3:QRDQNAgent",
    "double_dqn": "agents.double_dqn:DoubleDQNAgent",
    "ppo": "agents.sb3:PPOAgent",
    "maskable_ppo": "agents.sb3:MaskablePPOAgent",
    "recurrent_ppo": "agents.sb3:RecurrentPPOAgent",
    "a2c": "agents.sb3:A2CAgent",
    "paper": "agents.paper:PaperAgent",
    "local_search": "agents.local_search:LocalSearchAgent",
    "evolution": "agents.evolution:EvolutionAgent",
    "surrogate": "agents.surrogate:SurrogateAgent",
    "thompson": "agents.bandit:ThompsonAgent",
    "ucb": "agents.bandit:UCBAgent",
    "gradient_similarity": "agents.gradient_similarity:GradientSimilarityAgent",
    "random": "agents.random:RandomAgent",
}
_FIXED = "agents.fixed:FixedAgent"
_METHODS = ("predict", "learn", "save", "load")


def names() -> tuple[str, ...]:
    """Return the names of the agents that decide, then those of the fixed strategies."""
    return (*_AGENTS, *strategies.names(), *strategies.schedule_names())


def is_fixed(name: str) -> bool:
    """Return whether a name is a fixed strategy, a schedule or a pattern rather than an agent that decides."""
    head = name.partition(":")[0]
    return head in names()[len(_AGENTS) :] or head[:1].isdecimal()


def agent_class(name: str) -> tuple[type[Agent], dict[str, Any]]:
    """Return the class that a name stands for, and the hyper-parameters that the name fixes.

    Raises:
        InputError: If there is no such agent, or it cannot be imported.
    """
    if name in _AGENTS:
        return _import(name, _AGENTS[name]), {}
    if is_fixed(name):
        return _import(name, _FIXED), {"strategy": name}
    if ":" in name:
        return _import(name, name), {}
    near = get_close_matches(name, names(), n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise InputError(
        f"unknown agent {name!r}: {hint}allowed: {', '.join(names())}, pointers as in '0 1 1 3', or package.module:Class"
    )


def make(name: str, env: gymnasium.Env[Any, Any], seed: int = 0, **hyperparameters: Any) -> Agent:
    """Make an agent for an environment.

    Args:
        name: See the module.
        env: Its spaces are read; it is not stepped.
        seed: Of the agent's own randomness.
        hyperparameters: Fields of the agent's configuration; what its name says of them may be said again.

    Raises:
        InputError: If the name is unknown, or the agent cannot decide in this action space (with those that can).
    """
    cls, given = agent_class(name)
    kinds = getattr(cls, "action_spaces", Agent.action_spaces)
    if not isinstance(env.action_space, kinds):
        fit = [other for other in _AGENTS if isinstance(env.action_space, agent_class(other)[0].action_spaces)]
        kind = type(env.action_space).__name__
        raise InputError(
            f"agent {name!r} decides in {' or '.join(k.__name__ for k in kinds)}, this environment has {kind} actions; "
            f"agents that fit: {', '.join(fit)}{', fixed strategies' if kind == 'MultiDiscrete' else ''}; "
            "or set another env.action_mode"
        )
    other = [field for field, value in given.items() if hyperparameters.get(field, value) != value]
    if other:
        raise InputError(f"agent {name!r}: its name says agent.{other[0]} already, {given[other[0]]!r}")
    return cls(env, seed=seed, **{**hyperparameters, **given})


def load(name: str, folder: Path, env: gymnasium.Env[Any, Any]) -> Agent:
    """Make the agent that `Agent.save` wrote to a folder.

    Raises:
        InputError: If there is none.
    """
    facts = read_json(folder / "agent.json")
    agent = make(name, env, facts["seed"], **facts["hyperparameters"])
    agent.load(folder)
    return agent


def _import(name: str, target: str) -> type[Agent]:
    module, _, attribute = target.partition(":")
    try:
        cls = getattr(importlib.import_module(module), attribute)
    except Exception as error:  # a stranger's module can raise anything while it is imported
        reason = (str(error).splitlines() or [""])[0]
        raise InputError(f"agent {name!r} cannot be imported: {type(error).__name__}: {reason}") from error
    lacking = [method for method in _METHODS if not callable(getattr(cls, method, None))]
    if not lacking and cls.predict is Agent.predict:  # what Agent has is but a placeholder
        lacking = ["predict"]
    if not isinstance(cls, type) or lacking:
        raise InputError(f"agent {name!r} is no agent: it lacks {', '.join(lacking) or 'a class'} (see agents.base.Agent)")
    return cls
