"""The token cache: what is used again, what is made anew, and where it is."""

import os
import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer

from tests.conftest import PATIENCE_S
from tying import files
from tying.data import cache, corpora, tokenizers
from tying.data.corpora import SPLITS, DataConfig
from tying.data.tokens import prepare
from tying.errors import InputError


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache."""
    monkeypatch.setenv("TYING_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def refuse(*_: Any) -> None:
    raise AssertionError("tokenized once more")


class Opened:
    """Counts which files are opened for reading; an audit hook stays for good, so there is one for all tests."""

    def __init__(self) -> None:
        self.paths: list[str] | None = None
        sys.addaudithook(self._hear)

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open" and self.paths is not None:
            self.paths.append(os.fsdecode(arguments[0]) if isinstance(arguments[0], (str, bytes)) else "")


OPENED = Opened()


@pytest.fixture
def opened() -> Iterator[list[str]]:
    OPENED.paths = []
    yield OPENED.paths
    OPENED.paths = None


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are known by their times at once."""
    monkeypatch.setattr(cache, "_SETTLED_NS", -(10**12))


@pytest.mark.usefixtures("own_cache", "settled")
@pytest.mark.parametrize("tokenizer", ["byte", "bpe"])
def test_second_time_nothing_is_read(
    text_file: Path, opened: list[str], monkeypatch: pytest.MonkeyPatch, tokenizer: str
) -> None:
    config = DataConfig(path=str(text_file), tokenizer=tokenizer)
    first = prepare(config)
    assert str(text_file) in opened
    opened.clear()
    monkeypatch.setattr(cache, "_digest_of", refuse)
    monkeypatch.setattr(corpora, "_decoded", refuse)
    second = prepare(config)
    assert str(text_file) not in opened
    assert second.corpus_sha256 == first.corpus_sha256
    assert all(np.array_equal(first.splits[name], second.splits[name]) for name in SPLITS)


@pytest.mark.usefixtures("own_cache", "settled")
def test_standard_library_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    first = prepare(DataConfig(max_chars=100_000, tokenizer="byte"))
    monkeypatch.setattr(corpora, "_decoded", refuse)
    assert prepare(DataConfig(max_chars=100_000, tokenizer="byte")).corpus_sha256 == first.corpus_sha256


def rewrite(path: Path, old: str, new: str) -> None:
    """Change a text and neither its size nor its times of change, as a copying program may."""
    times = path.stat()
    path.write_text(path.read_text(encoding="utf-8").replace(old, new), encoding="utf-8")
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


@pytest.mark.usefixtures("own_cache", "settled")
def test_text_of_the_same_size_and_time_is_told_apart(text_file: Path) -> None:
    before = prepare(DataConfig(path=str(text_file), tokenizer="byte"))
    rewrite(text_file, "tie", "eit")
    after = prepare(DataConfig(path=str(text_file), tokenizer="byte"))
    assert before.corpus_sha256 != after.corpus_sha256
    assert before.splits["train"].tolist() != after.splits["train"].tolist()


def test_new_files_are_read_each_time(text_file: Path, own_cache: Path) -> None:
    """Within one tick of the disk's clock they may change unseen."""
    prepare(DataConfig(path=str(text_file), tokenizer="byte"))
    assert not (own_cache / "texts").exists()


@pytest.mark.usefixtures("own_cache", "settled")
@pytest.mark.parametrize(
    "changed", [{"max_chars": 5_000}, {"train_chars": 900}, {"test_fraction": 0.2}, {"reward_fraction": 0.2}], ids=str
)
def test_text_cut_in_another_way_is_another(text_file: Path, changed: dict[str, Any]) -> None:
    first = prepare(DataConfig(path=str(text_file), tokenizer="byte"))
    second = prepare(DataConfig(path=str(text_file), tokenizer="byte", **changed))
    assert first.corpus_sha256 != second.corpus_sha256
    assert second.corpus_sha256 == corpora.load(DataConfig(path=str(text_file), **changed)).sha256


@pytest.mark.usefixtures("own_cache")
def test_text_that_changes_while_it_is_read_is_refused(text_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make = tokenizers.make

    def change(*arguments: Any) -> Tokenizer:
        text_file.write_text("another text " * 200)
        return make(*arguments)

    monkeypatch.setattr(tokenizers, "make", change)
    with pytest.raises(InputError, match="changed while it was read"):
        prepare(DataConfig(path=str(text_file), tokenizer="byte"))
    monkeypatch.undo()


@pytest.mark.usefixtures("own_cache")
def test_second_time_comes_from_the_cache(text_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = DataConfig(path=str(text_file))
    first = prepare(config)
    monkeypatch.setattr(tokenizers, "make", refuse)
    monkeypatch.setattr(tokenizers, "encode_chunks", refuse)
    second = prepare(config)
    assert all(np.array_equal(first.splits[name], second.splits[name]) for name in SPLITS)
    assert first.tokenizer.to_str() == second.tokenizer.to_str()
    assert (first.corpus_sha256, first.num_bytes) == (second.corpus_sha256, second.num_bytes)


@pytest.mark.usefixtures("own_cache")
def test_cache_goes_by_content_and_not_by_name(text_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare(DataConfig(path=str(text_file)))
    moved = text_file.rename(text_file.with_name("moved.txt"))
    monkeypatch.setattr(tokenizers, "make", refuse)
    prepare(DataConfig(path=str(moved)))


@pytest.mark.parametrize(
    "changed",
    [{"tokenizer": "byte"}, {"tokenizer": "char"}, {"vocab_size": 400}, {"max_chars": 5_000}, {"test_fraction": 0.2}],
    ids=str,
)
@pytest.mark.usefixtures("own_cache")
def test_other_settings_are_tokenized_anew(
    text_file: Path, monkeypatch: pytest.MonkeyPatch, changed: dict[str, Any]
) -> None:
    prepare(DataConfig(path=str(text_file)))
    monkeypatch.setattr(tokenizers, "make", refuse)
    with pytest.raises(AssertionError, match="once more"):
        prepare(DataConfig(**{"path": str(text_file), **changed}))


@pytest.mark.usefixtures("own_cache")
def test_changed_text_is_tokenized_anew(text_file: Path) -> None:
    before = prepare(DataConfig(path=str(text_file), tokenizer="byte"))
    text_file.write_text(text_file.read_text(encoding="utf-8").replace("tie", "eit"), encoding="utf-8")
    after = prepare(DataConfig(path=str(text_file), tokenizer="byte"))
    assert before.corpus_sha256 != after.corpus_sha256
    assert not np.array_equal(before.splits["train"], after.splits["train"])


@pytest.mark.usefixtures("own_cache")
def test_changed_tokenizer_file_is_tokenized_anew(text_file: Path, tmp_path: Path) -> None:
    sizes = []
    for size in (260, 264):
        tokenizers.make("bpe", size, ["some other text " * 50], []).save(str(tmp_path / "own.json"))
        sizes.append(prepare(DataConfig(path=str(text_file), tokenizer=str(tmp_path / "own.json"))).vocab_size)
    assert sizes == [260, 264]


def test_failure_leaves_no_half_entry_in_the_cache(
    text_file: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokenizers, "encode_chunks", refuse)
    with pytest.raises(AssertionError):
        prepare(DataConfig(path=str(text_file)))
    assert list(own_cache.iterdir()) == []


def entry_of(own_cache: Path) -> Path:
    (entry,) = [path for path in own_cache.iterdir() if path.name != "texts" and path.name[0] != "."]
    return entry


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-2])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def foreign(path: Path) -> None:
    path.write_bytes(b"\xff" * path.stat().st_size)


def array_of_rows(path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, np.zeros((3, 4), dtype=np.float32))


def json_of_another_kind(path: Path) -> None:
    path.write_text("[1, 2]")


def folder_in_its_place(path: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGES = (cut, empty, flip, foreign, array_of_rows, json_of_another_kind, folder_in_its_place, Path.unlink)
PARTS = ("train.bin", "test.bin", "tokenizer.json", "entry.json")


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
@pytest.mark.usefixtures("settled")
def test_damaged_entry_is_made_anew(text_file: Path, own_cache: Path, part: str, damage: Callable[[Path], None]) -> None:
    config = DataConfig(path=str(text_file), tokenizer="byte")
    good = prepare(config)
    expected = {name: ids.tolist() for name, ids in good.splits.items()}
    del good
    damage(entry_of(own_cache) / part)
    assert cache.read(entry_of(own_cache)) is None
    again = prepare(config)
    assert {name: ids.tolist() for name, ids in again.splits.items()} == expected
    assert cache.read(entry_of(own_cache)) is not None
    assert not list(own_cache.glob(".*"))


@pytest.mark.usefixtures("settled")
@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_damaged_digest_is_made_anew(text_file: Path, own_cache: Path, damage: Callable[[Path], None]) -> None:
    config = DataConfig(path=str(text_file), tokenizer="byte")
    digest = prepare(config).corpus_sha256
    (path,) = (own_cache / "texts").iterdir()
    damage(path)
    assert prepare(config).corpus_sha256 == digest


@pytest.mark.usefixtures("settled")
def test_any_changed_byte_of_what_is_recorded_is_seen(text_file: Path, own_cache: Path) -> None:
    prepare(DataConfig(path=str(text_file), tokenizer="byte"))
    (digest,) = (own_cache / "texts").iterdir()
    for path, is_there in (
        (entry_of(own_cache) / "entry.json", lambda: cache.read(entry_of(own_cache)) is not None),
        (digest, lambda: cache.known("texts", digest.stem) is not None),
    ):
        content = path.read_bytes()
        assert is_there()
        for place in range(len(content)):
            path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
            assert not is_there()
        path.write_bytes(content)


def test_file_in_place_of_an_entry_is_replaced(text_file: Path, own_cache: Path) -> None:
    config = DataConfig(path=str(text_file), tokenizer="byte")
    prepare(config)
    entry = entry_of(own_cache)
    shutil.rmtree(entry)
    entry.write_text("a file")
    prepare(config)
    assert cache.read(entry) is not None


def test_copied_cache_is_used(text_file: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy has other times: its content is checked instead."""
    config = DataConfig(path=str(text_file), tokenizer="byte")
    prepare(config)
    moved = own_cache.with_name("copy")
    shutil.copytree(own_cache, moved, copy_function=shutil.copyfile)
    for path in moved.rglob("*.bin"):
        os.utime(path, (1, 1))
    monkeypatch.setenv("TYING_CACHE", str(moved))
    monkeypatch.setattr(tokenizers, "make", refuse)
    prepare(config)


def test_two_at_once_write_one_entry(text_file: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    both, make, results = threading.Barrier(2), tokenizers.make, []

    def together(*arguments: Any) -> Tokenizer:
        both.wait(PATIENCE_S)
        return make(*arguments)

    monkeypatch.setattr(tokenizers, "make", together)
    config = DataConfig(path=str(text_file), tokenizer="byte")
    threads = [threading.Thread(target=lambda: results.append(prepare(config))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    one, two = results
    assert all(np.array_equal(one.splits[name], two.splits[name]) for name in SPLITS)
    assert not list(own_cache.glob(".*"))


def test_entry_that_another_process_made_meanwhile_is_kept(
    text_file: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, make, inodes = DataConfig(path=str(text_file), tokenizer="byte"), tokenizers.make, []

    def after_another(*arguments: Any) -> Tokenizer:
        monkeypatch.setattr(tokenizers, "make", make)
        another = threading.Thread(target=prepare, args=[config])
        another.start()
        another.join()
        inodes.append(entry_of(own_cache).stat().st_ino)
        return make(*arguments)

    monkeypatch.setattr(tokenizers, "make", after_another)
    prepare(config)
    assert inodes == [entry_of(own_cache).stat().st_ino]


def test_leftovers_of_killed_processes_go_after_a_week(text_file: Path, own_cache: Path) -> None:
    config = DataConfig(path=str(text_file), tokenizer="byte")
    prepare(config)
    entry = entry_of(own_cache)
    for name, age_s in (("old", 8 * 24 * 3600), ("new", 6 * 24 * 3600)):
        leftover = own_cache / f".{entry.name}.{name}.tmp"
        leftover.mkdir()
        os.utime(leftover, (leftover.stat().st_mtime - age_s,) * 2)
    shutil.rmtree(entry)
    prepare(config)
    assert [path.name.split(".")[2] for path in own_cache.glob(".*")] == ["new"]


def test_full_disk_is_an_error_of_the_system(text_file: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = Path.write_text

    def full(path: Path, *arguments: Any, **names: Any) -> int:
        if path.name == "tokenizer.json":
            raise OSError(28, "No space left on device")
        return write(path, *arguments, **names)

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match="No space left"):
        prepare(DataConfig(path=str(text_file), tokenizer="byte"))
    assert list(own_cache.iterdir()) == []


def test_entry_that_cannot_be_read_back_is_one_line(
    text_file: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "read", lambda folder: None)
    with pytest.raises(InputError, match="TYING_CACHE"):
        prepare(DataConfig(path=str(text_file), tokenizer="byte"))


# Where the cache is.


@pytest.fixture
def homeless(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user of a container: no home, and no entry among the users."""

    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", no_home)
    for name in ("TYING_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.usefixtures("homeless")
@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"TYING_CACHE": "/a"}, Path("/a")),
        ({"TYING_CACHE": "/a", "XDG_CACHE_HOME": "/b"}, Path("/a")),
        ({"XDG_CACHE_HOME": "/b"}, Path("/b/layer-tying")),
        ({"TYING_CACHE": "", "XDG_CACHE_HOME": "/b"}, Path("/b/layer-tying")),
        ({"TYING_CACHE": "", "XDG_CACHE_HOME": ""}, None),
        ({}, None),
    ],
    ids=str,
)
def test_variables_come_before_the_home(
    monkeypatch: pytest.MonkeyPatch, given: dict[str, str], expected: Path | None
) -> None:
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    assert cache.root() == expected


def test_empty_variables_are_as_if_unset(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("TYING_CACHE", "")
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    assert cache.root() == tmp_path / ".cache" / "layer-tying"


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder for temporary files."""
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(cache.tempfile, "tempdir", str(tmp_path / "tmp"))
    monkeypatch.setattr(files, "_warned", {})
    cache._temporary_folder.cache_clear()
    yield tmp_path / "tmp"
    cache._temporary_folder.cache_clear()


@pytest.mark.usefixtures("homeless")
def test_without_a_home_a_temporary_folder_is_told_of(
    text_file: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = DataConfig(path=str(text_file), tokenizer="byte")
    with pytest.warns(UserWarning, match="TYING_CACHE") as caught:
        first = prepare(config)
    assert len(caught) == 1
    assert str(temporary) in str(caught[0].message)
    monkeypatch.setattr(tokenizers, "make", refuse)
    with pytest.warns(UserWarning, match="TYING_CACHE"):
        assert np.array_equal(prepare(config).splits["train"], first.splits["train"])


def test_cache_that_cannot_be_written_to_is_told_of(
    text_file: Path, tmp_path: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("TYING_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.warns(UserWarning, match="file/cache cannot be written to"):
        prepare(DataConfig(path=str(text_file), tokenizer="byte"))
    assert len(list(temporary.glob("layer-tying-*/*"))) == 1


@pytest.mark.usefixtures("settled")
def test_cache_that_can_only_be_read_is_used(text_file: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = DataConfig(path=str(text_file), tokenizer="byte")
    prepare(config)

    def read_only(*_: Any, **__: Any) -> None:
        raise OSError(30, "Read-only file system")

    shutil.rmtree(own_cache / "texts")
    monkeypatch.setattr(cache, "write_json", read_only)
    monkeypatch.setattr(cache, "writable_root", refuse)
    prepare(config)
