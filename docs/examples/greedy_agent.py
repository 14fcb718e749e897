"""An agent in twenty lines: it remembers each choice's reward above the recent average, and takes the best."""

from collections import defaultdict

import numpy as np
from gymnasium import spaces

from agents import Agent


class GreedyAgent(Agent):
    """Running mean of every (layer, target)'s reward above the recent average; one decision in ten explores."""

    action_spaces = (spaces.Discrete,)

    def __init__(self, env, seed=0, **hyperparameters):
        super().__init__(env, seed, **hyperparameters)
        self.generator = np.random.default_rng(seed)
        self.mean, self.recent = defaultdict(float), None

    @classmethod
    def recommended(cls, config):
        """Return the settings of a run that it works best with."""
        return {"env.action_mode": "cursor"}

    def predict(self, observation, action_masks=None, deterministic=False):
        """Return a legal action."""
        legal = np.arange(self.env.action_space.n) if action_masks is None else np.flatnonzero(action_masks)
        if not deterministic and self.generator.random() < 0.1:
            return int(self.generator.choice(legal))
        layer = self.view(observation).cursor
        return int(max(legal, key=lambda target: self.mean[layer, target]))

    def learn_from(self, step):
        """Move the mean of this (layer, target) a fifth of the way towards its reward above the recent average."""
        self.recent = step.reward if self.recent is None else 0.7 * self.recent + 0.3 * step.reward
        choice = self.view(step.observation).cursor, step.action
        self.mean[choice] += 0.2 * (step.reward - self.recent - self.mean[choice])
