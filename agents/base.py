"""What an agent is. It meets the environment through Gymnasium's interface alone: spaces, reset, step, action_masks.

The least that a new agent needs is `predict`; one that learns overrides `learn_from` (a transition at a time) or `learn`.
Its choices must follow from its seed and from what it is shown, so that interrupted runs can be resumed.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

import gymnasium
import numpy as np
from gymnasium import spaces

from tying import layout
from tying.config import build, config, to_dict
from tying.errors import InputError
from tying.files import replacing
from tying.pointers import Pointers

Diagnostics = dict[str, float | list[float]]
Callback = Callable[["Agent"], bool | None]


@config
class NoConfig:
    """An agent without hyper-parameters."""


class Agent:
    """A policy over tying decisions.

    Args:
        env: The environment that it will decide in; its spaces are read, it is not stepped.
        seed: Of the agent's own randomness.
        hyperparameters: Fields of the class's `Config`.

    Attributes:
        Config: A configuration class (`tying.config`) with the hyper-parameters; the command line offers its fields.
        action_spaces: The kinds of action space that it can decide in.
        env: The environment that it was made for; once it learns, the one that it decides in.
    """

    Config: ClassVar[type] = NoConfig
    action_spaces: ClassVar[tuple[type[spaces.Space[Any]], ...]] = (spaces.Discrete, spaces.MultiDiscrete)

    def __init__(self, env: gymnasium.Env[Any, Any], seed: int = 0, **hyperparameters: Any) -> None:
        self.env = env
        self.seed = seed
        self.config: Any = build(self.Config, hyperparameters, "agent.")

    @classmethod
    def wishes(cls, config: Any) -> Mapping[str, Any]:
        """Return the settings of a run that the agent works best with; they stand below the person's own.

        Args:
            config: Its hyper-parameters, a `Config`.

        Returns:
            Dotted names to values: `{"env.action_mode": "cursor", "reward.name": "level"}`.
        """
        return {}

    def predict(self, observation: np.ndarray, action_masks: np.ndarray | None = None, deterministic: bool = False) -> Any:
        """Return an action.

        Args:
            observation: The environment's flat float32 observation.
            action_masks: True for each legal action, flat over all components; None: all are.
            deterministic: Take the best known action, without exploring.
        """
        raise TypeError(f"{type(self).__name__} does not define predict")

    def learn(self, env: gymnasium.Env[Any, Any], decisions: int, callback: Callback | None = None) -> Self:
        """Decide `decisions` times, learning on the way; runs that end are followed by new ones.

        Args:
            env: An environment with the spaces of the one that the agent was made for.
            decisions: Number of environment steps.
            callback: Called after every decision; returning False stops.
        """
        self.env = env
        observation, _ = env.reset(seed=self.seed)
        for index in range(decisions):
            action = self.predict(observation, masks_of(env))
            following, reward, terminated, truncated, _ = env.step(action)
            self.learn_from(observation, action, float(reward), following, terminated)
            observation = following
            if callback is not None and callback(self) is False:
                break
            if (terminated or truncated) and index + 1 < decisions:
                observation, _ = env.reset()
        return self

    def learn_from(
        self, observation: np.ndarray, action: Any, reward: float, following: np.ndarray, terminated: bool
    ) -> None:
        """Take in one transition; does nothing unless an agent overrides it.

        `self.env` stands at `following` then, so `masks_of(self.env)` says what is legal there.
        """

    def recommend(self) -> Pointers | None:
        """Return the pattern that it would keep now; None: it does not say.

        Who judges searches by few evaluations (`experiments.tyingbench`) takes this, or else the best of what was seen.
        """
        return None

    def diagnostics(self, observation: np.ndarray, action_masks: np.ndarray) -> Diagnostics:
        """Return what the agent thinks at an observation: Q-values, probabilities, ...; must not draw random numbers."""
        return {}

    def metrics(self) -> dict[str, float]:
        """Return figures of its learning that came up since the last call, by TensorBoard tag."""
        return {}

    def save(self, folder: Path) -> None:
        """Write the agent to a folder that does not exist yet."""
        with replacing(folder) as temporary:
            temporary.mkdir(parents=True)
            facts = {"seed": self.seed, "hyperparameters": to_dict(self.config)}
            (temporary / "agent.json").write_text(json.dumps(facts, indent=2))
            self._save_state(temporary)

    def load(self, folder: Path) -> None:
        """Take over what an agent with the same spaces and hyper-parameters saved."""
        self._load_state(folder)

    def _save_state(self, folder: Path) -> None:
        """Write what was learned."""

    def _load_state(self, folder: Path) -> None:
        """Read what was learned."""


def masks_of(env: gymnasium.Env[Any, Any]) -> np.ndarray | None:
    """Return the environment's action masks, None when it has none."""
    if not env.has_wrapper_attr("action_masks"):
        return None
    masks: np.ndarray = env.get_wrapper_attr("action_masks")()
    return masks


def layers_in_turn(env: gymnasium.Env[Any, Any], name: str) -> int:
    """Return the number of layers of an environment that asks for one layer after another.

    Raises:
        InputError: If it asks otherwise; `name` says which agent cannot do that.
    """
    assert env.observation_space.shape is not None
    num_layers = layout.num_layers(env.observation_space.shape[0])
    if env.action_space.n != num_layers:  # type: ignore[attr-defined]
        raise InputError(f"agent {name!r} decides one layer after another: it needs env.action_mode cursor")
    return num_layers
