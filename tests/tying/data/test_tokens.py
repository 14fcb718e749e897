"""Tokens: the cache, training batches and evaluation batches."""

import hashlib
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers

from tying.data import tokenizers
from tying.data import tokens as module
from tying.data.corpora import SPLITS, DataConfig
from tying.data.tokens import TokenData, prepare
from tying.errors import InputError


def counting(length: int) -> TokenData:
    """Return data in which every token of a split is its own position."""
    splits = {name: np.arange(length, dtype=np.uint16) for name in SPLITS}
    return TokenData("counting", "", tokenizers.make("byte", 0, [], []), splits, dict.fromkeys(SPLITS, length))


DATA = counting(1_000)


# What `prepare` makes of a text.


@pytest.mark.parametrize("tokenizer", ["char", "byte", "bpe"])
def test_splits_decode_to_the_corpus(text_file: Path, tokenizer: str) -> None:
    data = prepare(DataConfig(path=str(text_file), tokenizer=tokenizer, vocab_size=300))
    text = "".join(data.tokenizer.decode(data.splits[name].tolist()) for name in SPLITS)
    assert text == text_file.read_text(encoding="utf-8")
    assert sum(data.num_bytes.values()) == len(text_file.read_bytes())


def test_tokens_are_a_read_only_memory_map(text_file: Path) -> None:
    for tokens in prepare(DataConfig(path=str(text_file), tokenizer="byte")).splits.values():
        assert isinstance(tokens, np.memmap)
        assert not tokens.flags.writeable


def test_bpe_never_sees_the_reward_and_test_splits(tmp_path: Path) -> None:
    vocabularies = []
    for name, end in (("a", "zq"), ("b", "wx")):
        (tmp_path / name).write_text("tie the layers " * 800 + end * 1_500)
        data = prepare(DataConfig(path=str(tmp_path / name), tokenizer="bpe", vocab_size=300))
        vocabularies.append(data.tokenizer.get_vocab())
    assert vocabularies[0] == vocabularies[1]


def test_character_vocabulary_covers_all_splits(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("a" * 800 + "b" * 100 + "c" * 100)
    assert prepare(DataConfig(path=str(tmp_path / "a"), tokenizer="char")).vocab_size == 3


def test_tokenizer_file_is_used(text_file: Path, tmp_path: Path) -> None:
    file = tmp_path / "own.json"
    tokenizers.make("bpe", 262, ["some other text " * 50], []).save(str(file))
    assert prepare(DataConfig(path=str(text_file), tokenizer=str(file))).vocab_size == 262


def test_vocabulary_reaches_to_the_largest_id(tmp_path: Path) -> None:
    """A gap among the ids still needs rows in the embedding."""
    tokenizer = Tokenizer(models.WordLevel({"a": 0, "b": 1, "c": 45}))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.save(str(tmp_path / "own.json"))
    (tmp_path / "a.txt").write_text("abc" * 100)
    data = prepare(DataConfig(path=str(tmp_path / "a.txt"), tokenizer=str(tmp_path / "own.json")))
    assert data.vocab_size == 46
    assert data.splits["train"].max() == 45


@pytest.mark.parametrize(("largest", "dtype"), [(2**16 - 1, np.uint16), (2**16, np.uint32)])
def test_large_ids_fit(tmp_path: Path, largest: int, dtype: type) -> None:
    tokenizer = Tokenizer(models.WordLevel({"a": 0, "b": largest}))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.save(str(tmp_path / "own.json"))
    (tmp_path / "a.txt").write_text("ab" * 100)
    data = prepare(DataConfig(path=str(tmp_path / "a.txt"), tokenizer=str(tmp_path / "own.json")))
    assert data.splits["test"].dtype == dtype
    assert data.splits["test"].tolist() == [0, largest] * 10


@pytest.mark.parametrize(("text", "told"), [("ab" * 50, False), ("ab" * 49 + "!?", True)])
def test_share_of_unknown_tokens_is_told(tmp_path: Path, text: str, told: bool) -> None:
    tokenizer = Tokenizer(models.WordLevel({"a": 0, "b": 1, "<?>": 2}, unk_token="<?>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.save(str(tmp_path / "own.json"))
    (tmp_path / "a.txt").write_text(text)
    config = DataConfig(path=str(tmp_path / "a.txt"), tokenizer=str(tmp_path / "own.json"))
    if told:
        with pytest.warns(UserWarning, match=r"2\.0% of its tokens are unknown to .*own\.json"):
            prepare(config)
    else:
        prepare(config)


def test_character_without_a_token_is_one_line(tmp_path: Path) -> None:
    tokenizers.make("char", 0, [], ["ab"]).save(str(tmp_path / "own.json"))
    (tmp_path / "a.txt").write_text("ab" * 50 + "c")
    with pytest.raises(InputError, match=r"no token for \['c'\]"):
        prepare(DataConfig(path=str(tmp_path / "a.txt"), tokenizer=str(tmp_path / "own.json")))


@pytest.mark.parametrize("length", range(1, 12))
def test_shortest_texts_are_told_to_be_too_short(tmp_path: Path, length: int) -> None:
    (tmp_path / "a.txt").write_text("ab" * 6)
    data = prepare(DataConfig(path=str(tmp_path / "a.txt"), tokenizer="byte", max_chars=length))
    assert sum(map(len, data.splits.values())) == length
    with pytest.raises(InputError, match="too short"):
        data.require(16)


@pytest.mark.parametrize("tokenizer", ["char", "byte"])
def test_memory_is_a_few_bytes_a_character(tmp_path: Path, tokenizer: str) -> None:
    (tmp_path / "a.txt").write_text("a line of text\n" * 800_000)
    tracemalloc.start()
    try:
        prepare(DataConfig(path=str(tmp_path / "a.txt"), tokenizer=tokenizer))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 3 * 12_000_000


def test_short_texts_draw_nothing_and_long_ones_a_line(
    text_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TYING_CACHE", str(tmp_path / "cache"))
    prepare(DataConfig(path=str(text_file), tokenizer="byte"))
    assert capsys.readouterr() == ("", "")
    monkeypatch.setattr(module, "_LONG", 6_000)
    prepare(DataConfig(path=str(text_file), tokenizer="char"))
    assert capsys.readouterr() == ("", "tokenizing 6,000 characters\n")


# Training batches.


def test_batch_is_a_pure_function_of_its_arguments() -> None:
    first = DATA.batch(3, 7, batch_size=4, context=16)
    torch.manual_seed(1)
    np.random.seed(1)
    DATA.batch(3, 8, batch_size=4, context=16)
    again = DATA.batch(3, 7, batch_size=4, context=16)
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])


def test_batches_leave_the_global_generators_alone() -> None:
    torch_before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()
    DATA.batch(0, 0, batch_size=4, context=16)
    assert torch.equal(torch_before, torch.get_rng_state())
    assert np.array_equal(numpy_before, np.random.get_state()[1])


def test_other_seeds_and_other_iterations_are_other_batches() -> None:
    batches = {DATA.batch(seed, index, 4, 16)[0].numpy().tobytes() for seed in range(10) for index in range(20)}
    assert len(batches) == 200


@given(seed=st.integers(0, 2**40), index=st.integers(0, 10**6), context=st.integers(1, 60), batch_size=st.integers(1, 9))
def test_targets_are_the_next_tokens(seed: int, index: int, context: int, batch_size: int) -> None:
    tokens, targets = counting(61).batch(seed, index, batch_size, context)
    assert tokens.shape == targets.shape == (batch_size, context)
    assert torch.equal(targets, tokens + 1)
    assert torch.equal(tokens[:, 1:], targets[:, :-1])


def test_every_place_of_the_train_split_is_drawn() -> None:
    data = counting(10)
    starts = {int(row[0]) for index in range(200) for row in data.batch(0, index, 4, context=3)[0]}
    assert starts == set(range(7))


# Evaluation batches.


@given(length=st.integers(2, 200), context=st.integers(1, 40), batch_size=st.integers(1, 7))
def test_whole_split_predicts_every_token_exactly_once(length: int, context: int, batch_size: int) -> None:
    context = min(context, length - 1)
    predicted = []
    for tokens, targets in counting(length).evaluation_batches("test", batch_size, context):
        assert tokens.shape[0] <= batch_size
        assert tokens.shape[1] <= context
        assert torch.equal(targets, tokens + 1)
        predicted += targets.flatten().tolist()
    assert predicted == list(range(1, length))  # token 0 has nothing before it


def test_fixed_batches_are_the_same_at_every_call() -> None:
    first, second = (list(DATA.evaluation_batches("reward", 4, 16, num_batches=3)) for _ in range(2))
    assert len(first) == 3
    assert all(torch.equal(a, b) for one, two in zip(first, second, strict=True) for a, b in zip(one, two, strict=True))


def test_fixed_batches_are_spread_over_the_split() -> None:
    batches = list(DATA.evaluation_batches("reward", 2, 10, num_batches=4))
    starts = np.array([int(row[0]) for tokens, _ in batches for row in tokens])
    assert (starts[0], starts[-1]) == (0, 980)  # the last sequence that is whole
    gaps = np.diff(starts)
    assert gaps.min() >= gaps.max() - 10  # as even as multiples of the context can be


def test_more_batches_than_there_are_is_all_of_them_once() -> None:
    batches = list(DATA.evaluation_batches("reward", 4, 10, num_batches=1_000))
    starts = [int(row[0]) for tokens, _ in batches for row in tokens]
    assert starts == list(range(0, 990, 10))


# Too little text.


def test_too_short_splits_are_named(tmp_path: Path) -> None:
    (tmp_path / "short.txt").write_text("x" * 100)
    data = prepare(DataConfig(path=str(tmp_path / "short.txt"), tokenizer="byte"))
    data.require(9)
    with pytest.raises(InputError) as caught:
        data.require(10)
    (line,) = caught.value.lines
    assert "model.context = 10: reward has 10, test has 10 tokens" in line


def test_least_split_gives_one_sequence() -> None:
    data = counting(11)
    data.require(10)
    assert len(list(data.evaluation_batches("test", 4, 10))) == 1
    assert data.batch(0, 0, 4, 10)[0].tolist() == [list(range(10))] * 4


def test_corpus_digest_is_that_of_the_text(text_file: Path) -> None:
    data = prepare(DataConfig(path=str(text_file)))
    digest = hashlib.sha256()
    text = text_file.read_text(encoding="utf-8")
    for name, part in (("train", text[:4_800]), ("reward", text[4_800:5_400]), ("test", text[5_400:])):
        digest.update(f"{name} {len(part)}\n".encode() + part.encode())
    assert data.corpus_sha256 == digest.hexdigest()
