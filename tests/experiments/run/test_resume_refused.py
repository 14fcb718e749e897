"""Runs that cannot be resumed: one line that names the file, and the evidence is left as it was."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Finished, words
from tests.experiments.runs import call_in, change, contents, interrupted_after, read

pytestmark = pytest.mark.e2e

Train = Callable[..., Finished]


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was interrupted after its fourth decision of six; its checkpoint is after the third."""
    folder = tmp_path_factory.mktemp("stopped")
    (folder / "corpus.txt").write_text(words(4_000), encoding="utf-8")
    shape = "--preset tiny --agent random --steps 12 --env.decision-interval 2 --checkpoint-interval 3".split()
    with interrupted_after(4):
        assert call_in(folder, "train", *shape, "--data.path", folder / "corpus.txt", "--out", "run") == 130
    return folder / "run"


@pytest.fixture
def run(stopped: Path, tmp_path: Path) -> Path:
    """A copy of the interrupted run."""
    return Path(shutil.copytree(stopped, tmp_path / "run", symlinks=True))


def refused(train: Train, run: Path) -> str:
    """Try to resume a run, check that nothing of it is lost, and return the line."""
    before = contents(run)
    finished = train("--resume", run)
    (line,) = finished.err.splitlines()
    assert (finished.status, line[:7]) == (2, "error: "), finished.err
    after = contents(run)
    record = run / "decisions.jsonl"  # decisions after the checkpoint may be gone, as they will be made again
    assert (before.pop(record, None) or b"").startswith(after.pop(record, None) or b"")
    for path, content in before.items():
        assert after[path] == content, path
    assert {path.relative_to(run).parts[0] for path in after.keys() - before.keys()} <= {".lock", "tb"}
    return line


def test_the_interrupted_run_can_be_resumed(train: Train, run: Path) -> None:
    """The cases below must fail for their own reasons."""
    assert train("--resume", run).status == 0
    assert (run / "final" / "summary.json").is_file()


@pytest.mark.parametrize("content", [None, "folder", "file"])
def test_resume_of_no_run_is_refused(train: Train, tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "nothing"
    if content == "folder":
        path.mkdir()
    elif content == "file":
        path.touch()
    assert refused(train, path) == f"error: {path}: not a run directory (it has no config.json)"


@pytest.mark.parametrize(
    ("part", "values", "told"),
    [
        ([], {"format": 99}, "written by format 99"),
        ([], {"format": None}, "written by format None"),
        ([], {"resolved": None}, "'resolved' is missing or damaged"),
        ([], {"chosen": 3}, "'chosen' is missing or damaged"),
        (["resolved"], {"sed": 3}, "damaged, or of another version (sed)"),
        (["resolved"], {"agent": None, "run": None}, "damaged, or of another version (agent, run)"),
        (["resolved"], {"model": {"widht": 3}}, "did you mean 'model.width'?"),
        (["resolved", "agent"], {"name": "dqm"}, "did you mean 'dqn'?"),
        (["resolved", "agent"], {"gamma": 0.5}, "agent.gamma"),
        (["resolved"], {"agent": "random"}, "agent = 'random'"),
        (["resolved", "run"], {"seed": -1}, "run.seed = -1"),
    ],
    ids=str,
)
def test_settings_of_another_version_are_refused(
    train: Train, run: Path, part: list[str], values: dict[str, Any], told: str
) -> None:
    change(run / "config.json", part, **values)
    line = refused(train, run)
    assert str(run / "config.json") in line
    assert told in line


@pytest.mark.parametrize("content", ["[]", "3", "{", "", '{"format": 2, "chosen": [], "resolved": []}'])
@pytest.mark.parametrize("name", ["config.json", "versions.json", "checkpoints/000003/state.json"])
def test_a_damaged_json_file_is_named(train: Train, run: Path, name: str, content: str) -> None:
    (run / name).write_text(content)
    line = refused(train, run)
    assert str((run / name).parent) in line


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "state.json"])
def test_a_damaged_checkpoint_is_refused(train: Train, run: Path, name: str) -> None:
    path = run / "checkpoints" / "000003" / name
    path.write_bytes(path.read_bytes()[:-20])
    assert str(path) in refused(train, run)
    path.unlink()
    assert str(path) in refused(train, run)


def test_a_checkpoint_of_another_pattern_is_refused(train: Train, run: Path) -> None:
    state = run / "checkpoints" / "000003" / "state.json"
    other = [0, 0, 0, 0] if read(state)["pointers"] != [0, 0, 0, 0] else [0, 1, 2, 3]
    change(state, [], pointers=other)
    assert str(state.parent) in refused(train, run)


@pytest.mark.parametrize("line", [0, 1, 2])
@pytest.mark.parametrize("content", [b'{"decision": 0, "act', b"[]", b"{}", b"\xff"])
def test_a_damaged_line_of_the_record_is_refused(train: Train, run: Path, line: int, content: bytes) -> None:
    path = run / "decisions.jsonl"
    record = path.read_bytes().split(b"\n")
    record[line] = content
    path.write_bytes(b"\n".join(record))
    assert f"{path}: line {line + 1} is damaged, or of another version" in refused(train, run)


def test_a_record_out_of_order_is_refused(train: Train, run: Path) -> None:
    path = run / "decisions.jsonl"
    record = path.read_text().splitlines()
    record[1] = record[2]
    path.write_text("\n".join(record) + "\n")
    assert refused(train, run).endswith(f"{path}: line 2 is not decision 1")


@pytest.mark.parametrize("kept", [0, 2])
def test_a_record_shorter_than_the_checkpoint_is_refused(train: Train, run: Path, kept: int) -> None:
    path = run / "decisions.jsonl"
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:kept]))
    assert f"{kept} decisions, but the newest checkpoint is after 3" in refused(train, run)


def test_a_corpus_that_has_changed_is_refused(train: Train, stopped: Path, run: Path) -> None:
    corpus = stopped.parent / "corpus.txt"
    text = corpus.read_text(encoding="utf-8")
    corpus.write_text(words(4_000, seed=1), encoding="utf-8")
    try:
        assert "corpus.txt is no longer what it was at the run's beginning" in refused(train, run)
    finally:
        corpus.write_text(text, encoding="utf-8")


@pytest.mark.parametrize("content", ["[]", "{}", '{"pointers": [0, 1]}'])
def test_a_damaged_summary_is_named(train: Train, run: Path, content: str) -> None:
    assert train("--resume", run).status == 0
    path = run / "final" / "summary.json"
    path.write_text(content)
    assert refused(train, run).startswith(f"error: {path}: damaged")
    assert json.loads(path.read_text()) == json.loads(content)
