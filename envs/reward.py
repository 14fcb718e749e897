"""Rewards: a sum of named terms, each of them logged.

Terms are in nats per token over the whole run, so that the undiscounted return does not depend on how many decisions a
run is cut into. Parameters are charged when their number changes: `params` is the change of their share times
`param_weight`, as `improvement` is the change of the loss. Both telescope (they are potential-based, Ng, Harada & Russell
1999), so only the final model and its parameters are rewarded, and a decision's charge is known at once and in full. So
`param_weight` has a meaning: what an untied model would have to gain in log-perplexity over one with no block parameters
at all to be worth it. Where pointers move the cache of keys and values, `cache_weight` charges the change of
its size likewise.

To add a reward, write a function under `@reward`: (RewardConfig, StepRecord) to named terms. Functions are pure; the
state of a reward within an episode is in `Reward`. Another person's reward is named "package.module:function".
"""

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Annotated, Any

import numpy as np

from tying import registry
from tying.config import config, one_of, setting
from tying.errors import DivergenceError, InputError
from tying.pointers import Pointers
from tying.training.record import StepRecord

Terms = dict[str, float]
Function = Callable[["RewardConfig", StepRecord], Terms]


@dataclass(frozen=True)
class Kind:
    """A kind of reward.

    Attributes:
        terms: Its function.
        needs_fork: Whether it reads `StepRecord.fork_loss`.
        telescopes: Whether rewards of a run add up to the quality of its last pattern, so that sums of rewards rank
            patterns.
    """

    terms: Function
    needs_fork: bool = False
    telescopes: bool = False


REWARDS: dict[str, Kind] = {}


def reward(*, needs_fork: bool = False, telescopes: bool = False) -> Callable[[Function], Function]:
    """Register a function under its name; see `Kind` for the arguments."""

    def register(function: Function) -> Function:
        REWARDS[function.__name__] = Kind(function, needs_fork, telescopes)
        return function

    return register


def kind(name: str) -> Kind:
    """Return a kind of reward by name; another person's function may have attributes named as those of `Kind`.

    Raises:
        InputError: If there is none of that name, or it cannot be imported.
    """
    found = registry.find("reward", name, REWARDS)
    if isinstance(found, Kind):
        return found
    try:
        inspect.signature(found).bind(None, None)
    except (TypeError, ValueError) as error:
        raise InputError(f"reward {name!r} is no function of (RewardConfig, StepRecord)") from error
    return Kind(found, getattr(found, "needs_fork", False), getattr(found, "telescopes", False))


def _charged(config: "RewardConfig", share: Any) -> Any:
    """Return the share of parameters that is charged for; an array for an array."""
    return np.maximum(share, config.param_free) if config.param_free else share


def _param_change(config: "RewardConfig", record: StepRecord) -> float:
    change = _charged(config, record.param_share) - _charged(config, record.previous_share)
    return -config.param_weight * change  # type: ignore[no-any-return]


@reward(telescopes=True)
def improvement(config: "RewardConfig", record: StepRecord) -> Terms:
    """Fall of log-perplexity since the last decision, minus param_weight x the rise of the share of parameters.

    The falls of a run add up to its whole improvement, so only the final model and its parameters are rewarded.
    """
    return {"improvement": record.previous_loss - record.reward_loss, "params": _param_change(config, record)}


@reward(needs_fork=True, telescopes=True)
def fork(config: "RewardConfig", record: StepRecord) -> Terms:
    """Log-perplexity after the same window without the change minus that with it, and the charge for parameters added.

    Both branches start from the same state and see the same batches and the same dropout, so what they have in common
    cancels: the progress of the run and its noise. A decision that changes nothing earns exactly 0.
    """
    assert record.fork_loss is not None  # asked for by needs_fork
    return {"fork": record.fork_loss - record.reward_loss, "params": _param_change(config, record)}


@reward()
def level(config: "RewardConfig", record: StepRecord) -> Terms:
    """Minus log-perplexity and minus param_weight x the share, averaged over the run: early learning is rewarded."""
    return {
        "level": -record.reward_loss * record.window_share,
        "params": -config.param_weight * _charged(config, record.param_share) * record.window_share,
    }


@reward()
def paper(config: "RewardConfig", record: StepRecord) -> Terms:
    """Minus the perplexity of one training batch, clipped to -10 to 10 (Hay & Wolf 2024, as coded); nothing for parameters.

    Constant while perplexity is above 10, which is why it is not the default.
    """
    perplexity = math.exp(min(record.last_loss, 50.0))
    return {"paper": max(-10.0, min(10.0, -perplexity))}


@config
class RewardConfig:
    """The terms of the reward."""

    name: Annotated[str, one_of(lambda: REWARDS, registry.is_foreign)] = setting(
        "; ".join(f"{name}: {(found.terms.__doc__ or '').partition('.')[0]}" for name, found in REWARDS.items())
        + "; or package.module:function",
        default="improvement",
    )
    param_weight: float = setting(
        "weight of the share of block parameters, 1 for the untied model [nats per token, 0 to 1e6]",
        default=0.1,
        ge=0,
        le=1e6,
    )
    param_free: float = setting(
        "share of block parameters up to which none are charged: param_weight is for those above it [0 to 1]",
        default=0.0,
        ge=0,
        le=1,
    )
    param_target: float | None = setting(
        "share of block parameters that param_weight is steered to; None keeps the weight [above 0 to 1]",
        default=None,
        gt=0,
        le=1,
    )
    cache_weight: float = setting(
        "weight of the share of cache bytes per token, 1 for the untied model; under every reward "
        "(model.kv_sharing or model.attention_sharing tied) [nats per token, 0 to 1e6]",
        default=0.0,
        ge=0,
        le=1e6,
    )
    # A share that is 0.3 too high raises the weight from 0.1 by half its size per decision: in some ten decisions it
    # exceeds the worth of a layer, and a run of 60 decisions has time to settle.
    dual_rate: float = setting(
        "with param_target: rise of param_weight per decision and unit of share above it [nats per token, >= 0]",
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
        "fixed batches of the reward split that each decision is evaluated on [batches, >= 1]", default=2, ge=1
    )
    # Nothing is decided by these evaluations; they cost the preset `mini` a seventh of its time when every window had one.
    frozen_interval: int = setting(
        "once pointers no longer move: evaluate each so many-th window and the last, where rewards telescope [>= 1]",
        default=32,
        ge=1,
    )


def require_cache(config: RewardConfig, moves_cache: bool) -> None:
    """Check that there is a cache to be charged for, if it is charged for.

    Raises:
        InputError: If pointers move none.
    """
    if config.cache_weight and not moves_cache:
        raise InputError(
            f"reward.cache_weight = {config.cache_weight}: pointers move no cache here, as they do with model.kv_sharing "
            "or model.attention_sharing = 'tied'"
        )


class Reward:
    """A reward and its state within an episode.

    Args:
        config: The terms of the reward.
        cache_share: Returns the bytes of the cache under any pointers as a share of the untied model's; None where
            pointers move none.

    Raises:
        InputError: If a cache is charged for that pointers do not move.

    Attributes:
        param_weight: The weight in force, nats per token: that of the next `rewarded`.
        needs_fork: Whether records must know `fork_loss`.
        telescopes: Whether a window may go without evaluation: the next one's reward makes up for it.
    """

    def __init__(self, config: RewardConfig, cache_share: Callable[[Pointers], float] | None = None) -> None:
        require_cache(config, cache_share is not None)
        self.config = config
        self._cache_share = cache_share
        self._kind = kind(config.name)
        self.needs_fork, self.telescopes = self._kind.needs_fork, self._kind.telescopes
        self.begin()

    def begin(self) -> None:
        """Forget the episode."""
        self.param_weight = self.config.param_weight
        self._average: float | None = None

    def terms(self, record: StepRecord) -> Terms:
        """Return the terms of a record at the weight in force; of arrays in its place, where a reward is arithmetic."""
        weight = self.param_weight
        # A configuration is checked whenever it is made, which takes longer than all the rest.
        config = self.config if weight == self.config.param_weight else replace(self.config, param_weight=weight)
        terms = self._kind.terms(config, record)
        if config.cache_weight and self._cache_share is not None:
            change = self._cache_share(record.pointers) - self._cache_share(record.previous_pointers)
            terms = {**terms, "cache": -config.cache_weight * change}
        return terms

    def rewarded(self, record: StepRecord) -> StepRecord:
        """Return the next record of the episode with its reward; remember it."""
        weight, terms = self.param_weight, self.terms(record)
        reward = sum(terms.values())
        if not math.isfinite(reward):
            raise DivergenceError(f"decision {record.decision}: reward {reward} from the terms {terms}")
        if self.config.baseline:
            terms["baseline"] = -self._average if self._average is not None else 0.0
        self._remember(reward)
        if self.config.param_target is not None:
            self._steer(record.param_share - self.config.param_target)
        return record.having(reward=float(sum(terms.values())), reward_terms=terms, param_weight=weight)

    def _remember(self, reward: float) -> None:
        before = reward if self._average is None else self._average
        self._average = self.config.baseline * before + (1 - self.config.baseline) * reward

    def _steer(self, excess: float) -> None:
        """Take one step of dual ascent: the weight is the multiplier of `share <= target`."""
        self.param_weight = max(0.0, self.param_weight + self.config.dual_rate * excess)
