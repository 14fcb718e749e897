"""LayerTyingEnv: the environment in which a Transformer is trained."""

import functools
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from envs.base import Simulator, TyingEnv
from envs.config import TrainingConfig, with_keywords
from envs.presets import preset as find_preset
from tying import tasks
from tying.binding import Deltas, LayerBinding
from tying.errors import InputError
from tying.isolation import isolated
from tying.pointers import Pointers
from tying.training import checkpoint
from tying.training.layer_statistics import (
    agreements,
    gradient_norms,
    gradient_similarities,
    inner_products,
    position_gradients,
    similarities,
)
from tying.training.ranks import ALONE, Ranks
from tying.training.record import MEASUREMENTS, StepRecord
from tying.training.trainer import Iteration, Trainer

_STATISTICS_SEQUENCES = 4  # of a batch: enough to tell agreement from noise, few enough to cost little


class TrainingSimulator:
    """A run of a Trainer; data are read and the model is built when the first window asks for them.

    Args:
        config: Task, model, data, trainer, optimizer and binding.
        ranks: The processes that train together.

    Attributes:
        task: The model, the data and the loss.
        trainer: The run's trainer; None before the first window.
        on_iteration: Called after every optimizer step of a window, those of forks left out.
    """

    def __init__(self, config: TrainingConfig, ranks: Ranks = ALONE) -> None:
        self.config = config
        self.ranks = ranks
        self.task = tasks.make(config.task, config.model, config.data)
        self.num_layers = self.task.num_layers
        self.num_iterations = config.trainer.iterations
        self.delta_rank = config.binding.delta_rank
        self.trainer: Trainer | None = None
        self.on_iteration: Callable[[Iteration], None] | None = None
        self._new_seed: int | None = 0
        self._used = False  # whether the trainer was asked to train, so that its state may differ from the start

    def reset(self, seed: int) -> None:
        """Begin a new run with the next window; until then the finished run's trainer stays."""
        untouched = self.trainer is not None and not self._used and self.trainer.seed == seed
        self._new_seed = None if untouched else seed

    def uninformed_loss(self) -> float:
        """Return log(vocabulary)."""
        return self.task.uninformed_loss

    def start(self, pointers: Pointers) -> Trainer:
        """Return the run's trainer before its first window, on all ranks at once, so that it is refused now or never.

        Args:
            pointers: Those in force, which the first window may change.

        Raises:
            InputError: If nothing can be trained: no data, no device, or other data on another rank.
        """
        trainer = self._built(pointers)
        self.ranks.require_same(self.task.facts)
        return trainer

    def _built(self, pointers: Pointers) -> Trainer:
        """Return the run's trainer, built when a new run was begun.

        Args:
            pointers: Its first window's: what they tie is never built. A trainer that was built for others, and lacks
                weights that these need or that their deltas remember, is built anew; it has not trained.
        """
        built = self.trainer
        if built is not None and self._new_seed is None and not self._used:
            lacks = pointers != built.pointers if self.delta_rank else not set(pointers) <= set(built.pointers)
            self._new_seed = built.seed if lacks else None
        if self._new_seed is not None or self.trainer is None:
            self.trainer = built = None  # frees the old model first: two need not fit into memory
            config, seed = self.config, self._new_seed or 0
            self.trainer = Trainer(self.task, config.trainer, config.optim, config.binding, seed, pointers, self.ranks)
            self._new_seed, self._used = None, False
        return self.trainer

    def resume(self, folder: Path, pointers: Pointers) -> Trainer:
        """Return the run's trainer in the state of a checkpoint, whose pointers are given."""
        trainer = self._built(pointers)
        self._used = True
        checkpoint.load(trainer, folder)
        return trainer

    @functools.cached_property
    def _counter(self) -> LayerBinding:
        """The binding of a model without values, for counting before the model is built."""
        binding = self.config.binding
        with isolated():
            blocks = self.task.blocks(self.task.build_model(seed=None))
            deltas = Deltas(binding.delta_rank)
            return LayerBinding(blocks, share=binding.share, norms=binding.norms, deltas=deltas)

    @functools.cache  # noqa: B019 (a simulator lives as long as its environment)
    def param_share(self, pointers: Pointers) -> float:
        """Return the share of trainable block parameters under any pointers."""
        independent = self._counter.trainable_params_of(Pointers.independent(self.num_layers))
        return self._counter.trainable_params_of(pointers) / independent

    @isolated()
    def run(self, record: StepRecord, num_batches: int, fork: bool) -> StepRecord:
        """Rebind, train, evaluate; the branch of a fork is trained first, and its time counts as evaluation."""
        # A fork needs the roots of both patterns: those of their common refinement.
        both = Pointers.from_labels(zip(record.previous_pointers, record.pointers, strict=True))
        trainer = self._built(both if fork else record.pointers)
        self._used = True
        begin = time.perf_counter()
        fork_loss = _branch_loss(trainer, record, num_batches) if fork else None
        forked = time.perf_counter()
        trainer.rebind(record.pointers)
        start = time.perf_counter()
        iterations = trainer.train(record.num_iterations, self.on_iteration)
        trained = time.perf_counter()
        reward_loss = trainer.evaluate("reward", num_batches) if num_batches else record.previous_loss
        measured = replace(
            record,
            tokens=trainer.tokens,
            train_loss=math.fsum(i.loss for i in iterations) / record.num_iterations,
            last_loss=iterations[-1].loss,
            reward_loss=reward_loss,
            evaluated=num_batches > 0,
            fork_loss=fork_loss,
            block_params=trainer.binding.trainable_params,
            independent_block_params=trainer.binding.trainable_params_of(Pointers.independent(self.num_layers)),
            gradient_norms=gradient_norms(trainer.binding),
            similarities=similarities(trainer.binding),
            **(_gradient_statistics(trainer) if self.config.env.gradient_statistics else {}),
        )
        return replace(measured, train_s=trained - start, evaluate_s=time.perf_counter() - trained + forked - begin)


def _branch_loss(trainer: Trainer, record: StepRecord, num_batches: int) -> float:
    """Return the reward loss after the window under the previous pointers, of which nothing is left."""
    with trainer.undone():
        trainer.rebind(record.previous_pointers)
        trainer.train(record.num_iterations)
        return trainer.evaluate("reward", num_batches)


def _gradient_statistics(trainer: Trainer) -> dict[str, Any]:
    gradients = position_gradients(trainer.binding, lambda: trainer.sample_loss(_STATISTICS_SEQUENCES))
    products = inner_products(gradients)
    return {"gradient_similarities": gradient_similarities(products), "agreements": agreements(products, trainer.pointers)}


class ResumedSimulator:
    """A run whose first windows are known: they are answered from the record, then training resumes from a checkpoint.

    Agents are functions of their seed and of what they were shown, so showing them the record again brings any agent
    back to where it was, bit by bit: replay buffers, exploration, half-filled rollouts and all. An agent that was restored
    from a snapshot is shown the rest of the record, and has to decide as it did there.

    Args:
        live: The simulator that trains.
        records: The decisions up to the checkpoint.
        folder: The checkpoint after the last of them.
        start: Decisions that the agent need not be shown, fewer than there are: it was restored from a snapshot.
    """

    def __init__(self, live: TrainingSimulator, records: Sequence[StepRecord], folder: Path, start: int = 0) -> None:
        self.live = live
        self.num_layers = live.num_layers
        self.num_iterations = live.num_iterations
        self.delta_rank = live.delta_rank
        self.records = records
        self.folder = folder
        self._next = start

    def reset(self, seed: int) -> None:
        """Begin the run again; once it is at its end, the live simulator begins new ones."""
        self.live.reset(seed)

    def uninformed_loss(self) -> float:
        """Return log(vocabulary)."""
        return self.live.uninformed_loss()

    def param_share(self, pointers: Pointers) -> float:
        """Return the share of trainable block parameters under any pointers."""
        return self.live.param_share(pointers)

    def run(self, record: StepRecord, num_batches: int, fork: bool) -> StepRecord:
        """Answer from the record, or train.

        Raises:
            InputError: If the agent decides otherwise than it did.
        """
        if self._next == len(self.records):
            return self.live.run(record, num_batches, fork)
        known = self.records[self._next]
        if record.pointers != known.pointers:
            raise InputError(
                f"cannot resume: shown the same run again, the agent chose '{record.pointers}' at decision "
                f"{self._next}, not '{known.pointers}'; an agent's choices may depend on its seed and on the observations, "
                "rewards and masks that it is shown, on nothing else"
            )
        self._next += 1
        if self._next == len(self.records):
            self._take_over(known)
        return replace(record, **{name: getattr(known, name) for name in MEASUREMENTS})

    def _take_over(self, known: StepRecord) -> None:
        """Load the checkpoint after a decision.

        Raises:
            InputError: If it is damaged, or was made after another decision.
        """
        trainer = self.live.resume(self.folder, known.pointers)
        if (trainer.iteration, trainer.pointers) != (known.iteration, known.pointers):
            raise InputError(
                f"{self.folder}: a checkpoint of iteration {trainer.iteration} with pointers '{trainer.pointers}'; "
                f"decision {known.decision} ended at iteration {known.iteration} with '{known.pointers}'"
            )


class LayerTyingEnv(TyingEnv):
    """The tying of a Transformer while it trains; `tying/LayerTying-v0`.

    Spaces, rewards and episodes are those of TyingEnv. The model is built at the first step, not in `reset`.

    Arguments:
        preset: A name from `envs.presets`, or a TrainingConfig.
        render_mode: None, "ansi" or "rgb_array".
        simulator: The run behind it; made from the configuration when None.
        overrides: Settings over the preset's: fields of `env` by their own names (`action_mode="joint"`), others by
            dotted name (`**{"trainer.iterations": 40}`), or sections as dicts (`trainer={"iterations": 40}`).
    """

    def __init__(
        self,
        preset: str | TrainingConfig = "tiny",
        render_mode: str | None = None,
        simulator: Simulator | None = None,
        **overrides: Any,
    ) -> None:
        if not isinstance(preset, (str, TrainingConfig)):
            raise InputError(f"preset = {preset!r}: expected a name or a TrainingConfig")
        base = find_preset(preset) if isinstance(preset, str) else preset
        self.training_config = with_keywords(base, overrides)
        config = self.training_config
        cache_share = config.model.cache_share if config.model.moves_cache else None
        super().__init__(simulator or TrainingSimulator(config), config.env, config.reward, render_mode, cache_share)

    def _info(self) -> dict[str, Any]:
        model = self.training_config.model
        share = {"cache_share": model.cache_share(self.pointers)} if model.moves_cache else {}
        return {**super()._info(), **share}
