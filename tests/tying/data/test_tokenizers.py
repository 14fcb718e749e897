"""Tokenizers: text to ids and back."""

from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tying.data import tokenizers
from tying.errors import InputError

TEXT = "def tie(layer):\n    return weights[layer]  # naïve, 漢字\n\n\n" * 20
KINDS = ("char", "byte", "bpe")

any_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
BYTE = tokenizers.make("byte", 0, "", "")
BPE = tokenizers.make("bpe", 280, TEXT, "")


def make(kind: str, train_text: str = TEXT, whole_text: str = TEXT) -> tokenizers.Tokenizer:
    return tokenizers.make(kind, 280, train_text, whole_text)


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


class Hub:
    """Stands in for the library's class where there is no network."""

    @staticmethod
    def from_pretrained(name: str) -> None:
        raise Exception(f"cannot reach the hub for {name}\nand much more")


def test_unknown_tokenizer_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenizers, "Tokenizer", Hub)
    with pytest.raises(InputError) as caught:
        make("bpee")
    (line,) = caught.value.lines
    assert line.startswith("data.tokenizer = 'bpee': not char, byte or bpe")
    assert "\n" not in line


def test_a_tokenizer_that_truncates_and_pads_loses_nothing() -> None:
    plain, cutting = (tokenizers.make("byte", 300, "", "") for _ in range(2))
    cutting.enable_truncation(5)
    cutting.enable_padding(length=9)
    assert tokenizers.encode(cutting, "a line\nand another\n") == tokenizers.encode(plain, "a line\nand another\n")
