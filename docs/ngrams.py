"""Test losses of counting models on the splits of the pages of results: `python docs/ngrams.py tinyshakespeare.txt`."""

import sys

from envs.presets import PRESETS
from tying.config import override
from tying.data.corpora import DataConfig
from tying.data.ngrams import references
from tying.data.tokens import prepare


def main(path: str) -> None:
    """Print a line for every text and regime of the pages of results."""
    mini, table = PRESETS["mini"].data, PRESETS["table"].data
    settings: dict[str, DataConfig] = {
        "tinyshakespeare, data-rich": override(mini, {"path": path}),
        "tinyshakespeare, data-limited": override(mini, {"path": path, "train_chars": 50_000}),
        "python-stdlib, data-rich": override(mini, {"max_chars": 390_000}),
        "python-stdlib, data-limited": override(mini, {"max_chars": 390_000, "train_chars": 33_000}),
        "TyingBench": override(table, {"path": path}),
        "TyingBench, transfer to python-stdlib": mini,
    }
    for name, data in settings.items():
        print(f"{name:40}" + "  ".join(f"{order} {loss:.3f}" for order, loss in references(prepare(data)).items()))


if __name__ == "__main__":
    main(sys.argv[1])
