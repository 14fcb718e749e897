"""Models of stable-baselines3 and sb3-contrib as agents.

Their own defaults are made for millions of cheap steps; ours are made for hundreds of expensive ones: small networks,
updates every few decisions, several gradient steps for each, a replay buffer and a target network that matter from the
start.
"""

import inspect
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

import gymnasium
import numpy as np

from agents.base import Agent, Callback, Diagnostics, Explanation, read_arrays
from tying import registry
from tying.config import config, setting, to_dict
from tying.errors import InputError
from tying.files import read_json
from tying.isolation import isolated

_CLOCK = ("num_timesteps", "_n_calls", "_n_updates", "exploration_rate")
_NOT_SETTINGS = ("policy", "env", "seed", "device", "verbose", "_init_setup_model")


@config
class SB3Config:
    """Hyper-parameters that all of them have."""

    gamma: float = setting(
        "discount per decision; most of a decision's improvement shows at once [0 to 1]", default=0.5, ge=0, le=1
    )
    width: int = setting("units in each of two hidden layers [>= 1]", default=64, ge=1)


class SB3Agent(Agent):
    """A stable-baselines3 model as an agent; subclasses say which and with what defaults.

    Attributes:
        algorithm: The model's class, or its name "package:Class", imported when an agent is made.
        policy: The name of the policy's class.
        model: The model.
        gradient_steps: Updates per decision while pointers move; None where the model counts in another way.
    """

    algorithm: ClassVar[Any] = None
    policy: ClassVar[str] = "MlpPolicy"
    model: Any

    @isolated()
    def __init__(self, env: gymnasium.Env[Any, Any], seed: int = 0, **hyperparameters: Any) -> None:
        from stable_baselines3.common.logger import Logger

        from agents.sb3_callbacks import Collector

        super().__init__(env, seed, **hyperparameters)
        algorithm = self.algorithm
        if isinstance(algorithm, str):
            algorithm = registry.load("algorithm", algorithm, algorithm)
        try:
            # Policies are tiny: the CPU is faster than any GPU for them, and leaves it to the Transformer.
            self.model = algorithm(self.policy, _monitored(env), seed=seed, device="cpu", **self.arguments())
        except AssertionError as error:  # the library's own check of spaces
            raise InputError(f"agent {algorithm.__name__!r}: {' '.join(str(error).split())}") from error
        self.gradient_steps: int | None = getattr(self.model, "gradient_steps", None)
        self._collector = Collector()
        self.model.set_logger(Logger(folder=None, output_formats=[self._collector]))

    def arguments(self) -> dict[str, Any]:
        """Return the arguments of the model's class."""
        arguments = to_dict(self.config)
        width = arguments.pop("width")
        return {**arguments, "policy_kwargs": {"net_arch": [width, width]}}

    @isolated()
    def learn(
        self,
        env: gymnasium.Env[Any, Any] | int | None = None,
        decisions: int | None = None,
        callback: Callback | None = None,
        *,
        total_timesteps: int | None = None,
    ) -> Self:
        """See Agent.learn; the library's own loop decides."""
        from agents.sb3_callbacks import Stop

        env, decisions = self.requested(env, decisions, total_timesteps)
        if env is not self.env:
            self.env = env
            self.model.set_env(_monitored(env))
            self.model.get_env().seed(self.seed)
        first = self.model.num_timesteps == 0
        restored = self.take_restored()
        if restored:  # the library would take what `reset` shows for the beginning of an episode
            self.model._last_obs = self.model.get_env().reset()
            self.model._last_episode_starts = np.zeros(1, dtype=bool)
            decisions -= restored
        self.model.learn(decisions, callback=Stop(self, decisions, callback), log_interval=1, reset_num_timesteps=first)
        return self

    @isolated()
    def predict(self, observation: np.ndarray, action_masks: np.ndarray | None = None, deterministic: bool = False) -> Any:
        """See Agent.predict; these models know no masks, every action is legal without."""
        action, _ = self.model.predict(observation, deterministic=deterministic)
        return action

    def metrics(self) -> dict[str, float]:
        """Return the figures that the model logged, under its own tags (`rollout/`, `train/`, `time/`)."""
        values, self._collector.values = self._collector.values, {}
        return values

    def tensor(self, observation: np.ndarray) -> Any:
        """Return an observation as the policy takes it, (1, D)."""
        return self.model.policy.obs_to_tensor(observation)[0]

    def save_state(self, folder: Path) -> None:
        """Write the model, its clock and, where it has one, its replay buffer as far as it is filled."""
        self.model.save(folder / "model.zip")
        progress = {
            "clock": self._clock(),
            "action_space": self.model.action_space.np_random.bit_generator.state,
            "figures": numbers(self.model.logger.name_to_value),
        }
        (folder / "progress.json").write_text(json.dumps(progress))
        buffer = getattr(self.model, "replay_buffer", None)
        if buffer is not None:
            np.savez(folder / "replay_buffer.npz", **_stored(buffer))

    @isolated()
    def load_state(self, folder: Path) -> None:
        """Read them; nothing is unpickled."""
        self.model.set_parameters(str(folder / "model.zip"), device="cpu")
        progress = read_json(folder / "progress.json")
        for name, here in self._clock().items():
            setattr(self.model, name, type(here)(progress["clock"][name]))
        self.model.action_space.np_random.bit_generator.state = progress["action_space"]
        for name, value in numbers(progress["figures"]).items():
            self.model.logger.record(name, value)
        buffer = getattr(self.model, "replay_buffer", None)
        if buffer is not None:
            _fill(buffer, read_arrays(folder / "replay_buffer.npz"))

    def _clock(self) -> dict[str, Any]:
        """Return the counters that say where learning and exploration are."""
        return {name: getattr(self.model, name) for name in _CLOCK if hasattr(self.model, name)}


class ValueAgent(SB3Agent):
    """What the models that learn Q-values have in common."""

    def arguments(self) -> dict[str, Any]:
        """See SB3Agent.arguments."""
        return {**super().arguments(), "train_freq": 1}

    def q_values(self, observation: np.ndarray) -> np.ndarray:
        """Return the value of every action, (A,)."""
        raise TypeError(f"{type(self).__name__} does not define q_values")

    @isolated()
    def diagnostics(self, observation: np.ndarray, action_masks: np.ndarray) -> Diagnostics:
        """Return the Q-value of every action, and epsilon."""
        warming_up = self.model.num_timesteps < self.model.learning_starts  # decides at random, whatever epsilon says
        epsilon = 1.0 if warming_up else float(self.model.exploration_rate)
        return {"q": self.q_values(observation).tolist(), "epsilon": epsilon}

    @isolated()
    def explain(self, observation: np.ndarray, action_masks: np.ndarray, action: Any) -> Explanation:
        """Return whether another action has a higher Q-value, and the Q-value of this one."""
        values = self.q_values(observation)
        return int(action) != int(values.argmax()), float(values[int(action)])


class PolicyAgent(SB3Agent):
    """What the models that learn probabilities have in common: a policy and a value."""

    def distribution(self, observation: Any, action_masks: np.ndarray) -> Any:
        """Return the policy's distribution at an observation (1, D)."""
        return self.model.policy.get_distribution(observation)

    def value(self, observation: Any) -> float:
        """Return the value of an observation (1, D)."""
        return float(self.model.policy.predict_values(observation))

    @isolated()
    def diagnostics(self, observation: np.ndarray, action_masks: np.ndarray) -> Diagnostics:
        """Return the probability of every action (all components in a row), the policy's entropy and the value."""
        import torch

        with torch.no_grad():
            tensor = self.tensor(observation)
            distribution = self.distribution(tensor, action_masks)
            entropy = float(distribution.entropy().sum())
            inner = getattr(distribution, "distributions", None) or distribution.distribution
            probabilities = torch.cat([part.probs[0] for part in (inner if isinstance(inner, list) else [inner])])
            value = self.value(tensor)
        return {"probability": probabilities.tolist(), "policy_entropy": entropy, "value": value}

    @isolated()
    def explain(self, observation: np.ndarray, action_masks: np.ndarray, action: Any) -> Explanation:
        """Return whether another action is more probable, and the value of the observation."""
        import torch

        with torch.no_grad():
            tensor = self.tensor(observation)
            mode = self.distribution(tensor, action_masks).mode()[0].numpy()
            return not np.array_equal(np.asarray(action), mode), self.value(tensor)


def adapted(algorithm: type) -> type[SB3Agent]:
    """Return a class of stable-baselines3 as an agent; its simple arguments are hyper-parameters, with its own defaults."""
    defaults = {
        name: parameter.default
        for name, parameter in inspect.signature(algorithm).parameters.items()
        if name not in _NOT_SETTINGS and type(parameter.default) in (bool, int, float, str)
    }
    described = {name: setting(f"see {algorithm.__name__}", default=value) for name, value in defaults.items()}
    kinds = {name: type(value) for name, value in defaults.items()}
    made: type = config(
        type(f"{algorithm.__name__}Config", (), {"__annotations__": kinds, "__doc__": algorithm.__name__, **described})
    )
    members = {"__doc__": algorithm.__doc__, "Config": made, "algorithm": algorithm, "arguments": _own_arguments}
    return type(f"{algorithm.__name__}Agent", (SB3Agent,), members)


def _own_arguments(agent: SB3Agent) -> dict[str, Any]:
    return to_dict(agent.config)


def _monitored(env: gymnasium.Env[Any, Any]) -> Any:
    from stable_baselines3.common.monitor import Monitor

    return Monitor(env)


def numbers(values: Mapping[str, Any]) -> dict[str, float]:
    """Return those of the values that a model logs which are numbers; pictures and texts are left out."""
    return {name: float(value) for name, value in values.items() if isinstance(value, (int, float, np.number))}


def _stored(buffer: Any) -> dict[str, Any]:
    """Return the data of a replay buffer: the filled rows of arrays, and the place and state of the ring."""
    members = {name: value for name, value in vars(buffer).items() if isinstance(value, np.ndarray)}
    rows = {name: value[: buffer.size()] for name, value in members.items()}
    return {**rows, **{name: value for name, value in vars(buffer).items() if type(value) in (int, bool)}}


def _fill(buffer: Any, stored: Mapping[str, np.ndarray]) -> None:
    """Put the data of `_stored` into an empty replay buffer.

    Raises:
        ValueError: If they are of another buffer.
    """
    for name, value in stored.items():
        here = getattr(buffer, name)
        if not isinstance(here, np.ndarray):
            setattr(buffer, name, type(here)(value))
        elif value.dtype != here.dtype or value.shape[1:] != here.shape[1:] or len(value) > len(here):
            raise ValueError(f"replay buffer: {name} has shape {value.shape}, here {here.shape}")
        else:
            here[: len(value)] = value
