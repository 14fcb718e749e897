"""Rewards: a sum of named terms, each of them logged.

Terms are in nats per token over the whole run, so that the undiscounted return does not depend on how many decisions a
run is cut into. What is bought is priced when it changes: `params` pays for the change of the share of parameters, as the
loss is paid for by its fall. Both telescope (they are potential-based, Ng, Harada & Russell 1999): nothing but the final
model and its parameters is paid for, and a decision's price shows at once and in full. So `param_weight` has a meaning:
what an untied model would have to gain in log-perplexity over one with no block parameters at all to be worth it.

To add a reward, write a function under `@_reward`. Functions are pure; what a reward remembers within an episode is in
`Reward`.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Annotated

from tying.config import config, one_of, setting
from tying.records import Window


@dataclass(frozen=True)
class Outcome:
    """What a reward is computed from.

    Attributes:
        previous_loss: Log-perplexity on the reward batches before the window, nats per token.
        previous_share: Share of block parameters under the pointers in force before the decision, 0 to 1.
        window: The window of training after the decision.
        window_share: The window's iterations as a share of the run's.
    """

    previous_loss: float
    previous_share: float
    window: Window
    window_share: float


_Terms = dict[str, float]
_Function = Callable[["RewardConfig", Outcome], _Terms]
_REWARDS: dict[str, _Function] = {}
_NEED_FORK: set[str] = set()


def _reward(function: _Function) -> _Function:
    _REWARDS[function.__name__] = function
    return function


def _needs_fork(function: _Function) -> _Function:
    """Mark a reward that also looks at the branch without the change, `Window.fork_loss`."""
    _NEED_FORK.add(function.__name__)
    return function


def _param_change(config: "RewardConfig", outcome: Outcome) -> float:
    return -config.param_weight * (outcome.window.param_share - outcome.previous_share)


@_reward
def improvement(config: "RewardConfig", outcome: Outcome) -> _Terms:
    """Fall of log-perplexity since the last decision, and the price of the parameters that it added.

    The falls of a run add up to its whole improvement, so nothing but the final model and its parameters is paid for.
    """
    return {
        "improvement": outcome.previous_loss - outcome.window.reward_loss,
        "params": _param_change(config, outcome),
    }


@_reward
@_needs_fork
def fork(config: "RewardConfig", outcome: Outcome) -> _Terms:
    """Log-perplexity after the same window without the change minus that with it, and the price of the parameters added.

    Both branches start from the same state and see the same batches and the same dropout, so what they have in common
    cancels: the progress of the run and its noise. A decision that changes nothing earns exactly 0.
    """
    assert outcome.window.fork_loss is not None  # asked for by @_needs_fork
    return {"fork": outcome.window.fork_loss - outcome.window.reward_loss, "params": _param_change(config, outcome)}


@_reward
def level(config: "RewardConfig", outcome: Outcome) -> _Terms:
    """Minus log-perplexity, and the price of parameters, both averaged over the run: learning early pays as well."""
    return {
        "level": -outcome.window.reward_loss * outcome.window_share,
        "params": -config.param_weight * outcome.window.param_share * outcome.window_share,
    }


@_reward
def paper(config: "RewardConfig", outcome: Outcome) -> _Terms:
    """Minus the perplexity of one training batch, clipped to -10 to 10 (Hay & Wolf 2024, as coded); nothing for parameters.

    Constant while perplexity is above 10, which is why it is not the default.
    """
    perplexity = math.exp(min(outcome.window.last_loss, 50.0))
    return {"paper": max(-10.0, min(10.0, -perplexity))}


@config
class RewardConfig:
    """What the agent is paid for."""

    name: Annotated[str, one_of(lambda: _REWARDS)] = setting(
        "; ".join(f"{name}: {(function.__doc__ or '').partition('.')[0]}" for name, function in _REWARDS.items()),
        default="improvement",
    )
    param_weight: float = setting(
        "price of all block parameters of the untied model [nats per token, >= 0]", default=0.1, ge=0
    )
    param_target: float | None = setting(
        "share of block parameters that the price is steered to, from param_weight on; None keeps the price [above 0 to 1]",
        default=None,
        gt=0,
        le=1,
    )
    # A share that is 0.3 too high raises the price from 0.1 by half its size per decision: in some ten decisions it
    # outweighs what a layer is worth, and a run of 60 decisions has time to settle.
    dual_rate: float = setting(
        "with param_target: rise of the price per decision and unit of share above it [nats per token, >= 0]",
        default=0.2,
        ge=0,
    )
    baseline: float = setting(
        "subtract the moving average of the rewards so far: its decay per decision, 0 for none [0 to below 1]",
        default=0.0,
        ge=0,
        lt=1,
    )
    num_batches: int = setting(
        "fixed batches of the reward split that each decision is judged on [batches, >= 1]", default=2, ge=1
    )


class Reward:
    """A reward and what it remembers within an episode.

    Args:
        config: What the agent is paid for.

    Attributes:
        param_weight: The price in force, nats per token: that of the next `terms`.
    """

    def __init__(self, config: RewardConfig) -> None:
        self.config = config
        self.begin()

    @property
    def needs_fork(self) -> bool:
        """Whether windows must know `fork_loss`."""
        return self.config.name in _NEED_FORK

    def begin(self) -> None:
        """Forget the episode."""
        self.param_weight = self.config.param_weight
        self._average: float | None = None

    def terms(self, outcome: Outcome) -> _Terms:
        """Return the named terms of the next decision's reward, which is their sum; remember it."""
        terms = _REWARDS[self.config.name](replace(self.config, param_weight=self.param_weight), outcome)
        reward = sum(terms.values())
        if self.config.baseline:
            terms["baseline"] = -self._average if self._average is not None else 0.0
        self._remember(reward)
        if self.config.param_target is not None:
            self._steer(outcome.window.param_share - self.config.param_target)
        return terms

    def _remember(self, reward: float) -> None:
        before = reward if self._average is None else self._average
        self._average = self.config.baseline * before + (1 - self.config.baseline) * reward

    def _steer(self, excess: float) -> None:
        """Take one step of dual ascent: the price is the multiplier of `share <= target`."""
        self.param_weight = max(0.0, self.param_weight + self.config.dual_rate * excess)
