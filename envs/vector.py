"""TableTyingVectorEnv: a batch of table environments that steps in numpy.

`gymnasium.make_vec("tying/TyingBench-v0", num_envs=256, vectorization_mode="vector_entry_point")`. Step by step and bit for
bit it does what as many single environments with the same seeds do, under autoreset mode NEXT_STEP. N environments, L
layers, A actions (all components together), P patterns of the table.
"""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from envs import actions, observation
from envs.table import TableSimulator, TableTyingEnv
from tying.errors import InputError

# Rewards that are sums and products, so that numpy's arrays go through the same function as single numbers.
_REWARDS = ("improvement", "level", "fork")
_UNKNOWN = -1


class TableTyingVectorEnv(VectorEnv[np.ndarray, Any, np.ndarray]):
    """As `TableTyingEnv`, N at once: all begin and end together.

    Args:
        num_envs: N.
        arguments: Of `TableTyingEnv`; the reward is improvement, level or fork, with neither `param_target` nor `baseline`.

    Raises:
        InputError: If an argument is wrong, or the reward or the action mode is not computed in batches.
    """

    metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP}  # noqa: RUF012 (Gymnasium's own declaration)

    def __init__(self, num_envs: int = 1, **arguments: Any) -> None:
        if not isinstance(num_envs, int) or num_envs < 1:
            raise InputError(f"num_envs = {num_envs!r}: expected a whole number of at least 1")
        one = TableTyingEnv(**arguments)
        _check(one)
        self.num_envs = num_envs
        self.single_action_space, self.single_observation_space = one.action_space, one.observation_space
        self.action_space = batch_space(one.action_space, num_envs)
        self.observation_space = batch_space(one.observation_space, num_envs)
        self._one = one
        self._simulator: TableSimulator = one.simulator  # type: ignore[assignment]
        self._answers, self._patterns = self._simulator.answers, one.bench.patterns
        self._transitions = _Transitions(one)
        self._lists = [list(pattern) for pattern in self._patterns]
        self._num_unique = np.array([pattern.num_unique for pattern in self._patterns])
        self._of_pattern = np.stack([observation.of_pattern(pattern) for pattern in self._patterns])
        self._generators: list[np.random.Generator | None] = [None] * num_envs
        self._seeds: list[int | None] = [None] * num_envs
        self._begin(np.zeros(num_envs, dtype=np.int64))

    def _begin(self, seeds: Sequence[int] | np.ndarray) -> None:
        num_windows = self._simulator.num_iterations
        self._rows = np.stack([self._answers.draw(int(seed), num_windows) for seed in seeds], axis=1)  # (windows, N)
        self._decision = self._iteration = 0
        self._places = np.full(self.num_envs, self._one.bench.index(self._one.initial_pointers))
        self._loss = np.full(self.num_envs, self._simulator.uninformed_loss())
        self._queries = np.zeros(self.num_envs, dtype=np.int64)
        self._seconds = np.zeros(self.num_envs)

    @property
    def _frozen(self) -> bool:
        return self._iteration >= self._one.freeze_iteration

    @property
    def _cursor(self) -> int:
        return self._one.cursor_of(self._decision)

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin runs, as `TableTyingEnv.reset` does in every environment; a number stands for seed, seed + 1, ...

        Raises:
            InputError: If there are not N seeds, or only some environments are to begin again.
        """
        if options and "reset_mask" in options:
            raise InputError("reset_mask: these environments begin and end together")
        seeds = [None] * self.num_envs if seed is None else seed
        seeds = [seeds + number for number in range(self.num_envs)] if isinstance(seeds, int) else list(seeds)
        if len(seeds) != self.num_envs:
            raise InputError(f"seed: {len(seeds)} numbers for {self.num_envs} environments")
        super().reset(seed=None)
        for number, given in enumerate(seeds):
            if given is not None:
                self._generators[number], _ = seeding.np_random(given)
                self._seeds[number] = given
            elif self._seeds[number] is None or self._decision > 0:
                generator = self._generators[number] or seeding.np_random()[0]
                self._generators[number] = generator
                self._seeds[number] = int(generator.integers(2**31))
        self._begin([known for known in self._seeds if known is not None])
        return self._observe(self._loss), self._in_vector_form(self._tying())

    def step(self, actions: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Take a decision in every environment; the step after the last one of an episode begins the next.

        Args:
            actions: (N,) of a Discrete space, (N, L) of the joint one.

        Raises:
            InputError: If actions are not in the space.
        """
        never = np.zeros(self.num_envs, dtype=bool)
        if self._iteration >= self._simulator.num_iterations:
            begun, info = self.reset()
            return begun, np.zeros(self.num_envs), never, never.copy(), info
        frozen, before = self._frozen, self._places
        flat = self._transitions.flat(actions, self.num_envs)
        if not frozen:
            self._places = self._transitions.next(before, flat, self._cursor)
        record = self._train(before)
        terms: dict[str, Any] = self._one.reward.terms(record)  # type: ignore[arg-type]  # arrays for numbers
        rewards = np.asarray(sum(terms.values()), dtype=np.float64)
        change, self._loss = record.reward_loss - self._loss, record.reward_loss
        over = np.full(self.num_envs, self._iteration >= self._simulator.num_iterations)
        info = self._in_vector_form({**self._tying(), **self._measured(record, terms, frozen)})
        return self._observe(change), rewards, over, never, info

    def _train(self, before: np.ndarray) -> SimpleNamespace:
        """Look the window up; return what rewards read of a record, (N,) each."""
        rows, num_iterations = self._rows[self._decision], self._simulator.num_iterations
        place = self._places, rows
        loss = self._answers.reward_loss[place]
        fork_loss = loss
        if self._one.reward.needs_fork:
            changed = before != self._places
            fork_loss = np.where(changed, self._answers.reward_loss[before, rows], loss)
            self._queries = self._queries + changed
            self._seconds = self._seconds + np.where(changed, self._answers.seconds[before, rows], 0.0)
        self._queries = self._queries + 1
        self._seconds = self._seconds + self._answers.seconds[place]
        window = min(self._one.config.decision_interval, num_iterations - self._iteration)
        self._iteration += window
        self._decision += 1
        return SimpleNamespace(
            reward_loss=loss,
            previous_loss=self._loss,
            fork_loss=fork_loss,
            param_share=self._answers.block_params[place] / self._answers.independent_block_params,
            previous_share=self._one.bench.param_shares[before],
            window_share=window / num_iterations,
        )

    def action_masks(self) -> np.ndarray:
        """Return which actions are legal now, (N, A) bool: one row as `TableTyingEnv.action_masks` has it."""
        return self._transitions.masks(self._places, self._cursor, self._frozen)

    def _observe(self, change: np.ndarray) -> np.ndarray:
        values, simulator = self._of_pattern[self._places], self._simulator
        if self._one.config.action_mode == "cursor":
            observation.mark_cursor(values, self._cursor)
        begun = self._decision > 0
        return observation.finish(
            values,
            remaining=1 - self._iteration / simulator.num_iterations,
            log_perplexity=self._loss / simulator.uninformed_loss() if begun else 1.0,
            change=change if begun else 0.0,
            param_share=self._one.bench.param_shares[self._places],
            frozen=self._frozen,
        )

    def _tying(self) -> dict[str, Any]:
        pointers = np.empty(self.num_envs, dtype=object)
        pointers[:] = [self._lists[place].copy() for place in self._places.tolist()]
        return {"pointers": pointers, "num_unique_layers": self._num_unique[self._places]}

    def _measured(self, record: SimpleNamespace, terms: dict[str, Any], frozen: bool) -> dict[str, Any]:
        weight = self._one.reward.param_weight
        regrets, spread = self._one.bench.regrets(weight, self._simulator.budget)
        regret = regrets[self._places]
        return {
            "param_share": record.param_share,
            "reward_terms": terms,
            "param_weight": np.full(self.num_envs, weight),
            "reward_loss": record.reward_loss,
            "train_loss": record.reward_loss,
            "iteration": np.full(self.num_envs, self._iteration),
            "frozen": np.full(self.num_envs, frozen),
            "regret": regret,
            "normalised_regret": regret / spread if spread else np.zeros(self.num_envs),
            "queries": self._queries,
            "simulated_seconds": self._seconds,
        }

    def _in_vector_form(self, values: dict[str, Any]) -> dict[str, Any]:
        """Put beside every entry `_name` that all environments have it, as Gymnasium's vectors of environments do."""
        info: dict[str, Any] = {}
        for name, value in values.items():
            info[name] = self._in_vector_form(value) if isinstance(value, dict) else value
            info[f"_{name}"] = np.ones(self.num_envs, dtype=bool)
        return info


class _Transitions:
    """What an action mode makes of every pattern and action, asked once for each and then looked up."""

    def __init__(self, one: TableTyingEnv) -> None:
        self._mode, self._bench, self._space = one.mode, one.bench, one.action_space
        num_patterns, num_layers = len(one.bench.patterns), one.bench.num_layers
        if isinstance(one.action_space, spaces.MultiDiscrete):  # what an action means does not depend on the pattern
            self._nvec: tuple[int, ...] = tuple(one.action_space.nvec.tolist())
            self._next = np.full((1, 1, int(np.prod(self._nvec))), _UNKNOWN, dtype=np.int32)
        else:
            self._nvec = (int(one.action_space.n),)  # type: ignore[attr-defined]
            num_cursors = num_layers if one.config.action_mode == "cursor" else 1
            self._next = np.full((num_cursors, num_patterns, *self._nvec), _UNKNOWN, dtype=np.int32)
        self._masks: dict[tuple[int, bool], tuple[np.ndarray, np.ndarray]] = {}

    def flat(self, actions: Any, num_envs: int) -> np.ndarray:
        """Return the numbers of actions, (N,).

        Raises:
            InputError: If they are not in the space.
        """
        given = np.asarray(actions)
        columns = given[:, None] if len(self._nvec) == 1 and given.ndim == 1 else given
        fits = columns.shape == (num_envs, len(self._nvec)) and columns.dtype.kind in "iu"
        if not fits or (columns < 0).any() or (columns >= self._nvec).any():
            raise InputError(f"actions {actions!r}: expected one of {self._space} for every environment")
        numbers: np.ndarray = np.ravel_multi_index(tuple(columns.T), self._nvec)
        return numbers

    def next(self, places: np.ndarray, flat: np.ndarray, cursor: int) -> np.ndarray:
        """Return the numbers of the patterns after actions, (N,)."""
        table = self._next[cursor if len(self._next) > 1 else 0]
        rows = places if len(table) > 1 else np.zeros_like(places)
        found: np.ndarray = table[rows, flat]
        if (found == _UNKNOWN).any():
            for row, number in np.unique(np.stack([rows, flat])[:, found == _UNKNOWN], axis=1).T.tolist():
                action = number if len(self._nvec) == 1 else np.unravel_index(number, self._nvec)
                table[row, number] = self._bench.index(self._mode.decode(action, self._bench.patterns[row], cursor))
            found = table[rows, flat]
        return found.astype(np.int64)

    def masks(self, places: np.ndarray, cursor: int, frozen: bool) -> np.ndarray:
        """Return the masks of patterns, (N, A)."""
        if (cursor, frozen) not in self._masks:
            rows = np.zeros((len(self._bench.patterns), sum(self._nvec)), dtype=bool)
            self._masks[cursor, frozen] = rows, np.zeros(len(rows), dtype=bool)
        rows, known = self._masks[cursor, frozen]
        ask = self._mode.unchanged if frozen else self._mode.masks
        for place in np.unique(places[~known[places]]).tolist():
            rows[place], known[place] = ask(self._bench.patterns[place], cursor), True
        masks: np.ndarray = rows[places]
        return masks


def _check(one: TableTyingEnv) -> None:
    config = one.reward.config
    lines = []
    if config.name not in _REWARDS:
        lines.append(f"reward.name = {config.name!r}: a batch computes {', '.join(_REWARDS)}")
    if config.param_target is not None or config.baseline:
        lines.append("reward.param_target and reward.baseline: a batch has neither; use vectorization_mode='sync'")
    if one.config.action_mode not in actions.MODES:
        lines.append(f"action_mode = {one.config.action_mode!r}: a batch has {', '.join(actions.MODES)}")
    if one.bench.parts.apart and one.config.action_mode == "joint":  # an action's meaning depends on the pattern there
        lines.append("action_mode = 'joint': over halves of layers a batch has cursor, pair")
    if one.render_mode is not None:
        lines.append("render_mode: a batch shows nothing; use vectorization_mode='sync'")
    if lines:
        raise InputError(lines)
