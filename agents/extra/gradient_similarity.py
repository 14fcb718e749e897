"""Share, then unshare: layers stay tied while their positions' gradients agree.

Yang et al. 2021 ("Speeding up Deep Model Training by Sharing Weights and Then Unsharing", arXiv 2110.03848) train with all
layers tied first. Here each layer is untied by itself, when its gradient and those of the others in its group correlate
less than 0.5 for three checks in a row; and in the other direction, neighbours that are alike are tied.
"""

import json
from pathlib import Path
from typing import Any, Literal

import gymnasium
import numpy as np
from gymnasium import spaces

from agents.base import Agent, Diagnostics, Transition
from agents.environment import refusal_of_choice
from tying.config import config, setting
from tying.errors import InputError
from tying.files import read_json


@config
class GradientSimilarityConfig:
    """Hyper-parameters of GradientSimilarityAgent."""

    untie_below: float = setting(
        "agreement with the other layers of its group below which a layer is untied; -1: never [-1 to 1]",
        default=0.5,
        ge=-1,
        le=1,
    )
    tie_above: float = setting(
        "likeness to the layer before above which a layer with weights of its own is tied to it; 1: never [-1 to 1]",
        default=0.8,
        ge=-1,
        le=1,
    )
    likeness: Literal["gradient", "weights"] = setting("cosine that tells whether neighbours are alike", default="gradient")
    patience: int = setting("windows in a row that must say so [>= 1]", default=3, ge=1)


_COLUMNS = {"gradient": "gradient_similarity", "weights": "similarity"}


class GradientSimilarityAgent(Agent):
    """A rule on gradients; it has nothing to learn, takes no chances, and decides in `cursor` mode alone."""

    Config = GradientSimilarityConfig
    action_spaces = (spaces.Discrete,)

    def __init__(self, env: gymnasium.Env[Any, Any], seed: int = 0, **hyperparameters: Any) -> None:
        super().__init__(env, seed, **hyperparameters)
        self._forget()

    def _forget(self) -> None:
        self._disagreed = np.zeros(self.num_layers, dtype=int)  # windows in a row, as are those below
        self._alike = np.zeros(self.num_layers, dtype=int)
        self._measured = False

    @classmethod
    def refusal(cls, env: gymnasium.Env[Any, Any], config: Any) -> str | None:
        """See Agent.refusal."""
        return refusal_of_choice(env)

    @classmethod
    def recommended(cls, config: GradientSimilarityConfig) -> dict[str, Any]:
        """Return the published start, and the statistics that it reads."""
        return {"env.action_mode": "cursor", "env.initial_pointers": "all_tied", "env.gradient_statistics": True}

    def begin_episode(self, observation: np.ndarray) -> None:
        """Forget the run before; nothing is measured before the first window."""
        self._forget()

    def predict(self, observation: np.ndarray, action_masks: np.ndarray | None = None, deterministic: bool = False) -> Any:
        """Return weights of its own for a layer that disagrees, the layer before for one alike, else what is in force."""
        view = self.view(observation)
        layer, pointers = view.cursor or 0, view.pointers
        if view.frozen or not self._measured:
            return pointers[layer]
        owns = pointers[layer] == layer
        if not owns and self._disagreed[layer] >= self.config.patience:
            return layer
        if owns and layer > 0 and self._alike[layer] >= self.config.patience:
            return pointers[layer - 1]
        return pointers[layer]

    def learn_from(self, step: Transition) -> None:
        """Count the windows in a row in which layers disagreed or were alike.

        Raises:
            InputError: If the environment measures no gradients.
        """
        previous, view = self.view(step.observation).pointers, self.view(step.next_observation)
        agreement = view.layers("agreement")
        if not agreement.any() and not view.layers("gradient_similarity").any():
            raise InputError(
                "agent 'gradient_similarity' reads statistics of gradients: it needs env.gradient_statistics on"
            )
        likeness = view.layers(_COLUMNS[self.config.likeness])
        self._disagreed = (self._disagreed + 1) * (agreement < self.config.untie_below)
        self._alike = (self._alike + 1) * (likeness > self.config.tie_above)
        moved = np.array(previous) != np.array(view.pointers)
        self._disagreed[moved] = self._alike[moved] = 0
        self._measured = True

    def diagnostics(self, observation: np.ndarray, action_masks: np.ndarray) -> Diagnostics:
        """Return for how many windows in a row each layer disagreed with its group, and was like the one before."""
        return {"disagreed": self._disagreed.astype(float).tolist(), "alike": self._alike.astype(float).tolist()}

    def save_state(self, folder: Path) -> None:
        """Write the counts of windows."""
        counts = {"disagreed": self._disagreed.tolist(), "alike": self._alike.tolist()}
        (folder / "counts.json").write_text(json.dumps(counts))

    def load_state(self, folder: Path) -> None:
        """Read the counts of windows."""
        counts = read_json(folder / "counts.json")
        self._disagreed, self._alike = np.array(counts["disagreed"]), np.array(counts["alike"])
