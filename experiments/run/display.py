"""What a person sees while a run trains: a bar, the figures, and the tying as a coloured row."""

import math
import time
from types import TracebackType
from typing import Any, Self

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from tying.palette import colour, letter
from tying.pointers import Pointers
from tying.training.record import StepRecord, perplexity
from tying.training.trainer import Iteration

_LINE_EVERY_S = 15.0  # between two lines where there is no terminal to redraw


def tying_row(pointers: Pointers) -> Text:
    """Return one coloured block with its letter per layer; a layer that owns its weights is bold."""
    row = Text()
    for layer, root in enumerate(pointers):
        red, green, blue = (round(255 * part) for part in colour(root, len(pointers)))
        row.append(f" {letter(root)} ", style=f"{'bold ' if layer == root else ''}white on rgb({red},{green},{blue})")
    return row


class Display:
    """Shows a run's progress: redrawn in place on a terminal, a line now and then elsewhere.

    Args:
        num_iterations: Of the run.
        batch_tokens: Tokens of one iteration.
        pointers: At the start.
        console: Where to draw.
        perplexity: Whether the exponential of the loss is one, and shown.
        iteration: Where a resumed run stands.
    """

    def __init__(
        self,
        num_iterations: int,
        batch_tokens: int,
        pointers: Pointers,
        console: Console,
        perplexity: bool,
        iteration: int = 0,
    ) -> None:
        self._console = console
        self._batch_tokens = batch_tokens
        self._perplexity = perplexity
        self._pointers = pointers
        self._changed_at = 0
        self._loss = self._reward_loss = math.nan
        self._seconds = math.nan  # smoothed, per iteration
        self._num_iterations = num_iterations
        self._iteration = iteration
        self._last_line = time.monotonic()
        self._progress = Progress(
            TextColumn("iteration {task.completed}/{task.total}"),
            BarColumn(bar_width=None),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(elapsed_when_finished=False),
            console=console,
        )
        self._task = self._progress.add_task("", total=num_iterations, completed=iteration)
        self._live = (
            Live(console=console, get_renderable=self._render, refresh_per_second=4) if console.is_terminal else None
        )

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._live is not None:
            self._live.stop()

    def iteration(self, done: Iteration) -> None:
        """Take one optimizer step."""
        smooth = 0.95 if math.isfinite(self._loss) else 0.0
        self._loss = smooth * self._loss + (1 - smooth) * done.loss if smooth else done.loss
        self._seconds = smooth * self._seconds + (1 - smooth) * done.seconds if smooth else done.seconds
        self._iteration = done.iteration
        self._progress.update(self._task, completed=done.iteration)

    def decision(self, record: StepRecord) -> None:
        """Take one decision."""
        if record.pointers != self._pointers:
            self._pointers = record.pointers
            self._changed_at = record.iteration
        self._reward_loss = record.reward_loss
        now = time.monotonic()
        if self._live is None and (now - self._last_line >= _LINE_EVERY_S or self._iteration == self._num_iterations):
            self._last_line = now
            text = Text(f"iteration {self._iteration}/{self._num_iterations}  ").append(self._figures())
            left = (self._num_iterations - self._iteration) * self._seconds
            self._console.print(text.append(f"  {left / 60:.1f} min left  tying {self._pointers}"), soft_wrap=True)

    def _figures(self) -> Text:
        loss = f"{self._loss:.3f}" if math.isfinite(self._loss) else "-"
        known = math.isfinite(self._reward_loss)
        if self._perplexity:
            reward = f"perplexity {perplexity(self._reward_loss):.2f}" if known else "perplexity -"
        else:
            reward = f"loss {self._reward_loss:.3f}" if known else "loss -"
        speed = f"{self._batch_tokens / self._seconds:,.0f}" if self._seconds > 0 else "-"
        return Text(f"train loss {loss}  reward {reward}  {speed} tokens/s")

    def _render(self) -> Group:
        unique = self._pointers.num_unique
        row = Text("tying ").append(tying_row(self._pointers))
        row.append(f"  {unique} of {len(self._pointers)} layers unique, last change at iteration {self._changed_at}")
        return Group(self._progress, self._figures(), row)


def summary_table(summary: dict[str, Any]) -> Table:
    """Return the closing table of a run."""
    table = Table(title="result", show_header=False)
    pointers = Pointers(summary["pointers"])
    trainable, independent = summary["trainable_params"], summary["independent_params"]
    blocks, all_blocks = summary["trainable_block_params"], summary["independent_block_params"]
    for name in (name for name in summary if name.startswith("test_")):
        unit = f" {summary.get('loss_unit', 'nats per token')}" if name == "test_loss" else ""
        table.add_row(name.replace("_", " "), f"{summary[name]:.4f}{unit}")
    if references := summary.get("references"):
        table.add_row("counting models", ", ".join(f"{name} {loss:.3f}" for name, loss in references.items()))
    table.add_row("tying", tying_row(pointers).append(f"  {pointers}"))
    table.add_row("unique layers", f"{pointers.num_unique} of {len(pointers)}")
    table.add_row("trainable parameters", f"{trainable:,} of {independent:,} untied ({trainable / independent:.1%})")
    table.add_row("of them in blocks", f"{blocks:,} of {all_blocks:,} untied ({blocks / all_blocks:.1%})")
    table.add_row("tokens", f"{summary['tokens']:,} in {summary['train_s']:.0f} s of training")
    deciding, evaluating = summary["decision_s"], summary["evaluate_s"]
    table.add_row("decisions", f"{summary['decisions']}, taking {deciding:.0f} s, and {evaluating:.0f} s to evaluate")
    return table
