"""Files that are whole or absent."""

import errno
import fcntl
import json
import math
import os
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import PATIENCE_S
from tying import files
from tying.errors import InputError
from tying.files import read_json, replacing, write_json, write_link, write_text


class Failure(Exception):
    """Something goes wrong while a file is written."""


def test_file_is_not_there_before_it_is_whole(tmp_path: Path) -> None:
    with replacing(tmp_path / "a") as temporary:
        temporary.write_text("half")
        assert not (tmp_path / "a").exists()
    assert (tmp_path / "a").read_text() == "half"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_old_content_stays_until_the_new_is_whole(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("old")
    with replacing(tmp_path / "a") as temporary:
        temporary.write_text("new")
        assert (tmp_path / "a").read_text() == "old"
    assert (tmp_path / "a").read_text() == "new"


def test_folder_appears_with_all_that_is_in_it(tmp_path: Path) -> None:
    with replacing(tmp_path / "deep" / "folder") as temporary:
        (temporary / "inner").mkdir(parents=True)
        (temporary / "inner" / "a").write_text("x")
        assert not (tmp_path / "deep" / "folder").exists()
    assert (tmp_path / "deep" / "folder" / "inner" / "a").read_text() == "x"


def write_half_a_file(temporary: Path) -> None:
    temporary.write_text("half")


def write_half_a_folder(temporary: Path) -> None:
    temporary.mkdir()
    (temporary / "a").write_text("x")


def write_nothing(temporary: Path) -> None:
    del temporary


@pytest.mark.parametrize("begin", [write_half_a_file, write_half_a_folder, write_nothing])
@pytest.mark.parametrize("error", [Failure, KeyboardInterrupt, OSError])
def test_nothing_is_left_after_an_error(tmp_path: Path, begin: Callable[[Path], None], error: type[BaseException]) -> None:
    with pytest.raises(error), replacing(tmp_path / "a") as temporary:
        begin(temporary)
        raise error
    assert list(tmp_path.iterdir()) == []


def test_old_file_survives_an_error(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("old")
    with pytest.raises(Failure), replacing(tmp_path / "a") as temporary:
        temporary.write_text("new")
        raise Failure
    assert (tmp_path / "a").read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 1


def test_writing_nothing_is_an_error_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), replacing(tmp_path / "a"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_folder_that_exists_is_kept(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "old").write_text("x")
    with pytest.raises(OSError), replacing(tmp_path / "a") as temporary:
        temporary.mkdir()
    assert [path.name for path in tmp_path.rglob("*")] == ["a", "old"]


def test_what_a_killed_process_left_is_no_hindrance(tmp_path: Path) -> None:
    with replacing(tmp_path / "a") as temporary:
        temporary.write_text("x")
    temporary.mkdir()  # the same thread, once more
    (temporary / "half").write_text("x")
    write_text(tmp_path / "a", "new")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_link_is_moved_in_one_step(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        write_link(tmp_path / "latest", name)
        assert (tmp_path / "latest").readlink() == Path(name)
    assert (tmp_path / "latest").resolve() == tmp_path / "two"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["latest", "one", "two"]


def test_json_comes_back_as_it_was(tmp_path: Path) -> None:
    value = {"a": [1, 0.1, None, True, "naïve"], "b": {}}
    write_json(tmp_path / "a.json", value)
    assert read_json(tmp_path / "a.json") == value
    assert json.loads((tmp_path / "a.json").read_bytes()) == value


def test_json_has_no_not_a_number(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", {"loss": math.nan})
    assert list(tmp_path.iterdir()) == []


def test_missing_json_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"a\.json: no such file"):
        read_json(tmp_path / "a.json")


@pytest.mark.parametrize("content", [b"", b"{", b'{"a": 1', b"\xff\xfe"])
def test_damaged_json_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(InputError, match=r"a\.json: unreadable"):
        read_json(tmp_path / "a.json")


def test_folder_in_place_of_json_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="unreadable"):
        read_json(tmp_path)


def test_json_nested_without_end_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("[" * 200_000)
    with pytest.raises(InputError, match=r"a\.json: unreadable"):
        read_json(tmp_path / "a.json")


def test_text_keeps_line_ends_and_names_that_are_not_utf8(tmp_path: Path) -> None:
    write_text(tmp_path / "a", "one\r\ntwo\ncaf\udce9")
    assert (tmp_path / "a").read_bytes() == b"one\r\ntwo\ncaf\xe9"


def test_two_threads_write_one_file(tmp_path: Path) -> None:
    both_are_in, names = threading.Barrier(2), []

    def write(text: str) -> None:
        with replacing(tmp_path / "a") as temporary:
            names.append(temporary)
            temporary.write_text(text)
            both_are_in.wait(PATIENCE_S)

    threads = [threading.Thread(target=write, args=[text]) for text in ("one", "two")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(names)) == 2
    assert (tmp_path / "a").read_text() in ("one", "two")
    assert len(list(tmp_path.iterdir())) == 1


# Disks that refuse: each system call in turn, as the systems refuse it that do.


@pytest.fixture(autouse=True)
def nothing_told_yet(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(files, "_warned", {})
    yield


def refuse(number: int) -> Callable[..., None]:
    def call(*_: Any, **__: Any) -> None:
        raise OSError(number, os.strerror(number))

    return call


def write_everything(folder: Path) -> None:
    """Write a file, a folder and a link, twice, and check what is there then."""
    for text in ("one", "two"):
        write_text(folder / "a", text)
        with replacing(folder / text) as temporary:
            (temporary / "deep").mkdir(parents=True)
            (temporary / "deep" / "b").write_text(text)
        write_link(folder / "latest", text)
    assert (folder / "a").read_text() == "two"
    assert [(folder / name / "deep" / "b").read_text() for name in ("one", "two")] == ["one", "two"]
    assert sorted(path.name for path in folder.iterdir()) == ["a", "latest", "one", "two"]


def refuse_folders(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    open_any = os.open

    def call(path: Any, *rest: Any, **names: Any) -> int:
        if "dir_fd" not in names and Path(path).is_dir():
            raise OSError(number, os.strerror(number))
        return open_any(path, *rest, **names)

    monkeypatch.setattr(os, "open", call)


def refuse_what_cannot_be_written_to(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    import fcntl

    sync = os.fsync

    def call(descriptor: int) -> None:
        if fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            raise OSError(number, os.strerror(number))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", call)


def refuse_syncs(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", refuse(number))


@pytest.mark.parametrize("number", [errno.EINVAL, errno.EOPNOTSUPP, errno.EBADF, errno.EPERM])
def test_disk_that_does_not_sync_is_told_of_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        monkeypatch.setattr(os, "fsync", refuse(number))
        write_everything(tmp_path)
    (warning,) = caught
    assert f"does not sync what is written ({os.strerror(number)})" in str(warning.message)


def test_files_are_synced_through_descriptors_that_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sync, synced = os.fsync, []

    def call(descriptor: int) -> None:
        if fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        synced.append(os.fstat(descriptor).st_ino)
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", call)
    write_everything(tmp_path)
    assert {path.stat().st_ino for path in tmp_path.rglob("*") if path.is_file() and not path.is_symlink()} <= set(synced)


@pytest.mark.parametrize("number", [errno.EACCES, errno.EISDIR, errno.EPERM])
def test_folders_that_cannot_be_opened_are_not_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    open_any = os.open

    def call(path: Any, *rest: Any, **names: Any) -> int:
        if "dir_fd" not in names and Path(path).is_dir():
            raise OSError(number, os.strerror(number))
        return open_any(path, *rest, **names)

    monkeypatch.setattr(os, "open", call)
    write_everything(tmp_path)


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC, errno.EDQUOT])
def test_lost_data_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    write_text(tmp_path / "a", "old")
    monkeypatch.setattr(os, "fsync", refuse(number))
    with pytest.raises(OSError, match=os.strerror(number)):
        write_text(tmp_path / "a", "new")
    assert (tmp_path / "a").read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("number", [errno.EOPNOTSUPP, errno.EPERM, errno.EINVAL, errno.ENOSYS])
def test_link_that_is_refused_is_a_file_with_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    monkeypatch.setattr(os, "symlink", refuse(number))
    write_everything(tmp_path)
    assert (tmp_path / "latest").read_text() == "two\n"


def test_link_takes_the_place_of_the_file_and_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(os, "symlink", refuse(errno.EOPNOTSUPP))
        write_link(tmp_path / "latest", "one")
    (tmp_path / "two").mkdir()
    write_link(tmp_path / "latest", "two")
    assert (tmp_path / "latest").readlink() == Path("two")
    monkeypatch.setattr(os, "symlink", refuse(errno.EOPNOTSUPP))
    write_link(tmp_path / "latest", "one")
    assert not (tmp_path / "latest").is_symlink()
    assert (tmp_path / "latest").read_text() == "one\n"
    assert list((tmp_path / "two").iterdir()) == []


def test_rename_that_is_refused_is_an_error_and_keeps_the_old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_text(tmp_path / "a", "old")
    monkeypatch.setattr(os, "replace", refuse(errno.EACCES))
    with pytest.raises(PermissionError):
        write_text(tmp_path / "a", "new")
    assert (tmp_path / "a").read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 1
