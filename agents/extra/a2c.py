"""Advantage actor-critic (Mnih et al. 2016), stable-baselines3's."""

from agents.ppo import ActorCriticConfig
from agents.sb3 import PolicyAgent
from tying.config import config, setting


@config
class A2CConfig(ActorCriticConfig):
    """Hyper-parameters of A2C."""

    learning_rate: float = setting("RMSprop's learning rate [> 0 to 1]", default=1e-3, gt=0, le=1)
    n_steps: int = setting("decisions between updates [>= 1]", default=4, ge=1)


class A2CAgent(PolicyAgent):
    """It knows no masks; decides in every action mode."""

    Config = A2CConfig
    resumable = True
    algorithm = "stable_baselines3:A2C"
