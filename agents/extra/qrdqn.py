"""Quantile regression DQN (Dabney et al. 2018), sb3-contrib's: learns the return's distribution, acts by its mean."""

from typing import Any

import numpy as np
from gymnasium import spaces

from agents.dqn import DQNConfig
from agents.sb3 import ValueAgent
from tying.config import config, setting


@config
class QRDQNConfig(DQNConfig):
    """Hyper-parameters of QR-DQN."""

    n_quantiles: int = setting("quantiles of the return of each action [>= 1]", default=25, ge=1)


class QRDQNAgent(ValueAgent):
    """It knows no masks, as DQN."""

    Config = QRDQNConfig
    action_spaces = (spaces.Discrete,)
    resumable = True
    algorithm = "sb3_contrib:QRDQN"

    def arguments(self) -> dict[str, Any]:
        """See SB3Agent.arguments."""
        arguments = super().arguments()
        arguments["policy_kwargs"]["n_quantiles"] = arguments.pop("n_quantiles")
        return arguments

    def q_values(self, observation: np.ndarray) -> np.ndarray:
        """See ValueAgent.q_values."""
        values: np.ndarray = self.model.quantile_net(self.tensor(observation)).mean(dim=1).detach().numpy()[0]
        return values
