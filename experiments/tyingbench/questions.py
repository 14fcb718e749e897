"""Make a table from questions to a trained model: the loss of every way to tie or remove its layers, without training.

python -m experiments.tyingbench questions path/to/encoder --slices 5 --out tables/encoder.csv

A table's pointers are over L + 1 layers, of which layer 0 stands for nothing: the layers that join it are removed. With
`--no-removing` they are over the L layers. Its "seeds" are slices of the text: every slice is other batches of the reward
split and of the test split.
"""

import shlex
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from experiments.compression import settings
from experiments.compression.ledger import Ledger
from experiments.compression.progress import Bars
from experiments.run import cli
from experiments.run.console import make_console
from experiments.run.provenance import made_by
from tying import schema
from tying.compression.search import Questions, best_donors
from tying.compression.sources import Sources
from tying.compression.walk import BlockWalk
from tying.config import config, setting, to_dict
from tying.errors import InputError
from tying.files import require_room, write_json, write_text
from tying.models.base import num_params
from tying.pointers import Pointers
from tying.tyingbench import COLUMNS, FORMAT, Row, TyingBench, to_csv

if TYPE_CHECKING:
    from experiments.compression.subject import Subject

_LINE = schema.shape(slice=int, pattern=str, sources=str, reward_loss=float, test_loss=float, seconds=float)
_MOST_LAYERS = 8


@config
class QuestionFlags:
    """Make a table of every pattern of a trained model. Other flags are those of experiments.compress for its data."""

    model: str = cli.positional("as experiments.compress takes it")
    slices: int = setting("slices of the text that every pattern is asked on [>= 2]", default=5, ge=2)
    donors: bool = setting(
        "give each group the values of its best member, by the reward split, not its first", default=False
    )
    out: str | None = setting("CSV file of the table; a JSON file of its settings is put beside it", default=None)


def main(words: Sequence[str]) -> TyingBench:
    """Ask every pattern on every slice, write the table, and return it."""
    flags, rest = cli.read_own(QuestionFlags, words, "experiments.tyingbench questions", keep_rest=True)
    if flags.out is None or Path(flags.out).suffix != ".csv":
        raise InputError(f"--out {flags.out or 'is missing'}: name a CSV file")
    out = Path(flags.out)
    require_room(out, "--out")
    compression = settings.parse([flags.model, *rest, "--out", str(out.with_suffix(""))])
    from experiments.compression.subject import Subject  # imports torch: mistakes are answered before

    subject = Subject.load(compression)
    if subject.num_layers > _MOST_LAYERS:
        raise InputError(f"{flags.model}: {subject.num_layers} layers have too many patterns; at most {_MOST_LAYERS}")
    own = {name: value for name, value in to_dict(flags).items() if name != "out"}
    origin = subject.origin({"flags": own, "resolved": compression.config.resolved()})
    started = time.process_time()
    rows = [row for number in range(flags.slices) for row in _rows(subject, flags, number, out, origin)]
    digest = subject.task.facts()["corpus_sha256"]
    references = subject.task.references()
    bench = TyingBench(sorted(rows, key=lambda row: (row.pointers, row.seed)), {
        "format": FORMAT,
        "command": shlex.join(["python", "-m", "experiments.tyingbench", "questions", *words]),
        "removing": compression.flags.removing,
        "donors": flags.donors,
        "uninformed_loss": subject.task.uninformed_loss,
        **({"four_gram_loss": references["4-gram"]} if references else {}),
        "text_sha256": digest,
        "corpus_sha256": digest,
        "seconds": time.process_time() - started,
        "made_by": made_by(),
        "config": compression.config.resolved(),
    })  # fmt: skip
    write_json(out.with_suffix(".json"), bench.facts)
    write_text(out, ",".join(COLUMNS) + "\n" + to_csv(bench.rows))
    print(f"table      {out}")
    return bench


def _rows(subject: "Subject", flags: QuestionFlags, number: int, out: Path, origin: str) -> Iterator[Row]:
    """Yield a row for every pattern on one slice; answers are kept beside the table, so that the command resumes."""
    asks = {split: _questions(subject, flags, split, number) for split in ("reward", "test")}
    kept = Ledger(out.with_suffix(".jsonl"), _LINE, ("slice", "pattern"), origin)
    per_set, total = asks["reward"].walk.set_params, num_params(subject.model)
    removing = subject.compression.flags.removing
    tokens = subject.compression.config.trainer.batch_size * subject.task.sequence_length
    patterns = list(Pointers.all(subject.num_layers + removing))
    bars = Bars(make_console())
    with bars.bar(f"slice {number}: {len(patterns)} patterns", len(patterns)):
        for pointers in patterns:
            line = kept.get(number, str(pointers))
            if line is None:
                begun = time.process_time()
                sources = Sources.of(pointers, removing)
                sources = best_donors(asks["reward"], sources) if flags.donors else sources
                line = {"slice": number, "pattern": str(pointers), "sources": str(sources)}
                line |= {f"{split}_loss": ask(sources) for split, ask in asks.items()}
                line = kept.add(line | {"seconds": time.process_time() - begun})
            bars.advance(1)
            missing = subject.num_layers - (pointers.num_unique - removing)
            yield Row(
                pointers=pointers,
                seed=number,
                budget=1.0,
                tokens=tokens * subject.compression.config.reward.num_batches,
                reward_loss=max(0.0, line["reward_loss"]),
                test_loss=max(0.0, line["test_loss"]),
                seconds=line["seconds"],
                trainable_params=total - missing * per_set,
                block_params=(subject.num_layers - missing) * per_set,
            )


def _questions(subject: "Subject", flags: QuestionFlags, split: str, number: int) -> Questions:
    config = subject.compression.config
    count = config.reward.num_batches
    batches = list(subject.task.evaluation_batches(split, config.trainer.batch_size, count * flags.slices))
    if len(batches) < count * flags.slices:
        raise InputError(f"the {split} split has {len(batches)} batches, fewer than {flags.slices} slices of {count}")
    binding = config.binding
    return Questions(
        BlockWalk(subject.objective, subject.model, batches[number :: flags.slices], binding.share, binding.norms)
    )
