"""An agent's decisions in a run of transformers.Trainer, one every so many optimizer steps.

A window is judged by what Trainer says of it: the last `eval_loss` where it evaluates, otherwise the mean of the training
losses that it logged. The decisions stand in Trainer's own `log_history`, which its checkpoints hold: agents are functions
of their seed and of what they are shown, so a resumed run shows the agent its record again and goes on as if never stopped.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from tying import registry
from tying.binding import LayerBinding
from tying.errors import InputError
from tying.pointers import Pointers
from tying.training.layer_statistics import similarities

# By name, since agents and environments stand above this floor.
_DECISIONS, _SIMULATOR = "envs.outside:Decisions", "envs.outside:OutsideSimulator"
_MAKE, _RECOMMENDED = "agents.registry:make", "agents.registry:recommended"
_KEY = "tying"  # of an entry of log_history


class AgentSchedule:
    """Asks an agent for pointers.

    Args:
        agent: A name of the registry of agents; an agent that has decided nothing yet, its class, or a function of the
            environment that returns one.
        every: Optimizer steps between two decisions.
        seed: Of the agent.
        settings: Of the environment and the agent, dotted names to values: {"reward.param_weight": 0.3}.
    """

    def __init__(self, agent: Any, every: int, seed: int, settings: Mapping[str, Any]) -> None:
        own = {name.removeprefix("agent."): value for name, value in settings.items() if name.startswith("agent.")}
        given = {name: value for name, value in settings.items() if not name.startswith("agent.")}
        self._settings = {**given, "env.decision_interval": every}
        self._every = every
        self._seed = seed
        if isinstance(agent, str):
            make = registry.load("agent", agent, _MAKE)
            self._settings = {**registry.load("agent", agent, _RECOMMENDED)(agent, **own), **self._settings}
            self._make: Callable[[Any], Any] = lambda env: make(agent, env, seed, **own)
        elif own:
            raise InputError(f"TyingCallback: settings agent.{min(own)} belong to an agent that is named")
        else:
            self._settings = {**_recommended(agent), **self._settings}
            self._make = agent if callable(agent) else lambda env: agent
        self._run: Any = None

    @property
    def agent(self) -> Any:
        """The agent; None before training begins."""
        return None if self._run is None else self._run.agent

    def begin(self, binding: LayerBinding, model: nn.Module, start: Pointers, args: Any, state: Any) -> None:
        """Make the agent, and show it the decisions of a run that is resumed.

        Raises:
            InputError: If Trainer will not measure every window, or the agent does not fit or decides otherwise.
        """
        self._evaluates = _is_evaluated(args, state, self._every)
        independent = binding.trainable_params_of(Pointers.independent(len(start)))
        simulator = registry.load("environment", "outside", _SIMULATOR)(
            num_layers=len(start),
            num_iterations=state.max_steps,
            num_outcomes=_num_outcomes(model),
            param_share=lambda pointers: binding.trainable_params_of(pointers) / independent,
        )
        settings = {**self._settings, "env.initial_pointers": str(start)}
        self._run = registry.load("environment", "outside", _DECISIONS)(simulator, self._make, settings, self._seed)
        self._begin = 0  # of the window that is trained
        self._pending: Pointers | None = None
        if state.global_step:
            self._replay(binding.pointers, state)

    def decide(self, binding: LayerBinding, state: Any) -> Pointers | None:
        """Return the pointers of a window that begins with this step, or None inside one."""
        if state.global_step % self._every:
            return None
        if state.global_step == 0:
            first: Pointers = self._run.begin()
            return first
        return self._tell(binding, state)

    def end(self, binding: LayerBinding, state: Any) -> None:
        """Tell the agent of the last window, where it was trained whole, and end its loop."""
        if state.global_step == state.max_steps and self._losses(state):
            self._tell(binding, state)
        self._run.stop()

    def _tell(self, binding: LayerBinding, state: Any) -> Pointers | None:
        measured = {
            "reward_loss": self._window_loss(state),
            "block_params": binding.trainable_params,
            "independent_block_params": binding.trainable_params_of(Pointers.independent(binding.num_layers)),
            "similarities": list(similarities(binding)),
        }
        pointers = str(binding.pointers)
        new: Pointers | None = self._run.after(measured)
        entry = {"pointers": pointers, "reward": self._run.env.record.reward, **measured}
        state.log_history.append({"step": state.global_step, _KEY: entry})
        self._begin = state.global_step
        return new

    def _replay(self, pointers: Pointers, state: Any) -> None:
        new = self._run.begin()
        for entry in state.log_history:
            if _KEY in entry:
                known = dict(entry[_KEY])
                expected = known.pop("pointers")
                known.pop("reward")
                _require_same(str(new), expected, self._begin)
                new = self._run.after(known)
                self._begin = entry["step"]
        _require_same(str(new), str(pointers), self._begin)

    def _losses(self, state: Any) -> list[float]:
        key, begin = "eval_loss" if self._evaluates else "loss", self._begin
        return [entry[key] for entry in state.log_history if begin < entry["step"] <= state.global_step and key in entry]

    def _window_loss(self, state: Any) -> float:
        losses = self._losses(state)
        if not losses:
            raise InputError(f"TyingCallback: Trainer logged no loss from step {self._begin} to {state.global_step}")
        return float(losses[-1] if self._evaluates else math.fsum(losses) / len(losses))


def _recommended(agent: Any) -> dict[str, Any]:
    """Return what an agent, or its class, recommends of environments; nothing where it is a mere function."""
    if not hasattr(agent, "recommended"):
        return {}
    config = agent.Config() if isinstance(agent, type) else agent.config  # type: ignore[attr-defined]
    return {k: v for k, v in agent.recommended(config).items() if k.startswith(("env.", "reward."))}


def _require_same(decided: str, known: str, step: int) -> None:
    if decided != known:
        raise InputError(
            f"cannot resume: shown the same run again, the agent chose '{decided}' at step {step}, not '{known}'; give the "
            "callback the same agent, seed and settings"
        )


def _is_evaluated(args: Any, state: Any, every: int) -> bool:
    """Return whether windows are judged by evaluations; check that there is a loss for each.

    Raises:
        InputError: If there is none.
    """
    evaluates = str(getattr(args.eval_strategy, "value", args.eval_strategy)) == "steps" and bool(state.eval_steps)
    name, steps = ("eval_steps", state.eval_steps) if evaluates else ("logging_steps", state.logging_steps)
    logs = evaluates or str(getattr(args.logging_strategy, "value", args.logging_strategy)) == "steps"
    if not logs or not steps or every % steps:
        raise InputError(
            f"TyingCallback: every = {every} must be a multiple of {name} (now {steps}, with strategy 'steps'): the agent "
            "judges a window by the losses that Trainer logs"
        )
    return evaluates


def _num_outcomes(model: Any) -> int:
    """Return the number of tokens or labels that a model chooses among."""
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    return max(2, int(head.weight.shape[0] if head is not None else getattr(model.config, "num_labels", 2)))
