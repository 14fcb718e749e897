"""Corpora: where text comes from and how it is split."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tying.config import build
from tying.data import DataConfig, corpora, prepare
from tying.errors import InputError


def load(**settings: Any) -> corpora.Corpus:
    return corpora.load(build(DataConfig, settings))


def whole(corpus: corpora.Corpus) -> str:
    return "".join(corpus.splits[name] for name in ("train", "reward", "test"))


def complaint(**settings: Any) -> str:
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
    line = complaint(path=str(path))
    assert str(path) in line
    assert "byte 1 (0xe9)" in line


@pytest.mark.parametrize("text", ["", " \n\t\n"])
def test_text_of_nothing_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "empty.txt").write_text(text)
    assert "no text" in complaint(path=str(tmp_path / "empty.txt"))


def test_folder_of_nothing_is_refused(tmp_path: Path) -> None:
    assert "no files" in complaint(path=str(tmp_path))


@pytest.mark.parametrize("name", ["missing.txt", "*.nothing"])
def test_missing_path_is_named(tmp_path: Path, name: str) -> None:
    line = complaint(path=str(tmp_path / name))
    assert "data.path" in line
    assert name in line


def test_two_corpora_at_once_are_refused(text_file: Path) -> None:
    assert "data.path and data.hf" in complaint(path=str(text_file), hf="wikitext-2")


# Hugging Face data sets, made here in the same format.


@pytest.fixture
def hugging_face(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for data sets; what the library derives from them stays in the test's own folder."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf-cache")
    (tmp_path / "set").mkdir()
    return tmp_path / "set"


def write_split(folder: Path, split: str, rows: list[str], column: str = "text") -> None:
    import datasets

    datasets.Dataset.from_dict({column: rows}).to_parquet(str(folder / f"{split}-00000-of-00001.parquet"))


def test_official_splits_are_kept(hugging_face: Path) -> None:
    write_split(hugging_face, "train", ["a b", "", "c"])
    write_split(hugging_face, "validation", ["d"])
    write_split(hugging_face, "test", ["e", "f"])
    assert load(hf=str(hugging_face)).splits == {"train": "a b\n\nc", "reward": "d", "test": "e\nf"}


def test_missing_splits_are_cut_from_the_end_of_train(hugging_face: Path) -> None:
    text = "0123456789" * 10
    write_split(hugging_face, "train", [text])
    splits = load(hf=str(hugging_face), reward_fraction=0.1, test_fraction=0.2).splits
    assert splits == {"train": text[:70], "reward": text[70:80], "test": text[80:]}


def test_missing_validation_split_leaves_the_test_split_alone(hugging_face: Path) -> None:
    write_split(hugging_face, "train", ["0123456789"])
    write_split(hugging_face, "test", ["abc"])
    assert load(hf=str(hugging_face)).splits == {"train": "012345678", "reward": "9", "test": "abc"}


def test_train_chars_leaves_cut_and_official_splits_alone(hugging_face: Path) -> None:
    text = "0123456789" * 10
    write_split(hugging_face, "train", [text])
    splits = load(hf=str(hugging_face), reward_fraction=0.1, test_fraction=0.2, train_chars=7).splits
    assert splits == {"train": text[:7], "reward": text[70:80], "test": text[80:]}
    write_split(hugging_face, "validation", ["d"])
    write_split(hugging_face, "test", ["e"])
    assert load(hf=str(hugging_face), train_chars=7).splits == {"train": text[:7], "reward": "d", "test": "e"}


def test_data_set_becomes_tokens(hugging_face: Path) -> None:
    write_split(hugging_face, "train", ["abc", "de"])
    write_split(hugging_face, "validation", ["f"])
    write_split(hugging_face, "test", ["gé"])
    data = prepare(DataConfig(hf=str(hugging_face), tokenizer="byte"))
    assert {name: len(tokens) for name, tokens in data.splits.items()} == {"train": 6, "reward": 1, "test": 3}


def test_wrong_column_is_named_with_those_there_are(hugging_face: Path) -> None:
    write_split(hugging_face, "train", ["a"], column="document")
    line = complaint(hf=str(hugging_face))
    assert "'text'" in line
    assert "document" in line


def test_data_set_without_a_train_split_is_refused(hugging_face: Path) -> None:
    write_split(hugging_face, "test", ["a"])
    assert "no train split" in complaint(hf=str(hugging_face))


@pytest.mark.usefixtures("hugging_face")
@pytest.mark.parametrize("name", ["nobody/has-this-data-set", "wikitext-2"])
def test_unreachable_data_set_is_one_clear_line(name: str) -> None:
    assert f"data.hf = {name!r}" in complaint(hf=name)
