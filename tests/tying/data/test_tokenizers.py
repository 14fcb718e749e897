"""Tokenizers: text to ids and back."""

import _thread
import itertools
import random
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

from tests.conftest import PATIENCE_S
from tying.data import tokenizers
from tying.errors import InputError

TEXT = "def tie(layer):\n    return weights[layer]  # naïve, 漢字\n\n\n" * 20
KINDS = ("char", "byte", "bpe")

any_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
BYTE = tokenizers.make("byte", 0, [], [])
BPE = tokenizers.make("bpe", 280, [TEXT], [])


def make(kind: str, train_text: str = TEXT, whole_text: str = TEXT) -> tokenizers.Tokenizer:
    return tokenizers.make(kind, 280, [train_text], [whole_text])


@given(any_text)
@example("a\r\n\x85\u2028 \x00b\n\n ")
def test_bytes_round_trip_whatever_the_text(text: str) -> None:
    assert BYTE.decode(tokenizers.encode(BYTE, text)) == text


@given(any_text)
def test_byte_tokens_are_the_bytes(text: str) -> None:
    ids = tokenizers.encode(BYTE, text)
    assert len(ids) == len(text.encode())
    assert all(0 <= token < 256 for token in ids)


@given(any_text)
@example("a\r\n\x85\u2028 \x00b\n\n ")
def test_bpe_round_trips_whatever_the_text(text: str) -> None:
    assert BPE.decode(tokenizers.encode(BPE, text)) == text


@given(any_text.filter(bool))
@example("a\r\n\x85\u2028 \x00b\n\n ")
def test_characters_round_trip_and_are_one_token_each(text: str) -> None:
    tokenizer = make("char", whole_text=text)
    ids = tokenizers.encode(tokenizer, text)
    assert len(ids) == len(text)
    assert tokenizer.get_vocab_size() == len(set(text))
    assert tokenizer.decode(ids) == text


@pytest.mark.parametrize("kind", KINDS)
def test_long_texts_are_not_changed_by_chunks(kind: str) -> None:
    text = TEXT * 200  # more lines than a chunk has
    tokenizer = make(kind)
    assert tokenizer.decode(tokenizers.encode(tokenizer, text)) == text


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_no_tokens(kind: str) -> None:
    assert tokenizers.encode(make(kind), "") == []


def test_byte_vocabulary_is_the_256_bytes() -> None:
    assert BYTE.get_vocab_size() == 256


def test_bpe_has_the_size_asked_for_and_is_shorter_than_bytes() -> None:
    assert BPE.get_vocab_size() == 280
    assert len(tokenizers.encode(BPE, TEXT)) < 0.7 * len(TEXT.encode())


def test_bpe_is_trained_on_the_train_text_alone() -> None:
    assert make("bpe", whole_text="zzzz qqqq " * 1000).to_str() == BPE.to_str()
    assert make("bpe", train_text="zzzz qqqq " * 1000).to_str() != BPE.to_str()


def test_unknown_character_is_named() -> None:
    with pytest.raises(InputError) as caught:
        tokenizers.encode(make("char", whole_text="abc"), "abca!")
    assert caught.value.lines == ("the tokenizer has no token for ['!']",)


@pytest.mark.parametrize("kind", KINDS)
def test_file_of_a_tokenizer_is_a_tokenizer(kind: str, tmp_path: Path) -> None:
    tokenizer = make(kind)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    again = make(str(tmp_path / "tokenizer.json"))
    assert tokenizers.encode(again, TEXT) == tokenizers.encode(tokenizer, TEXT)
    assert again.decode(tokenizers.encode(again, TEXT)) == TEXT


@pytest.mark.parametrize("content", ["", "{}", '{"model": 3}', "no JSON"])
def test_damaged_tokenizer_file_is_named(tmp_path: Path, content: str) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(content)
    with pytest.raises(InputError, match=r"tokenizer\.json: not a tokenizer") as caught:
        make(str(path))
    assert "\n" not in str(caught.value)
    assert "save it once more" in str(caught.value)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the hub, which cannot be reached, is asked for."""
    names: list[str] = []

    def from_pretrained(name: str) -> None:
        names.append(name)
        raise Exception(f"cannot reach the hub for {name}\nand much more")

    monkeypatch.setattr(tokenizers.Tokenizer, "from_pretrained", staticmethod(from_pretrained))
    return names


def refusal(kind: str) -> str:
    with pytest.raises(InputError) as caught:
        make(kind)
    (line,) = caught.value.lines
    assert "\n" not in line
    return line


def test_unknown_tokenizer_is_one_clear_line(asked: list[str]) -> None:
    line = refusal("nobody/nothing")
    assert line.startswith("data.tokenizer = 'nobody/nothing': not char, byte or bpe")
    assert "cannot reach the hub" in line
    assert asked == ["nobody/nothing"]


@pytest.mark.parametrize(
    ("given", "meant"),
    [("bpee", "bpe"), ("BPE", "bpe"), ("chars", "char"), ("Char", "char"), ("bytes", "byte"), ("character", "char")],
)
def test_mistyped_kind_is_answered_without_the_hub(asked: list[str], given: str, meant: str) -> None:
    assert f"did you mean {meant!r}?" in refusal(given)
    assert asked == []


def test_missing_tokenizer_file_is_answered_without_the_hub(asked: list[str], tmp_path: Path) -> None:
    assert "no such file" in refusal(str(tmp_path / "tokenizer.json"))
    assert asked == []


@pytest.mark.parametrize("name", ["gpt2", "bert-base-uncased", "openai-community/gpt2", "t5-small"])
def test_names_of_the_hub_are_asked_for(asked: list[str], name: str) -> None:
    refusal(name)
    assert asked == [name]


def test_a_tokenizer_that_truncates_and_pads_loses_nothing() -> None:
    plain, cutting = (tokenizers.make("byte", 300, [], []) for _ in range(2))
    cutting.enable_truncation(5)
    cutting.enable_padding(length=9)
    assert tokenizers.encode(cutting, "a line\nand another\n") == tokenizers.encode(plain, "a line\nand another\n")


# Texts in pieces, and what is as fast as it is small.


def plain(tokenizer: Tokenizer, text: str) -> list[int]:
    """Return what the library itself makes of a text."""
    return list(tokenizer.encode(text, add_special_tokens=False).ids)


@given(any_text)
@example("a\r\n\x85\u2028 \x00b\n\n \U0010ffff\ue000")
def test_numbers_looked_up_are_the_library_s(text: str) -> None:
    assert tokenizers.encode(BYTE, text) == plain(BYTE, text)
    char = make("char", whole_text=text)
    assert tokenizers.encode(char, text) == plain(char, text)


def test_every_byte_of_utf8_is_looked_up() -> None:
    text = "".join(map(chr, [*range(0xD800), *range(0xE000, 0x110000, 7)]))
    assert [token for _, ids in tokenizers.encode_chunks(BYTE, [text]) for token in ids] == plain(BYTE, text)


@pytest.mark.parametrize("change", ["vocabulary", "normalizer", "added token"])
def test_other_tokenizers_of_bytes_are_asked_themselves(change: str) -> None:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet(), reverse=True)
    other = make("byte")
    if change == "vocabulary":
        other.model = models.BPE(vocab={symbol: i for i, symbol in enumerate(alphabet)}, merges=[])
    elif change == "normalizer":
        other.normalizer = normalizers.Lowercase()
    else:
        other.add_tokens(["layer"])
    text = "Tie LAYER layer"
    assert tokenizers.encode(other, text) == plain(other, text) != plain(BYTE, text)


@given(st.lists(any_text, max_size=6), st.integers(1, 8))
@example(["a\r", "\nb", "", "\n", "\x85"], 3)
def test_lines_do_not_depend_on_the_pieces(pieces: list[str], longest: int) -> None:
    text = "".join(pieces)
    lines = list(tokenizers._lines(pieces, longest))
    assert lines == list(tokenizers._lines([text], longest))
    assert "".join(lines) == text
    assert all(0 < len(line) <= longest for line in lines)
    assert list(tokenizers._lines(pieces, 1_000)) == text.splitlines(keepends=True)


alike = st.text(st.sampled_from("ab1\u00b2\u4e00\u4e8c '.\n\t\u3000s\u0301\u00e9-"), max_size=30)


@given(alike)
def test_no_token_crosses_a_boundary(text: str) -> None:
    split = pre_tokenizers.ByteLevel(add_prefix_space=False).pre_tokenize_str
    whole = [word for word, _ in split(text)]
    for place in range(1, len(text)):
        if tokenizers._is_boundary(text, place):
            assert [word for part in (text[:place], text[place:]) for word, _ in split(part)] == whole


def test_boundaries_are_found_in_prose_numbers_and_chinese() -> None:
    for text in ("the layers are tied. " * 9, "0.25,0.5," * 20, "\u4e00\u4e01\u3002\u4e02" * 40):
        parts = list(tokenizers._cut(text, 30))
        assert all(tokenizers._is_boundary(one[-1] + two[0], 1) for one, two in itertools.pairwise(parts))


@given(st.lists(st.text(st.sampled_from("ab \n."), max_size=40), max_size=20))
def test_long_chunks_are_cut_without_changing_tokens(pieces: list[str]) -> None:
    text = "".join(pieces)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tokenizers, "_CHUNK_CHARS", 30)
        patch.setattr(tokenizers, "_BATCH_CHARS", 50)
        patch.setattr(tokenizers, "_CHUNK_LINES", 7)
        ids = [token for _, part in tokenizers.encode_chunks(BPE, pieces) for token in part.tolist()]
        chunks = [chunk for batch, _ in tokenizers.encode_chunks(BPE, pieces) for chunk in batch]
    lines = text.splitlines(keepends=True)
    groups = ["".join(lines[start : start + 7]) for start in range(0, len(lines), 7)]
    assert max(map(len, chunks), default=0) <= 30
    assert "".join(chunks) == text
    assume(
        all(
            any(tokenizers._is_boundary(group, p) for p in range(s + 1, s + 31))
            for group in groups
            for s in range(0, len(group) - 31)
        )
    )
    assert ids == [token for group in groups for token in plain(BPE, group)]


def test_batches_are_bounded() -> None:
    text = "".join(random.Random(0).choices("ACGT\n", weights=[1, 1, 1, 1, 0.01], k=3_000_000))
    batches = [chunks for chunks, _ in tokenizers.encode_chunks(BYTE, [text])]
    assert max(sum(map(len, chunks)) for chunks in batches) <= tokenizers._CHUNK_CHARS + tokenizers._BATCH_CHARS
    assert len(batches) > 2


# Training.


@pytest.fixture
def fed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What BPE is trained on."""
    seen: list[str] = []

    def train(_: Any, lines: Iterator[str], trainer: Any) -> None:
        seen.extend(lines)

    monkeypatch.setattr(tokenizers.Tokenizer, "train_from_iterator", train)
    return seen


@pytest.mark.parametrize("alphabet", ["ACGT", "".join(map(chr, range(0x4E00, 0x5800)))])
def test_words_without_end_are_trained_on_in_parts(fed: list[str], alphabet: str) -> None:
    text = "".join(random.Random(0).choices(alphabet, k=1_000_000))
    make("bpe", train_text=text)
    assert "".join(fed) == text
    assert {len(part) for part in fed} == {1_000}


def test_dna_gives_a_vocabulary() -> None:
    text = "".join(random.Random(0).choices("ACGT", k=1_000_000))
    tokenizer = tokenizers.make("bpe", 512, [text], [])
    assert tokenizer.get_vocab_size() == 512
    assert tokenizer.decode(tokenizers.encode(tokenizer, text)) == text


def test_cut_lines_train_the_same_vocabulary() -> None:
    words = ["tie", "layer", "x1", "0.5,", "weights'", "l\u00e4uft", "-", "  "]
    text = "\n".join(" ".join(random.Random(i).choices(words, k=900)) for i in range(10))
    whole = Tokenizer(models.BPE())
    whole.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=280, initial_alphabet=alphabet, show_progress=False)
    whole.train_from_iterator(text.splitlines(keepends=True), trainer)
    assert make("bpe", train_text=text).get_vocab() == whole.get_vocab()


def test_failure_to_read_ends_training() -> None:
    def pieces() -> Iterator[str]:
        yield "some text\n"
        raise InputError("no more of it")

    with pytest.raises(InputError, match="no more of it"):
        tokenizers.make("bpe", 300, pieces(), [])


class Endless:
    """A library that trains without end and heeds nothing."""

    def __init__(self) -> None:
        self.done = threading.Event()

    def train_from_iterator(self, lines: Iterator[str], trainer: Any) -> None:
        next(lines)
        _thread.interrupt_main()
        self.done.wait(PATIENCE_S)
        self.rest = list(lines)


def test_interrupt_ends_training_while_the_library_works() -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    endless = Endless()
    try:
        with pytest.raises(KeyboardInterrupt):
            tokenizers._interruptibly(endless, None, iter(["a", "b"]))
        assert not endless.done.is_set()
    finally:
        signal.signal(signal.SIGINT, before)
        endless.done.set()


def test_interrupt_ends_training_while_the_library_reads() -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)

    def lines() -> Iterator[str]:
        _thread.interrupt_main()
        while True:
            yield "a line\n"

    trainer, others = trainers.BpeTrainer(vocab_size=300, show_progress=False), threading.active_count()
    try:
        with pytest.raises(KeyboardInterrupt):
            tokenizers._interruptibly(Tokenizer(models.BPE()), trainer, lines())
    finally:
        signal.signal(signal.SIGINT, before)
    for thread in threading.enumerate()[others:]:
        thread.join()


# Vocabularies of other people's.


def test_vocabulary_reaches_to_the_largest_id() -> None:
    tokenizer = Tokenizer(models.WordLevel({"a": 0, "b": 1, "c": 45}))
    assert tokenizer.get_vocab_size() == 3
    assert tokenizers.vocab_size(tokenizer) == 46
    assert tokenizers.vocab_size(Tokenizer(models.BPE())) == 0


@pytest.mark.parametrize(
    "model",
    [
        models.WordLevel({"a": 0, "<?>": 1}, unk_token="<?>"),
        models.WordPiece({"a": 0, "<?>": 1}, unk_token="<?>"),
        models.BPE({"a": 0, "<?>": 1}, [], unk_token="<?>"),
        models.Unigram([("a", 0.0), ("<?>", 0.0)], unk_id=1),
    ],
    ids=lambda model: type(model).__name__,
)
def test_unknown_token_is_found(model: Any) -> None:
    assert tokenizers.unknown_token(Tokenizer(model)) == 1


def test_own_tokenizers_know_everything() -> None:
    assert [tokenizers.unknown_token(make(kind)) for kind in KINDS] == [None, None, None]
