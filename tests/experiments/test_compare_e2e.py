"""`compare` as a person runs it: what it leaves behind, what it takes as it is, and what it does about failures."""

import base64
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from experiments.command import parse
from experiments.settings import from_dict

from tests.conftest import ROOT, Finished, single_thread, words

pytestmark = pytest.mark.e2e

Run = Callable[..., Finished]

TINY = (
    "--preset tiny --trainer.iterations 16 --env.decision-interval 2 --model.width 8 --model.num-layers 3 "
    "--checkpoint-interval 2"
).split()
FROZEN = "random --env.freeze-after 0"  # decides, and never changes anything
COARSE = "0 1 1 --env.decision-interval 3"
AGENTS = ("independent", "dqn", FROZEN, COARSE)
SEEDS = ("--seeds", "2", "--first-seed", "4")
# Figures of a run that are no clock's.
EXACT = [
    "entry",
    "seed",
    "pattern",
    "test_loss",
    "reward_loss",
    "num_unique_layers",
    "trainable_params",
    "tokens",
    "decisions",
]


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def files(folder: Path) -> dict[str, int]:
    """Return when each file below a folder was written."""
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def one_process(main: Callable[[list[str]], None]) -> Callable[[list[str]], None]:
    """Let a script carry out its runs inside this process, one after another."""
    return lambda arguments: main([*arguments, "--jobs", "1"])


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], one_thread: None) -> Run:
    """Call a script inside this process, in the test's own folder."""
    from experiments import cli, compare, train

    mains = {"compare": one_process(compare.main), "train": train.main}
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def run(name: str, *arguments: str | Path) -> Finished:
        capsys.readouterr()
        status = cli.status(mains[name], [str(argument) for argument in arguments])
        return Finished(status, *capsys.readouterr())

    return run


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A text; its absolute path is a setting, so that a copied comparison is still the same."""
    path = tmp_path_factory.mktemp("text") / "corpus.txt"
    path.write_text(words(6_000), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def comparison(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished comparison; tests that change it take a copy."""
    from experiments import cli
    from experiments.compare import main

    folder = tmp_path_factory.mktemp("comparison")
    with pytest.MonkeyPatch.context() as patch, single_thread():
        patch.chdir(folder)
        arguments = ["--agents", *AGENTS, *SEEDS, *TINY, "--data.path", str(corpus), "--out", "c"]
        assert cli.status(one_process(main), arguments) == 0
    return folder / "c"


@pytest.fixture
def copied(comparison: Path, tmp_path: Path) -> Path:
    """The comparison in a folder of the test's own, with the times of its files."""
    return Path(shutil.copytree(comparison, tmp_path / "c", symlinks=True))


# What it leaves behind.


def test_every_artefact_is_there(comparison: Path) -> None:
    assert {path.name for path in comparison.iterdir()} == {
        "comparison.json",
        "curves.png",
        "logs",
        "maps.png",
        "pareto.png",
        "report.html",
        "runs",
        "runs.csv",
        "table.csv",
        "table.md",
    }
    entries = ("independent", "dqn", "random-env.freeze-after-0", "0-1-1-env.decision-interval-3")
    names = {f"{entry}__s{seed}" for entry in entries for seed in (4, 5)}
    assert {path.name for path in (comparison / "runs").iterdir()} == names
    assert {path.name for path in (comparison / "logs").iterdir()} == {f"{name}.log" for name in names}
    for name in ("curves.png", "maps.png", "pareto.png"):
        assert (comparison / name).read_bytes().startswith(b"\x89PNG")
    for path in (comparison / "logs").iterdir():
        assert "evaluating on the whole test split" in path.read_text()
    written = read(comparison / "comparison.json")
    assert (written["seeds"], list(written["entries"])) == ([4, 5], list(AGENTS))


class References(HTMLParser):
    """Gathers what a page refers to."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.found += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "data", "action")]


def test_the_report_refers_to_nothing_outside_itself(comparison: Path) -> None:
    text = (comparison / "report.html").read_text(encoding="utf-8")
    page = References()
    page.feed(text)
    assert len(page.found) == 3
    prefix = "data:image/png;base64,"
    assert {base64.b64decode(found.removeprefix(prefix), validate=True)[:4] for found in page.found} == {b"\x89PNG"}
    assert not {"script", "link", "iframe", "object", "base"} & set(page.tags)
    shown = re.sub(r'src="data:[^"]*"', "", text)
    assert not re.search(r"url\(|@import|https?:|//", shown)
    for part in (*AGENTS, "independent, paired by seed", "wall time", "0 1 2", "--agents independent dqn"):
        assert part in shown, part


def test_the_table_to_read_has_the_figures_of_the_table(comparison: Path) -> None:
    table = pd.read_csv(comparison / "table.csv").set_index("entry")
    head, _, *lines = (comparison / "table.md").read_text().splitlines()
    names, *cells = ([cell.strip() for cell in line.split("|")[1:-1]] for line in (head, *lines))
    rows = {row[0]: dict(zip(names, row, strict=True)) for row in cells}
    assert list(rows) == list(AGENTS)
    for entry, row in rows.items():
        assert row["test loss"] == f"{table.loc[entry, 'test_loss']:.4f}"
        assert row["block parameters"] == f"{table.loc[entry, 'block_params_share']:.0%}"
    row, figures = rows[COARSE], table.loc[COARSE]
    assert row["difference"] == f"{figures['difference']:+.4f} [{figures['low']:+.4f}, {figures['high']:+.4f}]"
    assert row["better in"] == f"{int(figures['better_in'])}/2"
    assert rows["independent"]["difference"] == "-"


def test_runs_csv_is_what_the_summaries_say(comparison: Path) -> None:
    table = pd.read_csv(comparison / "runs.csv")
    summaries = {}
    for folder in (comparison / "runs").iterdir():
        summary = read(folder / "final" / "summary.json")
        summaries[summary["agent"], summary["seed"]] = summary
    assert len(table) == len(summaries) == 8
    for row in table.to_dict("records"):
        summary = summaries[row["entry"].partition(" --")[0], row["seed"]]
        assert row["pattern"] == " ".join(map(str, summary["pointers"]))
        for name in ("test_loss", "reward_loss", "num_unique_layers", "trainable_params", "tokens", "decisions"):
            assert row[name] == summary[name], name
        assert row["block_params_share"] == summary["trainable_block_params"] / summary["independent_block_params"]


# Paired runs.


def test_a_run_of_a_comparison_is_the_run_of_train(comparison: Path, corpus: Path, call: Run, tmp_path: Path) -> None:
    assert call("train", *TINY, "--data.path", corpus, "--agent", "dqn", "--seed", "5", "--out", "single").status == 0
    single, grid = tmp_path / "single", comparison / "runs" / "dqn__s5"
    assert (single / "final" / "model.safetensors").read_bytes() == (grid / "final" / "model.safetensors").read_bytes()
    ours, theirs = (read(folder / "final" / "summary.json") for folder in (single, grid))
    for name in ("test_loss", "pointers", "reward_loss", "seed", "agent"):
        assert ours[name] == theirs[name], name
    assert len({tuple(json.loads(line)["pointers"]) for line in (grid / "decisions.jsonl").read_text().splitlines()}) > 1


@pytest.mark.parametrize("name", ["dqn__s4", "0-1-1-env.decision-interval-3__s5"])
def test_the_recorded_command_makes_the_same_run(comparison: Path, name: str) -> None:
    folder = comparison / "runs" / name
    _, module, script, *flags = shlex.split((folder / "command.txt").read_text())
    assert (module, script) == ("-m", "experiments.train")
    config = read(folder / "config.json")
    config.pop("format")
    assert parse(flags).settings == from_dict(config)


def test_an_agent_that_changes_nothing_is_independent(comparison: Path) -> None:
    runs = pd.read_csv(comparison / "runs.csv").set_index(["entry", "seed"])["test_loss"]
    assert runs["independent", 4] == runs[FROZEN, 4] != runs["independent", 5] == runs[FROZEN, 5]
    row = pd.read_csv(comparison / "table.csv").set_index("entry").loc[FROZEN]
    assert (row[["difference", "low", "high", "t_low", "t_high", "better_in"]] == 0).all()
    assert row["pairs"] == 2


# Asked for again.


def test_finished_runs_are_taken_as_they_are_and_agents_can_be_added(
    copied: Path, comparison: Path, corpus: Path, call: Run
) -> None:
    before = files(copied / "runs")
    finished = call("compare", "--agents", *AGENTS, "cycle:2", *SEEDS, *TINY, "--data.path", corpus, "--out", "c")
    assert (finished.status, finished.err) == (0, "")
    assert "8 of 10 runs are there already" in finished.out
    after = files(copied / "runs")
    assert {name: moment for name, moment in after.items() if not name.startswith("cycle-2__")} == before
    new, old = (pd.read_csv(folder / "runs.csv") for folder in (copied, comparison))
    assert list(new["entry"].unique()) == [*AGENTS, "cycle:2"]
    pd.testing.assert_frame_equal(new[new["entry"] != "cycle:2"][EXACT].reset_index(drop=True), old[EXACT])


def test_another_setting_in_the_folder_is_refused(copied: Path, corpus: Path, call: Run) -> None:
    before = files(copied)
    other = ["--data.path", corpus, "--model.dropout", "0.1", "--out", "c"]
    finished = call("compare", "--agents", "independent", *SEEDS, *TINY, *other)
    assert finished.status == 2
    assert "independent__s4: made with other settings (model.dropout = 0.0, now 0.1)" in finished.complaints[0]
    assert "name a new folder with --out" in finished.complaints[-1]
    assert files(copied) == before


# Failures.

FLAKY = """
from agents.base import Agent

class Mine(Agent):
    asked = 0

    def predict(self, observation, action_masks=None, deterministic=False):
        self.asked += 1
        if self.asked == 6:
            {at_the_sixth}
        return 0
"""


def test_a_failing_agent_is_told_and_the_others_are_reported(
    corpus: Path, call: Run, tmp_path: Path, write_module: Callable[[str, str], str]
) -> None:
    write_module("flaky", FLAKY.format(at_the_sixth='raise RuntimeError("out of <ideas>")'))
    command = ["--agents", "flaky:Mine", "independent", "--seeds", "1", *TINY, "--data.path", corpus, "--out", "c"]
    finished = call("compare", *command)
    assert finished.status == 1
    log = Path("c/logs/flaky-Mine__s0.log")
    assert finished.complaints == [f"error: flaky:Mine, seed 0: RuntimeError: out of <ideas> (see {log})"]
    assert "Traceback (most recent call last)" in (tmp_path / log).read_text()
    assert "RuntimeError: out of <ideas>" in (tmp_path / log).read_text()
    assert "out of &lt;ideas&gt;" in (tmp_path / "c" / "report.html").read_text()
    assert list(pd.read_csv(tmp_path / "c" / "table.csv")["entry"]) == ["independent"]

    write_module("flaky", FLAKY.format(at_the_sixth="pass"))
    before = files(tmp_path / "c" / "runs" / "independent__s0")
    finished = call("compare", *command)
    assert (finished.status, finished.err) == (0, "")
    assert list(pd.read_csv(tmp_path / "c" / "table.csv")["entry"]) == ["flaky:Mine", "independent"]
    assert files(tmp_path / "c" / "runs" / "independent__s0") == before
    assert "FAILED" not in finished.out
    lines = (tmp_path / "c" / "runs" / "flaky-Mine__s0" / "decisions.jsonl").read_text().splitlines()
    assert [json.loads(line)["decision"] for line in lines] == list(range(8))


def test_without_a_run_of_the_baseline_there_is_no_report(
    corpus: Path, call: Run, tmp_path: Path, write_module: Callable[[str, str], str]
) -> None:
    write_module("flaky", FLAKY.format(at_the_sixth="raise ValueError"))
    finished = call("compare", "--agents", "flaky:Mine", "--seeds", "1", *TINY, "--data.path", corpus, "--out", "c")
    assert finished.status == 1
    first, second = finished.complaints
    assert first.startswith("error: flaky:Mine, seed 0: ValueError: ")
    assert second == "error: no report: not one run of 'flaky:Mine', which differences are to, is done"
    assert not (tmp_path / "c" / "report.html").exists()


def test_a_comparison_that_is_killed_goes_on_to_the_same_results(
    comparison: Path, corpus: Path, call: Run, tmp_path: Path
) -> None:
    """All its processes die at once; two of them train."""
    agents = ["--agents", "independent", "dqn", *SEEDS, *TINY, "--data.path", corpus, "--out", "c"]
    command = [sys.executable, "-m", "experiments.compare", *map(str, agents), "--jobs", "2"]
    given = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    quiet = subprocess.DEVNULL
    process = subprocess.Popen(command, cwd=tmp_path, env=given, stdout=quiet, stderr=quiet, start_new_session=True)
    record = tmp_path / "c" / "runs" / "dqn__s4" / "decisions.jsonl"
    deadline = time.monotonic() + 240
    while not record.exists() or record.read_bytes().count(b"\n") < 3:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (tmp_path / "c" / "report.html").exists()
    assert len(list((tmp_path / "c" / "runs").glob("*/final/summary.json"))) < 4

    finished = call("compare", *agents)
    assert (finished.status, finished.err) == (0, "")
    found, expected = (pd.read_csv(folder / "runs.csv") for folder in (tmp_path / "c", comparison))
    expected = expected[expected["entry"].isin(["independent", "dqn"])].reset_index(drop=True)
    pd.testing.assert_frame_equal(found[EXACT], expected[EXACT], check_exact=True)
    for name in ("independent__s4", "dqn__s4", "independent__s5", "dqn__s5"):
        ours, theirs = (folder / "runs" / name / "final" / "model.safetensors" for folder in (tmp_path / "c", comparison))
        assert ours.read_bytes() == theirs.read_bytes(), name


# Bad input.


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["--agents", "nobody"], "unknown agent 'nobody'"),
        (["--agents", "random", "--seeds", "0"], "seeds = '0'"),
        (["--agents", "random", "--seed", "3"], "--seed is for single runs"),
        (["--agents", "random --seed 3"], "--seed is for single runs"),
        (["--agents", "random", "--agent", "dqn"], "--agent is for single runs"),
        (["--agents", "random --data.path 'x"], "no closing quotation"),
        (["--agents", "random", "random"], "'random' is named twice"),
        (["--agents", "random", "--baseline", "dqn"], "--baseline 'dqn' is none of --agents: random"),
        (["--agents", "random", "--backend", "ray"], "--backend ray needs the `ray` library"),
        (["--agents", "random", "--env.decision-intervl", "3"], "unknown flag --env.decision-intervl"),
        (["--agents"], "agents"),
        (["--seeds", "2"], "agents"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_made(
    call: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], part: str
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)  # as where it is not installed
    finished = call("compare", *arguments, *TINY)
    assert finished.status == 2
    (line,) = finished.complaints
    assert line.startswith("error: ") and part in line
    assert not list(tmp_path.iterdir())


def test_the_baseline_can_be_chosen(copied: Path, corpus: Path, call: Run) -> None:
    arguments = ["--agents", "independent", COARSE, *SEEDS, *TINY, "--data.path", corpus, "--out", "c"]
    assert call("compare", *arguments, "--baseline", COARSE, "--clock", "cpu").status == 0
    table = pd.read_csv(copied / "table.csv").set_index("entry")
    runs = pd.read_csv(copied / "runs.csv").pivot(index="seed", columns="entry", values="test_loss")
    assert table.loc[COARSE, "difference"] == 0
    assert table.loc["independent", "difference"] == pytest.approx(np.mean(runs["independent"] - runs[COARSE]))
    assert "processor time" in (copied / "report.html").read_text()
