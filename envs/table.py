"""TableTyingEnv: an instant environment that answers from a TyingBench table instead of training.

A window is a query: the pattern in force is looked up as it was after training from scratch. Every query takes the row of a
seed drawn at random, so that the noise is that of real training; under the reward `fork` both branches take the same seed.
"""

from typing import Any, Literal

import numpy as np

from envs.base import TyingEnv, instant_sections
from tying.errors import InputError
from tying.pointers import Pointers
from tying.training.record import StepRecord
from tying.tyingbench import DEFAULT, TyingBench

Answers = Literal["seed", "mean"]


class TableAnswers:
    """What a table answers at one budget, by number of the pattern and of the row drawn; for one environment or a batch.

    Args:
        bench: The table, P patterns and S seeds.
        budget: Share of the run after which patterns are judged.
        answers: "seed": a row for every seed, R = S; "mean": one row, R = 1.

    Attributes:
        reward_loss: Nats per token, shape (P, R).
        seconds: Processor seconds of training, (P, R).
        tokens: Of training, (P, R).
        block_params: Trainable parameters of the blocks, (P, R).
        independent_block_params: The same for the untied model.
    """

    def __init__(self, bench: TyingBench, budget: float, answers: Answers) -> None:
        self._num_seeds, self._mean = len(bench.seeds), answers == "mean"
        columns = {name: bench.column(name, budget) for name in ("reward_loss", "seconds", "tokens", "block_params")}
        if self._mean:
            measured = ("reward_loss", "seconds")
            columns = {k: v.mean(axis=1, keepdims=True) if k in measured else v[:, :1] for k, v in columns.items()}
        self.reward_loss, self.seconds, self.tokens, self.block_params = columns.values()
        self.independent_block_params = bench.independent_block_params

    def draw(self, seed: int, num_windows: int) -> np.ndarray:
        """Return the row that every window of a run is answered from, (num_windows,)."""
        rows = np.random.default_rng(seed).integers(self._num_seeds, size=num_windows)
        return np.zeros_like(rows) if self._mean else rows


class TableSimulator:
    """A table as a simulator; the arguments are TableTyingEnv's.

    Attributes:
        answers: What the table says.
        queries: Rows looked up since the run began; a fork counts as two.
        seconds: Processor seconds that training them took when the table was made.
    """

    def __init__(self, bench: TyingBench, num_decisions: int, budget: float, answers: Answers) -> None:
        self.bench = bench
        self.num_layers = bench.num_layers
        self.num_iterations = num_decisions
        self.budget = budget
        self.answers = TableAnswers(bench, budget, answers)
        self._shares = bench.param_shares.tolist()
        self._uninformed_loss = bench.uninformed_loss
        self.reset(0)

    def reset(self, seed: int) -> None:
        """Begin again; the seed determines which rows are drawn."""
        self._rows = iter(self.answers.draw(seed, self.num_iterations).tolist())
        self._tokens = 0
        self.queries = 0
        self.seconds = 0.0

    def uninformed_loss(self) -> float:
        """Return log(vocabulary)."""
        return self._uninformed_loss

    def param_share(self, pointers: Pointers) -> float:
        """Return the share of trainable block parameters."""
        share: float = self._shares[self.bench.index(pointers)]
        return share

    def run(self, record: StepRecord, num_batches: int, fork: bool) -> StepRecord:
        """Look the pattern up, and for a fork the one before it at the same seed."""
        row = next(self._rows)
        fork_loss = self._query((self.bench.index(record.previous_pointers), row)) if fork else None
        place = self.bench.index(record.pointers), row
        loss = self._query(place)
        return record.having(
            tokens=self._tokens,
            train_loss=loss,
            last_loss=loss,
            reward_loss=loss,
            fork_loss=fork_loss,
            block_params=int(self.answers.block_params[place]),
            independent_block_params=self.answers.independent_block_params,
        )

    def _query(self, place: tuple[int, int]) -> float:
        self.queries += 1
        self.seconds += float(self.answers.seconds[place])
        self._tokens += int(self.answers.tokens[place])
        return float(self.answers.reward_loss[place])


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
        super().__init__(simulator, config, reward, render_mode, parts=bench.parts)

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
