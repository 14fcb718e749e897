"""Deep Q-network (Mnih et al. 2015), stable-baselines3's."""

import numpy as np
from gymnasium import spaces

from agents.sb3 import SB3Config, ValueAgent
from tying.config import config, setting


@config
class DQNConfig(SB3Config):
    """Hyper-parameters of DQN."""

    learning_rate: float = setting("Adam's learning rate [> 0 to 1]", default=1e-3, gt=0, le=1)
    buffer_size: int = setting("replay capacity; the default holds any run [transitions, >= 1]", default=10_000, ge=1)
    learning_starts: int = setting("decisions at random before the first update [>= 0]", default=8, ge=0)
    batch_size: int = setting("transitions in an update [>= 1]", default=32, ge=1)
    gradient_steps: int = setting("updates per decision; decisions are expensive, updates cheap [>= 1]", default=8, ge=1)
    target_update_interval: int = setting("decisions between copies to the target network [>= 1]", default=20, ge=1)
    exploration_fraction: float = setting(
        "share of the decisions over which epsilon falls [above 0 to 1]", default=0.4, gt=0, le=1
    )
    exploration_final_eps: float = setting("epsilon at the end [0 to 1]", default=0.05, ge=0, le=1)


class DQNAgent(ValueAgent):
    """It knows no masks: several of its actions may mean the same."""

    Config = DQNConfig
    action_spaces = (spaces.Discrete,)
    resumable = True
    algorithm = "stable_baselines3:DQN"

    def q_values(self, observation: np.ndarray) -> np.ndarray:
        """See ValueAgent.q_values."""
        values: np.ndarray = self.model.q_net(self.tensor(observation)).detach().numpy()[0]
        return values
