"""Proximal policy optimisation (Schulman et al. 2017), without masks and with (Huang & Ontañón 2022)."""

from typing import Any

import numpy as np

from agents.sb3 import PolicyAgent, SB3Config
from tying.config import config, setting


@config
class ActorCriticConfig(SB3Config):
    """Hyper-parameters that PPO and A2C have in common."""

    gae_lambda: float = setting("bias against variance of the advantage [0 to 1]", default=0.9, ge=0, le=1)
    ent_coef: float = setting("weight of the policy's entropy [>= 0]", default=0.01, ge=0)


@config
class PPOConfig(ActorCriticConfig):
    """Hyper-parameters of PPO, masked or not."""

    learning_rate: float = setting("Adam's learning rate [> 0 to 1]", default=3e-3, gt=0, le=1)
    n_steps: int = setting("decisions between updates [>= 2]", default=32, ge=2)
    batch_size: int = setting("decisions in a mini-batch; at most n_steps are used [>= 2]", default=32, ge=2)
    n_epochs: int = setting("passes over them in an update [>= 1]", default=10, ge=1)
    clip_range: float = setting("largest change of a probability ratio in an update [> 0]", default=0.2, gt=0)


class PPOAgent(PolicyAgent):
    """It knows no masks; decides in every action mode."""

    Config = PPOConfig
    resumable = True
    algorithm = "stable_baselines3:PPO"

    def arguments(self) -> dict[str, Any]:
        """See SB3Agent.arguments."""
        arguments = super().arguments()
        size = min(arguments["batch_size"], arguments["n_steps"])
        if arguments["n_steps"] % size == 1:  # advantages are normalised, which one decision alone cannot be
            size = arguments["n_steps"]
        return {**arguments, "batch_size": size}


class MaskablePPOAgent(PPOAgent):
    """PPO that gives illegal actions no probability."""

    resumable = True
    algorithm = "sb3_contrib:MaskablePPO"

    def predict(self, observation: np.ndarray, action_masks: np.ndarray | None = None, deterministic: bool = False) -> Any:
        """See Agent.predict."""
        action, _ = self.model.predict(observation, deterministic=deterministic, action_masks=action_masks)
        return action

    def distribution(self, observation: Any, action_masks: np.ndarray) -> Any:
        """See PolicyAgent.distribution."""
        return self.model.policy.get_distribution(observation, action_masks=action_masks)
