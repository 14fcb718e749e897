"""Two thousand wrong inputs, the same in every run: whatever a person types or a file holds, the answer is InputError."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

import agents
import envs  # noqa: F401 (registers the environments)
from agents.base import read_agent
from experiments.bench import BenchFlags
from experiments.compare import CompareFlags
from experiments.retrain import RetrainFlags
from experiments.run import cli
from experiments.run.command_line import SHORTS, TrainFlags, parse
from experiments.run.config import flags_of, load_config, read_config, resolve
from experiments.run.directory import RunDirectory
from experiments.run.load import load_run
from experiments.sample import SampleFlags
from tests.experiments.runs import SMALL, call_in
from tying import strategies
from tying.config import fields_of
from tying.errors import InputError
from tying.pointers import Pointers
from tying.training import checkpoint
from tying.tyingbench import COLUMNS, TyingBench, to_csv

pytestmark = pytest.mark.usefixtures("one_thread")


def fuzz(count: int) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Return a decorator: so many examples, the same in every run, and none shrunk."""
    checks = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large]
    phases = (Phase.explicit, Phase.generate)
    return settings(
        max_examples=count, derandomize=True, database=None, deadline=None, suppress_health_check=checks, phases=phases
    )


def attempt(work: Callable[[], Any]) -> None:
    """Call something that may refuse its input in one line for each mistake, and in no other way."""
    try:
        work()
    except InputError as error:
        assert error.lines and not any("\n" in line for line in error.lines), error.lines
    except SystemExit as error:
        assert not error.code  # --help


ODD_TEXTS = [
    "",
    " ",
    "nan",
    "inf",
    "-1",
    "0",
    "1e999",
    "1" * 5000,
    "none",
    "[x]",
    "a:b:c",
    "../..",
    "ü\udcff",
    "\x00",
    "--",
    "=",
]
texts = st.sampled_from(ODD_TEXTS) | st.text(max_size=8) | st.integers().map(str) | st.floats().map(str)
numbers = st.integers() | st.floats() | st.sampled_from([10**400, -1, 0, True])
values = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
SETTINGS = sorted(flags_of(resolve({})))
FLAGS = sorted([*SETTINGS, *SHORTS, *fields_of(TrainFlags)])


@st.composite
def command_lines(draw: st.DrawFn, flags: list[str]) -> list[str]:
    """Return words: right and wrong flags, with and without values."""
    words: list[str] = []
    for _ in range(draw(st.integers(0, 4))):
        name = draw(st.sampled_from(flags) | texts)
        joined = draw(st.booleans())
        value = draw(st.sampled_from(["3", "0.5", "true", "random", "tiny", "gpt"]) | texts)
        words += [f"--{name}={value}"] if joined else [f"--{name}", *draw(st.lists(st.just(value), max_size=2))]
    return words


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Relative paths are of an empty folder."""
    monkeypatch.chdir(tmp_path)


@given(command_lines(FLAGS))
@fuzz(350)
def test_command_lines_of_train(words: list[str]) -> None:
    attempt(lambda: parse(words))


@pytest.mark.parametrize("flags", [BenchFlags, CompareFlags, RetrainFlags, SampleFlags])
def test_command_lines_of_other_scripts(flags: type, capsys: pytest.CaptureFixture[str]) -> None:
    @given(command_lines(sorted(fields_of(flags))))
    @fuzz(50)
    def check(words: list[str]) -> None:
        attempt(lambda: cli.read_own(flags, words, "experiments.script"))

    check()


@given(st.dictionaries(st.sampled_from([*SETTINGS, "env", "agent", "model"]) | texts, values, max_size=4))
@fuzz(200)
def test_config_files(tmp_path: Path, content: dict[str, Any]) -> None:
    path = tmp_path / "settings.json"
    path.write_text(json.dumps(content))
    attempt(lambda: resolve(read_config(path)))


@given(values)
@fuzz(50)
def test_config_files_of_another_shape(tmp_path: Path, content: Any) -> None:
    path = tmp_path / "settings.json"
    path.write_text(json.dumps(content))
    attempt(lambda: read_config(path))
    attempt(lambda: load_config(path))


# Run folders.


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run."""
    folder = tmp_path_factory.mktemp("runs")
    assert call_in(folder, "train", *SMALL, "--agent", "double_dqn", "--out", "run") == 0
    return folder / "run"


@st.composite
def damaged(draw: st.DrawFn, whole: bytes, is_json: bool) -> bytes:
    """Return a file's content with an entry of its JSON replaced or missing, or cut, flipped, or made of anything."""
    kinds = ["cut", "flip", "other", "deep"]
    kind = draw(st.sampled_from([*kinds, *["entry"] * 8] if is_json else kinds))
    if kind == "entry":
        content = json.loads(whole)
        if isinstance(content, dict) and content:
            inner = content
            name = draw(st.sampled_from(sorted(inner)))
            while isinstance(inner[name], dict) and inner[name] and draw(st.booleans()):
                inner = inner[name]
                name = draw(st.sampled_from(sorted(inner)))
            if draw(st.booleans()):
                inner[name] = draw(values)
            else:
                del inner[name]
            return json.dumps(content).encode()
        return json.dumps(draw(values)).encode()
    if kind == "deep":
        return b"[" * 100_000
    if kind == "other":
        return draw(st.binary(max_size=40))
    place = draw(st.integers(0, max(0, len(whole) - 1)))
    return whole[:place] if kind == "cut" else whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :]


def read_whole(path: Path) -> None:
    """Read everything that a run left."""
    directory = RunDirectory(path)
    for work in (
        lambda: load_run(path).config,
        lambda: load_run(path).training_config,
        lambda: load_run(path).summary,
        lambda: load_run(path).model,
        lambda: load_run(path).agent,
        lambda: directory.read_decisions(),
        lambda: directory.read_versions(),
        lambda: checkpoint.saved_pointers(directory.checkpoint_folder(8)),
    ):
        attempt(work)


FILES = [
    *("config.json", "versions.json", "decisions.jsonl", "tokenizer.json"),
    *("final/summary.json", "final/pointers.json", "final/checksums.json", "final/agent/agent.json"),
    *("checkpoints/000008/state.json", "checkpoints/000008/checksums.json", "final/model.safetensors"),
]


@pytest.mark.parametrize("name", FILES)
def test_run_folders(run: Path, tmp_path: Path, name: str) -> None:
    path = Path(shutil.copytree(run, tmp_path / "run", symlinks=True)) / name
    whole = path.read_bytes()
    first, *rest = whole.split(b"\n") if name.endswith(".jsonl") else [whole]
    behind = b"".join(b"\n" + line for line in rest)

    @given(damaged(first, name.endswith(("json", "jsonl"))))
    @fuzz(12)
    def check(content: bytes) -> None:
        path.write_bytes(content + behind)
        read_whole(tmp_path / "run")

    check()


@given(st.data())
@fuzz(150)
def test_lines_of_a_record(run: Path, tmp_path: Path, data: st.DataObject) -> None:
    first, *rest = (run / "decisions.jsonl").read_bytes().split(b"\n")
    path = tmp_path / "decisions.jsonl"
    path.write_bytes(b"\n".join([data.draw(damaged(first, True)), *rest]))
    attempt(lambda: RunDirectory(tmp_path).read_decisions())


@given(st.data())
@fuzz(100)
def test_summaries(run: Path, tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / "final" / "summary.json"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data.draw(damaged((run / "final" / "summary.json").read_bytes(), True)))
    attempt(lambda: RunDirectory(tmp_path).read_summary())


@given(st.data())
@fuzz(150)
def test_saved_agents(run: Path, tmp_path: Path, data: st.DataObject) -> None:
    source = run / "final" / "agent"
    name = data.draw(st.sampled_from(sorted(path.name for path in source.iterdir())))
    folder = tmp_path / "agent"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(source, folder)
    (folder / name).write_bytes(data.draw(damaged((source / name).read_bytes(), name.endswith(".json"))))
    env = gymnasium.make("tying/FormulaTying-v0", num_layers=3)
    attempt(lambda: read_agent(folder))
    attempt(lambda: agents.load(folder, env))


# Tables.


@pytest.fixture(scope="module")
def table() -> tuple[bytes, bytes]:
    """A small table's two files."""
    from tests.envs.tables import FACTS, make_rows

    facts = dict(FACTS)
    return to_csv(make_rows()).encode(), json.dumps(facts).encode()


@given(st.data())
@fuzz(200)
def test_tables(table: tuple[bytes, bytes], tmp_path: Path, data: st.DataObject) -> None:
    rows, facts = table
    lines = rows.decode().splitlines()
    kind = data.draw(st.sampled_from(["cell", "line", "bytes", "facts"]))
    if kind == "cell":
        number = data.draw(st.integers(0, len(lines) - 1))
        cells = lines[number].split(",")
        cells[data.draw(st.integers(0, len(COLUMNS) - 1))] = data.draw(texts)
        lines[number] = ",".join(cells)
    elif kind == "line":
        lines[data.draw(st.integers(0, len(lines) - 1))] = data.draw(texts)
    rows = ("\n".join(lines) + "\n").encode(errors="surrogateescape")
    (tmp_path / "t.csv").write_bytes(data.draw(damaged(rows, False)) if kind == "bytes" else rows)
    (tmp_path / "t.json").write_bytes(data.draw(damaged(facts, True)) if kind == "facts" else facts)
    attempt(lambda: TyingBench.load(tmp_path / "t.csv"))


# Python.

# Without render_mode, which gymnasium itself reads first.
KEYWORDS = {
    "tying/FormulaTying-v0": ["num_layers", "num_decisions", "best", "gap", "noise", "env", "reward"],
    "tying/TyingBench-v0": ["table", "num_decisions", "budget", "answers", "env", "reward"],
    "tying/LayerTying-v0": ["preset", "model", "trainer", "data", "agent", "reward"],
}
SMALL_VALUES = values.filter(lambda value: not (isinstance(value, int | float) and value > 50))


@pytest.mark.parametrize("name", KEYWORDS)
def test_keywords_of_gymnasium_make(name: str) -> None:
    keys = st.sampled_from([*KEYWORDS[name], "action_mode", "initial_pointers", "reward.name", "env.freeze_after", "x"])

    @given(st.dictionaries(keys, SMALL_VALUES, min_size=1, max_size=3))
    @fuzz(120)
    def check(keywords: dict[str, Any]) -> None:
        attempt(lambda: gymnasium.make(name, disable_env_checker=True, **keywords).reset(seed=0))

    check()


@given(texts, st.integers(1, 8))
@fuzz(150)
def test_patterns_and_schedules(text: str, num_layers: int) -> None:
    attempt(lambda: strategies.make(text, num_layers))
    attempt(lambda: strategies.make_schedule(text, num_layers))
    attempt(lambda: Pointers.parse(text))


def test_nothing_was_imported_that_a_text_named() -> None:
    assert "this" not in sys.modules
