"""Corpora: where text comes from and how it is split."""

import gzip
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
from tying.data import DataConfig, cache, corpora, hugging_face, prepare, suspicion
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
        assert f"byte {place} (0x{content[place]:02x})" in complaint(path=str(tmp_path / "bad.txt"))


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
    assert expected in complaint(path=str(tmp_path / name))
    (tmp_path / "a.txt").write_text("text")
    assert expected in complaint(path=str(tmp_path))
    assert whole(load(path=str(tmp_path / "*.txt"))) == "text"


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32-le"])
def test_text_full_of_nul_is_refused(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "a.txt").write_bytes(("plain text " * 100).encode(encoding))
    assert "NUL" in complaint(path=str(tmp_path / "a.txt"))


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


# Hugging Face data sets, made here in the same format.


@pytest.fixture
def hugging_face_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for data sets; what the library derives from them stays in the test's own folder."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf-cache")
    (tmp_path / "set").mkdir()
    return tmp_path / "set"


def write_split(folder: Path, split: str, rows: list[str | None], column: str = "text") -> None:
    import datasets

    datasets.Dataset.from_dict({column: rows}).to_parquet(str(folder / f"{split}-00000-of-00001.parquet"))


def test_official_splits_are_kept(hugging_face_folder: Path) -> None:
    write_split(hugging_face_folder, "train", ["a b", "", "c"])
    write_split(hugging_face_folder, "validation", ["d"])
    write_split(hugging_face_folder, "test", ["e", "f"])
    assert load(hf=str(hugging_face_folder)).splits == {"train": "a b\n\nc", "reward": "d", "test": "e\nf"}


def test_missing_splits_are_cut_from_the_end_of_train(hugging_face_folder: Path) -> None:
    text = "0123456789" * 10
    write_split(hugging_face_folder, "train", [text])
    splits = load(hf=str(hugging_face_folder), reward_fraction=0.1, test_fraction=0.2).splits
    assert splits == {"train": text[:70], "reward": text[70:80], "test": text[80:]}


def test_missing_validation_split_leaves_the_test_split_alone(hugging_face_folder: Path) -> None:
    write_split(hugging_face_folder, "train", ["0123456789"])
    write_split(hugging_face_folder, "test", ["abc"])
    assert load(hf=str(hugging_face_folder)).splits == {"train": "012345678", "reward": "9", "test": "abc"}


def test_train_chars_leaves_cut_and_official_splits_alone(hugging_face_folder: Path) -> None:
    text = "0123456789" * 10
    write_split(hugging_face_folder, "train", [text])
    splits = load(hf=str(hugging_face_folder), reward_fraction=0.1, test_fraction=0.2, train_chars=7).splits
    assert splits == {"train": text[:7], "reward": text[70:80], "test": text[80:]}
    write_split(hugging_face_folder, "validation", ["d"])
    write_split(hugging_face_folder, "test", ["e"])
    assert load(hf=str(hugging_face_folder), train_chars=7).splits == {"train": text[:7], "reward": "d", "test": "e"}


def test_data_set_becomes_tokens(hugging_face_folder: Path) -> None:
    write_split(hugging_face_folder, "train", ["abc", "de"])
    write_split(hugging_face_folder, "validation", ["f"])
    write_split(hugging_face_folder, "test", ["gé"])
    data = prepare(DataConfig(hf=str(hugging_face_folder), tokenizer="byte"))
    assert {name: len(tokens) for name, tokens in data.splits.items()} == {"train": 6, "reward": 1, "test": 3}


def test_wrong_column_is_named_with_those_there_are(hugging_face_folder: Path) -> None:
    write_split(hugging_face_folder, "train", ["a"], column="document")
    line = complaint(hf=str(hugging_face_folder))
    assert "'text'" in line
    assert "data.column among document" in line
    assert whole(load(hf=str(hugging_face_folder), column="document", test_fraction=0.1)) == "a"


def test_column_of_numbers_is_refused(hugging_face_folder: Path) -> None:
    (hugging_face_folder / "train.jsonl").write_text('{"id": 1, "tags": ["a"]}\n')
    assert "holds int64, no text" in complaint(hf=str(hugging_face_folder), column="id")
    assert "no text" in complaint(hf=str(hugging_face_folder), column="tags")


def test_rows_of_nothing_are_skipped_and_counted(hugging_face_folder: Path) -> None:
    write_split(hugging_face_folder, "train", [None, "a", None, "", "b"])
    write_split(hugging_face_folder, "validation", ["c", None])
    write_split(hugging_face_folder, "test", ["d"])
    corpus = load(hf=str(hugging_face_folder))
    assert corpus.splits == {"train": "a\n\nb", "reward": "c", "test": "d"}
    assert corpus.remarks() == ["3 of 8 rows have no 'text' and are skipped"]


def test_all_rows_of_nothing_are_no_text(hugging_face_folder: Path) -> None:
    write_split(hugging_face_folder, "train", [None, None])
    assert "no text" in complaint(hf=str(hugging_face_folder))


def test_many_rows_are_read_in_order(hugging_face_folder: Path) -> None:
    rows = [f"row {i}" for i in range(1_234)]
    write_split(hugging_face_folder, "train", rows)
    assert whole(load(hf=str(hugging_face_folder))) == "\n".join(rows)


def jsonl(rows: list[str]) -> bytes:
    return "".join(json.dumps({"id": i, "text": row}) + "\n" for i, row in enumerate(rows)).encode()


def csv_file(rows: list[str]) -> bytes:
    return ("id,text\n" + "".join(f'{i},"{row}"\n' for i, row in enumerate(rows))).encode()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("d.jsonl", jsonl(["a, b", "c"])),
        ("d.csv", csv_file(["a, b", "c"])),
        ("d.jsonl.gz", gzip.compress(jsonl(["a, b", "c"]))),
        ("d.txt.gz", gzip.compress(b"a, b\nc\n")),
    ],
)
def test_file_of_rows_is_read(hugging_face_folder: Path, name: str, content: bytes) -> None:
    (hugging_face_folder / name).write_bytes(content)
    (hugging_face_folder / "other.jsonl").write_bytes(jsonl(["another file"]))
    assert whole(load(hf=str(hugging_face_folder / name))) == "a, b\nc"


@pytest.mark.parametrize("name", hugging_face.NAMES)
def test_named_data_sets_have_a_configuration_of_parquet_files(
    hugging_face_folder: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """The form that these have on the hub: a README.md that lists each configuration's files."""
    _, configuration = hugging_face.NAMES[name]
    splits = {"test": ["e"], "validation": ["d"], "train": ["", " = Title = ", "a"]}
    listing = ""
    for other in (configuration, "another"):
        (hugging_face_folder / other).mkdir()
        listing += f"- config_name: {other}\n  data_files:\n"
        for split, rows in splits.items():
            write_split(hugging_face_folder / other, split, rows if other == configuration else ["wrong"])
            listing += f"  - split: {split}\n    path: {other}/{split}-*\n"
    (hugging_face_folder / "README.md").write_text(f"---\nconfigs:\n{listing}---\n")
    monkeypatch.setitem(hugging_face.NAMES, name, (str(hugging_face_folder), configuration))
    assert load(hf=name).splits == {"train": "\n = Title = \na", "reward": "d", "test": "e"}
    assert whole(load(hf=f"{hugging_face_folder}:another")) == "wrong" * 3


def test_data_set_is_read_once(hugging_face_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "_SETTLED_NS", -(10**12))
    write_split(hugging_face_folder, "train", ["some text"] * 50)
    first = prepare(DataConfig(hf=str(hugging_face_folder), tokenizer="byte"))
    monkeypatch.setattr(hugging_face, "_text", lambda rows, column: pytest.fail("read once more"))
    second = prepare(DataConfig(hf=str(hugging_face_folder), tokenizer="byte"))
    assert first.corpus_sha256 == second.corpus_sha256


def test_data_set_without_a_train_split_is_refused(hugging_face_folder: Path) -> None:
    write_split(hugging_face_folder, "test", ["a"])
    assert "no train split" in complaint(hf=str(hugging_face_folder))


@pytest.mark.usefixtures("hugging_face_folder")
@pytest.mark.parametrize("name", ["nobody/has-this-data-set", "wikitext-2"])
def test_unreachable_data_set_is_one_clear_line(name: str) -> None:
    assert f"data.hf = {name!r}" in complaint(hf=name)
