"""Hugging Face data sets, made here in the formats that they have on the hub."""

import gzip
import json
from pathlib import Path

import pytest
from test_corpora import load, refusal, whole

from tying.data import cache, hugging_face
from tying.data.corpora import DataConfig
from tying.data.tokens import prepare


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
    line = refusal(hf=str(hugging_face_folder))
    assert "'text'" in line
    assert "data.column among document" in line
    assert whole(load(hf=str(hugging_face_folder), column="document", test_fraction=0.1)) == "a"


def test_column_of_numbers_is_refused(hugging_face_folder: Path) -> None:
    (hugging_face_folder / "train.jsonl").write_text('{"id": 1, "tags": ["a"]}\n')
    assert "holds int64, no text" in refusal(hf=str(hugging_face_folder), column="id")
    assert "no text" in refusal(hf=str(hugging_face_folder), column="tags")


def test_rows_of_nothing_are_skipped_and_counted(hugging_face_folder: Path) -> None:
    write_split(hugging_face_folder, "train", [None, "a", None, "", "b"])
    write_split(hugging_face_folder, "validation", ["c", None])
    write_split(hugging_face_folder, "test", ["d"])
    corpus = load(hf=str(hugging_face_folder))
    assert corpus.splits == {"train": "a\n\nb", "reward": "c", "test": "d"}
    assert corpus.remarks() == ["3 of 8 rows have no 'text' and are skipped"]


def test_all_rows_of_nothing_are_no_text(hugging_face_folder: Path) -> None:
    write_split(hugging_face_folder, "train", [None, None])
    assert "no text" in refusal(hf=str(hugging_face_folder))


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
        ("d.jsonl.gz", gzip.compress(jsonl(["a, b", "c"]), mtime=0)),
        ("d.txt.gz", gzip.compress(b"a, b\nc\n", mtime=0)),
    ],
)
def test_file_of_rows_is_read(hugging_face_folder: Path, name: str, content: bytes) -> None:
    (hugging_face_folder / name).write_bytes(content)
    (hugging_face_folder / "other.jsonl").write_bytes(jsonl(["another file"]))
    assert whole(load(hf=str(hugging_face_folder / name))) == "a, b\nc"


@pytest.mark.parametrize("name", [".", "d.jsonl", "./d.jsonl"])
def test_names_are_taken_from_where_one_is(hugging_face_folder: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    (hugging_face_folder / "d.jsonl").write_bytes(jsonl(["a", "b"]))
    monkeypatch.chdir(hugging_face_folder)
    assert whole(load(hf=name)) == "a\nb"


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
    assert "no train split" in refusal(hf=str(hugging_face_folder))


@pytest.mark.usefixtures("hugging_face_folder")
@pytest.mark.parametrize("name", ["nobody/has-this-data-set", "wikitext-2"])
def test_unreachable_data_set_is_one_clear_line(name: str) -> None:
    assert f"data.hf = {name!r}" in refusal(hf=name)
