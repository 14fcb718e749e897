"""The network of the published agent, with its optimizer and its random numbers."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from agents.networks import mlp
from tying.isolation import isolated
from tying.pointers import Pointers


class PaperNetwork:
    """Linear(L, width), ReLU, Linear(width, L(L+1)/2), and AdamW.

    Args:
        config: A PaperConfig.
        num_layers: L.
        seed: Of the initial weights and the agent's draws.
    """

    @isolated()
    def __init__(self, config: Any, num_layers: int, seed: int) -> None:
        self.gamma = config.gamma
        self.generator = torch.Generator().manual_seed(seed)
        self.network = mlp([num_layers, config.width, num_layers * (num_layers + 1) // 2], self.generator)
        self.optimizer = torch.optim.AdamW(
            self.network.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
        )

    @isolated()
    def uniform(self) -> float:
        """Return a draw from 0 to 1."""
        return float(torch.rand((), generator=self.generator))

    @isolated()
    @torch.no_grad()
    def values(self, pointers: Pointers, layer: int) -> np.ndarray:
        """Return the outputs of a layer i under some pointers, (i + 1,)."""
        values: np.ndarray = self._outputs(pointers, layer).numpy()
        return values

    @isolated()
    def update(self, pointers: Pointers, layer: int, target: int, reward: float, next_pointers: Pointers) -> float:
        """Take one step on a transition's squared error and return it; bootstraps on the same layer, as published."""
        with torch.no_grad():
            goal = reward + self.gamma * self._outputs(next_pointers, layer).max()
        loss = F.mse_loss(self._outputs(pointers, layer)[target], goal)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return float(loss.detach())

    def _outputs(self, pointers: Pointers, layer: int) -> Tensor:
        start = layer * (layer + 1) // 2
        values: Tensor = self.network(torch.tensor(pointers, dtype=torch.float32))
        return values[start : start + layer + 1]

    @isolated()
    def save(self, path: Path, decisions: int) -> None:
        """Write the state; `decisions` is kept beside it."""
        state = {
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "generator": self.generator.get_state(),
            "decisions": decisions,
        }
        torch.save(state, path)

    @isolated()
    def load(self, path: Path) -> int:
        """Read the state and return `decisions`."""
        state = torch.load(path, weights_only=True)
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.generator.set_state(state["generator"])
        return int(state["decisions"])
