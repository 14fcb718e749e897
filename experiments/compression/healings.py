"""Healings: compressed copies that are trained, measured, and remembered."""

from pathlib import Path
from typing import Any

from experiments.compression.clock import Clock
from experiments.compression.ledger import Ledger
from experiments.compression.progress import Bars
from experiments.compression.settings import Compression
from experiments.compression.subject import Subject
from tying import schema
from tying.compression.healing import Healing
from tying.compression.search import Questions
from tying.compression.sources import Sources
from tying.config import override
from tying.errors import InputError
from tying.files import remove
from tying.training import checkpoint
from tying.training.trainer import Trainer

_LINE = schema.shape(sources=str, iterations=int, seed=int, reward_loss=float, test_loss=float, train_s=float)
_CHECKPOINTS = 10  # of a healing
# A shorter healing whose copy is not saved has none: it is done again in less time than they are worth.
_MOST_UNSAVED = 100
# Of the loss, between a question and the copy that is made: more means that the copy is of another model.
_TOLERANCE = 1e-4


class Healings:
    """Heals patterns, each once; results stand in healed.jsonl, long healings and those that are saved have checkpoints.

    Args:
        subject: The original.
        compression: How it is healed.
        ask: Questions to the reward split.
        bars: Where progress is shown.
        clock: Of the whole compression.
        origin: Of the results; see Ledger.
    """

    def __init__(
        self, subject: Subject, compression: Compression, ask: Questions, bars: Bars, clock: Clock, origin: str
    ) -> None:
        self._subject = subject
        self._flags, self._config, self._out = compression.flags, compression.config, compression.out
        self._ask = ask
        self._bars = bars
        self._clock = clock
        self._ledger = Ledger(self._out / "healed.jsonl", _LINE, ("sources", "iterations", "seed"), origin)

    def measured(self, sources: Sources, iterations: int, seed: int) -> dict[str, Any]:
        """Return the losses of a pattern after healing."""
        checkpoints = self._out / f"healing-{'_'.join(str(sources).split())}-s{seed}"
        line = self._ledger.get(str(sources), iterations, seed)
        if line is None:
            _, line = self._heal(sources, iterations, seed, checkpoints if iterations > _MOST_UNSAVED else None)
        remove(checkpoints)
        return line

    def saved(self, sources: Sources, name: str) -> dict[str, Any]:
        """Heal a pattern for the whole budget, save the copy in a folder of that name, and return its losses."""
        iterations, seed = self._config.trainer.iterations, self._config.run.seed
        line = self._ledger.get(str(sources), iterations, seed)
        folder, checkpoints = self._out / name, self._out / f"healing-{name}"
        if line is None or not folder.is_dir():
            trainer, line = self._heal(sources, iterations, seed, checkpoints)
            self._subject.save(trainer, sources, folder, line)
        remove(checkpoints)
        return line

    def _heal(
        self, sources: Sources, iterations: int, seed: int, checkpoints: Path | None
    ) -> tuple[Trainer, dict[str, Any]]:
        """Train to the end, from the newest checkpoint where there is one, and measure."""
        trainer = self._trainer(sources, iterations, seed)
        done = sorted(checkpoints.glob("[0-9]*"), key=lambda path: int(path.name)) if checkpoints is not None else []
        if done:
            checkpoint.load(trainer, done[-1])
        piece = -(-iterations // _CHECKPOINTS)
        clock = Clock(checkpoints / "clock.json" if checkpoints is not None else None)

        def advance(_: Any) -> None:
            self._bars.advance(1)
            self._clock.tick()
            clock.tick()

        with self._bars.bar(f"healing {sources}, seed {seed}", iterations):
            self._bars.advance(trainer.iteration)
            while trainer.iteration < iterations:
                trainer.train(min(piece, iterations - trainer.iteration), advance)
                if checkpoints is not None:
                    checkpoints.mkdir(exist_ok=True)
                    newest = checkpoints / str(trainer.iteration)
                    checkpoint.save(trainer, newest)
                    for path in done:
                        remove(path)
                    done = [newest]
        line = {
            "sources": str(sources),
            "iterations": iterations,
            "seed": seed,
            **{f"{split}_loss": trainer.evaluate(split, self._flags.test_batches) for split in ("reward", "test")},
            "train_s": clock.seconds,
        }
        return trainer, self._ledger.add(line)

    def _trainer(self, sources: Sources, iterations: int, seed: int) -> Trainer:
        subject = self._subject
        healing = Healing(subject.objective, subject.model, sources, self._config.binding, self._flags.layer_weight)
        config = override(self._config.trainer, {"iterations": iterations})
        trainer = healing.trainer(config, self._config.optim, seed)
        found, asked = trainer.evaluate("reward", self._config.reward.num_batches), self._ask(sources)
        if abs(found - asked) > _TOLERANCE * max(1.0, abs(asked)):
            raise InputError(
                f"sources '{sources}': the copy's loss is {found:.6g}, but {asked:.6g} was asked for: layers of this model "
                "are not what they seem"
            )
        return trainer
