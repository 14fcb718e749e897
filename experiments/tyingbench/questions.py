"""Make a table from questions to a trained model: the loss of every way to tie or remove its layers, without training.

python -m experiments.tyingbench questions path/to/encoder --slices 5 --out tables/encoder.csv

A table's pointers are over L + 1 layers, of which layer 0 stands for nothing: the layers that join it are removed. With
`--no-removing` they are over the L layers. With `--parts halves` attention and feed-forward are tied apart, as 2L layers
(`tying.parts`): 41,209 patterns of six layers with `--no-removing`. Its "seeds" are slices of the text: every slice is
other batches of the reward split and of the test split.
"""

import shlex
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

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
from tying.files import require_room, write_json
from tying.models.base import num_params
from tying.parts import Parts
from tying.tyingbench import FORMAT, Row, TyingBench, facts_of, write_table

if TYPE_CHECKING:
    from experiments.compression.subject import Subject

_LINE = schema.shape(slice=int, pattern=str, sources=str, reward_loss=float, test_loss=float, seconds=float)
_MOST_PATTERNS = 50_000


@config
class QuestionFlags:
    """Make a table of every pattern of a trained model. Other flags are those of experiments.compress for its data."""

    model: str = cli.positional("as experiments.compress takes it")
    slices: int = setting("slices of the text that every pattern is asked on [>= 2]", default=5, ge=2)
    parts: Literal["block", "halves"] = setting(
        "what is tied; halves: attention and feed-forward of a layer apart, norms between them with neither",
        default="block",
    )
    donors: bool = setting(
        "give each group the values of its best member, by the reward split, not its first", default=False
    )
    out: str | None = setting("CSV file of the table; a JSON file of its settings is put beside it", default=None)


def main(words: Sequence[str]) -> TyingBench:
    """Ask every pattern on every slice, write the table, and return it."""
    flags, rest = cli.read_own(QuestionFlags, words, "experiments.tyingbench questions", keep_rest=True)
    if flags.out is None or not flags.out.endswith((".csv", ".csv.gz")):
        raise InputError(f"--out {flags.out or 'is missing'}: name a CSV file, or a .csv.gz")
    out = Path(flags.out)
    require_room(out, "--out")
    compression = settings.parse([flags.model, *rest, "--out", str(facts_of(out).with_suffix(""))])
    share, rank = compression.config.binding.share, compression.config.binding.delta_rank
    if rank:
        raise InputError(f"--binding.delta-rank {rank}: a table's sets of weights have no deltas; set it to 0")
    if flags.parts != "block" and share != "block":
        raise InputError(f"--binding.share {share} and --parts {flags.parts} are both set: give one of them")
    from experiments.compression.subject import Subject  # imports torch: mistakes are answered before

    subject = Subject.load(compression)
    parts = Parts(subject.num_layers, flags.parts, compression.flags.removing)
    if parts.number > _MOST_PATTERNS:
        raise InputError(
            f"{flags.model}: {parts.num_layers} layers have {parts.number:,} patterns; a table has at most "
            f"{_MOST_PATTERNS:,}, and fewer with --no-removing"
        )
    own = {name: value for name, value in to_dict(flags).items() if name != "out"}
    origin = subject.origin({"flags": own, "resolved": compression.config.resolved()})
    started = time.process_time()
    rows = [row for number in range(flags.slices) for row in _rows(subject, flags, parts, number, out, origin)]
    digest = subject.task.facts()["corpus_sha256"]
    references = subject.task.references()
    bench = TyingBench(sorted(rows, key=lambda row: (row.pointers, row.seed)), {
        "format": FORMAT,
        "command": shlex.join(["python", "-m", "experiments.tyingbench", "questions", *words]),
        "removing": parts.removing,
        **({"parts": parts.name} if parts.apart else {}),
        "donors": flags.donors,
        "uninformed_loss": subject.task.uninformed_loss,
        **({"four_gram_loss": references["4-gram"]} if references else {}),
        "text_sha256": digest,
        "corpus_sha256": digest,
        "seconds": time.process_time() - started,
        "made_by": made_by(),
        "config": compression.config.resolved(),
    })  # fmt: skip
    write_json(facts_of(out), bench.facts)
    write_table(out, bench.rows)
    print(f"table      {out}")
    return bench


def _rows(subject: "Subject", flags: QuestionFlags, parts: Parts, number: int, out: Path, origin: str) -> Iterator[Row]:
    """Yield a row for every pattern on one slice; answers are kept beside the table, so that the command resumes."""
    asks = {split: _questions(subject, flags, parts, split, number) for split in ("reward", "test")}
    walk = asks["reward"].walk
    kept = Ledger(facts_of(out).with_suffix(".jsonl"), _LINE, ("slice", "pattern"), origin)
    untied, total = walk.num_layers * walk.set_params, num_params(subject.model)
    tokens = subject.compression.config.trainer.batch_size * subject.task.sequence_length
    patterns = {Sources.of(pointers, parts.removing): pointers for pointers in parts.every()}
    bars = Bars(make_console())
    with bars.bar(f"slice {number}: {len(patterns)} patterns", len(patterns)):
        for sources in walk.in_order(patterns):
            pointers = patterns[sources]
            line = kept.get(number, str(pointers))
            if line is None:
                begun = time.process_time()
                given = best_donors(asks["reward"], sources) if flags.donors else sources
                line = {"slice": number, "pattern": str(pointers), "sources": str(given)}
                line |= {f"{split}_loss": ask(given) for split, ask in asks.items()}
                line = kept.add(line | {"seconds": time.process_time() - begun})
            bars.advance(1)
            params = walk.params(sources)
            yield Row(
                pointers=pointers,
                seed=number,
                budget=1.0,
                tokens=tokens * subject.compression.config.reward.num_batches,
                reward_loss=max(0.0, line["reward_loss"]),
                test_loss=max(0.0, line["test_loss"]),
                seconds=line["seconds"],
                trainable_params=total - untied + params,
                block_params=params,
            )


def _questions(subject: "Subject", flags: QuestionFlags, parts: Parts, split: str, number: int) -> Questions:
    config = subject.compression.config
    count = config.reward.num_batches
    batches = list(subject.task.evaluation_batches(split, config.trainer.batch_size, count * flags.slices))
    if len(batches) < count * flags.slices:
        raise InputError(f"the {split} split has {len(batches)} batches, fewer than {flags.slices} slices of {count}")
    share = parts.shares if parts.apart else config.binding.share
    return Questions(
        BlockWalk(subject.objective, subject.model, batches[number :: flags.slices], share, config.binding.norms)
    )
