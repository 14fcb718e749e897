"""Recorder: turns what happens in an environment into the files of a run directory."""

import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from agents.base import Agent
from envs.layer_tying import TrainingBackend
from experiments.display import Display
from tying import checkpoint
from tying.pointers import Pointers
from tying.records import Decision, RunDirectory
from tying.tensorboard import Board
from tying.trainer import Iteration, Trainer

_KEPT_CHECKPOINTS = 2
_FIRST_PICTURE = 8  # decisions; pointer maps follow at each doubling, since each shows the whole run so far


class Recorder:
    """Listens to a run and writes it down; the decisions that a resumed run shows its agent again are left out.

    Args:
        run: Where to.
        board: TensorBoard.
        backend: Whose trainer is checkpointed.
        agent: Asked for what it thinks.
        display: Shown what happens.
        lines: The decisions already in the run's record.
        num_decisions: Of the whole run.
        log_interval: Iterations between training figures.
        checkpoint_interval: Decisions between checkpoints.
    """

    def __init__(
        self,
        run: RunDirectory,
        board: Board,
        backend: TrainingBackend,
        agent: Agent,
        display: Display,
        lines: Sequence[dict[str, Any]],
        num_decisions: int,
        log_interval: int,
        checkpoint_interval: int,
    ) -> None:
        self.run = run
        self.board = board
        self.backend = backend
        self.agent = agent
        self.display = display
        self.num_decisions = num_decisions
        self.log_interval = log_interval
        self.checkpoint_interval = checkpoint_interval
        self.lines = list(lines)
        self._num_known = len(lines)
        self._mark = time.perf_counter()
        self._start = self._mark - (lines[-1]["wall_s"] if lines else 0.0)
        self._cpu_start = time.process_time() - (lines[-1]["cpu_s"] if lines else 0.0)

    @property
    def trainer(self) -> Trainer:
        """The run's trainer; there is one as soon as the backend has trained."""
        assert self.backend.trainer is not None
        return self.backend.trainer

    @property
    def wall_s(self) -> float:
        """Wall seconds since the first window began, in this process and those that it goes on from."""
        return time.perf_counter() - self._start

    @property
    def cpu_s(self) -> float:
        """Seconds of processor time, added up over threads, since the first window began, as `wall_s`."""
        return time.process_time() - self._cpu_start

    @property
    def history(self) -> list[tuple[int, Pointers]]:
        """The iteration at the end of every window, and the pointers in force in it."""
        return [(line["iteration"], Pointers(line["pointers"])) for line in self.lines]

    def total(self, name: str) -> float:
        """Return the sum of a figure over all decisions."""
        return float(sum(line[name] for line in self.lines))

    def on_iteration(self, done: Iteration) -> None:
        """Take one optimizer step."""
        self.display.iteration(done)
        if done.iteration % self.log_interval == 0:
            self.board.iteration(done)

    def on_decision(self, decision: Decision, observation: np.ndarray, masks: np.ndarray) -> None:
        """Take one decision: log it, append it to decisions.jsonl, and save a checkpoint when one is due."""
        metrics = self._metrics()
        if decision.index < self._num_known:
            self._mark = time.perf_counter()
            return
        diagnostics = self.agent.diagnostics(observation, masks) if hasattr(self.agent, "diagnostics") else {}
        now = time.perf_counter()
        decision_s = now - self._mark - decision.train_s
        self._mark = now
        clocks = {"decision_s": decision_s, "wall_s": self.wall_s, "cpu_s": self.cpu_s}
        line = {**decision.to_dict(), **clocks, "agent": diagnostics}
        self.lines.append(line)
        with self.run.decisions_file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        params = self.trainer.trainable_params
        self.board.decision(decision, self.trainer.independent_params / params, params, decision_s)
        self.board.agent(decision.window.iteration, diagnostics, metrics)
        self.display.decision(decision)
        count = decision.index + 1
        if count == self.num_decisions or (count >= _FIRST_PICTURE and count & (count - 1) == 0):
            self.board.pointer_map(self.history)
        if count % self.checkpoint_interval == 0 or count == self.num_decisions:
            self.board.flush()
            checkpoint.save(self.trainer, self.run.checkpoint_folder(count))
            self.run.keep_checkpoints(_KEPT_CHECKPOINTS)

    def finish(self, settings: Mapping[str, Any], figures: Mapping[str, float]) -> None:
        """Log the settings beside the final figures, and what the agent's last update left to log."""
        self.board.agent(self.trainer.iteration, {}, self._metrics())
        self.board.hparams(settings, figures, self.trainer.iteration)

    def _metrics(self) -> dict[str, float]:
        return self.agent.metrics() if hasattr(self.agent, "metrics") else {}
