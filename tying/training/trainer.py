"""Trainer: owns a model, its optimizer, its tying and its place in the data, and advances them together.

trainer = Trainer(tasks.make(TaskConfig(), GPTConfig(), DataConfig()), TrainerConfig(), seed=0)
trainer.rebind(strategies.make("sequence:3", 6))
trainer.train(100)
trainer.evaluate("reward")
"""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from tempfile import SpooledTemporaryFile
from typing import Any

import torch
from torch import Tensor, nn

from tying.binding import Deltas, LayerBinding
from tying.binding.sharing import spare_parameters
from tying.errors import DivergenceError, InputError
from tying.isolation import float32_products, isolated
from tying.models.base import num_params
from tying.pointers import Pointers
from tying.seeding import derive_seed, global_generators_kept, seed_device
from tying.tasks.base import Batch, Task, on_device
from tying.training.attention import Float32Attention
from tying.training.compiling import compile_blocks, compile_loss
from tying.training.config import BindingConfig, OptimConfig, TrainerConfig
from tying.training.device import find_device
from tying.training.memory import give_back_freed_memory, keep_freed_memory
from tying.training.optim import learning_rate, make_optimizer, set_rates
from tying.training.parameter_list import ParameterList
from tying.training.ranks import ALONE, Ranks
from tying.training.tensor_file import TensorFile

_MUCH = 2**26  # bytes freed at once that are worth a walk over the whole heap
_SMALL = 2**25  # bytes of a state that stays in memory: a tenth of what torch itself takes; the default job has 15 million


@dataclass(frozen=True)
class Iteration:
    """What one optimizer step did.

    Attributes:
        iteration: Number of iterations done, this one included.
        loss: Of the training batch before the step.
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
    """Trains one model; all results follow from its arguments and the calls made, bit by bit.

    Args:
        task: The model, the data and the loss.
        config: Length, batch, device and precision.
        optim: Optimizer and learning rate.
        binding: The parameters that tied layers share.
        seed: Determines initial weights, order of the data and dropout; the global generators are left alone.
        pointers: Tying at the start, None for none; the weights that it spares are never there (tasks of `tying.models`).
        ranks: The processes that train it together, each with a Trainer of the same arguments and calls.

    Raises:
        InputError: If the data are too short, the device is not there, or nothing can be compiled.
    """

    @isolated()
    def __init__(
        self,
        task: Task,
        config: TrainerConfig,
        optim: OptimConfig | None = None,
        binding: BindingConfig | None = None,
        seed: int = 0,
        pointers: Pointers | None = None,
        ranks: Ranks = ALONE,
    ) -> None:
        binding = binding or BindingConfig()
        ranks.require_rows(config.batch_size, config.micro_batches)
        task.require()
        self.task = task
        self.config = config
        self.optim = optim or OptimConfig()
        self.seed = seed
        self.ranks = ranks
        self.device = ranks.device(find_device(config.device))
        if config.precision == "tf32" and self.device.type != "cuda":
            raise InputError(f"trainer.precision = 'tf32': {self.device.type} has none; allowed are fp32 and bf16")
        if self.device.type == "cpu":
            keep_freed_memory()
        self.iteration = 0
        self._ahead: tuple[int, Batch, Sequence[float]] | None = None  # the next batch, made early
        self.model = self._build_model(binding, pointers)
        if config.recompute:
            task.recompute(self.model)
        if config.chunked_loss:
            task.chunk_loss(self.model)
        blocks = task.blocks(self.model)
        self.binding = LayerBinding(
            blocks,
            None,
            binding.share,
            binding.gradient,
            binding.norms,
            untie_moments=binding.untie_moments,
            deltas=Deltas(binding.delta_rank, binding.delta_start, seed),
        )
        self.independent_params = num_params(self.model)
        self._list = ParameterList(self.model)
        self._parameters = self._list.now()
        # A layer's parameters and their two moments.
        self._layer_bytes = 3 * sum(p.numel() * p.element_size() for p in self.binding.weights_of(0))
        self.optimizer = self._make_optimizer()
        if pointers is not None:
            self.rebind(pointers)
        self.model.to(self.device)  # the parameters stay the same objects
        if config.compile:
            compile_blocks(blocks, self.device)
            if self.device.type == "cuda":
                compile_loss(self.model)

    def _build_model(self, binding: BindingConfig, pointers: Pointers | None) -> nn.Module:
        remembers = binding.delta_rank > 0 and binding.delta_start == "svd"
        if pointers is None or pointers.num_unique == len(pointers) or remembers:
            return self.task.build_model(self.seed)
        return self.task.build_tied_model(
            self.seed, lambda blocks: spare_parameters(blocks, binding.share, binding.norms, pointers)
        )

    def _make_optimizer(self) -> torch.optim.Optimizer:
        start, independent = self.pointers, Pointers.independent(self.binding.num_layers)
        if not self.optim.tied_rate:
            optimizer = make_optimizer(self.model, self.optim)
            self.binding.attach(optimizer)
            return optimizer
        self.binding.rebind(independent)  # for every layer to have groups of its own
        optimizer = make_optimizer(self.model, self.optim, [self.binding.weights_of(layer) for layer in independent])
        self.binding.attach(optimizer)
        self.binding.rebind(start)
        set_rates(optimizer, start, self.optim.tied_rate)
        return optimizer

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
        return self.iteration * self.config.batch_size * self.task.sequence_length

    @property
    def trainable_params(self) -> int:
        """Trainable parameters of the whole model, each counted once."""
        return num_params(self.model)

    @isolated()
    def rebind(self, pointers: Iterable[int]) -> None:
        """Tie and untie layers; see LayerBinding.rebind."""
        before = set(self.pointers)
        self.binding.rebind(pointers)
        roots = set(self.pointers)
        if self.optim.tied_rate:
            set_rates(self.optimizer, self.pointers, self.optim.tied_rate)
        if roots != before or self.binding.deltas.names:
            # Kept in the model's own order: the norm of the gradient then does not depend on the history of rebinds.
            self._parameters = self._list.now()
        if self.binding.deltas.names:
            self.ranks.agree(self._parameters)
        if (len(before) - len(roots)) * self._layer_bytes >= _MUCH and self.device.type == "cpu":
            give_back_freed_memory()

    @isolated()
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
        with global_generators_kept(self.device), self._products():
            for _ in range(num_iterations):
                done.append(self._iterate())
                if on_iteration is not None:
                    on_iteration(done[-1])
        return done

    @contextmanager
    def undone(self) -> Iterator[None]:
        """Let a block rebind and train, and undo all of it afterwards, bit by bit; gradients are dropped.

        Meanwhile the state waits in a file without a name, in `tempfile.gettempdir()`; if it is small, in memory, and if it
        comes from a CUDA device, in the memory of the host.

        Raises:
            OSError: Before the block, if the disk is full.
        """
        state = self.state_dict()
        with SpooledTemporaryFile(0 if self.device.type == "cuda" else _SMALL) as file:
            for part in ("model", "optimizer"):
                state[part] = TensorFile(state[part], file)
            try:
                yield
            finally:
                self.optimizer.zero_grad(set_to_none=True)  # now, for what is restored to take their place
                self.load_state_dict(state)

    def _iterate(self) -> Iteration:
        start = time.perf_counter()
        rate = learning_rate(self.optim, self.iteration, self.config.iterations)
        parts = self.config.micro_batches
        number, batch, divisors = self._ahead or (-1, (), ())
        if number != self.iteration:
            batch, divisors = self._batch(self.iteration)
        seed_device(self.device, derive_seed(self.seed, self.ranks.purpose("dropout"), self.iteration))
        # Gradients are dropped here and not after the step, so that statistics can be taken between two iterations.
        self.optimizer.zero_grad(set_to_none=True)
        loss = torch.zeros((), device=self.device)
        for divisor, *piece in zip(divisors, *(tensor.chunk(parts) for tensor in batch), strict=True):
            with self._autocast():
                part = self.task.loss(self.model, tuple(piece)) / divisor
            part.backward()
            loss += part.detach()
        self.ranks.add_up(loss, self._parameters)
        max_norm = self.optim.clip_norm or math.inf
        clipped = nn.utils.clip_grad_norm_(self._parameters, max_norm)
        if self.device.type == "cuda":  # which computes meanwhile
            self._ahead = self.iteration + 1, *self._batch(self.iteration + 1)
        mean_loss, norm = torch.stack([loss, clipped]).tolist()  # together: on a GPU every read is a wait
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

    def _batch(self, number: int) -> tuple[Batch, Sequence[float]]:
        """Return this rank's part of a training batch, and the divisors of the losses of its parts."""
        whole = self.task.batch(self.seed, number, self.config.batch_size)
        batch, divisors = self.ranks.share(whole, self.config.micro_batches, self.task.size)
        return on_device(batch, self.device), divisors

    @isolated()
    @torch.no_grad()
    def metrics(self, split: str, num_batches: int | None = None) -> dict[str, float]:
        """Return the task's metrics on a split, without dropout.

        Args:
            split: "train", "reward" or "test".
            num_batches: None for all of the split; otherwise that many fixed batches, spread evenly over it.

        Raises:
            DivergenceError: If the loss is not finite.
        """
        self.model.eval()
        batches = self.task.evaluation_batches(split, self.config.batch_size, num_batches)
        with self._autocast(), self._products():
            metrics = self.task.metrics(self.model, (on_device(batch, self.device) for batch in batches))
        if not math.isfinite(metrics["loss"]):
            raise DivergenceError(
                f"after iteration {self.iteration}: loss {metrics['loss']} on the {split} split; {self._advice}"
            )
        return metrics

    def evaluate(self, split: str, num_batches: int | None = None) -> float:
        """Return the loss on a split; see `metrics`."""
        return self.metrics(split, num_batches)["loss"]

    @isolated()
    def sample_loss(self, num_sequences: int) -> Tensor:
        """Return the loss on the first sequences of the next training batch, with its graph and without dropout."""
        self.model.eval()
        batch = self.task.batch(self.seed, self.iteration, self.config.batch_size)
        with self._autocast():
            return self.task.loss(self.model, on_device(tuple(tensor[:num_sequences] for tensor in batch), self.device))

    def _products(self) -> AbstractContextManager[None]:
        return float32_products("tf32") if self.config.precision == "tf32" else nullcontext()

    @contextmanager
    def _autocast(self) -> Iterator[None]:
        if self.config.precision != "bf16":
            yield
            return
        # A mode reaches neither compiled blocks, which are traced once, nor those that the backward pass computes again.
        reached = self.device.type == "cpu" and not (self.config.compile or self.config.recompute)
        with torch.autocast(self.device.type, dtype=torch.bfloat16), Float32Attention() if reached else nullcontext():
            yield

    @isolated()
    def state_dict(self) -> dict[str, Any]:
        """Return the state that, with the trainer's arguments, determines its future.

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
        return {"iteration": self.iteration, "pointers": self.pointers.to_list(), "model": model, "optimizer": moments}

    @isolated()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a state that `state_dict` returned: the tying first, then the values.

        Raises:
            InputError: If its parameters are not this trainer's.
        """
        self.rebind(Pointers(state["pointers"]))
        load_parameters(self.model, state["model"])
        named = dict(self.model.named_parameters())
        self.optimizer.state.clear()
        for key, value in state["optimizer"].items():
            name, _, moment = key.rpartition("/")
            if name not in named:
                raise InputError(f"optimizer state for {name!r}, which the model does not have")
            self.optimizer.state.setdefault(named[name], {})[moment] = value.to(self.device, copy=True)
        self.iteration = state["iteration"]


@isolated()
@torch.no_grad()
def load_parameters(model: nn.Module, values: Mapping[str, Tensor]) -> None:
    """Copy values into a model that is already tied as they are.

    Raises:
        InputError: If names or shapes are not the model's.
    """
    named = dict(model.named_parameters())
    if named.keys() != values.keys():
        other = sorted(named.keys() ^ values.keys())
        raise InputError(f"weights do not fit the model: {len(other)} names differ, the first is {other[0]!r}")
    for name, parameter in named.items():
        value = values[name]
        if parameter.shape != value.shape:
            raise InputError(
                f"weights do not fit the model: {name!r} is {tuple(value.shape)}, not {tuple(parameter.shape)}"
            )
        parameter.copy_(value)
