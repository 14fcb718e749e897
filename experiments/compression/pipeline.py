"""The way from a trained model to a smaller one: questions, short healing of a few, healing of the best.

Search asks the reward split, healing trains on the train split, and all figures that are reported are of the test split.
What is done stands in queries.jsonl, healed.jsonl and checkpoints; the same command resumes.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import psutil
from filelock import FileLock, Timeout
from rich.console import Console

from experiments.compression import searching
from experiments.compression.clock import Clock
from experiments.compression.healings import Healings
from experiments.compression.ledger import Ledger
from experiments.compression.progress import Bars
from experiments.compression.settings import Compression
from experiments.compression.subject import Subject
from experiments.run import cli
from tying import schema
from tying.compression.search import Found, Questions
from tying.compression.sources import Sources
from tying.compression.walk import BlockWalk
from tying.config import to_dict
from tying.errors import InputError
from tying.files import read_json, remove, require_room, write_json

FORMAT = 1
SUMMARY = "summary.json"  # written last: where it is, all is done
_QUERY = schema.shape(split=str, sources=str, loss=float)


@dataclass(frozen=True)
class Candidate:
    """A pattern at a size. Losses are of the test split.

    Attributes:
        name: Why it is there: "chosen", "best tying", "best removal", "#2" of the search, or a rule's name.
        sources: The pattern.
        zero_shot: Loss before healing.
        healed: After short healing, one for each seed; empty: not healed.
        healed_reward: The same on the reward split, which chooses.
    """

    name: str
    sources: Sources
    zero_shot: float
    healed: tuple[float, ...] = ()
    healed_reward: tuple[float, ...] = ()


@dataclass(frozen=True)
class Asked:
    """Losses of the search, before healing, all of the reward split.

    Attributes:
        original: Of the original.
        best: Of the best pattern of a size.
        median: The median of all patterns of the size that were asked.
    """

    original: float
    best: float
    median: float


@dataclass(frozen=True)
class Size:
    """The result at one number of sets.

    Attributes:
        num_sets: K.
        chosen: The pattern that is healed for the whole budget.
        healed: Its test loss after that.
        others: Rivals: the best tying, the best removal, and every rule.
        asked: What the search was answered.
        block_params: Parameters of the blocks that the chosen pattern has, deltas included.
    """

    num_sets: int
    chosen: Candidate
    healed: float
    others: list[Candidate]
    asked: Asked
    block_params: int


@dataclass(frozen=True)
class Outcome:
    """The result of a compression.

    Attributes:
        sizes: At every number of sets, the first one first.
        original: The original's test loss.
        subject: What was compressed.
        block_params: Parameters of the original's blocks.
        queries: Questions asked in the search.
        wall_s: Wall seconds of all processes that worked on it.
        memory_mib: Memory that it holds at the end.
    """

    sizes: list[Size]
    original: float
    subject: Subject
    block_params: int
    queries: int
    wall_s: float
    memory_mib: int


def compress(compression: Compression, console: Console) -> Outcome | None:
    """Do what is not done yet, and return the result; None where all was done before.

    Raises:
        InputError: If the folder holds something else, another process is at it, or the model cannot be compressed.
    """
    _require_folder(compression)
    with _locked(compression), cli.resumable(compression.command):
        work = _Work(compression, Bars(console))
        return None if work.finished else work.outcome()


class _Work:
    """A compression under way, in its folder."""

    def __init__(self, compression: Compression, bars: Bars) -> None:
        self.compression, self.flags, self.config = compression, compression.flags, compression.config
        self.bars = bars
        self.clock = Clock(compression.out / "clock.json")
        self.subject = Subject.load(compression)
        self.sizes = self.flags.sizes(self.subject.num_layers)
        write_json(compression.out / "config.json", _settings(compression))
        self._origin = self.subject.origin(_settings(compression))
        self._ledger = Ledger(compression.out / "queries.jsonl", _QUERY, ("split", "sources"), self._origin)

    @property
    def finished(self) -> bool:
        """Whether the summary and all models are there."""
        return all((self.compression.out / name).exists() for name in (SUMMARY, *map(self._folder, self.sizes)))

    def outcome(self) -> Outcome:
        """Do what is not done yet; see `compress`."""
        try:
            with self.bars.bar("the original"):
                original = self.test(Sources.original(self.subject.num_layers))
            found = [self._size(num_sets) for num_sets in self.sizes]
        finally:
            self.clock.write()
        memory = psutil.Process().memory_info().rss // 2**20
        params = self.ask.walk.block_params(Sources.original(self.subject.num_layers))
        return Outcome(found, original, self.subject, params, len(self.ask.asked), self.clock.seconds, memory)

    @cached_property
    def ask(self) -> Questions:
        """Questions to the reward split."""
        return self._questions("reward", self.config.reward.num_batches)

    @cached_property
    def test(self) -> Questions:
        """Questions to the test split."""
        return self._questions("test", self.flags.test_batches)

    @cached_property
    def healings(self) -> Healings:
        """The healings."""
        return Healings(self.subject, self.compression, self.ask, self.bars, self.clock, self._origin)

    def _folder(self, num_sets: int) -> str:
        """Return the name of the folder of a size's model."""
        return "model" if num_sets == self.sizes[0] else f"model-{num_sets}"

    def _questions(self, split: str, num_batches: int) -> Questions:
        """Return the questions to a split; those that the ledger has answers for are answered."""
        task, binding, ledger = self.subject.objective, self.config.binding, self._ledger
        batches = task.evaluation_batches(split, self.config.trainer.batch_size, num_batches)
        walk = BlockWalk(task, self.subject.model, batches, binding.share, binding.norms, delta_rank=binding.delta_rank)
        known = {Sources.parse(text): line["loss"] for (s, text), line in ledger.lines.items() if s == split}

        def note(sources: Sources, loss: float) -> None:
            ledger.add({"split": split, "sources": str(sources), "loss": loss})
            self.bars.advance(1)
            self.clock.tick()

        return Questions(walk, known, note)

    def _size(self, num_sets: int) -> Size:
        title = f"{num_sets} of {self.subject.num_layers} sets"
        with self.bars.bar(f"{title}: searching"):
            found = searching.find(self.ask, num_sets, self.compression, self.subject.objective.uninformed_loss)
            rivals = self._rivals(found)
        listed = {f"#{rank + 1}": sources for rank, sources in enumerate(found.best[: self.flags.shortlist])}
        healed = {name: self._healed(name, sources) for name, sources in {**listed, **rivals}.items()}
        chosen = min(healed.values(), key=lambda candidate: float(np.mean(candidate.healed_reward)))
        with self.bars.bar(f"{title}: rules on the test split"):
            by_rule = {**found.rules, **found.informed}
            rules = [Candidate(name, s, self.test(s)) for name, s in by_rule.items() if name not in rivals]
        whole = self.healings.saved(chosen.sources, self._folder(num_sets))
        others = [healed[name] for name in healed if name in rivals or healed[name].sources != chosen.sources]
        asked = Asked(self.ask.walk.original, self.ask(found.best[0]), found.median)
        params = self.ask.walk.block_params(chosen.sources)
        return Size(num_sets, replace(chosen, name="chosen"), whole["test_loss"], [*others, *rules], asked, params)

    def _rivals(self, found: Found) -> dict[str, Sources]:
        """Return the best tying, the best removal, and the best rule of each kind, or all rules; by the reward split."""
        rivals = {"best tying": found.tied[0], "best removal": found.removed[0]} if self.flags.removing else {}
        if self.flags.heal_rules:
            return rivals | found.rules | found.informed
        for removing in (False, True):
            rules = {name: sources for name, sources in found.rules.items() if (None in sources) == removing}
            if rules:
                name = min(rules, key=lambda name: self.ask(rules[name]))
                rivals[name] = rules[name]
        return rivals

    def _healed(self, name: str, sources: Sources) -> Candidate:
        """Return a pattern with its losses after short healing."""
        iterations = max(1, round(self.flags.short * self.config.trainer.iterations))
        seeds = range(self.config.run.seed, self.config.run.seed + self.flags.seeds)
        lines = [self.healings.measured(sources, iterations, seed) for seed in seeds]
        healed, rewarded = (tuple(line[f"{split}_loss"] for line in lines) for split in ("test", "reward"))
        return Candidate(name, sources, self.test(sources), healed, rewarded)


def _require_folder(compression: Compression) -> None:
    """Check that the folder is new, or of the same compression."""
    require_room(compression.out, "--out")
    settings = compression.out / "config.json"
    if settings.is_file():
        if read_json(settings) != _settings(compression):
            raise InputError(f"--out {compression.out}: holds a compression with other settings; name a new folder")
    elif compression.out.exists() and any(path.name != ".lock" for path in compression.out.iterdir()):
        raise InputError(f"--out {compression.out}: exists and is not empty; name a new folder")


def _settings(compression: Compression) -> dict[str, Any]:
    flags = {name: value for name, value in to_dict(compression.flags).items() if name not in ("out", "trust")}
    return {"format": FORMAT, "flags": flags, "resolved": compression.config.resolved()}


@contextmanager
def _locked(compression: Compression) -> Iterator[None]:
    compression.out.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(compression.out / ".lock", timeout=0):
            for leftover in compression.out.glob(".*.tmp"):  # of a process that was killed
                remove(leftover)
            yield
    except Timeout as error:
        raise InputError(f"{compression.out}: another process is at this compression") from error
