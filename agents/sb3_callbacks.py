"""Logger and callback of a stable-baselines3 model; apart, since they need the library when they are imported."""

from typing import Any

from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import KVWriter

from agents.base import Callback
from agents.sb3 import SB3Agent, numbers


class Collector(KVWriter):
    """Keeps the figures that a model logs until the run's record asks for them."""

    def __init__(self) -> None:
        self.values: dict[str, float] = {}

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0) -> None:
        """Take the numbers; pictures and texts are left out."""
        self.values |= numbers(key_values)

    def close(self) -> None:
        """Nothing is open."""


class Stop(BaseCallback):
    """Ends learning after the asked number of decisions: an extra one would train a whole window of a new model."""

    def __init__(self, agent: SB3Agent, decisions: int, callback: Callback | None) -> None:
        super().__init__()
        self.agent = agent
        self.decisions = decisions
        self.callback = callback

    def _on_rollout_start(self) -> None:
        # Whatever was collected before is learned from.
        if self.agent.on_boundary is not None:
            self.agent.on_boundary()

    def _on_step(self) -> bool:
        # DQN dumps its figures at the end of an episode only, which is the end of the run.
        self.logger.dump(self.num_timesteps)
        # Once pointers no longer move there is nothing to learn, and eight updates a decision cost 2 % of a short run.
        if self.agent.gradient_steps is not None:
            frozen = self.locals["infos"][0].get("frozen", False)
            self.agent.model.gradient_steps = 0 if frozen else self.agent.gradient_steps
        proceed = self.callback is None or self.callback(self.agent) is not False
        return proceed and self.n_calls < self.decisions
