"""Files that are whole or absent."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest

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
    temporary.mkdir()  # the same process id, once more
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
