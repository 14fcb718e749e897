"""From a name to an agent: ours by name, a fixed strategy by its text, another person's by "package.module:Class".

To add an agent, write its file and a line in `AGENTS`. A class of stable-baselines3 is an agent too:
"stable_baselines3:PPO".
"""

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gymnasium

from agents.base import AGENT_FILE, Agent, read_agent
from tying import registry, strategies
from tying.config import build
from tying.errors import InputError, unknown
from tying.pointers import FORMS, begins_pointers

# Named by text, so that choosing one agent does not import the libraries of all others.
AGENTS = {
    "dqn": "agents.dqn:DQNAgent",
    "double_dqn": "agents.double_dqn:DoubleDQNAgent",
    "ppo": "agents.ppo:PPOAgent",
    "maskable_ppo": "agents.ppo:MaskablePPOAgent",
    "local_search": "agents.local_search:LocalSearchAgent",
    "surrogate": "agents.surrogate:SurrogateAgent",
    "cross_entropy": "agents.cross_entropy:CrossEntropyAgent",
    "additive": "agents.additive:AdditiveAgent",
    "greedy": "agents.greedy:GreedyAgent",
    "random": "agents.random_agent:RandomAgent",
    "qrdqn": "agents.extra.qrdqn:QRDQNAgent",
    "recurrent_ppo": "agents.extra.recurrent_ppo:RecurrentPPOAgent",
    "a2c": "agents.extra.a2c:A2CAgent",
    "paper": "agents.extra.paper:PaperAgent",
    "evolution": "agents.extra.evolution:EvolutionAgent",
    "thompson": "agents.extra.bandit:ThompsonAgent",
    "ucb": "agents.extra.bandit:UCBAgent",
    "gradient_similarity": "agents.extra.gradient_similarity:GradientSimilarityAgent",
}
_FIXED = "agents.fixed:FixedAgent"
_METHODS = ("predict", "learn", "save", "load")


def names() -> tuple[str, ...]:
    """Return the names that make an agent as they stand: agents that decide, then fixed strategies without arguments."""
    return (*AGENTS, *strategies.names(without_arguments=True))


def prefixes() -> tuple[str, ...]:
    """Return all that a name may begin with, before a colon: agents that decide, strategies, schedules."""
    return (*AGENTS, *strategies.names(), *strategies.schedule_names())


def is_fixed(name: str) -> bool:
    """Return whether a name is a fixed strategy, a schedule or a pattern rather than an agent that decides."""
    head = name.partition(":")[0]
    return head in prefixes()[len(AGENTS) :] or begins_pointers(head)


def agent_class(name: str) -> tuple[type[Agent], dict[str, Any]]:
    """Return the class that a name stands for, and the hyper-parameters that the name fixes.

    Raises:
        InputError: If there is no such agent, or it cannot be imported.
    """
    if is_fixed(name):
        return registry.load("agent", name, _FIXED), {"strategy": name}
    if name in AGENTS:
        return registry.load("agent", name, AGENTS[name]), {}
    target = ":".join(name.split(":")[:2])  # arguments of a strategy stand behind another colon
    if not registry.is_foreign(target):
        otherwise = f"{FORMS}, or package.module:Class"
        raise InputError(unknown(f"agent {name!r}", name, prefixes(), otherwise))
    found = registry.load("agent", name, target)
    if inspect.isfunction(found):
        return registry.load("agent", name, _FIXED), {"strategy": name}
    return _foreign(name, found), {}


def _foreign(name: str, found: Any) -> type[Agent]:
    """Check another person's class; one of stable-baselines3 is put behind the adapter."""
    if isinstance(found, type) and hasattr(found, "_setup_learn"):
        from agents.sb3 import adapted

        return adapted(found)
    lacking = [method for method in _METHODS if not callable(getattr(found, method, None))]
    if not lacking and found.predict is Agent.predict:  # Agent's own is a placeholder
        lacking = ["predict"]
    if not isinstance(found, type) or lacking:
        raise InputError(f"agent {name!r} is no agent: it lacks {', '.join(lacking) or 'a class'} (see agents.base.Agent)")
    return found


def make(name: str, env: gymnasium.Env[Any, Any], seed: int = 0, **hyperparameters: Any) -> Agent:
    """Make an agent for an environment.

    Args:
        name: See the module.
        env: Its spaces are read; it is not stepped.
        seed: Of the agent's own randomness.
        hyperparameters: Fields of the agent's configuration; those that its name fixes may be given again.

    Raises:
        InputError: If the name is unknown, or the agent cannot decide in this action space (with those that can).
    """
    cls, fixed = agent_class(name)
    refusal = _refusal(name, env, hyperparameters)
    if refusal is not None:
        fit = [other for other in AGENTS if _refusal(other, env) is None]
        fit += ["fixed strategies"] if _refusal("independent", env) is None else []
        raise InputError(f"agent {name!r} {refusal}; agents that fit: {', '.join(fit)}; or set another env.action_mode")
    other = [field for field, value in fixed.items() if hyperparameters.get(field, value) != value]
    if other:
        raise InputError(f"agent {name!r}: its name fixes agent.{other[0]} = {fixed[other[0]]!r}")
    agent = cls(env, seed=seed, **{**hyperparameters, **fixed})
    agent.name = name
    return agent


def _refusal(name: str, env: gymnasium.Env[Any, Any], hyperparameters: Mapping[str, Any] | None = None) -> str | None:
    """Return why an agent cannot decide in an environment; None: it can."""
    cls, fixed = agent_class(name)
    kinds = getattr(cls, "action_spaces", Agent.action_spaces)
    if not isinstance(env.action_space, kinds):
        here = type(env.action_space).__name__
        return f"decides in {' or '.join(kind.__name__ for kind in kinds)}, this environment has {here} actions"
    if not issubclass(cls, Agent):
        return None
    return cls.refusal(env, build(cls.Config, {**(hyperparameters or {}), **fixed}, "agent."))


def make_env(
    name: str, preset: Any = "tiny", env_id: str = "tying/LayerTying-v0", **overrides: Any
) -> gymnasium.Env[Any, Any]:
    """Return an environment with the settings that an agent recommends.

    Args:
        name: The agent's name.
        preset: Of the training environment; ignored by instant ones.
        env_id: Which environment.
        overrides: Settings over the recommended ones, as `gymnasium.make` takes them.

    Raises:
        InputError: If the agent is unknown, or a setting is wrong.
    """
    if env_id == "tying/LayerTying-v0":
        return gymnasium.make(f"envs:{env_id}", preset=preset, **{**_recommended(name), **overrides})
    return gymnasium.make(f"envs:{env_id}", **{**recommended(name), **overrides})


def recommended(name: str, **hyperparameters: Any) -> dict[str, Any]:
    """Return the settings that an agent recommends of environments which do not train themselves.

    Args:
        name: The agent's name.
        hyperparameters: Fields of the agent's configuration.

    Raises:
        InputError: If the agent is unknown, or a hyper-parameter is wrong.
    """
    # They have no training to set, and windows of their own.
    found = _recommended(name, **hyperparameters)
    return {k: v for k, v in found.items() if k.startswith(("env.", "reward.")) and k != "env.decision_interval"}


def _recommended(name: str, **hyperparameters: Any) -> Mapping[str, Any]:
    cls, fixed = agent_class(name)
    config = build(getattr(cls, "Config", Agent.Config), {**hyperparameters, **fixed}, "agent.")
    found: Mapping[str, Any] = getattr(cls, "recommended", Agent.recommended)(config)
    return found


def load(folder: str | Path, env: gymnasium.Env[Any, Any], trust: bool = False) -> Agent:
    """Return the agent that `Agent.save` wrote to a folder.

    Args:
        folder: The folder.
        env: An environment of the same depth and actions.
        trust: Whether code may be imported that its files name: only for agents of people whom you trust.

    Raises:
        InputError: If there is none, it is damaged, does not fit the environment, or names code and is not trusted.
    """
    facts = read_agent(folder)
    registry.require_trusted(Path(folder) / AGENT_FILE, facts, trust, AGENTS.values())
    return agent_class(facts["agent"])[0].load(folder, env)
