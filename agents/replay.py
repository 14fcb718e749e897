"""A replay buffer for few, expensive decisions: it keeps the next masks too, and can draw transitions by priority.

B sampled transitions, A actions, D numbers of an observation.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

_SMALLEST_PRIORITY = 1e-3  # so that no transition is lost for good


@dataclass(frozen=True)
class Batch:
    """Sampled transitions.

    Attributes:
        index: Their places in the buffer (B,).
        weight: Corrections for unequal sampling, at most 1 (B,).
        observation: (B, D).
        action: (B,).
        reward: Sum of gamma^k x reward over the transition's steps (B,).
        reward_weight: Sum of gamma^k over them (B,).
        discount: Weight of the value of next_observation; 0 at the end of an episode (B,).
        next_observation: (B, D).
        next_masks: Which actions are legal there (B, A).
    """

    index: Tensor
    weight: Tensor
    observation: Tensor
    action: Tensor
    reward: Tensor
    reward_weight: Tensor
    discount: Tensor
    next_observation: Tensor
    next_masks: Tensor


class Replay:
    """The newest `capacity` transitions, sampled in proportion to priority^exponent (Schaul et al. 2016; 0: uniformly)."""

    def __init__(self, capacity: int, observation_size: int, num_actions: int, exponent: float) -> None:
        self.exponent = exponent
        self.count = 0
        self.columns = {
            "observation": torch.zeros(capacity, observation_size),
            "action": torch.zeros(capacity, dtype=torch.int64),
            "reward": torch.zeros(capacity),
            "reward_weight": torch.zeros(capacity),
            "discount": torch.zeros(capacity),
            "next_observation": torch.zeros(capacity, observation_size),
            "next_masks": torch.ones(capacity, num_actions, dtype=torch.bool),
        }
        self.priority = torch.zeros(capacity)

    def __len__(self) -> int:
        return min(self.count, len(self.priority))

    def add(self, **values: Any) -> None:
        """Store a transition, with the highest priority so far."""
        place = self.count % len(self.priority)
        for name, column in self.columns.items():
            column[place] = torch.as_tensor(values[name])
        self.priority[place] = self.priority.max() if len(self) else 1.0
        self.count += 1

    def sample(self, count: int, generator: torch.Generator) -> Batch:
        """Return transitions, drawn with replacement."""
        size = len(self)
        if self.exponent:
            probability = self.priority[:size] ** self.exponent
            probability = probability / probability.sum()
            index = torch.multinomial(probability, count, replacement=True, generator=generator)
            weight = (size * probability[index]) ** -0.5
            weight = weight / weight.max()
        else:
            index, weight = torch.randint(size, (count,), generator=generator), torch.ones(count)
        return Batch(index, weight, **{name: column[index] for name, column in self.columns.items()})

    def set_priority(self, index: Tensor, error: Tensor) -> None:
        """Set priorities to the size of the errors."""
        self.priority[index] = error.abs() + _SMALLEST_PRIORITY

    def state_dict(self) -> dict[str, Any]:
        """Return what is stored."""
        size = len(self)
        columns = {name: column[:size].clone() for name, column in self.columns.items()}
        return {"count": self.count, "priority": self.priority[:size].clone(), "columns": columns}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what was stored."""
        self.count = state["count"]
        self.priority[: len(state["priority"])] = state["priority"]
        for name, column in self.columns.items():
            column[: len(state["columns"][name])] = state["columns"][name]
