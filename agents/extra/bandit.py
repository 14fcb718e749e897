"""Bandits over (layer, target): which group each layer should join, learned from the rewards of changes.

Thompson sampling and an upper confidence bound, with Gaussian posteriors that forget: the worth of a target changes while
the model trains and the other layers move. Discounting for such drift: Kocsis & Szepesvari 2006 and Garivier & Moulines
2011 (arXiv 0805.3415) for the bound, Raj & Kalyani 2017 (arXiv 1707.09727) for sampling.

L layers, A actions. Layer i has targets 0 to i; arrays have columns for L, of which those beyond i are never used.
"""

import math
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import gymnasium
import numpy as np
from gymnasium import spaces

from agents.base import Agent, Diagnostics, Explanation, Transition, read_arrays
from agents.environment import refusal_of_ranks
from agents.search import Baseline, SearchConfig, exploring
from tying import interface
from tying.config import config, setting
from tying.interface import ObservationView
from tying.pointers import Pointers

_JITTER = 1e-9  # of the prior variance: rounding must not make a covariance indefinite


@config
class ThompsonConfig(SearchConfig):
    """Hyper-parameters of ThompsonAgent."""

    prior_std: float = setting(
        "standard deviation of the worth of targets before anything is known [nats per token, > 0]", default=0.05, gt=0
    )
    forgetting_horizon: int = setting("decisions in which most of what was learned is forgotten [>= 1]", default=100, ge=1)
    weight: float = setting(
        "weight of the newest window in the estimate of the reward without a change [above 0 to 1]",
        default=0.3,
        gt=0,
        le=1,
    )


@config
class UCBConfig(ThompsonConfig):
    """Hyper-parameters of UCBAgent."""

    ucb_scale: float = setting("standard deviations added to the worth of a change [>= 0]", default=1.0, ge=0)


class Change(NamedTuple):
    """Layers that go from one root's group to another's: of one action, or a column of all actions."""

    layer: Any
    source: Any
    target: Any


class Worth:
    """Gaussian posterior of the worth of each target to each layer, of which only differences are seen.

    Args:
        num_layers: L.
        prior_std: Standard deviation of a worth before anything is known.

    Attributes:
        mean: (L, L): layer, target.
        covariance: (L, L, L): layer, target, target.
    """

    def __init__(self, num_layers: int, prior_std: float) -> None:
        self.mean = np.zeros((num_layers, num_layers))
        self._prior = prior_std**2 * np.eye(num_layers)
        self.covariance = np.tile(self._prior, (num_layers, 1, 1))

    def forget(self, share: float) -> None:
        """Return a share of the way to the uncertainty of the beginning."""
        self.covariance += share * (self._prior - self.covariance)

    def observe(self, change: Change, worth: float, deviation: float) -> None:
        """Take in a noisy difference between target and source (the Kalman filter's update)."""
        if change.source == change.target or math.isinf(deviation):
            return
        mean, covariance = self.mean[change.layer], self.covariance[change.layer]
        difference = np.zeros(len(mean))
        difference[change.target], difference[change.source] = 1, -1
        shared = covariance @ difference
        gain = shared / (difference @ shared + deviation**2)
        mean += gain * (worth - difference @ mean)
        covariance -= np.outer(gain, shared)

    def sample(self, generator: np.random.Generator) -> np.ndarray:
        """Return one draw of all worths, (L, L)."""
        factor = np.linalg.cholesky(self.covariance + _JITTER * self._prior)
        drawn: np.ndarray = self.mean + np.einsum("lij,lj->li", factor, generator.standard_normal(self.mean.shape))
        return drawn

    def deviations(self, source: np.ndarray) -> np.ndarray:
        """Return the standard deviation of each target's worth above the source's, (L, L).

        Args:
            source: Of every layer, (L,).
        """
        layers = np.arange(len(source))
        variances = np.diagonal(self.covariance, axis1=1, axis2=2)
        squares = variances + variances[layers, source][:, None] - 2 * self.covariance[layers, source]
        roots: np.ndarray = np.sqrt(np.maximum(squares, 0))
        return roots


class ThompsonAgent(Agent):
    """Takes the change that is best under one draw from the posterior, or changes nothing.

    reward = baseline + worth(new target) - worth(old target).
    """

    Config: ClassVar[type] = ThompsonConfig
    action_spaces = (spaces.Discrete,)

    def __init__(self, env: Any, seed: int = 0, **hyperparameters: Any) -> None:
        super().__init__(env, seed, **hyperparameters)
        self._generator = np.random.default_rng(seed)
        self._worth = Worth(self.num_layers, self.config.prior_std)
        self._baseline = Baseline(self.config.weight)

    @classmethod
    def refusal(cls, env: gymnasium.Env[Any, Any], config: Any) -> str | None:
        """See Agent.refusal."""
        return refusal_of_ranks(env)

    @classmethod
    def recommended(cls, config: Any) -> dict[str, Any]:
        """Return the mode that lets it choose the layer too: a draw for every layer finds the best change sooner."""
        return {"env.action_mode": "pair"}

    def begin_episode(self, observation: np.ndarray) -> None:
        """Estimate the reward without a change anew."""
        self._baseline = Baseline(self.config.weight)

    def predict(self, observation: np.ndarray, action_masks: np.ndarray | None = None, deterministic: bool = False) -> Any:
        """Return the action whose change seems worth most; after the share `explore` by the means alone."""
        view = self.view(observation)
        settled = deterministic or not exploring(view, self.config.explore)
        values = self._worth.mean if settled else self._values(np.array(view.pointers))
        return self._best(values, _changes(view), action_masks)

    @staticmethod
    def _best(values: np.ndarray, changes: Change, action_masks: np.ndarray | None) -> int:
        """Return the legal action with the highest gain; among equal ones, one that changes nothing."""
        gains = values[changes.layer, changes.target] - values[changes.layer, changes.source]
        legal = np.arange(len(gains)) if action_masks is None else np.flatnonzero(action_masks)
        best = legal[gains[legal] == gains[legal].max()]
        unchanged = best[(changes.source == changes.target)[best]]
        return int(unchanged[0] if unchanged.size else best[0])

    def _values(self, source: np.ndarray) -> np.ndarray:
        """Return the worth of every target while exploring, (L, L); `source` is in force, (L,)."""
        return self._worth.sample(self._generator)

    def learn_from(self, step: Transition) -> None:
        """Learn the worth of the change, and the reward without one."""
        view = self.view(step.observation)
        change = Change(*(int(column[int(step.action)]) for column in _changes(view)))
        if self.view(step.next_observation).pointers == view.pointers:  # frozen, perhaps
            change = change._replace(target=change.source)
        mean = self._worth.mean[change.layer]
        expected = float(mean[change.target] - mean[change.source])
        self._worth.forget(1 / self.config.forgetting_horizon)
        if self._baseline.mean is not None:
            self._worth.observe(change, self._baseline.advantage(step.reward), self._baseline.deviation)
        self._baseline.update(step.reward - expected)

    def _gains(self, observation: np.ndarray) -> np.ndarray:
        """Return the expected gain of every action, (A,)."""
        layer, source, target = _changes(self.view(observation))
        gains: np.ndarray = self._worth.mean[layer, target] - self._worth.mean[layer, source]
        return gains

    def diagnostics(self, observation: np.ndarray, action_masks: np.ndarray) -> Diagnostics:
        """Return the expected gain of every action, and the expected reward of a window without a change."""
        return {"gain": self._gains(observation).tolist(), "expected_reward": self._baseline.mean or 0.0}

    def explain(self, observation: np.ndarray, action_masks: np.ndarray, action: Any) -> Explanation:
        """Return whether another action has a higher expected gain, and the gain of this one."""
        gains = self._gains(observation)
        return bool(gains[int(action)] < gains[action_masks].max()), float(gains[int(action)])

    def save_state(self, folder: Path) -> None:
        """Write the posterior."""
        np.savez(folder / "worth.npz", mean=self._worth.mean, covariance=self._worth.covariance)

    def load_state(self, folder: Path) -> None:
        """Read the posterior."""
        arrays = read_arrays(folder / "worth.npz")
        self._worth.mean, self._worth.covariance = arrays["mean"], arrays["covariance"]


class UCBAgent(ThompsonAgent):
    """Takes the change with the best upper confidence bound, or changes nothing; draws no random numbers."""

    Config = UCBConfig

    @classmethod
    def recommended(cls, config: Any) -> dict[str, Any]:
        """Return the mode in which every layer has its turn: no draw saves it from one bound that is far too high."""
        return {"env.action_mode": "cursor"}

    def _values(self, source: np.ndarray) -> np.ndarray:
        values: np.ndarray = self._worth.mean + self.config.ucb_scale * self._worth.deviations(source)
        return values


def _changes(view: ObservationView) -> Change:
    """Return the change of every action, columns of shape (A,)."""
    pointers: Pointers = view.pointers
    roots = np.array(pointers)
    layer, target = interface.moves(view.num_layers, view.cursor).T
    return Change(layer, roots[layer], np.where(target == layer, layer, roots[target]))
