"""An agent in twenty lines: it remembers how much better than of late each choice for a layer paid, and takes the best."""

from collections import defaultdict

import numpy as np
from gymnasium import spaces

from agents import Agent
from tying.layout import View


class GreedyAgent(Agent):
    """Running mean of what every (layer, target) paid above the recent average; one decision in ten explores."""

    action_spaces = (spaces.Discrete,)

    def __init__(self, env, seed=0, **hyperparameters):
        super().__init__(env, seed, **hyperparameters)
        self.generator = np.random.default_rng(seed)
        self.mean, self.recent = defaultdict(float), None

    @classmethod
    def wishes(cls, config):
        """Return the settings of a run that it needs."""
        return {"env.action_mode": "cursor"}

    def predict(self, observation, action_masks=None, deterministic=False):
        """Return a legal action."""
        legal = np.flatnonzero(np.ones(self.env.action_space.n) if action_masks is None else action_masks)
        if not deterministic and self.generator.random() < 0.1:
            return int(self.generator.choice(legal))
        return int(max(legal, key=lambda target: self.mean[View(observation).cursor, target]))

    def learn_from(self, observation, action, reward, following, terminated):
        """Move the mean of this (layer, target) a fifth of the way towards what it paid."""
        self.recent = reward if self.recent is None else 0.7 * self.recent + 0.3 * reward
        choice = View(observation).cursor, action
        self.mean[choice] += 0.2 * (reward - self.recent - self.mean[choice])
