"""Test losses of counting models on the splits of the pages of results: `python docs/ngrams.py tinyshakespeare.txt`.

Interpolated Witten-Bell models of bytes (Witten & Bell 1991), down to 1/256:
p(byte | context) = (count + types x p(byte | shorter context)) / (total + types).
"""

import sys
from collections.abc import Iterator

import numpy as np

from envs.presets import PRESETS
from tying.config import override
from tying.data.corpora import DataConfig
from tying.data.tokens import prepare

_LONGEST = 4


def losses(train: np.ndarray, test: np.ndarray, longest: int = _LONGEST) -> Iterator[float]:
    """Yield the test loss in nats per byte of models of 1, 2, ... bytes; the byte itself counts."""
    probability = np.full(len(test), 1 / 256)
    for length in range(1, longest + 1):
        grams, counts = np.unique(_codes(train, length), return_counts=True)
        contexts, index = np.unique(grams // 256, return_inverse=True)
        totals, types = np.bincount(index, weights=counts), np.bincount(index)
        seen = _codes(test, length)
        count = _look_up(grams, counts, seen)
        total, kinds = (_look_up(contexts, values, seen // 256) for values in (totals, types))
        shorter = probability[length - 1 :]
        known = total > 0
        probability[length - 1 :][known] = ((count + kinds * shorter) / np.maximum(total + kinds, 1))[known]
        yield float(-np.log(probability[1:]).mean())


def _codes(values: np.ndarray, length: int) -> np.ndarray:
    """Return every run of that many bytes as one number."""
    size = len(values) - length + 1
    return np.sum([values[k : k + size].astype(np.int64) << 8 * (length - 1 - k) for k in range(length)], axis=0)


def _look_up(keys: np.ndarray, values: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    place = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[place] == wanted, values[place], 0)


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
        splits = prepare(data).splits
        found = losses(np.asarray(splits["train"]), np.asarray(splits["test"]))
        print(f"{name:40}" + "  ".join(f"{order}-gram {loss:.3f}" for order, loss in enumerate(found, start=1)))


if __name__ == "__main__":
    main(sys.argv[1])
