"""The goal of a trial: what an agent is rewarded for, and what the pattern that it keeps is judged by.

Either the loss plus a weight times the share of parameters, over all seeds of a table; or the loss alone within a budget of
sets of weights, judged on slices of the text that the agent never sees.
"""

import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from envs.table import Answers
from tying.errors import InputError
from tying.pointers import Pointers
from tying.tyingbench import TyingBench


@dataclass(frozen=True)
class Goal:
    """What a trial asks, is rewarded for, and is judged by.

    Attributes:
        table: The rows that are asked.
        answers: How; see TableTyingEnv. To answers of single seeds an agent may say which pattern it would keep; means are
            exact, and the best pattern that was asked is kept.
        reward: Settings of the reward, `param_weight` and `param_free`.
        regrets: Pattern to normalised regret, 0 the best and 1 the worst.
        budget: Share of the run after which patterns are judged.
    """

    table: TyingBench
    answers: Answers
    reward: Mapping[str, float]
    regrets: Mapping[Pointers, float]
    budget: float = 1.0

    def objective(self, loss: float, share: float) -> float:
        """Return what the reward falls by as it rises: the loss and the charge for parameters."""
        return loss + self.reward["param_weight"] * max(share, self.reward["param_free"])


def weighted(bench: TyingBench, param_weight: float, budget: float = 1.0) -> Goal:
    """Return the goal of the lowest mean test loss plus weighted share of parameters; agents see single seeds."""
    regrets = {pattern: bench.normalised_regret(pattern, param_weight, budget) for pattern in bench.patterns}
    return Goal(bench, "seed", {"param_weight": param_weight, "param_free": 0.0}, regrets, budget)


@functools.cache
def within(bench: TyingBench, sets: int, rotation: int = 0, budget: float = 1.0) -> Goal:
    """Return the goal of the lowest loss with at most K sets of weights, on slices that are not asked.

    Agents see the mean reward loss over half of the slices, rounded down. Each set above K costs as much as a model that
    knows nothing, or as the worst answer, if that is more: nothing above K is better than what is within it. The pattern
    kept is judged by its mean test loss over the other slices, as a share of the way from the best to the worst pattern of
    at most K sets; one above K counts as the worst.

    Args:
        bench: A table; its seeds are the slices.
        sets: K.
        rotation: Number of the first slice that is asked.
        budget: Share of the run after which patterns are judged.

    Raises:
        InputError: If there are not so many sets, or slices to set aside.
    """
    most = check(bench, sets)
    count = len(bench.seeds)
    asked = {bench.seeds[(rotation + number) % count] for number in range(count // 2)}
    others = [number for number, seed in enumerate(bench.seeds) if seed not in asked]
    allowed = bench.param_shares <= sets / most
    losses = bench.losses("test", budget)[:, others].mean(axis=1)
    best, worst = losses[allowed].min(), losses[allowed].max()
    regrets = np.where(allowed, (losses - best) / ((worst - best) or 1.0), 1.0)
    table = TyingBench([row for row in bench.rows if row.seed in asked], bench.facts)
    charge = max(bench.uninformed_loss, float(table.losses("reward", budget).max()))
    reward = {"param_weight": most * charge, "param_free": sets / most}
    return Goal(table, "mean", reward, dict(zip(bench.patterns, regrets.tolist(), strict=True)), budget)


def check(bench: TyingBench, sets: int) -> int:
    """Return the sets of weights of the untied model.

    Raises:
        InputError: See `within`.
    """
    most = bench.parts.num_layers
    if not 1 <= sets < most:
        raise InputError(f"--sets {sets}: the table's model has {most} sets; allowed are 1 to {most - 1}")
    if len(bench.seeds) < 2:
        raise InputError(f"--sets {sets}: the table has 1 seed; at least 2 are needed, to judge on those not asked")
    return most


def after_asking(bench: TyingBench, sets: int, patterns: Iterable[Pointers]) -> np.ndarray:
    """Return the regret of the best of some patterns within K sets, all of them asked, for every rotation."""
    many, found = list(patterns), []
    for rotation in range(len(bench.seeds)):
        goal = within(bench, sets, rotation)
        answers = [goal.table.query(pattern) for pattern in many]
        objectives = [goal.objective(answer["reward_loss"], answer["param_share"]) for answer in answers]
        found.append(goal.regrets[many[int(np.argmin(objectives))]])
    return np.array(found)
