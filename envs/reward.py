"""Rewards: a sum of named terms, each of them logged.

Terms are in nats per token over the whole run: what a window contributes is weighed by its share of the run where
it is a level rather than a difference. So the undiscounted return does not depend on how many decisions a run is cut
into, and `param_weight` has a meaning: what an untied model would have to gain in log-perplexity over one with no
block parameters at all to be worth it.

To add a reward, write a function under `@_reward`.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

from tying.config import config, one_of, setting
from tying.records import Window


@dataclass(frozen=True)
class Outcome:
    """What a reward is computed from.

    Attributes:
        previous_loss: Log-perplexity on the reward batches before the window, nats per token.
        window: The window of training after the decision.
        window_share: The window's iterations as a share of the run's.
    """

    previous_loss: float
    window: Window
    window_share: float


_Terms = dict[str, float]
_Function = Callable[["RewardConfig", Outcome], _Terms]
_REWARDS: dict[str, _Function] = {}


def _reward(function: _Function) -> _Function:
    _REWARDS[function.__name__] = function
    return function


def _param_term(config: "RewardConfig", outcome: Outcome) -> float:
    return -config.param_weight * outcome.window.param_share * outcome.window_share


@_reward
def improvement(config: "RewardConfig", outcome: Outcome) -> _Terms:
    """Fall of log-perplexity since the last decision, and the price of parameters.

    The falls of a run add up to its whole improvement, so nothing but the final model and the parameters is paid for.
    """
    return {
        "improvement": outcome.previous_loss - outcome.window.reward_loss,
        "params": _param_term(config, outcome),
    }


@_reward
def level(config: "RewardConfig", outcome: Outcome) -> _Terms:
    """Minus log-perplexity, averaged over the run, and the price of parameters: learning early pays as well."""
    return {"level": -outcome.window.reward_loss * outcome.window_share, "params": _param_term(config, outcome)}


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
        "price of training all block parameters through the whole run [nats per token, >= 0]", default=0.1, ge=0
    )
    num_batches: int = setting(
        "fixed batches of the reward split that each decision is judged on [batches, >= 1]", default=2, ge=1
    )


def terms(config: RewardConfig, outcome: Outcome) -> _Terms:
    """Return the named terms of a decision's reward; the reward is their sum."""
    return _REWARDS[config.name](config, outcome)
