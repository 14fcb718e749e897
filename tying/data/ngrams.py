"""Counting models: what a table of n-grams knows of a text, so that a Transformer's loss has something to be held against.

Interpolated Witten-Bell models (Witten & Bell 1991; the form of Chen & Goodman 1998), down to a uniform guess:
p(token | context) = (count + types x p(token | shorter context)) / (total + types), of which `count` is how often the token
followed the context in the train split, `total` the sum of these over all tokens, and `types` how many tokens had any.

Shapes: N tokens counted, M tokens predicted, V vocabulary.
"""

import hashlib
from collections.abc import Iterator

import numpy as np

from tying.data import cache
from tying.data.tokens import TokenData

ORDERS = 5
# Tokens that are looked at, from a split's beginning: seconds and half a gigabyte at most, whatever the size of the corpus.
# A model that counts less is easier to beat, so it is train that is cut last.
MOST_TRAIN, MOST_TEST = 2**22, 2**19


def references(data: TokenData, most_train: int = MOST_TRAIN, most_test: int = MOST_TEST) -> dict[str, float]:
    """Return the test losses of counting models of a corpus, nats per token; counted once and kept in the token cache.

    Args:
        data: The corpus.
        most_train: So many tokens of the train split are counted, from its beginning.
        most_test: So many tokens of the test split are predicted, from its beginning.

    Returns:
        "1-gram" to "5-gram" to the loss. The names say it where train was cut: "5-gram of 4,194,304 tokens".
    """
    train, test = np.asarray(data.splits["train"][:most_train]), np.asarray(data.splits["test"][:most_test])
    remark = f" of {most_train:,} tokens" if len(data.splits["train"]) > most_train else ""
    name = cache.key(kind="ngrams", orders=ORDERS, vocab_size=data.vocab_size, train=_digest(train), test=_digest(test))
    found = cache.known("ngrams", name)
    if found is None:
        found = list(losses(train, test, data.vocab_size))
        cache.keep("ngrams", name, found)
    return {f"{order}-gram{remark}": loss for order, loss in enumerate(found, start=1)}


def losses(train: np.ndarray, test: np.ndarray, vocab_size: int, orders: int = ORDERS) -> Iterator[float]:
    """Yield the loss of models of 1, 2, ... tokens, nats per token; the token itself counts.

    Every token of `test` but the first is predicted, as a Transformer predicts them; the first ones have shorter contexts.

    Args:
        train: What is counted, (N,) integers below V.
        test: What is predicted, (M,) integers below V.
        vocab_size: V.
        orders: How many models.
    """
    probability = np.full(len(test), 1 / vocab_size)
    # The number of the context before each token among those of train, -1 for one that it lacks. The empty one is number 0.
    contexts, seen, num_contexts = np.zeros(len(train), np.int64), np.zeros(len(test), np.int64), 1
    for first in range(orders):  # the first token with so long a context
        totals = np.bincount(contexts, minlength=num_contexts)
        known = np.flatnonzero(seen >= 0)
        known = known[totals[seen[known]] > 0]
        if not len(known):
            yield float(-np.log(probability[1:]).mean())
            seen = seen[:0]  # no longer context is known either
            continue
        codes = contexts * vocab_size + train[first:]
        grams, counts = np.unique(codes, return_counts=True)
        types = np.bincount(grams // vocab_size, minlength=num_contexts)
        wanted = np.where(seen >= 0, seen * vocab_size + test[first:], -1)
        place = np.minimum(np.searchsorted(grams, wanted), len(grams) - 1)
        found = grams[place] == wanted
        total, kinds, count = totals[seen[known]], types[seen[known]], np.where(found, counts[place], 0)[known]
        probability[first + known] = (count + kinds * probability[first + known]) / (total + kinds)
        yield float(-np.log(probability[1:]).mean())
        if first < orders - 1:  # a gram of n tokens is the context of the token behind it
            contexts, seen, num_contexts = np.searchsorted(grams, codes[:-1]), np.where(found, place, -1)[:-1], len(grams)


def _digest(tokens: np.ndarray) -> str:
    return f"{tokens.dtype.str} {hashlib.sha256(tokens.tobytes()).hexdigest()}"
