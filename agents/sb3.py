"""Agents from stable-baselines3 and sb3-contrib behind a thin adapter.

Their own defaults are made for millions of cheap steps; these are made for hundreds of dear ones: small networks, updates
every few decisions, several gradient steps for each, a replay buffer and a target network that matter from the start.
"""

from pathlib import Path
from typing import Any, ClassVar, Self

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from sb3_contrib import QRDQN, MaskablePPO, RecurrentPPO
from sb3_contrib.common.recurrent.policies import RecurrentActorCriticPolicy
from sb3_contrib.common.recurrent.type_aliases import RNNStates
from stable_baselines3 import A2C, DQN, PPO
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import KVWriter, Logger
from stable_baselines3.common.monitor import Monitor

from agents.base import Agent, Callback, Diagnostics
from tying.config import config, setting, to_dict
from tying.layout import View


@config
class SB3Config:
    """Hyper-parameters that all of them have."""

    gamma: float = setting(
        "discount per decision; the reward is an improvement, most of it shows at once [0 to 1]", default=0.5, ge=0, le=1
    )
    width: int = setting("units in each of two hidden layers [>= 1]", default=64, ge=1)


@config
class DQNConfig(SB3Config):
    """Hyper-parameters of DQN."""

    learning_rate: float = setting("Adam's learning rate [> 0]", default=1e-3, gt=0)
    buffer_size: int = setting("transitions kept; all of any run [>= 1]", default=10_000, ge=1)
    learning_starts: int = setting("decisions at random before the first update [>= 0]", default=8, ge=0)
    batch_size: int = setting("transitions in an update [>= 1]", default=32, ge=1)
    gradient_steps: int = setting("updates per decision; decisions are dear, updates cheap [>= 1]", default=8, ge=1)
    target_update_interval: int = setting("decisions between copies to the target network [>= 1]", default=20, ge=1)
    exploration_fraction: float = setting(
        "share of the decisions over which epsilon falls [above 0 to 1]", default=0.4, gt=0, le=1
    )
    exploration_final_eps: float = setting("epsilon at the end [0 to 1]", default=0.05, ge=0, le=1)


@config
class QRDQNConfig(DQNConfig):
    """Hyper-parameters of QR-DQN."""

    n_quantiles: int = setting("quantiles of the return of each action [>= 1]", default=25, ge=1)


@config
class ActorCriticConfig(SB3Config):
    """Hyper-parameters that PPO and A2C have in common."""

    gae_lambda: float = setting("bias against variance of the advantage [0 to 1]", default=0.9, ge=0, le=1)
    ent_coef: float = setting("weight of the policy's entropy [>= 0]", default=0.01, ge=0)


@config
class PPOConfig(ActorCriticConfig):
    """Hyper-parameters of PPO, masked or not."""

    learning_rate: float = setting("Adam's learning rate [> 0]", default=3e-3, gt=0)
    n_steps: int = setting("decisions between updates [>= 2]", default=32, ge=2)
    batch_size: int = setting("decisions in a mini-batch; at most n_steps are used [>= 2]", default=32, ge=2)
    n_epochs: int = setting("passes over them in an update [>= 1]", default=10, ge=1)
    clip_range: float = setting("largest change of a probability ratio in an update [> 0]", default=0.2, gt=0)


@config
class RecurrentPPOConfig(PPOConfig):
    """Hyper-parameters of recurrent PPO."""

    n_epochs: int = setting("passes over them in an update; an LSTM has more to learn [>= 1]", default=30, ge=1)


@config
class A2CConfig(ActorCriticConfig):
    """Hyper-parameters of A2C."""

    learning_rate: float = setting("RMSprop's learning rate [> 0]", default=1e-3, gt=0)
    n_steps: int = setting("decisions between updates [>= 1]", default=4, ge=1)


class _Collector(KVWriter):
    """Keeps what a model logs until the run's records ask for it."""

    def __init__(self) -> None:
        self.values: dict[str, float] = {}

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0) -> None:
        """Take the numbers; pictures and texts are left out."""
        self.values |= {k: float(v) for k, v in key_values.items() if isinstance(v, (int, float, np.number))}

    def close(self) -> None:
        """Nothing is open."""


class _Stop(BaseCallback):
    """Ends learning after the asked number of decisions: an extra one would train a whole window of a new model."""

    def __init__(self, agent: "SB3Agent", decisions: int, callback: Callback | None) -> None:
        super().__init__()
        self.agent = agent
        self.decisions = decisions
        self.callback = callback

    def _on_step(self) -> bool:
        # DQN dumps its figures at the end of an episode only, which is the end of the run.
        self.logger.dump(self.num_timesteps)
        go_on = self.callback is None or self.callback(self.agent) is not False
        return go_on and self.n_calls < self.decisions


class SB3Agent(Agent):
    """A stable-baselines3 model as an agent; subclasses say which and with what defaults."""

    algorithm: ClassVar[type[BaseAlgorithm]]
    policy: ClassVar[str] = "MlpPolicy"

    def __init__(self, env: gymnasium.Env[Any, Any], seed: int = 0, **hyperparameters: Any) -> None:
        super().__init__(env, seed, **hyperparameters)
        self._collector = _Collector()
        # Policies are tiny: the CPU is faster than any GPU for them, and leaves it to the Transformer.
        self.model = self.algorithm(self.policy, Monitor(env), seed=seed, device="cpu", **self._arguments())
        self.model.set_logger(Logger(folder=None, output_formats=[self._collector]))

    def _arguments(self) -> dict[str, Any]:
        arguments = to_dict(self.config)
        width = arguments.pop("width")
        return {**arguments, "policy_kwargs": {"net_arch": [width, width]}}

    def learn(self, env: gymnasium.Env[Any, Any], decisions: int, callback: Callback | None = None) -> Self:
        """See Agent.learn."""
        if env is not self.env:
            self.env = env
            self.model.set_env(Monitor(env))
            vectorised = self.model.get_env()
            assert vectorised is not None  # it was set just now
            vectorised.seed(self.seed)
        self.model.learn(decisions, callback=_Stop(self, decisions, callback), log_interval=1)
        return self

    def predict(self, observation: np.ndarray, action_masks: np.ndarray | None = None, deterministic: bool = False) -> Any:
        """See Agent.predict; masks are not known to these models, every action is legal without."""
        action, _ = self.model.predict(observation, deterministic=deterministic)
        return action

    def metrics(self) -> dict[str, float]:
        """Return what the model logged, under its own tags (`rollout/`, `train/`, `time/`)."""
        values, self._collector.values = self._collector.values, {}
        return values

    def _tensor(self, observation: np.ndarray) -> torch.Tensor:
        tensor, _ = self.model.policy.obs_to_tensor(observation)
        assert isinstance(tensor, torch.Tensor)  # the observation space is a Box
        return tensor

    def _save_state(self, folder: Path) -> None:
        self.model.save(folder / "model.zip")

    def _load_state(self, folder: Path) -> None:
        self.model.set_parameters(str(folder / "model.zip"), device="cpu")


class DQNAgent(SB3Agent):
    """Deep Q-network (Mnih et al. 2015). It knows no masks: several of its actions may mean the same."""

    Config = DQNConfig
    action_spaces = (spaces.Discrete,)
    algorithm: ClassVar[type[BaseAlgorithm]] = DQN
    model: DQN | QRDQN

    def _arguments(self) -> dict[str, Any]:
        return {**super()._arguments(), "train_freq": 1}

    @torch.no_grad()
    def diagnostics(self, observation: np.ndarray, action_masks: np.ndarray) -> Diagnostics:
        """Return the Q-value of every action, and epsilon."""
        values = self._values(self._tensor(observation))[0]
        warming_up = self.model.num_timesteps < self.model.learning_starts  # decides at random, whatever epsilon says
        return {"q": values.tolist(), "epsilon": 1.0 if warming_up else float(self.model.exploration_rate)}

    def _values(self, observation: torch.Tensor) -> torch.Tensor:
        """Return the Q-values, shape (1, actions)."""
        assert isinstance(self.model, DQN)
        values: torch.Tensor = self.model.q_net(observation)
        return values

    def _save_state(self, folder: Path) -> None:
        super()._save_state(folder)
        self.model.save_replay_buffer(folder / "replay_buffer.pkl")

    def _load_state(self, folder: Path) -> None:
        super()._load_state(folder)
        self.model.load_replay_buffer(folder / "replay_buffer.pkl")


class QRDQNAgent(DQNAgent):
    """Quantile regression DQN (Dabney et al. 2018): learns the distribution of the return, and acts by its mean."""

    Config = QRDQNConfig
    algorithm = QRDQN
    model: QRDQN

    def _arguments(self) -> dict[str, Any]:
        arguments = super()._arguments()
        arguments["policy_kwargs"]["n_quantiles"] = arguments.pop("n_quantiles")
        return arguments

    def _values(self, observation: torch.Tensor) -> torch.Tensor:
        quantiles: torch.Tensor = self.model.quantile_net(observation)
        return quantiles.mean(dim=1)


class _PolicyAgent(SB3Agent):
    """What PPO, A2C and MaskablePPO have in common: a policy with probabilities and a value."""

    def _distribution(self, observation: torch.Tensor, action_masks: np.ndarray) -> Any:
        return self.model.policy.get_distribution(observation)  # type: ignore[operator]

    def _value(self, observation: torch.Tensor) -> torch.Tensor:
        return self.model.policy.predict_values(observation)  # type: ignore[operator,no-any-return]

    @torch.no_grad()
    def diagnostics(self, observation: np.ndarray, action_masks: np.ndarray) -> Diagnostics:
        """Return the probability of every action (all components in a row), the policy's entropy and the value."""
        tensor = self._tensor(observation)
        distribution = self._distribution(tensor, action_masks)
        entropy = float(distribution.entropy().sum())
        inner = getattr(distribution, "distributions", None) or distribution.distribution
        parts = inner if isinstance(inner, list) else [inner]
        probabilities = torch.cat([part.probs[0] for part in parts])
        return {"probability": probabilities.tolist(), "policy_entropy": entropy, "value": float(self._value(tensor))}


class PPOAgent(_PolicyAgent):
    """Proximal policy optimisation (Schulman et al. 2017)."""

    Config = PPOConfig
    algorithm: ClassVar[type[BaseAlgorithm]] = PPO

    def _arguments(self) -> dict[str, Any]:
        arguments = super()._arguments()
        size = min(arguments["batch_size"], arguments["n_steps"])
        if arguments["n_steps"] % size == 1:  # advantages are normalised, which one decision alone cannot be
            size = arguments["n_steps"]
        return {**arguments, "batch_size": size}


class MaskablePPOAgent(PPOAgent):
    """PPO that gives illegal actions no probability (Huang & Ontañón 2022)."""

    algorithm = MaskablePPO
    model: MaskablePPO

    def predict(self, observation: np.ndarray, action_masks: np.ndarray | None = None, deterministic: bool = False) -> Any:
        """See Agent.predict."""
        action, _ = self.model.predict(observation, deterministic=deterministic, action_masks=action_masks)
        return action

    def _distribution(self, observation: torch.Tensor, action_masks: np.ndarray) -> Any:
        return self.model.policy.get_distribution(observation, action_masks=action_masks)


class RecurrentPPOAgent(PPOAgent):
    """PPO with a policy that remembers the run so far: an LSTM reads the observations one after another."""

    Config = RecurrentPPOConfig
    algorithm = RecurrentPPO
    policy = "MlpLstmPolicy"
    model: RecurrentPPO

    def __init__(self, env: gymnasium.Env[Any, Any], seed: int = 0, **hyperparameters: Any) -> None:
        super().__init__(env, seed, **hyperparameters)
        self._memory: tuple[np.ndarray, ...] | None = None

    def _arguments(self) -> dict[str, Any]:
        arguments = super()._arguments()
        # The LSTM takes the place of the first hidden layer.
        arguments["policy_kwargs"] = {"net_arch": [self.config.width], "lstm_hidden_size": self.config.width}
        return arguments

    def predict(self, observation: np.ndarray, action_masks: np.ndarray | None = None, deterministic: bool = False) -> Any:
        """See Agent.predict; remembers what it was shown since the run began."""
        action, self._memory = self.model.predict(
            observation, self._memory, np.array([_begins(observation)]), deterministic
        )
        return action

    def _distribution(self, observation: torch.Tensor, action_masks: np.ndarray) -> Any:
        policy, states, begins = self._recurrence(observation)
        return policy.get_distribution(observation, (states.pi[0], states.pi[1]), begins)[0]

    def _value(self, observation: torch.Tensor) -> torch.Tensor:
        policy, states, begins = self._recurrence(observation)
        return policy.predict_values(observation, (states.vf[0], states.vf[1]), begins)

    def _recurrence(self, observation: torch.Tensor) -> tuple[RecurrentActorCriticPolicy, RNNStates, torch.Tensor]:
        """Return the policy, what it remembers while it learns, and whether that is to be forgotten."""
        policy, states = self.model.policy, self.model._last_lstm_states
        assert isinstance(policy, RecurrentActorCriticPolicy)
        assert states is not None  # made with the model
        return policy, states, torch.tensor([float(_begins(observation[0].numpy()))])


def _begins(observation: np.ndarray) -> bool:
    """Return whether a run begins with an observation."""
    return View(observation).scalar("remaining") == 1


class A2CAgent(_PolicyAgent):
    """Advantage actor-critic (Mnih et al. 2016)."""

    Config = A2CConfig
    algorithm = A2C
