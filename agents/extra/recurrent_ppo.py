"""PPO with a policy that remembers the run so far: an LSTM reads the observations one after another; sb3-contrib's."""

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

from agents.base import read_arrays
from agents.ppo import PPOAgent, PPOConfig
from tying.config import config, setting
from tying.isolation import isolated


@config
class RecurrentPPOConfig(PPOConfig):
    """Hyper-parameters of recurrent PPO."""

    n_epochs: int = setting("passes over them in an update; an LSTM has more to learn [>= 1]", default=30, ge=1)


class RecurrentPPOAgent(PPOAgent):
    """It knows no masks; decides in every action mode."""

    Config = RecurrentPPOConfig
    resumable = True
    algorithm = "sb3_contrib:RecurrentPPO"
    policy = "MlpLstmPolicy"

    @isolated()
    def __init__(self, env: gymnasium.Env[Any, Any], seed: int = 0, **hyperparameters: Any) -> None:
        super().__init__(env, seed, **hyperparameters)
        self._memory: tuple[np.ndarray, ...] | None = None

    def arguments(self) -> dict[str, Any]:
        """See SB3Agent.arguments; the LSTM takes the place of the first hidden layer."""
        policy = {"net_arch": [self.config.width], "lstm_hidden_size": self.config.width}
        return {**super().arguments(), "policy_kwargs": policy}

    def begin_episode(self, observation: np.ndarray) -> None:
        """Forget the run before."""
        self._memory = None

    @isolated()
    def predict(self, observation: np.ndarray, action_masks: np.ndarray | None = None, deterministic: bool = False) -> Any:
        """See Agent.predict; remembers all observations since the episode began."""
        begins = np.array([self._memory is None])
        action, self._memory = self.model.predict(observation, self._memory, begins, deterministic)
        return action

    def distribution(self, observation: Any, action_masks: np.ndarray) -> Any:
        """See PolicyAgent.distribution; by the memory of the learning loop."""
        states, begins = self._recurrence()
        return self.model.policy.get_distribution(observation, tuple(states.pi), begins)[0]

    def value(self, observation: Any) -> float:
        """See PolicyAgent.value; by the memory of the learning loop."""
        states, begins = self._recurrence()
        return float(self.model.policy.predict_values(observation, tuple(states.vf), begins))

    def save_state(self, folder: Path) -> None:
        """Write also the memory of the learning loop."""
        super().save_state(folder)
        states = self.model._last_lstm_states
        np.savez(
            folder / "memory.npz",
            pi=np.stack([part.numpy() for part in states.pi]),
            vf=np.stack([part.numpy() for part in states.vf]),
        )

    def load_state(self, folder: Path) -> None:
        """Read it too."""
        import torch

        super().load_state(folder)
        saved = read_arrays(folder / "memory.npz")
        states = self.model._last_lstm_states
        for name in ("pi", "vf"):
            for here, part in zip(getattr(states, name), saved[name], strict=True):
                here.copy_(torch.from_numpy(part))

    def _recurrence(self) -> tuple[Any, Any]:
        """Return the memory of the learning loop, and whether it is to be forgotten at this observation."""
        import torch

        starts = self.model._last_episode_starts  # None before it learns
        return self.model._last_lstm_states, torch.tensor([1.0] if starts is None else starts, dtype=torch.float32)
