"""Trainer: owns a model, its optimizer, its tying and its place in the data, and moves them on.

    trainer = Trainer(data, GPTConfig(), TrainerConfig(), seed=0)
    trainer.rebind(strategies.make("sequence:3", 6))
    trainer.train(100)
    trainer.evaluate("reward")

Shapes: B batch, T tokens (the model's context).
"""

import copy
import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from tying import models
from tying.allocator import keep_freed_memory
from tying.binding import LayerBinding
from tying.config import config, setting
from tying.data import TokenData
from tying.errors import DivergenceError, InputError
from tying.models import ModelConfig
from tying.optim import OptimConfig, learning_rate, make_optimizer, regroup
from tying.pointers import Pointers
from tying.randomness import derive_seed, global_generators_kept


@config
class TrainerConfig:
    """How long, on what and with what the model is trained."""

    iterations: int = setting("length of the run [iterations, >= 1]", default=1000, ge=1)
    batch_size: int = setting("sequences per iteration B [sequences, >= 1]", default=16, ge=1)
    micro_batches: int = setting("parts that a batch is run in, must divide the batch size [parts, >= 1]", default=1, ge=1)
    device: Literal["auto", "cpu", "cuda", "mps"] = setting(
        "where to train; auto takes cuda, then mps, then cpu", default="auto"
    )
    precision: Literal["fp32", "bf16"] = setting(
        "bf16 runs matrix products in bfloat16; weights stay float32", default="fp32"
    )
    compile: bool = setting("compile the blocks (one graph serves all layers and survives rebinding)", default=False)
    recompute: bool = setting("keep only block inputs for the backward pass and recompute the rest", default=False)

    def __post_init__(self) -> None:
        if self.batch_size % self.micro_batches:
            raise InputError(f"micro_batches = {self.micro_batches} does not divide batch_size = {self.batch_size}")


@config
class BindingConfig:
    """What follows the pointers, and how gradients of tied layers add up."""

    share: str = setting("block, attention, feed_forward, or name patterns joined by commas ('attn.*')", default="block")
    norms: Literal["shared", "private"] = setting("private: norms stay with each layer even when tied", default="shared")
    gradient: Literal["sum", "mean", "root_only"] = setting(
        "sum over tied positions, its mean, or the root's own position alone (faster, not the true gradient)", default="sum"
    )


@dataclass(frozen=True)
class Iteration:
    """What one optimizer step did.

    Attributes:
        iteration: Number of iterations done, this one included.
        loss: Of the training batch before the step, nats per token.
        grad_norm: Norm of the whole gradient before clipping.
        learning_rate: Used by the step.
        seconds: Wall time of the iteration.
    """

    iteration: int
    loss: float
    grad_norm: float
    learning_rate: float
    seconds: float


class Trainer:
    """Trains one model; everything that it does follows from its arguments and the calls made, bit by bit.

    Args:
        data: The tokenized corpus.
        model_config: The model's shape.
        config: Length, batch, device and precision.
        optim: Optimizer and learning rate.
        binding: What is shared between tied layers.
        seed: Determines initial weights, order of the data and dropout; the global generators are left alone.

    Raises:
        InputError: If the corpus is too short or the device is not there.
    """

    def __init__(
        self,
        data: TokenData,
        model_config: ModelConfig,
        config: TrainerConfig,
        optim: OptimConfig | None = None,
        binding: BindingConfig | None = None,
        seed: int = 0,
    ) -> None:
        binding = binding or BindingConfig()
        data.require(model_config.context)
        self.data = data
        self.config = config
        self.optim = optim or OptimConfig()
        self.seed = seed
        self.context = model_config.context
        self.device = find_device(config.device)
        if self.device.type == "cpu":
            keep_freed_memory()
        self.iteration = 0
        self.model = models.build(model_config, data.vocab_size, seed).to(self.device)
        self.model.set_recompute(config.recompute)
        self.optimizer = make_optimizer(self.model, self.optim)
        self.binding = LayerBinding(self.model.h, self.optimizer, binding.share, binding.gradient, binding.norms)
        if config.compile:
            _compile_blocks(self.model.h)
        self.independent_params = models.num_params(self.model)
        self._parameters = list(self.model.parameters())

    @property
    def pointers(self) -> Pointers:
        """The tying in force."""
        return self.binding.pointers

    @property
    def _advice(self) -> str:
        return f"try a lower optim.learning_rate (now {self.optim.learning_rate}) or a longer warm-up"

    @property
    def tokens(self) -> int:
        """Number of training tokens seen so far."""
        return self.iteration * self.config.batch_size * self.context

    @property
    def trainable_params(self) -> int:
        """Trainable parameters of the whole model, each counted once."""
        return models.num_params(self.model)

    def rebind(self, pointers: Iterable[int]) -> None:
        """Tie and untie layers; see LayerBinding.rebind."""
        self.binding.rebind(pointers)
        regroup(self.optimizer, self.model, self.optim, self.binding.num_uses)
        # Kept in the model's own order: the norm of the gradient then does not depend on the history of rebinds.
        self._parameters = list(self.model.parameters())

    def train(self, num_iterations: int, on_iteration: Callable[[Iteration], None] | None = None) -> list[Iteration]:
        """Do optimizer steps.

        Args:
            num_iterations: How many; the run has `config.iterations` in all.
            on_iteration: Called after each.

        Raises:
            DivergenceError: If a loss or gradient is not finite; that iteration changed no parameter.
        """
        done = []
        self.model.train()
        with global_generators_kept(self.device):
            for _ in range(num_iterations):
                done.append(self._iterate())
                if on_iteration is not None:
                    on_iteration(done[-1])
        return done

    @contextmanager
    def undone(self) -> Iterator[None]:
        """Let a block rebind and train, and undo all of it afterwards, bit by bit; gradients are dropped."""
        state = copy.deepcopy(self.state_dict())
        try:
            yield
        finally:
            self.load_state_dict(state)
            self.optimizer.zero_grad(set_to_none=True)

    def _iterate(self) -> Iteration:
        start = time.perf_counter()
        rate = learning_rate(self.optim, self.iteration, self.config.iterations)
        batch = self.data.batch(self.seed, self.iteration, self.config.batch_size, self.context)
        torch.manual_seed(derive_seed(self.seed, "dropout", self.iteration))
        # Gradients are dropped here and not after the step, so that statistics can be taken between two iterations.
        self.optimizer.zero_grad(set_to_none=True)
        loss = torch.zeros((), device=self.device)
        parts = self.config.micro_batches
        for tokens, targets in zip(*(side.to(self.device).chunk(parts) for side in batch), strict=True):
            with self._autocast():
                part = self.model.loss(tokens, targets) / parts
            part.backward()
            loss += part.detach()
        max_norm = self.optim.clip_norm or math.inf
        norm = float(nn.utils.clip_grad_norm_(self._parameters, max_norm))
        mean_loss = float(loss)
        if not (math.isfinite(mean_loss) and math.isfinite(norm)):
            raise DivergenceError(
                f"iteration {self.iteration}: loss {mean_loss}, gradient norm {norm}: stopped before the optimizer step; "
                f"{self._advice}"
            )
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["rate"]
        self.optimizer.step()
        self.iteration += 1
        return Iteration(self.iteration, mean_loss, norm, rate, time.perf_counter() - start)

    @torch.no_grad()
    def evaluate(self, split: str, num_batches: int | None = None) -> float:
        """Return the loss on a split in nats per token, without dropout.

        Args:
            split: "train", "reward" or "test".
            num_batches: None for every token of the split; otherwise that many fixed batches, spread evenly over it.

        Raises:
            DivergenceError: If it is not finite.
        """
        self.model.eval()
        losses: list[Tensor] = []
        counts: list[int] = []
        for batch in self.data.evaluation_batches(split, self.config.batch_size, self.context, num_batches):
            tokens, targets = (side.to(self.device) for side in batch)
            with self._autocast():
                losses.append(self.model.loss(tokens, targets))
            counts.append(targets.numel())
        # Added up on the CPU, since not every device has float64.
        loss = float(torch.stack(losses).cpu().double() @ torch.tensor(counts).double()) / sum(counts)
        if not math.isfinite(loss):
            raise DivergenceError(f"after iteration {self.iteration}: loss {loss} on the {split} split; {self._advice}")
        return loss

    def sample_loss(self, num_sequences: int) -> Tensor:
        """Return the loss on the first sequences of the next training batch, with its graph and without dropout."""
        self.model.eval()
        batch = self.data.batch(self.seed, self.iteration, self.config.batch_size, self.context)
        tokens, targets = (side[:num_sequences].to(self.device) for side in batch)
        with self._autocast():
            return self.model.loss(tokens, targets)

    def _autocast(self) -> AbstractContextManager[Any]:
        if self.config.precision == "fp32":
            return nullcontext()
        return torch.autocast(self.device.type, dtype=torch.bfloat16)

    def state_dict(self) -> dict[str, Any]:
        """Return all that the trainer's future depends on besides its arguments.

        Keys: "iteration", "pointers", "model" (name -> tensor, each set of weights once, under its root) and
        "optimizer" ("name/moment" -> tensor).
        """
        named = dict(self.model.named_parameters())
        moments = {
            f"{name}/{key}": value
            for name, parameter in named.items()
            for key, value in self.optimizer.state.get(parameter, {}).items()
        }
        model = {name: parameter.detach() for name, parameter in named.items()}
        return {"iteration": self.iteration, "pointers": list(self.pointers), "model": model, "optimizer": moments}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a state that `state_dict` returned: the tying first, then the values.

        Raises:
            InputError: If its parameters are not this trainer's.
        """
        self.rebind(state["pointers"])
        load_parameters(self.model, state["model"])
        named = dict(self.model.named_parameters())
        self.optimizer.state.clear()
        for key, value in state["optimizer"].items():
            name, _, moment = key.rpartition("/")
            if name not in named:
                raise InputError(f"optimizer state for {name!r}, which the model does not have")
            self.optimizer.state.setdefault(named[name], {})[moment] = value.to(self.device, copy=True)
        self.iteration = state["iteration"]


@torch.no_grad()
def load_parameters(model: nn.Module, values: dict[str, Tensor]) -> None:
    """Copy values into a model that is already tied as they are.

    Raises:
        InputError: If names or shapes are not the model's.
    """
    named = dict(model.named_parameters())
    if named.keys() != values.keys():
        odd = sorted(named.keys() ^ values.keys())
        raise InputError(f"weights do not fit the model: {len(odd)} names differ, the first is {odd[0]!r}")
    for name, parameter in named.items():
        if parameter.shape != values[name].shape:
            raise InputError(
                f"weights do not fit the model: {name!r} is {tuple(values[name].shape)}, not {tuple(parameter.shape)}"
            )
        parameter.copy_(values[name])


def find_device(name: str) -> torch.device:
    """Return the device that a configuration names.

    Raises:
        InputError: If this machine does not have it.
    """
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        name = next(kind for kind, available in there.items() if available)
    if not there[name]:
        raise InputError(
            f"trainer.device = {name!r}: this machine does not have it; it has {', '.join(k for k in there if there[k])}"
        )
    return torch.device(name)


def _compile_blocks(blocks: nn.ModuleList) -> None:
    """Compile each block's forward.

    The blocks run the same code, so one graph serves them all, and pointers are no part of it: rebinding never
    recompiles. Hooks (LayerBinding's "root_only") stay outside the graph.
    """
    for block in blocks:
        block.forward = torch.compile(block.forward)
