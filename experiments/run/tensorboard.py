"""The run's TensorBoard file. x is the training iteration everywhere; docs/tags.md defines every tag."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from tensorboard.compat.proto.summary_pb2 import Summary  # type: ignore[import-untyped]
from torch.utils.tensorboard import FileWriter, SummaryWriter
from torch.utils.tensorboard.summary import hparams, scalar

from tying.training.record import StepRecord, perplexity
from tying.training.trainer import Iteration

# Agents with more actions than this get no tag per action; decisions.jsonl has them all.
_MOST_ACTIONS = 32
_FLUSH_S = 5  # seconds; tensorboard's default is 120


class TensorBoardLogger:
    """Writes the events of one run.

    Args:
        folder: The run's tb/ folder.
        after: For a resumed run, the last iteration whose events stay; later ones are hidden.
        batch_tokens: Tokens of one iteration.
        perplexity: As `tying.tasks.base.Task` names it.
    """

    def __init__(self, folder: Path, after: int | None, batch_tokens: int, perplexity: str) -> None:
        purge_step = None if after is None else after + 1
        # Ctrl-C while an event is queued can leave the writer's thread asleep, and `close` waiting, until its next flush.
        self._writer = SummaryWriter(str(folder), purge_step=purge_step, flush_secs=_FLUSH_S)
        self._batch_tokens = batch_tokens
        self._perplexity = perplexity

    def iteration(self, done: Iteration) -> None:
        """Log one optimizer step."""
        self._scalars(
            done.iteration,
            {
                "lm/train_loss": done.loss,
                "lm/grad_norm": done.grad_norm,
                "lm/lr": done.learning_rate,
                "lm/tokens": done.iteration * self._batch_tokens,
                "perf/tokens_per_s": self._batch_tokens / done.seconds,
            },
        )

    def decision(self, record: StepRecord, compression_ratio: float, trainable_params: int, decision_s: float) -> None:
        """Log one decision and the window after it."""
        known = {"agent/explored": record.explored, "agent/action_value": record.action_value}
        if record.evaluated:
            known["lm/reward_loss"] = record.reward_loss
            if self._perplexity:
                known[f"lm/reward_{self._perplexity}"] = perplexity(record.reward_loss)
        self._scalars(
            record.iteration,
            {
                "tying/num_unique_layers": record.pointers.num_unique,
                "tying/effective_blocks": record.pointers.effective_blocks,
                "tying/trainable_params": trainable_params,
                "tying/compression_ratio": compression_ratio,
                **{f"tying/pointer/layer_{layer:02d}": root for layer, root in enumerate(record.pointers)},
                **{f"tying/rank/layer_{layer:02d}": rank for layer, rank in enumerate(record.pointers.ranks)},
                "reward/total": record.reward,
                **{f"reward/{name}": value for name, value in record.reward_terms.items()},
                "reward/param_weight": record.param_weight,
                "perf/train_s": record.train_s,
                "perf/evaluate_s": record.evaluate_s,
                "perf/decision_s": decision_s,
                **{tag: float(value) for tag, value in known.items() if value is not None},
            },
        )

    def agent(self, iteration: int, diagnostics: Mapping[str, float | list[float]], metrics: Mapping[str, float]) -> None:
        """Log the agent's diagnostics (under `agent/`) and the figures that its library logged (under its own tags)."""
        values = dict(metrics)
        for name, value in diagnostics.items():
            if not isinstance(value, list):
                values[f"agent/{name}"] = value
            elif len(value) <= _MOST_ACTIONS:
                values |= {f"agent/{name}/{action:02d}": part for action, part in enumerate(value)}
        self._scalars(iteration, values)

    def pointer_map(self, picture: np.ndarray, iteration: int) -> None:
        """Add the picture of the whole run so far, (height, width, 3) uint8."""
        self._writer.add_image("tying/pointer_map", picture, iteration, dataformats="HWC")

    def config(self, text: str) -> None:
        """Show the configuration as text."""
        self._writer.add_text("config", f"```json\n{text}\n```", 0)

    def hparams(self, settings: Mapping[str, Any], figures: Mapping[str, float], iteration: int) -> None:
        """Put the settings beside the final figures in the HPARAMS tab."""
        # Names of files need not be UTF-8; events must be.
        texts = {k: os.fsencode(str(v)).decode("utf-8", "replace") for k, v in settings.items()}
        flat = {k: v if isinstance(v, (bool, int, float)) else texts[k] for k, v in settings.items()}
        named = {f"final/{name}": value for name, value in figures.items()}
        for event in hparams(flat, dict(named)):
            self._file_writer.add_summary(event)
        self._scalars(iteration, named)

    def references(self, losses: Mapping[str, float], iteration: int) -> None:
        """Draw losses that are no model's of this run as level lines from the beginning to the end."""
        for step in (0, iteration):
            self._scalars(step, {f"references/{name}": loss for name, loss in losses.items()})

    @property
    def _file_writer(self) -> FileWriter:
        assert self._writer.file_writer is not None  # it is there until close
        return self._writer.file_writer

    def flush(self) -> None:
        """Put everything on disk."""
        self._writer.flush()

    def close(self) -> None:
        """End the file."""
        self._writer.close()

    def _scalars(self, step: int, values: Mapping[str, float]) -> None:
        # One event for all: it takes a third of the time of an event for each.
        merged = Summary(value=[value for tag, number in values.items() for value in scalar(tag, number).value])
        self._file_writer.add_summary(merged, step)
