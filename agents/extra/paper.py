"""The published agent: the Q-learner of Hay & Wolf, "Dynamic Layer Tying", ICLR 2024 (arXiv 2401.12819), as coded.

Online Q-learning on one transition at a time: no replay, no target network, no masks. Its network sees the pointers
as plain integers and has an output for each (layer, target). Its target reads the outputs of the layer that was just
decided, where Q-learning would read those of the layer that comes next; and no transition counts as a last one. All
of that is kept, since it is here to be compared with.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import gymnasium
import numpy as np
from gymnasium import spaces

from agents.base import Agent, Diagnostics, Explanation, Transition
from agents.environment import refusal_of_choice
from tying.config import config, setting
from tying.interface import ObservationView

if TYPE_CHECKING:
    from agents.extra.paper_network import PaperNetwork


@config
class PaperConfig:
    """Hyper-parameters of PaperAgent; the defaults are the published code's."""

    learning_rate: float = setting("AdamW's learning rate [> 0 to 1]", default=1e-3, gt=0, le=1)
    weight_decay: float = setting("AdamW's weight decay [>= 0]", default=0.01, ge=0)
    gamma: float = setting("discount per decision [0 to 1]", default=0.99, ge=0, le=1)
    width: int = setting("units of the hidden layer [>= 1]", default=128, ge=1)
    epsilon: float = setting("share of random actions in the first sweep over the layers [0 to 1]", default=1.0, ge=0, le=1)
    epsilon_decay: float = setting("factor of epsilon per sweep [above 0 to 1]", default=0.95, gt=0, le=1)
    epsilon_min: float = setting("epsilon does not fall below [0 to 1]", default=0.01, ge=0, le=1)
    reference_semantics: bool = setting(
        "train as the published code does: only a root's own position gives weight gradients (binding.gradient root_only)",
        default=False,
    )


class PaperAgent(Agent):
    """Q-learning as published; decides in `cursor` mode alone.

    Layer i reads i + 1 outputs of the network, from output i(i+1)/2 on: join layer 0, ..., join layer i - 1, own weights.
    """

    Config = PaperConfig
    action_spaces = (spaces.Discrete,)
    network: "PaperNetwork"

    def __init__(self, env: gymnasium.Env[Any, Any], seed: int = 0, **hyperparameters: Any) -> None:
        from agents.extra.paper_network import PaperNetwork  # torch is imported when an agent is made, not for its settings

        super().__init__(env, seed, **hyperparameters)
        self.sweep = max(1, self.num_layers - 1)
        self.decisions = 0
        self.loss: float | None = None
        self.network = PaperNetwork(self.config, self.num_layers, seed)

    @classmethod
    def refusal(cls, env: gymnasium.Env[Any, Any], config: Any) -> str | None:
        """See Agent.refusal."""
        return refusal_of_choice(env)

    @classmethod
    def recommended(cls, config: PaperConfig) -> dict[str, Any]:
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
        view = self.view(observation)
        if not deterministic and self.network.uniform() < self.epsilon:
            return int(self.network.uniform() * (_layer(view) + 1))
        return int(self.network.values(view.pointers, _layer(view)).argmax())

    def learn_from(self, step: Transition) -> None:
        """Take one step of AdamW on the squared error of this transition."""
        view, after = self.view(step.observation), self.view(step.next_observation)
        layer = _layer(view)
        self.loss = self.network.update(view.pointers, layer, min(int(step.action), layer), step.reward, after.pointers)
        self.decisions += 1

    def diagnostics(self, observation: np.ndarray, action_masks: np.ndarray) -> Diagnostics:
        """Return the Q-values of the layer's targets (0 to i, own weights last), and epsilon."""
        view = self.view(observation)
        return {"q": self.network.values(view.pointers, _layer(view)).tolist(), "epsilon": self.epsilon}

    def explain(self, observation: np.ndarray, action_masks: np.ndarray, action: Any) -> Explanation:
        """Return whether another target has a higher Q-value, and the Q-value of this one."""
        view = self.view(observation)
        values = self.network.values(view.pointers, _layer(view))
        taken = min(int(action), _layer(view))
        return taken != int(values.argmax()), float(values[taken])

    def metrics(self) -> dict[str, float]:
        """Return the squared error of the last transition."""
        loss, self.loss = self.loss, None
        return {} if loss is None else {"train/loss": loss}

    def save_state(self, folder: Path) -> None:
        """Write network, optimizer, generator and the number of decisions."""
        self.network.save(folder / "state.pt", self.decisions)

    def load_state(self, folder: Path) -> None:
        """Read them."""
        self.decisions = self.network.load(folder / "state.pt")


def _layer(view: ObservationView) -> int:
    """Return the layer whose turn it is; a model of one layer has no turns."""
    return view.cursor or 0
