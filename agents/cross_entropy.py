"""The cross-entropy method: a policy over patterns that moves towards the best patterns tried (Rubinstein 1999).

As a policy search of reinforcement learning: Mannor, Rubinstein & Gat 2003; Szita & Lőrincz 2006. A pattern is built layer
by layer: a layer joins a group that is there, or begins one, with a probability of its own. The probabilities are the
elite's frequencies. Ranks alone count, so no scale of rewards or of a charge above a budget has to be known.
"""

from collections.abc import Iterator

import numpy as np

from agents.search import LevelSearchAgent, SearchConfig
from tying.config import config, setting
from tying.pointers import Pointers

_NUM_RANDOM = 10  # patterns of the uniform policy before there is an elite
_MIN_ELITE = 4
_DRAWS = 50  # until a pattern is untried


@config
class CrossEntropyConfig(SearchConfig):
    """Hyper-parameters of CrossEntropyAgent."""

    elite: float = setting("share of the patterns tried that the policy imitates [above 0 to 1]", default=0.15, gt=0, le=1)
    uniform: float = setting("share of the uniform policy in the policy [0 to 1]", default=0.3, ge=0, le=1)


class CrossEntropyAgent(LevelSearchAgent):
    """Tries the untied model, some random patterns, and then draws of a policy that imitates the elite."""

    Config = CrossEntropyConfig

    def proposals(self) -> Iterator[Pointers]:
        """See LevelSearchAgent.proposals; patterns are tried anew only where the policy draws hardly any other."""
        yield Pointers.independent(self.num_layers)
        while True:
            policy = self.policy()
            drawn = (self._draw(policy) for _ in range(_DRAWS))
            yield next((pattern for pattern in drawn if not self.tried(pattern)), self._draw(policy))

    def policy(self) -> np.ndarray:
        """Return the weight of every target, (L, L): row layer, column root; the better of the elite count more."""
        layers = np.arange(self.num_layers)
        uniform: np.ndarray = self.targets / self.targets.sum(axis=1, keepdims=True)
        if len(self._levels) < _NUM_RANDOM:
            return uniform
        elite = sorted(self._levels, key=self.level)[-max(_MIN_ELITE, round(self.config.elite * len(self._levels))) :]
        weights = np.zeros_like(uniform)
        for rank, pattern in enumerate(elite, start=1):
            weights[layers, pattern] += rank
        weights /= weights.sum(axis=1, keepdims=True)
        mixed: np.ndarray = (1 - self.config.uniform) * weights + self.config.uniform * uniform
        return mixed

    def _draw(self, policy: np.ndarray) -> Pointers:
        pattern = [0]
        for layer in range(1, self.num_layers):
            choices = [*sorted(set(pattern)), layer]
            weights = policy[layer, choices]
            total = weights.sum()
            pattern.append(int(self._generator.choice(choices, p=weights / total if total else None)))
        return Pointers(pattern)
