"""The way from a trained model to a smaller one: questions, short healing of a few, healing of the best, and the report.

Search asks the reward split, healing trains on the train split, and all figures that are reported are of the test split.
What is done stands in queries.jsonl, healed.jsonl and a checkpoint; the same command resumes.
"""

import resource
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from experiments.compression import searching
from experiments.compression.ledger import Ledger
from experiments.compression.settings import Compression
from experiments.compression.subject import Subject
from tying import schema
from tying.compression.healing import Healing
from tying.compression.search import Found, Questions
from tying.compression.sources import Sources
from tying.compression.walk import BlockWalk
from tying.config import to_dict
from tying.errors import InputError
from tying.files import read_json, remove, require_room, write_json
from tying.training import checkpoint
from tying.training.trainer import Trainer

FORMAT = 1
_QUERY = schema.shape(split=str, sources=str, loss=float)
_HEALED = schema.shape(sources=str, iterations=int, reward_loss=float, test_loss=float, train_s=float)
_CHECKPOINTS = 10  # of a healing


@dataclass(frozen=True)
class Candidate:
    """A pattern at a size. Losses are of the test split, `healed_reward` of the reward split; None: not healed.

    Attributes:
        name: Why it is there: "chosen", "best tying", "best removal", or a rule's name.
        sources: The pattern.
        zero_shot: Loss before healing.
        healed: After healing of equal length: the short one.
        healed_reward: The same on the split that chooses.
    """

    name: str
    sources: Sources
    zero_shot: float
    healed: float | None = None
    healed_reward: float | None = None


@dataclass(frozen=True)
class Size:
    """The result at one number of sets.

    Attributes:
        num_sets: K.
        chosen: The pattern that is healed for the whole budget.
        healed: Its test loss after that.
        others: Rivals: the best tying, the best removal, and every rule.
        median: The median loss of all patterns that were asked at this size; of the reward split.
        asked: Questions asked for this size.
    """

    num_sets: int
    chosen: Candidate
    healed: float
    others: list[Candidate]
    median: float
    asked: int


@dataclass(frozen=True)
class Outcome:
    """The result of a compression.

    Attributes:
        sizes: At every number of sets, the first one first.
        original: The original's test loss.
        subject: What was compressed.
        set_params: Parameters of one set of shared weights.
        queries: Questions asked in the search.
        wall_s: Wall seconds of this process.
        peak_mib: Its largest memory.
    """

    sizes: list[Size]
    original: float
    subject: Subject
    set_params: int
    queries: int
    wall_s: float
    peak_mib: int


class Work:
    """A compression under way, in its folder.

    Args:
        compression: What is compressed, and how.
        console: Where progress is shown.
    """

    def __init__(self, compression: Compression, console: Console) -> None:
        self.compression = compression
        self.flags, self.config, self.out = compression.flags, compression.config, compression.out
        self.console = console
        self._start = time.monotonic()
        self._advance: Callable[[int], None] = lambda number: None

    def run(self) -> Outcome:
        """Do what is not done yet, and return the result.

        Raises:
            InputError: If the folder holds something else, or another process is at it.
        """
        self._require_folder()
        with self._locked():
            return self._run()

    def _run(self) -> Outcome:
        if not (self.out / "config.json").is_file():
            write_json(self.out / "config.json", self._settings())
        self.subject = Subject.load(self.compression)
        sizes = self.flags.sizes(self.subject.num_layers)
        ledger = Ledger(self.out / "queries.jsonl", _QUERY, ("split", "sources"))
        self.healings = Ledger(self.out / "healed.jsonl", _HEALED, ("sources", "iterations"))
        self.ask = self._questions("reward", self.config.reward.num_batches, ledger)
        self.test = self._questions("test", self.flags.test_batches, ledger)
        with self._bar("the original"):
            original = self.test(Sources.original(self.subject.num_layers))
        found = [self._size(num_sets, first=num_sets == sizes[0]) for num_sets in sizes]
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        seconds = time.monotonic() - self._start
        return Outcome(found, original, self.subject, self.ask.walk.set_params, len(self.ask.asked), seconds, peak)

    def _questions(self, split: str, num_batches: int, ledger: Ledger) -> Questions:
        """Return the questions to a split, those that the ledger has answers for answered."""
        task, binding = self.subject.task, self.config.binding
        batches = task.evaluation_batches(split, self.config.trainer.batch_size, num_batches)
        walk = BlockWalk(task, self.subject.model, batches, binding.share, binding.norms)

        def note(sources: Sources, loss: float) -> None:
            ledger.add({"split": split, "sources": str(sources), "loss": loss})
            self._advance(1)

        return Questions(walk, _of(split, ledger), note)

    def _size(self, num_sets: int, first: bool) -> Size:
        before = len(self.ask.asked)
        with self._bar(f"{num_sets} sets: searching"):
            found = searching.find(self.ask, num_sets, self.compression)
            rivals = self._rivals(found, num_sets)
        asked = len(self.ask.asked) - before
        short = max(1, round(self.flags.short * self.config.trainer.iterations))
        if num_sets == self.subject.num_layers:
            original = Candidate("chosen", found.best[0], self.test(found.best[0]))
            return Size(num_sets, original, original.zero_shot, [], found.median, asked)
        listed = {f"#{rank + 1}": sources for rank, sources in enumerate(found.best[: self.flags.shortlist])}
        healed = [self._healed(name, sources, short) for name, sources in {**listed, **rivals}.items()]
        chosen = min(healed, key=lambda candidate: candidate.healed_reward or 0.0)
        with self._bar(f"{num_sets} sets: rules on the test split"):
            rules = [Candidate(name, s, self.test(s)) for name, s in found.rules.items() if name not in rivals]
        others = [candidate for candidate in healed if candidate.name in rivals] + rules
        whole = self._whole(chosen, num_sets, first)
        return Size(num_sets, replace(chosen, name="chosen"), whole, others, found.median, asked)

    def _rivals(self, found: Found, num_sets: int) -> dict[str, Sources]:
        """Return the best of each kind: any tying, any removal, and the best rule of each, by the reward split."""
        rivals = {"best tying": found.tied[0], "best removal": found.removed[0]} if self.flags.removing else {}
        by_kind = [{name: s for name, s in found.rules.items() if (None in s) == removing} for removing in (False, True)]
        for rules in by_kind:
            if rules:
                name = min(rules, key=lambda name: self.ask(rules[name]))
                rivals[name] = rules[name]
        return rivals

    def _healed(self, name: str, sources: Sources, iterations: int) -> Candidate:
        """Return a pattern with its figures after healing of that many iterations."""
        line = self.healings.get(str(sources), iterations)
        if line is None:
            _, line = self._heal(sources, iterations, None)
        return Candidate(name, sources, self.test(sources), line["test_loss"], line["reward_loss"])

    def _whole(self, chosen: Candidate, num_sets: int, first: bool) -> float:
        """Heal the chosen pattern for the whole budget, save it, and return its test loss."""
        folder = self.out / ("model" if first else f"model-{num_sets}")
        iterations = self.config.trainer.iterations
        line = self.healings.get(str(chosen.sources), iterations)
        if line is None or not folder.is_dir():
            checkpoints = self.out / f"healing-{num_sets}"
            trainer, line = self._heal(chosen.sources, iterations, checkpoints)
            self.subject.save(trainer, chosen.sources, folder, line)
            remove(checkpoints)
        return float(line["test_loss"])

    def _trainer(self, sources: Sources, iterations: int) -> Trainer:
        healing = Healing(self.subject.task, self.subject.model, sources, self.config.binding, self.flags.layer_weight)
        config = self.config.trainer
        trainer = healing.trainer(
            type(config)(**{**to_dict(config), "iterations": iterations}), self.config.optim, self.config.run.seed
        )
        found = trainer.evaluate("reward", self.config.reward.num_batches)
        asked = self.ask(sources)
        if abs(found - asked) > 1e-4 * max(1.0, abs(asked)):
            raise InputError(
                f"sources '{sources}': the copy's loss is {found:.6g}, the question's {asked:.6g}: this model cannot be "
                "compressed so"
            )
        return trainer

    def _heal(self, sources: Sources, iterations: int, checkpoints: Path | None) -> tuple[Trainer, dict[str, Any]]:
        """Train to the end, from the newest checkpoint where there is one, and measure."""
        trainer = self._trainer(sources, iterations)
        done = sorted(checkpoints.glob("[0-9]*"), key=lambda path: int(path.name)) if checkpoints is not None else []
        if done:
            checkpoint.load(trainer, done[-1])
        piece = -(-iterations // _CHECKPOINTS)
        started = time.monotonic()
        with self._bar(f"healing {sources}", iterations) as advance:
            advance(trainer.iteration)
            while trainer.iteration < iterations:
                trainer.train(min(piece, iterations - trainer.iteration), lambda _: advance(1))
                if checkpoints is not None:
                    checkpoints.mkdir(exist_ok=True)
                    checkpoint.save(trainer, checkpoints / str(trainer.iteration))
                    for path in done:
                        remove(path)
                    done = [checkpoints / str(trainer.iteration)]
        losses = {f"{split}_loss": trainer.evaluate(split, self.flags.test_batches) for split in ("reward", "test")}
        line = {"sources": str(sources), "iterations": iterations, **losses, "train_s": time.monotonic() - started}
        return trainer, self.healings.add(line)

    def _require_folder(self) -> None:
        """Check that the folder is new, or of the same compression."""
        require_room(self.out, "--out")
        settings = self.out / "config.json"
        if settings.is_file():
            if read_json(settings) != self._settings():
                raise InputError(f"--out {self.out}: holds a compression with other settings; name a new folder")
        elif self.out.exists() and any(path.name != ".lock" for path in self.out.iterdir()):
            raise InputError(f"--out {self.out}: exists and is not empty; name a new folder")

    def _settings(self) -> dict[str, Any]:
        flags = {name: value for name, value in to_dict(self.flags).items() if name not in ("out", "trust")}
        return {"format": FORMAT, "flags": flags, "resolved": self.config.resolved()}

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self.out.mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(self.out / ".lock", timeout=0):
                yield
        except Timeout as error:
            raise InputError(f"{self.out}: another process is at this compression") from error

    @contextmanager
    def _bar(self, title: str, total: int | None = None) -> Iterator[Callable[[int], None]]:
        """Show progress while a block works; on a screen that is no terminal, one line."""
        columns = (TextColumn(title), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        if not self.console.is_terminal:
            self.console.print(title, soft_wrap=True)
        with Progress(*columns, console=self.console, disable=not self.console.is_terminal) as progress:
            task = progress.add_task(title, total=total)
            self._advance = lambda number: progress.advance(task, number)
            yield self._advance


def _of(split: str, ledger: Ledger) -> dict[Sources, float]:
    """Return the losses of a split that a ledger holds."""
    return {Sources.parse(text): line["loss"] for (s, text), line in ledger.lines.items() if s == split}
