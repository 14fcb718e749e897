"""The published agent: the Q-learner of Hay & Wolf, "Dynamic Layer Tying", ICLR 2024 (arXiv 2401.12819), as coded.

Online Q-learning on one transition at a time: no replay, no target network, no masks. Its network sees the pointers
as plain integers and has an output for each (layer, target). Its target reads the outputs of the layer that was just
decided, where Q-learning would read those of the layer that comes next; and no transition counts as a last one. All
of that is kept, since it is here to be compared with.
"""

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
import torch.nn.functional as F
from gymnasium import spaces
from torch import Tensor

from agents.base import Agent, Diagnostics, layers_in_turn
from agents.networks import mlp
from tying.config import config, setting
from tying.layout import View


@config
class PaperConfig:
    """Hyper-parameters of PaperAgent; the defaults are the published code's."""

    learning_rate: float = setting("AdamW's learning rate [> 0]", default=1e-3, gt=0)
    weight_decay: float = setting("AdamW's weight decay [>= 0]", default=0.01, ge=0)
    gamma: float = setting("discount per decision [0 to 1]", default=0.99, ge=0, le=1)
    width: int = setting("units of the hidden layer [>= 1]", default=128, ge=1)
    epsilon: float = setting("share of random actions in the first sweep over the layers [0 to 1]", default=1.0, ge=0, le=1)
    epsilon_decay: float = setting("factor of epsilon per sweep [above 0 to 1]", default=0.95, gt=0, le=1)
    epsilon_min: float = setting("epsilon does not fall below [0 to 1]", default=0.01, ge=0, le=1)
    reference_semantics: bool = setting(
        "train as the published code did: only a root's own position gives weight gradients (binding.gradient root_only)",
        default=False,
    )


class PaperAgent(Agent):
    """Q-learning as published; decides in `cursor` mode alone.

    Layer i reads i + 1 outputs of the network, from output i(i+1)/2 on: join layer 0, ..., join layer i - 1, own weights.
    """

    Config = PaperConfig
    action_spaces = (spaces.Discrete,)

    def __init__(self, env: gymnasium.Env[Any, Any], seed: int = 0, **hyperparameters: Any) -> None:
        super().__init__(env, seed, **hyperparameters)
        num_layers = layers_in_turn(env, "paper")
        self.sweep = max(1, num_layers - 1)
        self.decisions = 0
        self.loss: float | None = None
        self.generator = torch.Generator().manual_seed(seed)
        self.network = mlp([num_layers, self.config.width, num_layers * (num_layers + 1) // 2], self.generator)
        self.optimizer = torch.optim.AdamW(
            self.network.parameters(), lr=self.config.learning_rate, weight_decay=self.config.weight_decay
        )

    @classmethod
    def wishes(cls, config: PaperConfig) -> dict[str, Any]:
        """Return the published setting."""
        return {
            "env.action_mode": "cursor",
            "env.decision_interval": 4,
            "env.initial_pointers": "all_tied",
            "env.freeze_after": 1.0,
            "reward.name": "paper",
            "binding.gradient": "root_only" if config.reference_semantics else "sum",
        }

    @property
    def epsilon(self) -> float:
        """Share of random actions in this sweep."""
        decayed: float = self.config.epsilon * self.config.epsilon_decay ** (self.decisions // self.sweep)
        return max(float(self.config.epsilon_min), decayed)

    def predict(self, observation: np.ndarray, action_masks: np.ndarray | None = None, deterministic: bool = False) -> Any:
        """See Agent.predict; masks are not looked at, as published: a target may be tied itself."""
        view = View(observation)
        if not deterministic and self._uniform() < self.epsilon:
            return int(self._uniform() * (_layer(view) + 1))
        with torch.no_grad():
            return int(self._values(view, _layer(view)).argmax())

    def learn_from(
        self, observation: np.ndarray, action: Any, reward: float, following: np.ndarray, terminated: bool
    ) -> None:
        """Take one step of AdamW on the squared error of this transition."""
        view = View(observation)
        layer = _layer(view)
        with torch.no_grad():
            target = reward + self.config.gamma * self._values(View(following), layer).max()
        loss = F.mse_loss(self._values(view, layer)[min(int(action), layer)], target)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.loss = float(loss.detach())
        self.decisions += 1

    @torch.no_grad()
    def diagnostics(self, observation: np.ndarray, action_masks: np.ndarray) -> Diagnostics:
        """Return the Q-values of the layer's targets (0 to i, own weights last), and epsilon."""
        view = View(observation)
        return {"q": self._values(view, _layer(view)).tolist(), "epsilon": self.epsilon}

    def metrics(self) -> dict[str, float]:
        """Return the squared error of the last transition."""
        loss, self.loss = self.loss, None
        return {} if loss is None else {"train/loss": loss}

    def _values(self, view: View, layer: int) -> Tensor:
        """Return the outputs of a layer at the pointers in force, (i + 1,)."""
        start = layer * (layer + 1) // 2
        values: Tensor = self.network(torch.tensor(view.pointers, dtype=torch.float32))
        return values[start : start + layer + 1]

    def _uniform(self) -> float:
        return float(torch.rand((), generator=self.generator))

    def _save_state(self, folder: Path) -> None:
        state = {
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "generator": self.generator.get_state(),
            "decisions": self.decisions,
        }
        torch.save(state, folder / "state.pt")

    def _load_state(self, folder: Path) -> None:
        state = torch.load(folder / "state.pt", weights_only=True)
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.generator.set_state(state["generator"])
        self.decisions = state["decisions"]


def _layer(view: View) -> int:
    """Return the layer whose turn it is; a model of one layer has no turns."""
    return view.cursor or 0
