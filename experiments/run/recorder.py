"""Recorder: turns the events of an environment into the files of a run directory."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from agents.base import Agent
from envs.training import TrainingSimulator
from experiments.run import snapshot
from experiments.run.config import RunConfig
from experiments.run.directory import Line, RunDirectory
from experiments.run.display import Display
from experiments.run.tensorboard import TensorBoardLogger
from tying import palette
from tying.errors import InputError
from tying.pointers import Pointers
from tying.training import checkpoint
from tying.training.record import StepRecord
from tying.training.trainer import Iteration, Trainer

KEPT_CHECKPOINTS = 2
# What follows from the decisions and their measurements.
_ANSWERED = ("iteration", "previous_pointers", "layer", "action", "frozen", "reward", "reward_terms", "param_weight")
_FIRST_PICTURE = 8  # decisions; maps follow at each doubling, plain ones: letters take a fifth of a second to draw


class Recorder:
    """Listens to a run and writes it down; the decisions that a resumed run shows its agent again are left out.

    Args:
        directory: Where to.
        logger: TensorBoard.
        simulator: Its trainer is checkpointed.
        agent: Asked for its diagnostics.
        display: Shown what happens.
        lines: The decisions already in the run's record.
        start: Decisions of them that the agent is not shown again, since it was restored.
        num_decisions: Of the whole run.
        config: The intervals.
    """

    def __init__(
        self,
        directory: RunDirectory,
        logger: TensorBoardLogger,
        simulator: TrainingSimulator,
        agent: Agent,
        display: Display,
        lines: Sequence[Line],
        start: int,
        num_decisions: int,
        config: RunConfig,
    ) -> None:
        self.directory = directory
        self.logger = logger
        self.simulator = simulator
        self.agent = agent
        self.display = display
        self.num_decisions = num_decisions
        self.config = config
        self.lines = list(lines)
        self._num_known = len(lines)
        self._num_shown = self._last_boundary = start
        self._digest = snapshot.digest(directory, start)
        self._mark = time.perf_counter()
        self._start = self._mark - (lines[-1].wall_s if lines else 0.0)
        self._cpu_start = time.process_time() - (lines[-1].cpu_s if lines else 0.0)

    @property
    def trainer(self) -> Trainer:
        """The run's trainer; there is one as soon as the simulator has trained."""
        assert self.simulator.trainer is not None
        return self.simulator.trainer

    @property
    def wall_s(self) -> float:
        """Wall seconds since the first window began, in this process and those before it."""
        return time.perf_counter() - self._start

    @property
    def history(self) -> list[tuple[int, Pointers]]:
        """The iteration at the end of every window, and the pointers in force in it."""
        return [(line.record.iteration, line.record.pointers) for line in self.lines]

    def on_iteration(self, done: Iteration) -> None:
        """Take one optimizer step."""
        self.display.iteration(done)
        if done.iteration % self.config.log_interval == 0:
            self.logger.iteration(done)

    def on_decision(self, record: StepRecord, observation: np.ndarray, masks: np.ndarray) -> None:
        """Take one decision: log it, append it to decisions.jsonl, and save a checkpoint when one is due."""
        metrics = self._metrics()
        self._num_shown = record.decision + 1
        if record.decision < self._num_known:
            self._digest.update(self.lines[record.decision].to_json().encode())
            self._require_same(record)
            self._mark = time.perf_counter()
            return
        diagnostics = self.agent.diagnostics(observation, masks) if hasattr(self.agent, "diagnostics") else {}
        now = time.perf_counter()
        line = Line(
            record=record,
            wall_s=now - self._start,
            cpu_s=time.process_time() - self._cpu_start,
            decision_s=now - self._mark - record.train_s - record.evaluate_s,
            agent=diagnostics,
        )
        self._mark = now
        self.lines.append(line)
        self.directory.append_decision(self.lines)
        self._digest.update(line.to_json().encode())
        params = self.trainer.trainable_params
        self.logger.decision(record, self.trainer.independent_params / params, params, line.decision_s)
        self.logger.agent(record.iteration, diagnostics, metrics)
        self.display.decision(record)
        self._save(record.decision + 1)

    def _require_same(self, record: StepRecord) -> None:
        """Check that the environment answers a known decision as it did.

        Raises:
            InputError: If the record's line says otherwise.
        """
        known = self.lines[record.decision].record
        for name in _ANSWERED:
            if getattr(record, name) != getattr(known, name):
                raise InputError(
                    f"{self.directory.decisions_file}: line {record.decision + 1} has {name} = {getattr(known, name)!r}; "
                    f"from the same measurements comes {getattr(record, name)!r}: the record was changed"
                )

    def _save(self, count: int) -> None:
        """Draw the map and save a checkpoint, when they are due after that many decisions."""
        last = count == self.num_decisions
        if not last and count >= _FIRST_PICTURE and count & (count - 1) == 0:
            picture = palette.picture(self.history, self.trainer.config.iterations)
            self.logger.pointer_map(picture, self.trainer.iteration)
        if last or count % self.config.checkpoint_interval == 0:
            self.logger.flush()
            checkpoint.save(self.trainer, self.directory.checkpoint_folder(count))
            self.directory.keep_checkpoints(KEPT_CHECKPOINTS)

    def on_boundary(self) -> None:
        """Take a snapshot of the agent, whose loop could be entered again here, once for each checkpoint."""
        interval, before, count = self.config.checkpoint_interval, self._last_boundary, self._num_shown
        self._last_boundary = count
        if count // interval == before // interval and count < self.num_decisions:
            return
        # Of a record that is shown again, only the last snapshots will be of use.
        replaced = count + 2 * max(interval, count - before) < self._num_known
        folder = self.directory.snapshot_folder(count)
        if not replaced and not folder.exists():
            snapshot.save(self.agent, folder, self._digest.hexdigest())
            self.directory.keep_checkpoints(KEPT_CHECKPOINTS)

    def finish(
        self,
        settings: Mapping[str, Any],
        figures: Mapping[str, float],
        references: Mapping[str, float],
        picture: np.ndarray,
    ) -> None:
        """Log the settings beside the final figures, the references, the agent's last update, and the whole map."""
        self.logger.agent(self.trainer.iteration, {}, self._metrics())
        self.logger.references(references, self.trainer.iteration)
        self.logger.pointer_map(picture, self.trainer.iteration)
        self.logger.hparams(settings, figures, self.trainer.iteration)

    def _metrics(self) -> dict[str, float]:
        return self.agent.metrics() if hasattr(self.agent, "metrics") else {}
