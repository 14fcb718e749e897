"""Agent: a policy over tying decisions, which meets the environment through Gymnasium's interface alone.

The least that a new agent needs is `predict`; one that learns overrides `learn_from` (a transition at a time) or `learn`
(the whole loop). Its choices must follow from its seed and from what it is shown, so that interrupted runs can be
resumed.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Self

import gymnasium
import numpy as np
from gymnasium import spaces

from agents import generators
from agents.environment import action_of, masks_of
from tying import interface, schema
from tying.config import build, config, to_dict
from tying.errors import InputError
from tying.files import read_json, replacing
from tying.interface import ObservationView
from tying.pointers import Pointers

Diagnostics = dict[str, float | list[float]]
Explanation = tuple[bool | None, float | None]
Callback = Callable[["Agent"], bool | None]
AGENT_FILE = "agent.json"
GENERATORS_FILE = "generators.json"
_FACTS = schema.shape(agent=str, seed=int, num_layers=int, action_space=str, hyperparameters=dict[str, Any])


class Transition(NamedTuple):
    """One decision as an agent learns from it.

    Attributes:
        observation: What it decided by.
        action: What it chose.
        reward: Of the window that followed.
        next_observation: After the window.
        terminated: Whether the run is over.
        next_masks: The legal actions at next_observation; None: all are.
    """

    observation: np.ndarray
    action: Any
    reward: float
    next_observation: np.ndarray
    terminated: bool
    next_masks: np.ndarray | None


@config
class NoConfig:
    """An agent without hyper-parameters."""


class Agent:
    """A policy over tying decisions.

    Args:
        env: The environment that it will decide in; its spaces are read, it is not stepped.
        seed: Of the agent's own randomness.
        hyperparameters: Fields of the class's `Config`.

    Raises:
        InputError: If a hyper-parameter is wrong, or it cannot decide in the environment (`refusal`).

    Attributes:
        Config: A configuration class (`tying.config`) with the hyper-parameters; the command line offers its fields.
        action_spaces: The kinds of action space that it can decide in.
        needs_telescoping: Whether it adds rewards up and needs a reward whose sums rank patterns (`improvement`, `fork`).
        any_depth: Whether its saved state fits any number of layers.
        resumable: Whether `save_state` writes its whole state, so that runs can be resumed from a snapshot; not inherited,
            since a subclass may have more state (`is_resumable`).
        on_boundary: Called by `learn` wherever its loop could be entered again: all that it was shown is learned from.
        name: The name that it was made by; saved with it.
        env: The environment that it was made for; once it learns, the one that it decides in.
    """

    Config: ClassVar[type] = NoConfig
    action_spaces: ClassVar[tuple[type[spaces.Space[Any]], ...]] = (spaces.Discrete, spaces.MultiDiscrete)
    needs_telescoping: ClassVar[bool] = False
    any_depth: bool = False
    resumable: ClassVar[bool] = False

    def __init__(self, env: gymnasium.Env[Any, Any], seed: int = 0, **hyperparameters: Any) -> None:
        self.env = env
        self.seed = seed
        self.config: Any = build(self.Config, hyperparameters, "agent.")
        self.name = f"{type(self).__module__}:{type(self).__qualname__}"
        self.on_boundary: Callable[[], None] | None = None
        self._view: ObservationView | None = None
        self._num_restored = 0
        refusal = self.refusal(env, self.config)
        if refusal is not None:
            raise InputError(f"agent {self.name!r} {refusal}")

    @classmethod
    def recommended(cls, config: Any) -> Mapping[str, Any]:
        """Return the settings of a run that the agent works best with; a person's own choices stand above them.

        Args:
            config: Its hyper-parameters, a `Config`.

        Returns:
            Dotted names to values: `{"env.action_mode": "cursor", "reward.name": "level"}`.
        """
        return {}

    @classmethod
    def refusal(cls, env: gymnasium.Env[Any, Any], config: Any) -> str | None:
        """Return why it cannot decide in an environment of its `action_spaces`, as said of "agent NAME"; None: it can.

        Args:
            env: Its spaces are read.
            config: The hyper-parameters, a `Config`.
        """
        return None

    @property
    def num_layers(self) -> int:
        """Number of layers L of the environment."""
        assert self.env.observation_space.shape is not None
        return interface.num_layers(self.env.observation_space.shape[0])

    def view(self, observation: np.ndarray) -> ObservationView:
        """Return an observation by name; each is decoded once, since the last one is kept."""
        if self._view is None or self._view.observation is not observation:
            self._view = ObservationView(observation)
        return self._view

    def begin_episode(self, observation: np.ndarray) -> None:
        """Prepare for a run that begins with an observation; called before the first `predict` of every run."""

    def predict(self, observation: np.ndarray, action_masks: np.ndarray | None = None, deterministic: bool = False) -> Any:
        """Return an action.

        Args:
            observation: The environment's flat float32 observation.
            action_masks: True for each legal action, flat over all components; None: all are.
            deterministic: Take the best known action, without exploring.
        """
        raise TypeError(f"{type(self).__name__} does not define predict")

    def learn(
        self,
        env: gymnasium.Env[Any, Any] | int | None = None,
        decisions: int | None = None,
        callback: Callback | None = None,
        *,
        total_timesteps: int | None = None,
    ) -> Self:
        """Decide a number of times, learning on the way; runs that end are followed by new ones.

        Args:
            env: An environment with the spaces of the one that the agent was made for; None: that one.
            decisions: Number of environment steps; `learn(100)` and `learn(total_timesteps=100)` work too.
            callback: Called after every decision; returning False stops.
            total_timesteps: Another name of `decisions`, as in stable-baselines3.

        Raises:
            InputError: If the number of decisions is missing.
        """
        env, decisions = self.requested(env, decisions, total_timesteps)
        self.env = env
        observation, _ = env.reset(seed=self.seed)
        masks = masks_of(env)
        start = self.take_restored()
        if not start:
            self.begin_episode(observation)
        for index in range(start, decisions):
            action = action_of(self, observation, masks)
            next_observation, reward, terminated, truncated, _ = env.step(action)
            next_masks = masks_of(env)
            self.learn_from(Transition(observation, action, float(reward), next_observation, terminated, next_masks))
            observation, masks = next_observation, next_masks
            if self.on_boundary is not None:
                self.on_boundary()
            if callback is not None and callback(self) is False:
                break
            if (terminated or truncated) and index + 1 < decisions:
                observation, _ = env.reset()
                masks = masks_of(env)
                self.begin_episode(observation)
        return self

    def requested(
        self, env: gymnasium.Env[Any, Any] | int | None, decisions: int | None, total_timesteps: int | None
    ) -> tuple[gymnasium.Env[Any, Any], int]:
        """Return the environment and the number of decisions that the arguments of `learn` mean.

        Raises:
            InputError: If the number of decisions is missing.
        """
        if isinstance(env, int):
            env, decisions = None, env
        decisions = total_timesteps if decisions is None else decisions
        if decisions is None or decisions < 0:
            raise InputError(f"learn: decisions = {decisions!r}: expected a whole number of at least 0")
        return self.env if env is None else env, decisions

    def take_restored(self) -> int:
        """Return the number of decisions that a restored agent's run begins after, once; 0 for all others."""
        restored, self._num_restored = self._num_restored, 0
        return restored

    def learn_from(self, step: Transition) -> None:
        """Take in one transition; does nothing unless an agent overrides it."""

    def recommend(self) -> Pointers | None:
        """Return the pattern that it would keep now; None: it does not say.

        Benchmarks use this; otherwise the best pattern tried.
        """
        return None

    def facts(self) -> dict[str, Any]:
        """Return what identifies the files that it was made from, as `Task.facts` does: pairs of a name and a digest."""
        return {}

    def diagnostics(self, observation: np.ndarray, action_masks: np.ndarray) -> Diagnostics:
        """Return figures about an observation, such as Q-values or probabilities; must not draw random numbers."""
        return {}

    def explain(self, observation: np.ndarray, action_masks: np.ndarray, action: Any) -> Explanation:
        """Return whether it took an action to explore, and the value that it gives the action; None where unknown."""
        return None, None

    def metrics(self) -> dict[str, float]:
        """Return figures of its learning since the last call, by TensorBoard tag."""
        return {}

    def save(self, folder: str | Path) -> None:
        """Write the agent to a folder that does not exist yet."""
        with replacing(Path(folder)) as temporary:
            temporary.mkdir(parents=True)
            self._write(temporary)

    def _write(self, folder: Path) -> None:
        facts = {
            "agent": self.name,
            "seed": self.seed,
            "num_layers": self.num_layers,
            "action_space": str(self.env.action_space),
            "hyperparameters": to_dict(self.config),
        }
        (folder / AGENT_FILE).write_text(json.dumps(facts, indent=2))
        self.save_state(folder)

    @classmethod
    def load(cls, folder: str | Path, env: gymnasium.Env[Any, Any]) -> Self:
        """Return the agent that `save` wrote to a folder.

        Args:
            folder: The folder.
            env: An environment of the same depth and actions.

        Raises:
            InputError: If there is none, it is damaged, or it does not fit the environment.
        """
        facts = read_agent(folder)
        agent = cls._unlearned(env, facts["seed"], facts["hyperparameters"])
        agent.name = facts["agent"]
        if not agent.any_depth:
            for name, here in (("num_layers", agent.num_layers), ("action_space", str(env.action_space))):
                if facts[name] != here:
                    raise InputError(
                        f"{folder}: the agent was saved with {name} {facts[name]}, this environment has {here}"
                    )
        with _damage_named(Path(folder), "save the agent again"):
            agent.load_state(Path(folder))
        return agent

    @classmethod
    def _unlearned(cls, env: gymnasium.Env[Any, Any], seed: int, hyperparameters: Mapping[str, Any]) -> Self:
        """Return an agent whose state is about to be loaded."""
        return cls(env, seed, **hyperparameters)

    def snapshot(self, folder: Path) -> None:
        """Write the agent of a run in progress into an empty folder: what `save` writes, and the global generators."""
        self._write(folder)
        (folder / GENERATORS_FILE).write_text(json.dumps(generators.state()))

    def restore(self, folder: Path, decisions: int) -> None:
        """Take over a snapshot, so that the next `learn` continues bit by bit as the snapshot's agent did.

        Args:
            folder: Written by `snapshot` of an agent that was made in the same way.
            decisions: That it was taken after; `reset` of the environment must lead there (`TyingEnv.restore`).

        Raises:
            InputError: If the snapshot is damaged.
        """
        with _damage_named(folder, f"remove {folder.parent}: the record is then replayed whole"):
            self.load_state(folder)
            generators.set_state(read_json(folder / GENERATORS_FILE))
        self._num_restored = decisions

    def save_state(self, folder: Path) -> None:
        """Write what was learned."""

    def load_state(self, folder: Path) -> None:
        """Read what was learned."""


@contextmanager
def _damage_named(folder: Path, way_out: str) -> Iterator[None]:
    try:
        yield
    except InputError as error:
        raise InputError([line if str(folder) in line else f"{folder}: {line}" for line in error.lines]) from error
    except Exception as error:  # each library raises its own types for damaged files
        reason = (str(error).splitlines() or [""])[0]
        raise InputError(f"{folder}: damaged ({type(error).__name__}: {reason}); {way_out}") from error


def is_resumable(agent: Any) -> bool:
    """Return whether an agent's own class says that its saved state is whole."""
    return bool(vars(type(agent)).get("resumable", False))


def read_agent(folder: str | Path) -> dict[str, Any]:
    """Return the facts in a saved agent's folder.

    Raises:
        InputError: If the folder holds no saved agent.
    """
    path = Path(folder) / AGENT_FILE
    if not path.is_file():
        raise InputError(f"{folder}: no saved agent (there is no {AGENT_FILE})")
    return schema.read(path, _FACTS, "save the agent again")


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Return the arrays of an npz file; nothing is unpickled."""
    # numpy leaves a file open that it opened itself and finds damaged.
    with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
        return dict(arrays)
