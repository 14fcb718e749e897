"""Compare agents: paired seeds, equal tokens, one table.

python -m experiments.compare --agents dqn random all_tied sequence:3 independent --seeds 5
python -m experiments.compare --agents independent dqn "dqn --reward fork" --preset mini --out comparisons/fork

Every flag of `experiments.train` holds for all variants; flags in quotes behind an agent's name for it alone.
"""

from collections.abc import Sequence
from typing import Any

from experiments.run import cli
from experiments.study import comparison, grid
from tying.config import config, setting
from tying.errors import InputError

_BASELINE = "independent"


@config
class CompareFlags(comparison.ComparisonFlags):
    """Compare agents over paired seeds. Every other flag is one of experiments.train and holds for all variants."""

    agents: list[str] = setting(
        "what to compare: --agents A B ...; a variant's own flags in quotes: 'dqn --reward fork'", default=[]
    )
    baseline: str | None = setting(
        f"the variant that differences are to; None: {_BASELINE} if it is there, else the first", default=None
    )
    shallow: bool = setting(
        "add shallow:K, the untied model of K layers, for every fixed pattern of K sets that lacks it", default=True
    )


def main(words: Sequence[str]) -> Any:
    """Run the comparison and return its table."""
    flags, rest = cli.read_own(CompareFlags, words, "experiments.compare", keep_rest=True)
    texts = [text for given in flags.agents for text in _split(given)]
    if not texts:
        raise InputError("--agents: name the agents to compare, as in --agents independent dqn random")
    variants = grid.parse_variants(texts, rest)
    if flags.shallow:
        variants = grid.with_shallow_rivals(variants, rest)
    labels = [variant.label for variant in variants]
    baseline = flags.baseline or (_BASELINE if _BASELINE in labels else labels[0])
    if baseline not in labels:
        raise InputError(f"--baseline {baseline!r} is none of --agents: {', '.join(labels)}")
    command = ["python", "-m", "experiments.compare", *words]
    return comparison.compare(flags, flags.folder("comparisons/"), variants, flags.seed_list(), baseline, command)


def _split(text: str) -> list[str]:
    """Return the agents of a list with commas, "dqn,random"; commas in a variant's own flags stay."""
    return [text] if " --" in text else [part.strip() for part in text.split(",")]


if __name__ == "__main__":
    cli.run(main)
