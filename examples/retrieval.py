"""Does a smaller copy of a sentence encoder still find what the original finds?

    python -m experiments.compress path/to/encoder --unique 4 --out compressed
    python examples/retrieval.py path/to/encoder compressed/model

The first paragraph of a docstring of Python's standard library is a query, the rest of it is its document. For every query
all documents are ranked by cosine. The score of a model is how often a query's own document comes first, and the mean
reciprocal rank. The first model is the original; the last column is the rank correlation of similarities with its.
"""

import argparse
import ast
import hashlib
import sys
import sysconfig
from pathlib import Path

import numpy as np
import torch
from scipy import stats
from torch import nn

import tying.hf
from tying import InputError

_SHORTEST = 60  # characters of a query, and of a document
_MOST = 300  # docstrings


def pairs() -> list[tuple[str, str]]:
    """Return the first paragraph and the rest of docstrings, the same on every machine with the same Python."""
    root = Path(sysconfig.get_paths()["stdlib"])
    found: dict[str, str] = {}
    for path in sorted(root.glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.FunctionDef | ast.ClassDef):
                continue
            head, _, rest = (ast.get_docstring(node) or "").partition("\n\n")
            query, document = (" ".join(part.split()) for part in (head, rest))
            if min(len(query), len(document)) >= _SHORTEST and ">>>" not in rest:
                found.setdefault(query, document)
    chosen = sorted(found, key=lambda query: hashlib.sha256(query.encode()).digest())[:_MOST]
    return [(query, found[query]) for query in chosen]


@torch.no_grad()
def embeddings(model: nn.Module, tokenizer: object, texts: list[str]) -> np.ndarray:
    """Return the embeddings of texts, (number, C), of length 1: the mean over a text's tokens."""
    found = []
    for first in range(0, len(texts), 16):
        batch = tokenizer(texts[first : first + 16], padding=True, truncation=True, max_length=64, return_tensors="pt")  # type: ignore[operator]
        mask = batch["attention_mask"].unsqueeze(-1)
        hidden = model(**batch).last_hidden_state
        found.append(nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1), dim=-1))
    return torch.cat(found).numpy()


def similarities(folder: str, texts: list[tuple[str, str]]) -> np.ndarray:
    """Return the cosine of every query with every document, (queries, documents).

    Raises:
        InputError: If the folder holds no encoder.
    """
    from transformers import AutoModel, AutoTokenizer

    if not (Path(folder) / "config.json").is_file():
        raise InputError(f"{folder}: no model (there is no config.json)")
    model, tokenizer = tying.hf.from_pretrained(folder, AutoModel).eval(), AutoTokenizer.from_pretrained(folder)
    queries, documents = (embeddings(model, tokenizer, [pair[side] for pair in texts]) for side in (0, 1))
    found: np.ndarray = queries @ documents.T
    return found


def scores(cosines: np.ndarray, original: np.ndarray) -> tuple[float, float, float]:
    """Return how often the own document is first, its mean reciprocal rank, and the rank correlation with the original."""
    ranks = 1 + (cosines > np.diag(cosines)[:, None]).sum(axis=1)
    return (
        float((ranks == 1).mean()),
        float((1 / ranks).mean()),
        float(stats.spearmanr(cosines.ravel(), original.ravel())[0]),
    )


def main(argv: list[str] | None = None) -> dict[str, tuple[float, float, float]]:
    """Print a line for every model and return its scores."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", help="folders of encoders, the original first")
    folders = parser.parse_args(argv).models
    texts = pairs()
    found = {folder: similarities(folder, texts) for folder in folders}
    print(f"{len(texts)} docstrings\n{'model':<40}{'first':>8}{'MRR':>8}{'correlation':>13}")
    result = {folder: scores(cosines, found[folders[0]]) for folder, cosines in found.items()}
    for folder, (first, rank, correlation) in result.items():
        print(f"{folder[-39:]:<40}{first:>8.3f}{rank:>8.3f}{correlation:>13.3f}")
    return result


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"{error}")
