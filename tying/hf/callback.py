"""TyingCallback: ties the layers of the model that transformers.Trainer trains, and rebinds them while it trains.

Trainer loads a checkpoint in this order: the model's state, then a new optimizer over the model's parameters, then the
optimizer's state by position. The model's state carries its pointers (tying/hf/saving.py), so the layers are tied before
the optimizer is made, and every moment meets the parameter that it was saved for.
"""

import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.tensorboard import SummaryWriter
from transformers import TrainerCallback

from tying.binding import LayerBinding
from tying.errors import InputError
from tying.hf.bind import tie
from tying.hf.decisions import AgentSchedule
from tying.pointers import Pointers
from tying.training import distributed

Pattern = str | Iterable[int]
Decide = Callable[[int, Pointers, float | None], Pattern]


class TyingCallback(TrainerCallback):
    """Binds model and optimizer, rebinds by a schedule or by decisions, logs, and resumes from Trainer's checkpoints.

    Args:
        pointers: The pattern to start with; the model as it is where it is None.
        schedule: Patterns by the number of optimizer steps after which they hold ({0: "0 1 2 3", 500: "0 0 2 2"}), or a
            function of (steps done, pointers in force, last loss that Trainer logged or None) that returns a pattern.
        agent: Decides in place of a schedule: a name of the registry of agents; an agent that has decided nothing yet, its
            class, or a function of the environment that returns one. Its windows are rewarded as in
            `tying/LayerTying-v0`, by the losses that Trainer logs; see `tying.hf.decisions`.
        every: A function or an agent is asked every so many optimizer steps.
        seed: Of the agent.
        settings: Of the agent's environment and of an agent that is named: {"reward.param_weight": 0.3}.
        stack: Which blocks; see `tying.hf.tie`.
        share: See `tying.hf.tie`.
        gradient: See `tying.hf.tie`.
        norms: See `tying.hf.tie`.
        writer: Where `tying/...` is logged; by default to the folder tying/ beside Trainer's own TensorBoard files, where
            Trainer reports to TensorBoard.

    Raises:
        InputError: If the patterns do not fit together. Those that do not fit the model, and models that cannot be
            rebound under Trainer (sharded by FSDP or DeepSpeed), are refused when Trainer is made.
    """

    def __init__(
        self,
        pointers: Pattern | None = None,
        *,
        schedule: Mapping[int, Pattern] | Decide | None = None,
        agent: Any = None,
        every: int = 1,
        seed: int = 0,
        settings: Mapping[str, Any] | None = None,
        stack: str | None = None,
        share: str | None = None,
        gradient: str | None = None,
        norms: str | None = None,
        writer: SummaryWriter | None = None,
    ) -> None:
        self._decide = schedule if callable(schedule) else None
        self._schedule = {step: _parse(p) for step, p in ({} if schedule is None or self._decide else schedule).items()}  # type: ignore[union-attr]
        if pointers is None and schedule is None and agent is None:
            raise InputError("TyingCallback: give pointers, a schedule or an agent")
        if agent is not None and schedule is not None:
            raise InputError("TyingCallback: a schedule and an agent are both given: choose one")
        if pointers is not None:
            if 0 in self._schedule:
                raise InputError("TyingCallback: the start is given twice, by pointers and by step 0 of the schedule")
            self._schedule[0] = _parse(pointers)
        if any(step < 0 for step in self._schedule) or every < 1:
            raise InputError("TyingCallback: steps of a schedule are 0 or more, `every` is 1 or more")
        self._every = every
        self._agent = None if agent is None else AgentSchedule(agent, every, seed, settings or {})
        self._options = {"stack": stack, "share": share, "gradient": gradient, "norms": norms}
        self._writer = writer
        self._model: nn.Module | None = None
        self._wrapped: DistributedDataParallel | None = None
        self.binding: LayerBinding | None = None

    def on_init_end(self, args: Any, state: Any, control: Any, **parts: Any) -> None:
        """Tie the model before anything is loaded into it."""
        if getattr(args, "fsdp", None) or getattr(args, "deepspeed", None):
            raise InputError("TyingCallback: sharded parameters cannot be rebound; tie the model before Trainer shards it")
        self._bind(parts["model"], parts.get("optimizer"))

    def on_train_begin(self, args: Any, state: Any, control: Any, **parts: Any) -> None:
        """Attach the optimizer that Trainer made."""
        if parts["model"] is not self._model:
            if state.global_step:
                raise InputError(
                    "TyingCallback: to resume, give it to Trainer(model=..., callbacks=[...]), not to add_callback"
                )
            self._bind(parts["model"], None)
        assert self.binding is not None and self._model is not None
        optimizer = _unwrapped(parts["optimizer"])
        if self.binding.optimizers and optimizer not in self.binding.optimizers:
            self.binding.close()
            self.binding = tie(self._model, optimizer=optimizer, **self._options)
        elif not self.binding.optimizers:
            self.binding.attach(optimizer)
        if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
            self._model.register_forward_pre_hook(self._find_wrapper)
        if state.global_step == 0 and 0 in self._schedule:
            self._rebind(self._schedule[0])
        if self._agent is not None:
            if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
                raise InputError("TyingCallback: an agent decides in one process; with several, give a schedule")
            self._agent.begin(self.binding, self._model, self._start, args, state)
        self._open_writer(args, state)
        self._log(state)

    def on_step_begin(self, args: Any, state: Any, control: Any, **parts: Any) -> None:
        """Ask the agent, once Trainer has logged, evaluated and saved the step before."""
        if self._agent is not None:
            assert self.binding is not None
            new = self._agent.decide(self.binding, state)
            if new is not None:
                self._rebind(new)

    def on_step_end(self, args: Any, state: Any, control: Any, **parts: Any) -> None:
        """Rebind, where the schedule says so; before Trainer saves the step's checkpoint."""
        assert self.binding is not None
        new = self._schedule.get(state.global_step)
        if self._decide is not None and state.global_step % self._every == 0:
            losses = [entry["loss"] for entry in state.log_history if "loss" in entry]
            new = _parse(self._decide(state.global_step, self.binding.pointers, losses[-1] if losses else None))
        if new is not None:
            self._rebind(new)

    def on_log(self, args: Any, state: Any, control: Any, **parts: Any) -> None:
        """Log the tying whenever Trainer logs."""
        self._log(state)

    def on_train_end(self, args: Any, state: Any, control: Any, **parts: Any) -> None:
        """Tell the agent how its last window went, and put everything on disk."""
        if self._agent is not None:
            assert self.binding is not None
            self._agent.end(self.binding, state)
        if self._writer is not None:
            self._writer.flush()

    def _bind(self, model: nn.Module, optimizer: torch.optim.Optimizer | None) -> None:
        if hasattr(model, "peft_config") and (
            self._decide is not None or self._agent is not None or set(self._schedule) - {0}
        ):
            raise InputError(
                "TyingCallback: checkpoints of adapters hold no pointers; with PEFT give one pattern, pointers="
            )
        if self.binding is not None:
            self.binding.close()
        self.binding = tie(model, optimizer=None if optimizer is None else _unwrapped(optimizer), **self._options)
        self._model = model
        wrong = next((p for p in self._schedule.values() if len(p) != self.binding.num_layers), None)
        if wrong is not None:
            raise InputError(f"pointers '{wrong}' are for {len(wrong)} layers, the model has {self.binding.num_layers}")
        if 0 in self._schedule:
            self.binding.rebind(self._schedule[0])
        self._start = self.binding.pointers

    @property
    def agent(self) -> Any:
        """The agent that decides; None without one, and before training begins."""
        return None if self._agent is None else self._agent.agent

    def _rebind(self, new: Pointers) -> None:
        assert self.binding is not None
        if self._wrapped is not None:
            distributed.rebind(self.binding, self._wrapped, new)
        else:
            self.binding.rebind(new)

    def _find_wrapper(self, *_: Any) -> None:
        """Forward hook: Trainer shows its callbacks the bare model; whatever wraps it says so while it runs."""
        active = DistributedDataParallel._get_active_ddp_module()
        if active is not None:
            self._wrapped = active

    def _open_writer(self, args: Any, state: Any) -> None:
        if self._writer is None and state.is_world_process_zero and "tensorboard" in (args.report_to or ()):
            runs = os.environ.get("TENSORBOARD_LOGGING_DIR") or os.path.join(args.output_dir, "runs")
            self._writer = SummaryWriter(os.path.join(runs, "tying"))

    def _log(self, state: Any) -> None:
        if self._writer is None:
            return
        assert self.binding is not None and self._model is not None
        pointers = self.binding.pointers
        trained = sum(p.numel() for p in self._model.parameters() if p.requires_grad)
        untied = (
            trained - self.binding.trainable_params + self.binding.trainable_params_of(Pointers.independent(len(pointers)))
        )
        values = {
            "tying/num_unique_layers": pointers.num_unique,
            "tying/trainable_params": trained,
            "tying/compression_ratio": untied / max(1, trained),
            **{f"tying/pointer/layer_{layer:02d}": root for layer, root in enumerate(pointers)},
        }
        for tag, value in values.items():
            self._writer.add_scalar(tag, value, state.global_step)


def _parse(pattern: Pattern) -> Pointers:
    return Pointers.parse(pattern) if isinstance(pattern, str) else Pointers(pattern)


def _unwrapped(optimizer: Any) -> torch.optim.Optimizer:
    """Return the optimizer that accelerate wraps."""
    while not isinstance(optimizer, torch.optim.Optimizer) or hasattr(optimizer, "optimizer"):
        optimizer = optimizer.optimizer
    return optimizer
