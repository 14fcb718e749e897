"""Bandits over (layer, target): which group each layer had best join, from what changes paid.

Thompson sampling and an upper confidence bound, with Gaussian posteriors that forget: what a target is worth changes while
the model trains and the other layers move. Discounting for such drift: Kocsis & Szepesvari 2006 and Garivier & Moulines
2011 (arXiv 0805.3415) for the bound, Raj & Kalyani 2017 (arXiv 1707.09727) for sampling.
"""

import math
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
from gymnasium import spaces

from agents.base import Agent, Diagnostics
from agents.search import Baseline, SearchConfig, exploring
from tying.config import config, setting
from tying.layout import View


@config
class ThompsonConfig(SearchConfig):
    """Hyper-parameters of ThompsonAgent."""

    prior: float = setting(
        "standard deviation of what targets are worth before anything is known [nats per token, > 0]", default=0.05, gt=0
    )
    memory: int = setting("decisions in which most of what was learned is forgotten [>= 1]", default=100, ge=1)
    weight: float = setting(
        "weight of the newest window in the estimate of what windows pay without a change [above 0 to 1]",
        default=0.3,
        gt=0,
        le=1,
    )


@config
class UCBConfig(ThompsonConfig):
    """Hyper-parameters of UCBAgent."""

    optimism: float = setting("standard deviations added to what a change is worth [>= 0]", default=1.0, ge=0)


_LEARNED = ("mean", "covariance")


class Change(NamedTuple):
    """What an action does: a layer goes from one root's group to another's."""

    layer: int
    source: int
    target: int


class Worth:
    """Gaussian posterior of what each target is worth to one layer, of which only differences are seen.

    Args:
        num_targets: Targets of the layer, itself included.
        prior: Standard deviation of a worth before anything is known.
    """

    def __init__(self, num_targets: int, prior: float) -> None:
        self.mean = np.zeros(num_targets)
        self._unknown = prior**2 * np.eye(num_targets)
        self.covariance = self._unknown.copy()

    def forget(self, share: float) -> None:
        """Go a share of the way back to the uncertainty of the beginning."""
        self.covariance += share * (self._unknown - self.covariance)

    def observe(self, change: Change, worth: float, deviation: float) -> None:
        """Take in a noisy difference between target and source (the Kalman filter's update)."""
        if change.source == change.target or math.isinf(deviation):
            return
        difference = np.zeros(len(self.mean))
        difference[change.target], difference[change.source] = 1, -1
        shared = self.covariance @ difference
        gain = shared / (difference @ shared + deviation**2)
        self.mean += gain * (worth - difference @ self.mean)
        self.covariance -= np.outer(gain, shared)

    def sample(self, generator: np.random.Generator) -> np.ndarray:
        """Return one draw, shape (targets,)."""
        drawn: np.ndarray = generator.multivariate_normal(self.mean, self.covariance, method="eigh")
        return drawn

    def deviations(self, source: int) -> np.ndarray:
        """Return the standard deviation of each target's worth above the source's, shape (targets,)."""
        variances = np.diag(self.covariance)
        squares = variances + variances[source] - 2 * self.covariance[source]
        roots: np.ndarray = np.sqrt(np.maximum(squares, 0))
        return roots


class ThompsonAgent(Agent):
    """Takes the change that is best under one draw from the posterior, or changes nothing.

    A window's pay is what windows pay anyway, plus the worth of the new target above the old one's.
    """

    Config: ClassVar[type] = ThompsonConfig
    action_spaces = (spaces.Discrete,)

    def __init__(self, env: Any, seed: int = 0, **hyperparameters: Any) -> None:
        super().__init__(env, seed, **hyperparameters)
        self._generator = np.random.default_rng(seed)
        num_layers = View(env.observation_space.low).num_layers
        self._worth = [Worth(layer + 1, self.config.prior) for layer in range(num_layers)]
        self._pairs = [(layer, target) for layer in range(num_layers) for target in range(layer + 1)]
        self._baseline = Baseline(self.config.weight)

    @classmethod
    def wishes(cls, config: Any) -> dict[str, Any]:
        """Return what lets it choose the layer too: a draw for every layer finds the best change sooner."""
        return {"env.action_mode": "pair"}

    def predict(self, observation: np.ndarray, action_masks: np.ndarray | None = None, deterministic: bool = False) -> Any:
        """Return the action whose change seems worth most; after the share `explore` by the means alone."""
        view = View(observation)
        if view.scalar("remaining") == 1 and not deterministic:
            self._baseline = Baseline(self.config.weight)
        settled = deterministic or not exploring(view, self.config.explore)
        changes = self._changes(view, action_masks)
        layers = {change.layer for change in changes.values()}
        values = {layer: self._means(layer) if settled else self._values(layer, view.pointers[layer]) for layer in layers}

        def gain(action: int) -> tuple[float, bool]:
            layer, source, target = changes[action]
            return values[layer][target] - values[layer][source], source == target

        return max(changes, key=gain)

    def _means(self, layer: int) -> np.ndarray:
        return self._worth[layer].mean

    def _values(self, layer: int, source: int) -> np.ndarray:
        """Return what each target of a layer may be worth while exploring, shape (layer + 1,)."""
        return self._worth[layer].sample(self._generator)

    def _changes(self, view: View, action_masks: np.ndarray | None) -> dict[int, Change]:
        """Return what each legal action does."""
        num_actions = int(self.env.action_space.n)  # type: ignore[attr-defined]
        legal = range(num_actions) if action_masks is None else np.flatnonzero(action_masks).tolist()
        return {action: self._change(view, action) for action in legal}

    def _change(self, view: View, action: int) -> Change:
        cursor, pointers = view.cursor, view.pointers
        layer, target = self._pairs[action] if cursor is None else (cursor, min(action, cursor))
        return Change(layer, pointers[layer], layer if target == layer else pointers[target])

    def learn_from(
        self, observation: np.ndarray, action: Any, reward: float, following: np.ndarray, terminated: bool
    ) -> None:
        """Learn what the change was worth, and what windows pay anyway."""
        view = View(observation)
        change = self._change(view, int(action))
        if View(following).pointers == view.pointers:  # frozen, perhaps
            change = change._replace(target=change.source)
        expected = self._expected(change)
        for layer in self._worth:
            layer.forget(1 / self.config.memory)
        if self._baseline.mean is not None:
            self._worth[change.layer].observe(change, self._baseline.advantage(reward), self._baseline.deviation)
        self._baseline.update(reward - expected)

    def _expected(self, change: Change) -> float:
        mean = self._worth[change.layer].mean
        return float(mean[change.target] - mean[change.source])

    def diagnostics(self, observation: np.ndarray, action_masks: np.ndarray) -> Diagnostics:
        """Return what it expects of every action's change, and of a window without one."""
        gains = [self._expected(change) for change in self._changes(View(observation), None).values()]
        return {"gain": gains, "expected_pay": self._baseline.mean or 0.0}

    def _save_state(self, folder: Path) -> None:
        arrays = {f"{name}_{i}": getattr(worth, name) for i, worth in enumerate(self._worth) for name in _LEARNED}
        np.savez(folder / "worth.npz", **arrays)

    def _load_state(self, folder: Path) -> None:
        with np.load(folder / "worth.npz") as arrays:
            for i, worth in enumerate(self._worth):
                for name in _LEARNED:
                    setattr(worth, name, arrays[f"{name}_{i}"])


class UCBAgent(ThompsonAgent):
    """Takes the change with the best upper confidence bound, or changes nothing; draws no random numbers."""

    Config = UCBConfig

    @classmethod
    def wishes(cls, config: Any) -> dict[str, Any]:
        """Return what makes every layer have its turn: nothing random takes it from one bound that is far too high."""
        return {"env.action_mode": "cursor"}

    def _values(self, layer: int, source: int) -> np.ndarray:
        worth = self._worth[layer]
        values: np.ndarray = worth.mean + self.config.optimism * worth.deviations(source)
        return values
