"""Counting models: against a dictionary of counts, and what is kept of them."""

import math
from collections import Counter, defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from corpus import made_up_data, made_up_task
from hypothesis import given
from hypothesis import strategies as st

from tying.data import cache, ngrams
from tying.data.tokens import TokenData
from tying.models.config import GPTConfig


def by_dictionaries(train: list[int], test: list[int], vocab_size: int, order: int) -> float:
    """Return the loss of one model, token by token."""
    followers: dict[tuple[int, ...], Counter[int]] = defaultdict(Counter)
    for end in range(len(train)):
        for length in range(min(order - 1, end) + 1):
            followers[tuple(train[end - length : end])][train[end]] += 1

    def probability(context: tuple[int, ...], token: int) -> float:
        shorter = probability(context[1:], token) if context else 1 / vocab_size
        counts = followers.get(context)
        return (counts[token] + len(counts) * shorter) / (counts.total() + len(counts)) if counts else shorter

    found = [probability(tuple(test[max(0, i - order + 1) : i]), test[i]) for i in range(1, len(test))]
    return -math.fsum(map(math.log, found)) / len(found)


@given(
    st.integers(2, 5).flatmap(
        lambda size: st.tuples(st.just(size), *(st.lists(st.integers(0, size - 1), min_size=2, max_size=40),) * 2)
    )
)
def test_losses_are_those_of_counts_in_dictionaries(drawn: tuple[int, list[int], list[int]]) -> None:
    """Of texts shorter than a context, with tokens and contexts that train lacks, too."""
    size, train, test = drawn
    found = list(ngrams.losses(np.array(train, np.uint16), np.array(test, np.uint16), size))
    assert found == pytest.approx([by_dictionaries(train, test, size, order) for order in range(1, 6)])


def test_a_large_vocabulary_does_not_overflow() -> None:
    """Five tokens of a million values each would need a hundred bits."""
    train, test = (np.random.default_rng(seed).integers(999_980, 1_000_000, 300).astype(np.uint32) for seed in (0, 1))
    expected = [by_dictionaries(train.tolist(), test.tolist(), 1_000_000, order) for order in range(1, 6)]
    assert list(ngrams.losses(train, test, 1_000_000)) == pytest.approx(expected)


def data_of(train: int) -> TokenData:
    return made_up_data(train=train)


def test_references_are_kept_by_the_tokens_that_they_are_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TYING_CACHE", str(tmp_path))
    found = ngrams.references(data_of(1000))
    assert list(found) == ["1-gram", "2-gram", "3-gram", "4-gram", "5-gram"]
    other = ngrams.references(data_of(2000))
    assert other != found
    with monkeypatch.context() as patch:
        patch.setattr(ngrams, "losses", None)  # nothing is counted again
        assert (ngrams.references(data_of(1000)), ngrams.references(data_of(2000))) == (found, other)
    for path in (tmp_path / "ngrams").iterdir():
        path.write_text("{}")
    assert ngrams.references(data_of(1000)) == found


def test_without_a_cache_references_are_counted_every_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "root", lambda: Path("/dev/null/nowhere"))
    assert ngrams.references(data_of(1000)) == ngrams.references(data_of(1000))


def test_a_long_text_is_counted_in_part_and_the_names_say_so() -> None:
    data = data_of(3000)
    part = replace(data, splits={**data.splits, "train": data.splits["train"][:2000], "test": data.splits["test"][:200]})
    found = ngrams.references(data, most_train=2000, most_test=200)
    assert list(found.values()) == list(ngrams.references(part).values())
    assert list(found)[4] == "5-gram of 2,000 tokens"
    assert list(ngrams.references(data, most_test=200))[4] == "5-gram"


def test_language_modelling_has_references_and_bits_per_byte() -> None:
    """Text whose tokens follow each other nine times out of ten: pairs tell most of it."""
    data = made_up_data(vocab_size=16, train=20_000)
    task = made_up_task(GPTConfig(num_layers=1, num_heads=1, width=4, context=8), data)
    entropy = -(0.9 + 0.1 / 16) * math.log(0.9 + 0.1 / 16) - 15 / 160 * math.log(0.1 / 16)
    found = task.references()
    assert found["1-gram"] == pytest.approx(math.log(16), abs=0.05)
    assert found["2-gram"] == pytest.approx(entropy, abs=0.1)
    assert task.other_units("test", math.log(2)) == {"bits_per_byte": pytest.approx(1.0)}
    double = replace(data, num_bytes={**data.num_bytes, "test": 2 * data.num_bytes["test"]})
    assert made_up_task(task.model_config, double).other_units("test", math.log(2)) == {"bits_per_byte": 0.5}
