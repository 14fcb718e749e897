"""Corpora: where text comes from and how it is split."""

import json
import os
import shlex
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tying.config import build
from tying.data import corpora, suspicion
from tying.data.corpora import DataConfig
from tying.data.tokens import prepare
from tying.errors import InputError


def load(**settings: Any) -> corpora.Corpus:
    return corpora.load(build(DataConfig, settings))


def whole(corpus: corpora.Corpus) -> str:
    return "".join(corpus.splits[name] for name in ("train", "reward", "test"))


def refusal(**settings: Any) -> str:
    """Return the one line with which a corpus is refused."""
    with pytest.raises(InputError) as caught:
        corpus = load(**settings)
        _ = corpus.remarks(), corpus.splits
    (line,) = caught.value.lines
    assert "\n" not in line
    return line


def test_standard_library_is_the_same_every_time() -> None:
    first, second = load(max_chars=300_000), load(max_chars=300_000)
    assert first.splits == second.splits
    assert first.sha256 == second.sha256
    assert len(whole(first)) == 300_000
    assert whole(first).count("def ") > 100


def test_more_of_the_standard_library_begins_the_same() -> None:
    assert whole(load(max_chars=300_000)).startswith(whole(load(max_chars=100_000)))


def test_file_is_read_as_it_is(tmp_path: Path) -> None:
    text = "one\r\ntwo\n\n\ttürk 漢字 \u2028 end"
    (tmp_path / "a.txt").write_bytes(text.encode())
    assert whole(load(path=str(tmp_path / "a.txt"))) == text


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "texts" / "deep").mkdir(parents=True)
    for name in ("b.txt", "a.txt", "deep/c.txt", "note.md", ".hidden"):
        (tmp_path / "texts" / name).write_text(f"<{name}>")
    return tmp_path / "texts"


def test_folder_is_all_its_files_in_order(folder: Path) -> None:
    assert whole(load(path=str(folder))) == "<a.txt>\n<b.txt>\n<deep/c.txt>\n<note.md>"


@pytest.mark.parametrize(
    ("pattern", "expected"), [("*.txt", "<a.txt>\n<b.txt>"), ("**/*.txt", "<a.txt>\n<b.txt>\n<deep/c.txt>")]
)
def test_glob_is_the_files_that_match(folder: Path, pattern: str, expected: str) -> None:
    assert whole(load(path=str(folder / pattern))) == expected


@pytest.mark.parametrize("max_chars", range(1, 12))
def test_max_chars_takes_exactly_the_beginning(tmp_path: Path, max_chars: int) -> None:
    for name in "abc":
        (tmp_path / name).write_text("xyz")
    everything = whole(load(path=str(tmp_path)))
    assert whole(load(path=str(tmp_path), max_chars=max_chars)) == everything[:max_chars]


def test_splits_are_train_then_reward_then_test(tmp_path: Path) -> None:
    text = "".join(chr(0x4E00 + i) for i in range(1000))
    (tmp_path / "a").write_text(text, encoding="utf-8")
    splits = load(path=str(tmp_path / "a"), reward_fraction=0.2, test_fraction=0.1).splits
    assert splits == {"train": text[:700], "reward": text[700:900], "test": text[900:]}


@pytest.mark.parametrize("train_chars", [1, 100, 699, 700, 5000])
def test_train_chars_shortens_train_alone(tmp_path: Path, train_chars: int) -> None:
    text = "".join(chr(0x4E00 + i) for i in range(1000))
    (tmp_path / "a").write_text(text, encoding="utf-8")
    shares = {"path": str(tmp_path / "a"), "reward_fraction": 0.2, "test_fraction": 0.1}
    splits = load(**shares, train_chars=train_chars).splits
    assert splits == {"train": text[:700][:train_chars], "reward": text[700:900], "test": text[900:]}


def test_less_training_text_is_another_corpus(text_file: Path) -> None:
    assert load(path=str(text_file)).sha256 != load(path=str(text_file), train_chars=1000).sha256


def test_shakespeare_preset_trains_on_the_first_nine_tenths(tmp_path: Path) -> None:
    from dataclasses import replace

    from envs.presets import PRESETS

    text = "".join(chr(0x4E00 + i) for i in range(10_000))
    (tmp_path / "input.txt").write_text(text, encoding="utf-8")
    splits = corpora.load(replace(PRESETS["shakespeare-char"].data, path=str(tmp_path / "input.txt"))).splits
    assert splits["train"] + splits["reward"] == text[:9_000]
    assert splits["test"] == text[9_000:]
    assert 0 < len(splits["reward"]) < 1_000


def corpus_of(name: str, **parts: str) -> corpora.Corpus:
    return corpora.Corpus(name, DataConfig(), (), {part: partial(iter, [text]) for part, text in parts.items()})


def test_digest_tells_texts_and_splits_apart() -> None:
    same = corpus_of("a", train="ab", reward="c", test="d")
    moved = corpus_of("a", train="a", reward="bc", test="d")
    other = corpus_of("a", train="ab", reward="c", test="e")
    assert len({same.sha256, moved.sha256, other.sha256}) == 3
    assert same.sha256 == corpus_of("another name", train="ab", reward="c", test="d").sha256


def test_undecodable_byte_is_named_with_its_file(tmp_path: Path) -> None:
    path = tmp_path / "latin.txt"
    path.write_bytes("déjà".encode("latin-1"))
    line = refusal(path=str(path))
    assert str(path) in line
    assert "byte 1 (0xe9)" in line


@pytest.mark.parametrize("text", ["", " \n\t\n"])
def test_text_of_nothing_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "empty.txt").write_text(text)
    assert "no text" in refusal(path=str(tmp_path / "empty.txt"))


def test_folder_of_nothing_is_refused(tmp_path: Path) -> None:
    assert "no files" in refusal(path=str(tmp_path))


@pytest.mark.parametrize("name", ["missing.txt", "*.nothing"])
def test_missing_path_is_named(tmp_path: Path, name: str) -> None:
    line = refusal(path=str(tmp_path / name))
    assert "data.path" in line
    assert name in line


def test_two_corpora_at_once_are_refused(text_file: Path) -> None:
    assert "data.path and data.hf" in refusal(path=str(text_file), hf="wikitext-2")


# Text in pieces.


@given(st.lists(st.text(max_size=4), max_size=8), st.integers(0, 20), st.integers(0, 20) | st.none())
def test_between_is_a_slice(pieces: list[str], start: int, stop: int | None) -> None:
    assert "".join(corpora.between(pieces, start, stop)) == "".join(pieces)[start:stop]


def test_nothing_is_read_beyond_the_end() -> None:
    assert list(corpora.between(iter(["ab", "cd"]), 0, 2)) == ["ab"]
    pieces = iter(["ab", "cd"])
    list(corpora.between(pieces, 0, 2))
    assert next(pieces) == "cd"


@pytest.mark.parametrize("block", [1, 2, 3, 5, 100])
def test_blocks_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    monkeypatch.setattr(corpora, "_BLOCK", block)
    text = "one\r\ntürk 漢字 \U0001f600 \u2028 end"
    (tmp_path / "a.txt").write_bytes(text.encode())
    assert whole(load(path=str(tmp_path / "a.txt"))) == text
    for content, place in (
        (b"ab\xe9d", 2),
        ("漢字".encode() + b"\xff", 6),
        (b"abc\xe6\xbc", 3),
        (b"\xef\xbb\xbfab\xff", 5),
    ):
        (tmp_path / "bad.txt").write_bytes(content)
        assert f"byte {place} (0x{content[place]:02x})" in refusal(path=str(tmp_path / "bad.txt"))


# Files that are not quite the text they could be.


def test_byte_order_mark_is_no_text(tmp_path: Path) -> None:
    for number in range(10):
        (tmp_path / f"{number}.txt").write_bytes(b"\xef\xbb\xbfabc")
    assert whole(load(path=str(tmp_path / "0.txt"))) == "abc"
    assert whole(load(path=str(tmp_path))) == "\n".join(["abc"] * 10)
    assert prepare(DataConfig(path=str(tmp_path), tokenizer="char")).vocab_size == 4


def test_byte_order_mark_inside_a_text_stays(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("ab\ufeffc", encoding="utf-8")
    assert whole(load(path=str(tmp_path / "a.txt"))) == "ab\ufeffc"


@pytest.mark.parametrize("name", ["d.jsonl", "d.csv", "d.TSV", "d.parquet", "text.txt.gz", "my data.csv"])
def test_rows_and_packed_text_are_sent_to_the_other_reader(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text('{"text": "a"}\n')
    expected = f"--data.hf {shlex.quote(str(tmp_path / name))} --data.column"
    assert expected in refusal(path=str(tmp_path / name))
    (tmp_path / "a.txt").write_text("text")
    assert expected in refusal(path=str(tmp_path))
    assert whole(load(path=str(tmp_path / "*.txt"))) == "text"


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32-le"])
def test_text_full_of_nul_is_refused(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "a.txt").write_bytes(("plain text " * 100).encode(encoding))
    assert "NUL" in refusal(path=str(tmp_path / "a.txt"))


ROWS = [f"{i},{i * i},some text {i}" for i in range(50)]
UNLIKELY = {
    "NUL": "some text " * 100 + "\0",
    "U+FFFD": "some \ufffd text " * 100,
    "Latin-1": "déjà vu, naïveté ".encode().decode("latin-1") * 100,
    "JSON lines": "\n".join(json.dumps({"id": i, "text": "some text"}) for i in range(50)),
    "CSV": "\n".join(ROWS),
    "or CSV": "\n".join(row.replace(",", "\t") for row in ROWS),
}


@pytest.mark.parametrize("sign", UNLIKELY)
def test_unlikely_text_is_remarked_upon_every_time(tmp_path: Path, sign: str) -> None:
    (tmp_path / "a.txt").write_text(UNLIKELY[sign], encoding="utf-8")
    for _ in range(2):  # tokenized, then from the cache
        with pytest.warns(UserWarning) as caught:
            prepare(DataConfig(path=str(tmp_path / "a.txt"), tokenizer="byte"))
        (line,) = [str(warning.message) for warning in caught]
        assert sign in line
        assert str(tmp_path / "a.txt") in line


def test_unlikely_files_among_others_are_counted(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        (tmp_path / f"{name}.txt").write_text("good text " * 50)
    for name in ("d", "e"):
        (tmp_path / f"{name}.txt").write_text(UNLIKELY["CSV"])
    (line,) = load(path=str(tmp_path)).remarks()
    assert line.endswith("('d.txt', 2 of 5 files)")


@pytest.mark.parametrize(
    "text",
    [
        "Ångström, São Paulo, € 5, “quoted”, naïve\n" * 40,
        "a, b, and c\nd, e\nf\n" * 40,
        "x = 1\ny = 2\n" * 40,
        "\n".join("the quick brown fox, jumps over" for _ in range(40)),
        "",
    ],
)
def test_likely_text_has_no_remarks(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.txt").write_text(text, encoding="utf-8")
    assert load(path=str(tmp_path / "a.txt")).remarks() == []


def test_sources_have_no_remarks() -> None:
    root = Path(corpora.__file__).parents[1]
    assert suspicion.remarks(sorted(root.rglob("*.py"))) == []


def test_file_name_that_is_not_utf8(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9.txt")
    (tmp_path / name).write_text("some text " * 50)
    data = prepare(DataConfig(path=str(tmp_path / name), tokenizer="byte"))
    assert sum(data.num_bytes.values()) == 500
    assert data.name == str(tmp_path / "caf\ufffd.txt")
    data.name.encode()
    (tmp_path / name).write_text(UNLIKELY["CSV"])
    with pytest.warns(UserWarning, match="or CSV"):
        prepare(DataConfig(path=str(tmp_path), tokenizer="byte"))
