"""TableTyingEnv: an instant environment that answers from a TyingBench table instead of training.

A window is a query: the pattern in force is looked up as it was after training from scratch. Every query takes the row of a
seed drawn at random, so that the noise is that of real training; under the reward `fork` both branches take the same seed.
"""

from dataclasses import replace
from typing import Any, Literal

import numpy as np

from envs.base import TyingEnv, instant_sections
from tying.errors import InputError
from tying.pointers import Pointers
from tying.training.record import StepRecord
from tying.tyingbench import DEFAULT, TyingBench

Answers = Literal["seed", "mean"]


class TableSimulator:
    """A table as a simulator; the arguments are TableTyingEnv's.

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
        self._tokens = 0
        self.queries = 0
        self.seconds = 0.0

    def uninformed_loss(self) -> float:
        """Return log(vocabulary)."""
        return self.bench.uninformed_loss

    def param_share(self, pointers: Pointers) -> float:
        """Return the share of trainable block parameters."""
        return float(self.bench.param_shares[self.bench.index(pointers)])

    def run(self, record: StepRecord, num_batches: int, fork: bool) -> StepRecord:
        """Look the pattern up, and for a fork the one before it at the same seed."""
        drawn = int(self._generator.choice(self.bench.seeds))
        seed = None if self.answers == "mean" else drawn
        fork_loss = self._query(record.previous_pointers, seed)["reward_loss"] if fork else None
        answer = self._query(record.pointers, seed)
        loss = answer["reward_loss"]
        return replace(
            record,
            tokens=self._tokens,
            train_loss=loss,
            last_loss=loss,
            reward_loss=loss,
            fork_loss=fork_loss,
            block_params=answer["block_params"],
            independent_block_params=self.bench.independent_block_params,
        )

    def _query(self, pointers: Pointers, seed: int | None) -> dict[str, Any]:
        answer = self.bench.query(pointers, self.budget, seed)
        self.queries += 1
        self.seconds += answer["seconds"]
        self._tokens += answer["tokens"]
        return answer


class TableTyingEnv(TyingEnv):
    """A tying environment that looks results up; `tying/TyingBench-v0`. Spaces and rewards are those of TyingEnv.

    The table has no training losses and no gradients: the reward loss stands for the former, and observations of the latter
    stay 0. `info` has, beside what every environment's has: `regret` of the pattern in force (nats per token, at
    `reward.param_weight`), `normalised_regret` (0 best, 1 worst), and since `reset` `queries` (a fork counts as two) and
    `simulated_seconds` (processor seconds that training took when the table was made).

    Arguments:
        table: A shipped table's name, the path of a CSV file, or a TyingBench.
        num_decisions: Decisions in an episode.
        budget: Share of the run after which patterns are judged, one of the table's.
        answers: "seed": the row of a random seed, with the noise of real training; "mean": the mean over seeds.
        render_mode: None, "ansi" or "rgb_array".
        overrides: Settings of `env` and `reward`, as LayerTyingEnv takes them.
    """

    def __init__(
        self,
        table: str | TyingBench = DEFAULT,
        num_decisions: int = 60,
        budget: float = 1.0,
        answers: Answers = "seed",
        render_mode: str | None = None,
        **overrides: Any,
    ) -> None:
        if not isinstance(num_decisions, int) or num_decisions < 1:
            raise InputError(f"num_decisions = {num_decisions!r}: expected a whole number of at least 1")
        if answers not in ("seed", "mean"):
            raise InputError(f"answers = {answers!r}: allowed are 'seed' and 'mean'")
        config, reward = instant_sections(overrides)
        if config.gradient_statistics:
            raise InputError("gradient_statistics: a table has no gradients; they are seen in tying/LayerTying-v0")
        bench = table if isinstance(table, TyingBench) else TyingBench.load(table)
        bench.losses(budget=budget)  # a budget that is not there is said now
        self.bench = bench
        simulator = TableSimulator(bench, num_decisions, budget, answers)
        super().__init__(simulator, config, reward, render_mode)

    def _info(self) -> dict[str, Any]:
        simulator: TableSimulator = self.simulator  # type: ignore[assignment]
        where = (self.record.pointers, self.record.param_weight, simulator.budget)
        return {
            **super()._info(),
            "regret": self.bench.regret(*where),
            "normalised_regret": self.bench.normalised_regret(*where),
            "queries": simulator.queries,
            "simulated_seconds": simulator.seconds,
        }
