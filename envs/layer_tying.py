"""LayerTyingEnv: the environment in which a Transformer is trained."""

import functools
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from torch import nn

from envs.base import Backend, EnvConfig, Trained, TyingEnv
from envs.presets import Setup, preset
from tying import checkpoint, models
from tying.config import build, known_fields, to_dict, unknown
from tying.data import TokenData, prepare
from tying.errors import InputError
from tying.pointers import Pointers
from tying.records import Window
from tying.sharing import shared_names, trainable_params
from tying.statistics import (
    agreements,
    gradient_norms,
    gradient_similarities,
    inner_products,
    position_gradients,
    similarities,
)
from tying.trainer import Iteration, Trainer

_STATISTICS_SEQUENCES = 4  # of a batch: enough to tell agreement from noise, few enough to cost little


class TrainingBackend:
    """A run of a Trainer; data are read and the model is built when the first window asks for them.

    Args:
        setup: Model, data, trainer and binding.
    """

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self.num_layers = setup.model.num_layers
        self.num_iterations = setup.trainer.iterations
        self.trainer: Trainer | None = None
        self.on_iteration: Callable[[Iteration], None] | None = None
        self._data: TokenData | None = None
        self._new_seed: int | None = 0

    @property
    def data(self) -> TokenData:
        """The tokenized corpus."""
        if self._data is None:
            self._data = prepare(self.setup.data)
        return self._data

    def reset(self, seed: int) -> None:
        """Begin a new run with the next window; until then the finished run's trainer stays."""
        untouched = self.trainer is not None and self.trainer.iteration == 0 and self.trainer.seed == seed
        self._new_seed = None if untouched else seed

    def uniform_loss(self) -> float:
        """Return log(vocabulary)."""
        return math.log(self.data.vocab_size)

    def start(self) -> Trainer:
        """Return the run's trainer, built when a new run was begun."""
        if self._new_seed is not None or self.trainer is None:
            self.trainer = None  # frees the old model first: two need not fit into memory
            setup = self.setup
            self.trainer = Trainer(self.data, setup.model, setup.trainer, setup.optim, setup.binding, self._new_seed or 0)
            self._new_seed = None
        return self.trainer

    @functools.cached_property
    def _block(self) -> tuple[nn.Module, tuple[str, ...]]:
        """One block and its parameters that follow the pointers; from a model of one layer, before the whole is built."""
        block = models.build(replace(self.setup.model, num_layers=1), vocab_size=2, seed=0).h[0]
        return block.to("meta"), shared_names(block, self.setup.binding.share, self.setup.binding.norms)

    def param_share(self, pointers: Pointers) -> float:
        """Return the share of trainable block parameters under any pointers."""
        independent = trainable_params(*self._block, Pointers.independent(self.num_layers))
        return trainable_params(*self._block, pointers) / independent

    def train(
        self, pointers: Pointers, num_iterations: int, num_batches: int, alternative: Pointers | None = None
    ) -> Trained:
        """Rebind, train, evaluate; the branch under an alternative is trained first, and its time is one of judging."""
        trainer = self.start()
        begin = time.perf_counter()
        fork_loss = None
        if alternative is not None and alternative != pointers:
            fork_loss = _branch_loss(trainer, alternative, num_iterations, num_batches)
        forked = time.perf_counter()
        trainer.rebind(pointers)
        start = time.perf_counter()
        iterations = trainer.train(num_iterations, self.on_iteration)
        trained = time.perf_counter()
        reward_loss = trainer.evaluate("reward", num_batches)
        window = Window(
            iteration=trainer.iteration,
            tokens=trainer.tokens,
            train_loss=math.fsum(i.loss for i in iterations) / num_iterations,
            last_loss=iterations[-1].loss,
            reward_loss=reward_loss,
            block_params=trainer.binding.trainable_params,
            independent_block_params=trainer.binding.trainable_params_of(Pointers.independent(self.num_layers)),
            gradient_norms=gradient_norms(trainer.binding),
            similarities=similarities(trainer.binding),
            fork_loss=reward_loss if alternative == pointers else fork_loss,
            **(_gradient_statistics(trainer) if self.setup.env.gradient_statistics else {}),
        )
        return Trained(window, trained - start, time.perf_counter() - trained + forked - begin)


def _branch_loss(trainer: Trainer, pointers: Pointers, num_iterations: int, num_batches: int) -> float:
    """Return the reward loss after a window under other pointers, of which nothing is left."""
    with trainer.undone():
        trainer.rebind(pointers)
        trainer.train(num_iterations)
        return trainer.evaluate("reward", num_batches)


def _gradient_statistics(trainer: Trainer) -> dict[str, Any]:
    gradients = position_gradients(trainer.binding, lambda: trainer.sample_loss(_STATISTICS_SEQUENCES))
    products = inner_products(gradients)
    return {"gradient_similarities": gradient_similarities(products), "agreements": agreements(products, trainer.pointers)}


class ResumedBackend:
    """A run whose first windows are known: they are answered from the record, then training goes on from a checkpoint.

    Agents are functions of their seed and of what they were shown, so showing them the record again brings any agent
    back to where it was, bit by bit: replay buffers, exploration, half-filled rollouts and all.

    Args:
        live: The backend that trains.
        record: The pointers and the window of every decision up to the checkpoint.
        folder: The checkpoint after the last of them.
    """

    def __init__(self, live: TrainingBackend, record: Sequence[tuple[Pointers, Window]], folder: Path) -> None:
        self.live = live
        self.num_layers = live.num_layers
        self.num_iterations = live.num_iterations
        self.record = record
        self.folder = folder
        self._next = 0

    def reset(self, seed: int) -> None:
        """Begin the run again; once it is at its end, the live backend begins new ones."""
        self.live.reset(seed)

    def uniform_loss(self) -> float:
        """Return log(vocabulary)."""
        return self.live.uniform_loss()

    def param_share(self, pointers: Pointers) -> float:
        """Return the share of trainable block parameters under any pointers."""
        return self.live.param_share(pointers)

    def train(
        self, pointers: Pointers, num_iterations: int, num_batches: int, alternative: Pointers | None = None
    ) -> Trained:
        """Answer from the record, or train.

        Raises:
            InputError: If the agent decides otherwise than it did.
        """
        if self._next == len(self.record):
            return self.live.train(pointers, num_iterations, num_batches, alternative)
        expected, window = self.record[self._next]
        if pointers != expected:
            raise InputError(
                f"cannot resume: shown the same run again, the agent chose '{pointers}' at decision {self._next}, not "
                f"'{expected}'; an agent's choices may depend on its seed and on what it is shown, on nothing else"
            )
        self._next += 1
        if self._next == len(self.record):
            checkpoint.load(self.live.start(), self.folder)
        return Trained(window)


class LayerTyingEnv(TyingEnv):
    """The tying of a Transformer while it trains; `tying/LayerTying-v0`.

    Spaces, rewards and episodes are those of TyingEnv. The model is built at the first step, not in `reset`.

    Arguments:
        preset: A name from `envs.presets`, or a Setup.
        render_mode: None or "ansi".
        backend: What trains; made from the setup when None.
        overrides: Fields of EnvConfig (`action_mode="joint"`), or whole sections as dicts
            (`trainer={"iterations": 40}, reward={"param_weight": 0.3}`).
    """

    def __init__(
        self,
        preset: str | Setup = "tiny",
        render_mode: str | None = None,
        backend: Backend | None = None,
        **overrides: Any,
    ) -> None:
        self.setup = make_setup(preset, overrides)
        super().__init__(backend or TrainingBackend(self.setup), self.setup.env, self.setup.reward, render_mode)


def make_setup(base: str | Setup, overrides: Mapping[str, Any]) -> Setup:
    """Return a preset with some settings changed.

    Raises:
        InputError: With every wrong name or value.
    """
    setup = preset(base) if isinstance(base, str) else base
    of_env = set(known_fields(EnvConfig))
    sections: dict[str, dict[str, Any]] = {}
    lines = []
    for name, value in overrides.items():
        if name in of_env:
            sections.setdefault("env", {})[name] = value
        elif name in setup.__dataclass_fields__ and isinstance(value, Mapping):
            sections.setdefault(name, {}).update(value)
        else:
            lines.append(unknown(f"setting {name!r}", name, [*of_env, *(f.name for f in fields(setup))]))
    changed: dict[str, Any] = {}
    for name, values in sections.items():
        try:
            section = getattr(setup, name)
            cls = models.config_class(values["name"]) if name == "model" and "name" in values else type(section)
            base_values = to_dict(section) if isinstance(section, cls) else {}
            changed[name] = build(cls, {**base_values, **values}, f"{name}.")
        except InputError as error:
            lines += error.lines
    if lines:
        raise InputError(lines)
    return replace(setup, **changed)
