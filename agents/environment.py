"""Between an agent and an environment: the answer as an action, the masks, and who knows the numbering of actions."""

import inspect
from typing import Any

import gymnasium
import numpy as np

from tying import interface


def action_of(agent: Any, observation: np.ndarray, masks: np.ndarray | None) -> Any:
    """Return an agent's action; its `predict` may know no masks, and may return (action, state) as in stable-baselines3."""
    known = inspect.signature(agent.predict).parameters
    takes_masks = "action_masks" in known or any(p.kind is p.VAR_KEYWORD for p in known.values())
    answer = agent.predict(observation, action_masks=masks) if takes_masks else agent.predict(observation)
    # A pair of numbers is an action for two layers; the library's second item is a state or None.
    paired = isinstance(answer, tuple) and len(answer) == 2 and not isinstance(answer[1], (int, np.integer))
    return answer[0] if paired else answer


def masks_of(env: gymnasium.Env[Any, Any]) -> np.ndarray | None:
    """Return the environment's action masks, None when it has none."""
    if not env.has_wrapper_attr("action_masks"):
        return None
    masks: np.ndarray = env.get_wrapper_attr("action_masks")()
    return masks


def refusal_of_ranks(env: gymnasium.Env[Any, Any]) -> str | None:
    """Return the refusal of an agent that knows the actions of `cursor` and `pair`, where actions choose ranks."""
    ranks = interface.num_ranks(*_sizes(env))
    return "reads actions as (layer, target): it needs env.action_mode cursor or pair" if ranks else None


def refusal_of_choice(env: gymnasium.Env[Any, Any]) -> str | None:
    """Return the refusal of an agent that knows the actions of `cursor` alone, where there are others."""
    in_turn = interface.in_turn(*_sizes(env))
    return None if in_turn else "decides one layer after another: it needs env.action_mode cursor"


def _sizes(env: gymnasium.Env[Any, Any]) -> tuple[int, int]:
    """Return the number of layers, and of Discrete actions."""
    assert env.observation_space.shape is not None
    return interface.num_layers(env.observation_space.shape[0]), int(env.action_space.n)  # type: ignore[attr-defined]
