"""TyingEnv: what every tying environment has in common; what a decision leads to is its backend's business.

One step: action -> pointers -> a window of `decision_interval` iterations -> loss on the reward batches -> reward.
One episode: one run of the backend's iterations; its end is `terminated`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Protocol

import gymnasium
import numpy as np

from envs import actions, observation
from envs.reward import Outcome, Reward, RewardConfig
from tying import strategies
from tying.config import config, one_of, setting
from tying.errors import InputError
from tying.palette import ansi_row
from tying.pointers import Pointers
from tying.records import Decision, Window


@config
class EnvConfig:
    """When and how pointers are decided."""

    action_mode: Annotated[str, one_of(lambda: actions.MODES)] = setting(
        "; ".join(f"{name}: {mode.summary}" for name, mode in actions.MODES.items()), default="cursor"
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


@dataclass(frozen=True)
class Trained:
    """A window and the wall seconds that it took."""

    window: Window
    train_s: float = 0.0
    evaluate_s: float = 0.0


class Backend(Protocol):
    """What trains, or pretends to."""

    num_layers: int
    num_iterations: int

    def reset(self, seed: int) -> None:
        """Begin a new run; cheap, since a vectorised environment resets more often than it is used."""
        ...

    def uniform_loss(self) -> float:
        """Return the loss of a model that knows nothing, log(vocabulary), in nats per token."""
        ...

    def param_share(self, pointers: Pointers) -> float:
        """Return the share of trainable block parameters under any pointers, 0 to 1; cheap, nothing is built for it."""
        ...

    def train(
        self, pointers: Pointers, num_iterations: int, num_batches: int, alternative: Pointers | None = None
    ) -> Trained:
        """Tie as told, train, and evaluate on `num_batches` fixed reward batches.

        With an alternative, the same window is also trained under it, from the same state and on the same batches, for
        `Window.fork_loss` alone: nothing of that branch is left. Equal pointers have equal losses and need no branch.
        """
        ...


DecisionListener = Callable[[Decision, np.ndarray, np.ndarray], None]


class TyingEnv(gymnasium.Env[np.ndarray, Any]):
    """Decide the tying of a run, window by window.

    Action Space: see `envs.actions` (cursor: Discrete(L), pair: Discrete(L(L+1)/2), joint: MultiDiscrete([1..L])).

    Observation Space: a flat float32 Box, see `envs.observation`.

    Rewards: see `envs.reward`; the terms are in `info["reward_terms"]`.

    Starting State: `initial_pointers`, nothing trained. `reset(seed=s)` begins the run of seed s. Without a seed, a
    run that no step was taken in begins again, and otherwise a seed is drawn from the environment's own generator.

    Episode End: `terminated` when the run's iterations are done; never truncated.

    Args:
        backend: What a window of training is.
        config: When and how pointers are decided.
        reward: What the agent is paid for.
        render_mode: None or "ansi": `render()` returns the tying row, one coloured letter per layer.
    """

    metadata = {"render_modes": ["ansi"], "render_fps": 1}  # noqa: RUF012 (Gymnasium's own declaration)

    def __init__(self, backend: Backend, config: EnvConfig, reward: RewardConfig, render_mode: str | None = None) -> None:
        if render_mode not in (None, *self.metadata["render_modes"]):
            raise InputError(f"render_mode {render_mode!r}: allowed are None and 'ansi'")
        self.backend = backend
        self.config = config
        self.reward = Reward(reward)
        self.render_mode = render_mode
        self.on_decision: DecisionListener | None = None
        self._run_seed: int | None = None
        self.initial_pointers = strategies.make(config.initial_pointers, backend.num_layers)
        self.mode = actions.make(config.action_mode, backend.num_layers)
        self.action_space = self.mode.space
        self.observation_space = observation.space(backend.num_layers)
        self._begin()

    @property
    def num_decisions(self) -> int:
        """Decisions in an episode, frozen ones included."""
        return -(-self.backend.num_iterations // self.config.decision_interval)

    @property
    def pointers(self) -> Pointers:
        """The tying in force."""
        return self._pointers

    @property
    def frozen(self) -> bool:
        """Whether pointers no longer move."""
        # Rounded, since 0.55 * 100 is a little more than 55.
        return self._iteration >= round(self.config.freeze_after * self.backend.num_iterations, 6)

    def _begin(self) -> None:
        self._pointers = self.initial_pointers
        self._index = 0
        self._iteration = 0
        self._window: Window | None = None
        self._previous_loss = 0.0
        self.reward.begin()

    @property
    def _cursor(self) -> int:
        movable = self.backend.num_layers - 1
        return 1 + self._index % movable if movable else 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin a run; see the class."""
        super().reset(seed=seed)
        if seed is not None:
            self._run_seed = seed
        elif self._run_seed is None or self._index > 0:
            self._run_seed = int(self.np_random.integers(2**31))
        self.backend.reset(self._run_seed)
        self._begin()
        return self._observe(), {"pointers": list(self._pointers), "num_unique_layers": self._pointers.num_unique}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Take one decision and train a window; see the class.

        Raises:
            InputError: If the action is outside the space, or the episode is over.
        """
        if self._iteration >= self.backend.num_iterations:
            raise InputError("step() after the end of the episode: call reset() first")
        if not self.action_space.contains(action):
            raise InputError(f"action {action!r} is outside the space {self.action_space}")
        before, masks, pointers = self._observe(), self.action_masks(), self._pointers
        frozen, layer = self.frozen, self.mode.layer(action, self._cursor)
        if not frozen:
            self._pointers = self.mode.decode(action, self._pointers, self._cursor)
        trained, outcome = self._train(pointers)
        param_weight = self.reward.param_weight
        reward_terms = self.reward.terms(outcome)
        decision = Decision(
            index=self._index,
            layer=layer,
            action=np.asarray(action).tolist(),
            frozen=frozen,
            pointers=self._pointers,
            reward=float(sum(reward_terms.values())),
            reward_terms=reward_terms,
            window=trained.window,
            train_s=trained.train_s,
            evaluate_s=trained.evaluate_s,
            param_weight=param_weight,
        )
        self._index += 1
        if self.on_decision is not None:
            self.on_decision(decision, before, masks)
        terminated = self._iteration >= self.backend.num_iterations
        return self._observe(), decision.reward, terminated, False, self._info(decision)

    def _train(self, before: Pointers) -> tuple[Trained, Outcome]:
        """Train a window under the pointers in force; `before` are those that the decision found."""
        num_iterations = min(self.config.decision_interval, self.backend.num_iterations - self._iteration)
        alternative = before if self.reward.needs_fork else None
        trained = self.backend.train(self._pointers, num_iterations, self.reward.config.num_batches, alternative)
        self._previous_loss = self._window.reward_loss if self._window else self.backend.uniform_loss()
        self._window = trained.window
        self._iteration += num_iterations
        return trained, Outcome(
            previous_loss=self._previous_loss,
            previous_share=self.backend.param_share(before),
            window=trained.window,
            window_share=num_iterations / self.backend.num_iterations,
        )

    def action_masks(self) -> np.ndarray:
        """Return which actions are legal now (True), flat over all components, as sb3-contrib reads them."""
        if self.frozen:
            return self.mode.unchanged(self._pointers, self._cursor)
        return self.mode.masks(self._pointers, self._cursor)

    def render(self) -> str | None:
        """Return the tying row when `render_mode` is "ansi"."""
        return ansi_row(self._pointers) if self.render_mode == "ansi" else None

    def _observe(self) -> np.ndarray:
        state = observation.State(
            pointers=self._pointers,
            cursor=self._cursor if self.config.action_mode == "cursor" else None,
            remaining=1 - self._iteration / self.backend.num_iterations,
            frozen=self.frozen,
            param_share=self.backend.param_share(self._pointers),
            window=self._window,
            previous_loss=self._previous_loss,
            uniform_loss=self.backend.uniform_loss() if self._window else 1.0,
        )
        return observation.observe(state)

    def _info(self, decision: Decision) -> dict[str, Any]:
        """Return facts of the step; no wall time, so that equal seeds give equal infos."""
        return {
            "pointers": list(decision.pointers),
            "num_unique_layers": decision.pointers.num_unique,
            "param_share": decision.window.param_share,
            "reward_terms": dict(decision.reward_terms),
            "param_weight": decision.param_weight,
            "reward_loss": decision.window.reward_loss,
            "train_loss": decision.window.train_loss,
            "iteration": decision.window.iteration,
            "frozen": decision.frozen,
        }
