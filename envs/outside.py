"""Decisions for training that somebody else drives, such as a training loop of another library.

An agent learns in an environment: it calls `step`, and the environment trains. Here the training loop calls, and the
agent's own loop waits in a thread until the next window is measured. The two never run at the same time.
"""

import contextlib
import math
import random
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from queue import SimpleQueue
from typing import Any

import numpy as np
import torch

from envs.base import TyingEnv, instant_sections
from tying.errors import InputError
from tying.pointers import Pointers
from tying.training.record import StepRecord


class _Stopped(BaseException):
    """The training is over; ends the agent's loop."""


class OutsideSimulator:
    """A run whose windows are trained elsewhere.

    Args:
        num_layers: L.
        num_iterations: Of the whole run.
        num_outcomes: What a model that knows nothing guesses among: the vocabulary, or labels.
        param_share: Returns the share of trainable block parameters under any pointers.
    """

    def __init__(
        self, num_layers: int, num_iterations: int, num_outcomes: int, param_share: Callable[[Pointers], float]
    ) -> None:
        self.num_layers = num_layers
        self.num_iterations = num_iterations
        self.param_share = param_share
        self.asked: SimpleQueue[Any] = SimpleQueue()  # records, None at the agent's end, or its failure
        self.answers: SimpleQueue[Mapping[str, Any] | None] = SimpleQueue()  # measurements, or None at the run's end
        self._loss = math.log(num_outcomes)

    def reset(self, seed: int) -> None:
        """Do nothing: there is one run."""

    def uninformed_loss(self) -> float:
        """Return log(num_outcomes)."""
        return self._loss

    def run(self, record: StepRecord, num_batches: int, fork: bool) -> StepRecord:
        """Wait until the window is trained and measured."""
        self.asked.put(record)
        measured = self.answers.get()
        if measured is None:
            raise _Stopped
        return replace(record, **measured)


class Decisions:
    """An agent that decides a run which is trained elsewhere.

    Args:
        simulator: The run.
        make_agent: Returns the agent for an environment; its `learn(env, decisions)` is its whole loop.
        settings: Of the environment, as `gymnasium.make` takes them for instant ones; `decision_interval` among them.
        seed: Of the agent's draws from the global generators, which are its own: the run's are kept.

    Attributes:
        env: The environment that the agent decides in; its `record` is the last decision.
        agent: The agent.

    Raises:
        InputError: If the settings are wrong, the reward needs branches of training, or the agent does not fit.
    """

    def __init__(
        self,
        simulator: OutsideSimulator,
        make_agent: Callable[[TyingEnv], Any],
        settings: Mapping[str, Any],
        seed: int = 0,
    ) -> None:
        self._simulator = simulator
        self.env = TyingEnv(simulator, *instant_sections(settings))
        if self.env.reward.needs_fork:
            raise InputError(
                f"reward.name = {self.env.reward.config.name!r} trains every window twice, which cannot be done here; give "
                "reward.name = 'improvement'"
            )
        self._num_asked = 0
        self._generators = _states_of_seed(seed)
        with self._own_generators():
            self.agent = make_agent(self.env)
        if not callable(getattr(self.agent, "learn", None)):
            raise InputError(f"{type(self.agent).__name__} is no agent: it lacks learn(env, decisions)")
        made_for = getattr(getattr(self.agent, "env", None), "action_space", self.env.action_space)
        if made_for != self.env.action_space:
            raise InputError(f"the agent was made for actions {made_for}, this run has {self.env.action_space}")
        self._thread = threading.Thread(target=self._learn, name="agent", daemon=True)

    def begin(self) -> Pointers:
        """Return the pointers of the first window."""
        with self._own_generators():
            self._thread.start()
            return self._next()

    def after(self, measured: Mapping[str, Any]) -> Pointers | None:
        """Tell the measurements of a window and return the pointers of the next; None after the last.

        Args:
            measured: Fields of StepRecord: `reward_loss`, `block_params` and `independent_block_params` at least.
        """
        with self._own_generators():
            self._simulator.answers.put(measured)
            if self._num_asked < self.env.num_decisions:
                return self._next()
            self._finish()
            return None

    def stop(self) -> None:
        """End the agent's loop where it is."""
        if self._thread.is_alive():
            self._simulator.answers.put(None)
            self._thread.join()

    def _next(self) -> Pointers:
        asked = self._simulator.asked.get()
        if isinstance(asked, BaseException):
            raise asked
        if asked is None:
            raise InputError(
                f"the agent took {self._num_asked} of {self.env.num_decisions} decisions: "
                "its learn() must take as many as it is asked for"
            )
        self._num_asked += 1
        pointers: Pointers = asked.pointers
        return pointers

    def _finish(self) -> None:
        ended = self._simulator.asked.get()
        if isinstance(ended, BaseException):
            raise ended

    def _learn(self) -> None:
        try:
            self.agent.learn(self.env, self.env.num_decisions)
        except _Stopped:
            return
        except BaseException as error:  # raised again where the run asks
            self._simulator.asked.put(error)
        else:
            self._simulator.asked.put(None)

    @contextlib.contextmanager
    def _own_generators(self) -> Iterator[None]:
        run = _states()
        _set_states(self._generators)
        try:
            yield
        finally:
            self._generators = _states()
            _set_states(run)


def _states() -> tuple[Any, Any, Any]:
    return torch.get_rng_state(), np.random.get_state(), random.getstate()


def _set_states(states: tuple[Any, Any, Any]) -> None:
    torch.set_rng_state(states[0])
    np.random.set_state(states[1])
    random.setstate(states[2])


def _states_of_seed(seed: int) -> tuple[Any, Any, Any]:
    return (
        torch.Generator().manual_seed(seed).get_state(),
        np.random.RandomState(seed % 2**32).get_state(),
        random.Random(seed).getstate(),
    )
