"""Tokens: the cache, training batches and evaluation batches."""

import hashlib
import os
import shutil
import sys
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers

from tying import files
from tying.data import SPLITS, DataConfig, TokenData, cache, corpora, prepare, tokenizers
from tying.data import tokens as module
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
    text_file: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    prepare(DataConfig(path=str(text_file), tokenizer="byte"))
    assert capsys.readouterr() == ("", "")
    monkeypatch.setattr(module, "_LONG", 6_000)
    prepare(DataConfig(path=str(text_file), tokenizer="char"))
    assert capsys.readouterr() == ("", "tokenizing 6,000 characters\n")


# The cache.


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
    (entry,) = [path for path in own_cache.iterdir() if path.name != "texts"]
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
        both.wait(60)
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
