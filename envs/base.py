"""TyingEnv: what every tying environment has in common; the consequence of a decision comes from its simulator.

One step: action -> pointers -> a window of `decision_interval` iterations -> loss on the reward batches -> reward.
One episode: one run of the simulator's iterations; its end is `terminated`.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Protocol

import gymnasium
import numpy as np

from envs import actions, observation
from envs.reward import Reward, RewardConfig
from tying import palette, registry
from tying.config import build, config, fields_of, nested, one_of, setting
from tying.errors import InputError, unknown
from tying.parts import Parts
from tying.pointers import Pointers
from tying.training.record import StepRecord

_INSTANT = {"env", "reward"}


@config
class EnvConfig:
    """When and how pointers are decided."""

    action_mode: Annotated[str, one_of(lambda: actions.MODES, registry.is_foreign)] = setting(
        "; ".join(f"{name}: {mode.summary}" for name, mode in actions.MODES.items()) + "; or package.module:Class",
        default="cursor",
    )
    decision_interval: int = setting("training between two decisions [iterations, >= 1]", default=10, ge=1)
    freeze_after: float = setting("share of the run after which pointers no longer move [0 to 1]", default=1.0, ge=0, le=1)
    initial_pointers: str = setting(
        "pattern at the start: a strategy ('sequence:3') or pointers ('0 1 1 3')", default="independent"
    )
    # Off, since it is 4 % of the training time of small models and most agents do well without.
    gradient_statistics: bool = setting(
        "observe how the gradients of layers agree, at one more backward pass per decision", default=False
    )


def by_section(keywords: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keywords of an environment by section; fields of `env` may go without its name (`action_mode="joint"`)."""
    of_env = fields_of(EnvConfig)
    return nested({f"env.{name}" if name in of_env else name: value for name, value in keywords.items()})


def instant_sections(keywords: Mapping[str, Any], **reward: Any) -> tuple[EnvConfig, RewardConfig]:
    """Return the sections of an environment without training: windows of one iteration, and a reward with other defaults.

    Raises:
        InputError: With one line for every wrong name or value.
    """
    values = by_section(keywords)
    lines = [
        unknown(f"setting {name!r}", name, ("env", "reward", *fields_of(EnvConfig))) for name in values.keys() - _INSTANT
    ]
    sections = {name: values[name] for name in _INSTANT & values.keys()}
    lines += [f"{name} = {v!r}: expected settings by name" for name, v in sections.items() if not isinstance(v, Mapping)]
    if lines:
        raise InputError(lines)
    env = build(EnvConfig, {"decision_interval": 1, **values.get("env", {})}, "env.")
    return env, build(RewardConfig, {**reward, **values.get("reward", {})}, "reward.")


class Simulator(Protocol):
    """The run behind an environment: real training, a formula or a table."""

    num_layers: int
    num_iterations: int
    # One whose tied layers have low-rank deltas has their highest rank too, as `delta_rank`.

    def reset(self, seed: int) -> None:
        """Begin a new run; cheap, since a vectorised environment resets more often than it is used."""
        ...

    def uninformed_loss(self) -> float:
        """Return the loss of a model that knows nothing, log(vocabulary), in nats per token."""
        ...

    def param_share(self, pointers: Pointers) -> float:
        """Return the share of trainable block parameters under any pointers, 0 to 1; cheap, nothing is built for it."""
        ...

    def run(self, record: StepRecord, num_batches: int, fork: bool) -> StepRecord:
        """Train the window that a record describes, and return the record with its measurements.

        Args:
            record: Its `pointers` are tied for `num_iterations` iterations.
            num_batches: Fixed reward batches for `reward_loss`; 0 where nobody needs it, and a simulator that trains saves
                the time: `evaluated` is False then, and `reward_loss` is `previous_loss`.
            fork: Measure `fork_loss` too: the same window under `previous_pointers`, from the same state and on the same
                batches. Nothing of that branch is left.
        """
        ...


Listener = Callable[[StepRecord, np.ndarray, np.ndarray], None]
Explanation = tuple[bool | None, float | None]


class TyingEnv(gymnasium.Env[np.ndarray, Any]):
    """Decide the tying of a run, window by window.

    Action Space: see `envs.actions` (cursor: Discrete(L), pair: Discrete(L(L+1)/2), cursor_rank: Discrete(1 + L R), joint:
    MultiDiscrete([1..L])).

    Observation Space: a flat float32 Box, see `envs.observation`.

    Rewards: see `envs.reward`; the terms are in `info["reward_terms"]`.

    Starting State: `initial_pointers`, nothing trained. `reset(seed=s)` begins the run of seed s. Without a seed, a
    run that no step was taken in begins again, and otherwise a seed is drawn from the environment's own generator.

    Episode End: `terminated` when the run's iterations are done; never truncated.

    Args:
        simulator: The run behind it.
        config: When and how pointers are decided.
        reward: The terms of the reward.
        render_mode: None; "ansi": `render()` returns the tying row, one coloured letter per layer; "rgb_array": the map
            of the episode so far, (height, width, 3) uint8.
        cache_share: See `envs.reward.Reward`.
        parts: The layers that pointers are over; None: the simulator's, whole.

    Attributes:
        record: The last step; decision -1 before the first.
        freeze_iteration: Iterations after which pointers no longer move.
        on_decision: Called with every record, and the observation and masks that the agent decided by.
        explain: Called with (observation, masks, action) before an action has its effect; returns whether the agent
            explored and the value that it gives the action.
    """

    metadata = {"render_modes": ["ansi", "rgb_array"], "render_fps": 4}  # noqa: RUF012 (Gymnasium's own declaration)

    def __init__(
        self,
        simulator: Simulator,
        config: EnvConfig,
        reward: RewardConfig,
        render_mode: str | None = None,
        cache_share: Callable[[Pointers], float] | None = None,
        parts: Parts | None = None,
    ) -> None:
        if render_mode not in (None, *self.metadata["render_modes"]):
            raise InputError(f"render_mode {render_mode!r}: allowed are None, 'ansi' and 'rgb_array'")
        self.simulator = simulator
        self.config = config
        self.reward = Reward(reward, cache_share)
        self.render_mode = render_mode
        self.on_decision: Listener | None = None
        self.explain: Callable[[np.ndarray, np.ndarray, Any], Explanation] | None = None
        self._run_seed: int | None = None
        self._head: Sequence[StepRecord] = ()
        # Rounded, since 0.55 * 100 is a little more than 55.
        self.freeze_iteration = round(config.freeze_after * simulator.num_iterations, 6)
        # Of the deltas of tied layers, which only a simulator that trains has.
        self._highest_rank = getattr(simulator, "delta_rank", 0)
        where = simulator.num_layers, self._highest_rank
        self.mode = actions.make(config.action_mode, *where)
        if parts is not None and parts.apart:
            self.mode = actions.Apart(self.mode, parts)
            self.initial_pointers = parts.make(config.initial_pointers)
        else:
            self.initial_pointers = actions.start(config.initial_pointers, self.mode, *where, moves=config.freeze_after > 0)
        self.action_space = self.mode.space
        self.observation_space = observation.space(simulator.num_layers)
        self._begin()

    @property
    def num_decisions(self) -> int:
        """Decisions in an episode, frozen ones included."""
        return -(-self.simulator.num_iterations // self.config.decision_interval)

    @property
    def pointers(self) -> Pointers:
        """The tying in force."""
        return self.record.pointers

    @property
    def frozen(self) -> bool:
        """Whether pointers no longer move."""
        return self.record.iteration >= self.freeze_iteration

    @property
    def _over(self) -> bool:
        return self.record.iteration >= self.simulator.num_iterations

    @property
    def _cursor(self) -> int:
        return self.cursor_of(self.record.decision + 1)

    def cursor_of(self, decision: int) -> int:
        """Return the layer whose turn a decision is, where layers take turns."""
        movable = self.simulator.num_layers - 1
        return 1 + decision % movable if movable else 0

    def _begin(self) -> None:
        start = self.initial_pointers
        self._start = StepRecord(decision=-1, iteration=0, num_iterations=0, pointers=start, previous_pointers=start)
        self.record = self._start
        self._history: list[tuple[int, Pointers]] = []
        self.reward.begin()

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin a run; see the class."""
        super().reset(seed=seed)
        stepped = len(self._history) > len(self._head)
        if seed is not None:
            self._run_seed = seed
        elif self._run_seed is None or stepped:
            self._run_seed = int(self.np_random.integers(2**31))
        self.simulator.reset(self._run_seed)
        self._begin()
        self._head = () if stepped else self._head
        for record in self._head:
            self._enter(record)
        self._observation = self._observe()
        return self._observation, self._tying()

    def restore(self, records: Sequence[StepRecord]) -> None:
        """Let the run begin after known decisions: `reset` puts the environment into the state after the last of them.

        It does so until a step is taken. The simulator must answer from there too.

        Args:
            records: The first decisions of a run under the same settings; rewards are computed from their measurements.
        """
        self._head = records

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Take one decision and train a window; see the class.

        Raises:
            InputError: If the action is outside the space, or the episode is over.
        """
        if self._over:
            raise InputError("step() after the end of the episode: call reset() first")
        if not self.action_space.contains(action):
            raise InputError(f"action {action!r} is outside the space {self.action_space}")
        observation = self._observation
        # An instant environment without listeners would spend a tenth of its time on masks that nobody reads.
        masks = self.action_masks() if self.on_decision or self.explain else np.empty(0, dtype=bool)
        record = self._decide(action, observation, masks)
        fork = self.reward.needs_fork and record.changed
        record = self.simulator.run(record, self._num_batches(record), fork)
        if self.reward.needs_fork and not fork:
            record = record.having(fork_loss=record.reward_loss)
        self._enter(record)
        if self.on_decision is not None:
            self.on_decision(self.record, observation, masks)
        self._observation = self._observe()
        return self._observation, self.record.reward, self._over, False, self._info()

    def _num_batches(self, record: StepRecord) -> int:
        """Return how many reward batches a window is evaluated on."""
        last = record.iteration >= self.simulator.num_iterations
        skipped = record.frozen and not last and (record.decision + 1) % self.reward.config.frozen_interval > 0
        return 0 if skipped and self.reward.telescopes else self.reward.config.num_batches

    def _enter(self, record: StepRecord) -> None:
        """Take over the state after a window."""
        self.record = self.reward.rewarded(record)
        self._history.append((self.record.iteration, self.record.pointers))

    def _decide(self, action: Any, observation: np.ndarray, masks: np.ndarray) -> StepRecord:
        """Return the record of an action, as far as it is known before the window is trained."""
        before, frozen = self.record, self.frozen
        explored, value = (None, None) if self.explain is None else self.explain(observation, masks, action)
        num_iterations = min(self.config.decision_interval, self.simulator.num_iterations - before.iteration)
        return self._start.having(  # all else is as in a new record, which takes longer to make
            decision=before.decision + 1,
            iteration=before.iteration + num_iterations,
            num_iterations=num_iterations,
            pointers=before.pointers if frozen else self.mode.decode(action, before.pointers, self._cursor),
            previous_pointers=before.pointers,
            layer=self.mode.layer(action, self._cursor),
            action=np.asarray(action).tolist(),
            explored=explored,
            action_value=value,
            frozen=frozen,
            window_share=num_iterations / self.simulator.num_iterations,
            previous_loss=before.reward_loss if before.decision >= 0 else self.simulator.uninformed_loss(),
            previous_share=self.simulator.param_share(before.pointers),
        )

    def action_masks(self) -> np.ndarray:
        """Return which actions are legal now (True), flat over all components, as sb3-contrib reads them."""
        masks = self.mode.unchanged if self.frozen else self.mode.masks
        return masks(self.pointers, self._cursor)

    def render(self) -> Any:
        """Return the tying row or the map of the episode, as `render_mode` says; None without one."""
        if self.render_mode == "ansi":
            return palette.ansi_row(self.pointers)
        if self.render_mode == "rgb_array":
            return palette.picture([(0, self.initial_pointers), *self._history], self.simulator.num_iterations)
        return None

    def _observe(self) -> np.ndarray:
        return observation.observe(
            self.record,
            remaining=1 - self.record.iteration / self.simulator.num_iterations,
            cursor=self._cursor if self.config.action_mode in actions.TURNS else None,
            frozen=self.frozen,
            param_share=self.simulator.param_share(self.pointers),
            uninformed_loss=self.simulator.uninformed_loss() if self.record.decision >= 0 else 1.0,
            highest_rank=self._highest_rank,
        )

    def _tying(self) -> dict[str, Any]:
        pointers = self.pointers
        ranks = {"ranks": list(pointers.ranks or [0] * len(pointers))} if actions.decides_ranks(self.mode) else {}
        return {"pointers": list(pointers), "num_unique_layers": pointers.num_unique, **ranks}

    def _info(self) -> dict[str, Any]:
        """Return facts of the step; no wall time, so that equal seeds give equal infos."""
        record = self.record
        return {
            **self._tying(),
            "param_share": record.param_share,
            "reward_terms": dict(record.reward_terms),
            "param_weight": record.param_weight,
            "reward_loss": record.reward_loss,
            "train_loss": record.train_loss,
            "iteration": record.iteration,
            "frozen": record.frozen,
        }
