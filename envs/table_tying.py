"""TableTyingEnv: an instant environment that answers from a TyingBench table instead of training.

A window is a query: the pattern in force is looked up as it was after training from scratch. Every query takes the row of a
seed drawn at random, so that the noise is that of real training; under the reward `fork` both branches take the same seed.
"""

from typing import Any, Literal

import numpy as np

from envs.base import EnvConfig, Trained, TyingEnv
from envs.reward import RewardConfig
from envs.tyingbench import DEFAULT, TyingBench
from tying.config import build
from tying.errors import InputError
from tying.pointers import Pointers
from tying.records import Decision, Window

Answers = Literal["seed", "mean"]


class TableBackend:
    """A table as a backend; the arguments are TableTyingEnv's.

    Attributes:
        queries: Rows looked up since the run began; a fork counts as two.
        seconds: Processor seconds that training them took when the table was made.
    """

    def __init__(self, bench: TyingBench, num_decisions: int, budget: float, answers: Answers) -> None:
        self.bench = bench
        self.num_layers = bench.num_layers
        self.num_iterations = num_decisions
        self.budget = budget
        self.answers = answers
        self.reset(0)

    def reset(self, seed: int) -> None:
        """Begin again; the seed determines which rows are drawn."""
        self._generator = np.random.default_rng(seed)
        self._iteration = 0
        self._tokens = 0
        self.queries = 0
        self.seconds = 0.0

    def uniform_loss(self) -> float:
        """Return log(vocabulary)."""
        return self.bench.uniform_loss

    def param_share(self, pointers: Pointers) -> float:
        """Return the share of trainable block parameters."""
        return float(self.bench.param_shares[self.bench.index(pointers)])

    def train(
        self, pointers: Pointers, num_iterations: int, num_batches: int, alternative: Pointers | None = None
    ) -> Trained:
        """Look the pattern up, and the alternative at the same seed."""
        drawn = int(self._generator.choice(self.bench.seeds))
        seed = None if self.answers == "mean" else drawn
        fork_loss = None
        if alternative is not None and alternative != pointers:
            fork_loss = self._query(alternative, seed)["reward_loss"]
        answer = self._query(pointers, seed)
        self._iteration += num_iterations
        loss = answer["reward_loss"]
        window = Window(
            iteration=self._iteration,
            tokens=self._tokens,
            train_loss=loss,
            last_loss=loss,
            reward_loss=loss,
            block_params=answer["block_params"],
            independent_block_params=round(answer["block_params"] / answer["param_share"]),
            fork_loss=loss if alternative == pointers else fork_loss,
        )
        return Trained(window)

    def _query(self, pointers: Pointers, seed: int | None) -> dict[str, Any]:
        answer = self.bench.query(pointers, self.budget, seed)
        self.queries += 1
        self.seconds += answer["seconds"]
        self._tokens += answer["tokens"]
        return answer


class TableTyingEnv(TyingEnv):
    """A tying environment that looks results up; `tying/TyingBench-v0`. Spaces and rewards are those of TyingEnv.

    The table has no training losses and no gradients: the former are the reward loss, and what is observed of the latter
    stays 0. `info` has, beside what every environment's has: `regret` of the pattern in force (nats per token, at
    `reward.param_weight`), `normalised_regret` (0 best, 1 worst), and since `reset` `queries` (a fork counts as two) and
    `simulated_seconds` (processor seconds that training took when the table was made).

    Arguments:
        table: A shipped table's name, the path of a CSV file, or a TyingBench.
        num_decisions: Decisions in an episode.
        budget: Share of the run after which patterns are judged, one of the table's.
        answers: "seed": the row of a random seed, with the noise of real training; "mean": the mean over seeds.
        reward: Fields of RewardConfig.
        render_mode: None or "ansi".
        overrides: Fields of EnvConfig.
    """

    def __init__(
        self,
        table: str | TyingBench = DEFAULT,
        num_decisions: int = 60,
        budget: float = 1.0,
        answers: Answers = "seed",
        reward: dict[str, Any] | None = None,
        render_mode: str | None = None,
        **overrides: Any,
    ) -> None:
        if num_decisions < 1:
            raise InputError(f"num_decisions = {num_decisions}: at least 1")
        if answers not in ("seed", "mean"):
            raise InputError(f"answers = {answers!r}: allowed are 'seed' and 'mean'")
        config = build(EnvConfig, {"decision_interval": 1, **overrides})
        if config.gradient_statistics:
            raise InputError("gradient_statistics: a table has no gradients; they are seen in tying/LayerTying-v0")
        bench = table if isinstance(table, TyingBench) else TyingBench.load(table)
        bench.losses(budget=budget)  # a budget that is not there is said now
        self.bench = bench
        backend = TableBackend(bench, num_decisions, budget, answers)
        super().__init__(backend, config, build(RewardConfig, reward or {}, "reward."), render_mode)

    def _info(self, decision: Decision) -> dict[str, Any]:
        backend: TableBackend = self.backend  # type: ignore[assignment]
        where = (decision.pointers, decision.param_weight, backend.budget)
        return {
            **super()._info(decision),
            "regret": self.bench.regret(*where),
            "normalised_regret": self.bench.normalised_regret(*where),
            "queries": backend.queries,
            "simulated_seconds": backend.seconds,
        }
