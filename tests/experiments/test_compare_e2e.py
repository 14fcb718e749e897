"""`compare` as a person runs it: its files, its table, runs that are there already, and failures."""

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
from dataclasses import replace
from html.parser import HTMLParser
from io import StringIO
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from filelock import FileLock
from rich.console import Console

from experiments import load_run
from experiments.run.command_line import parse
from experiments.run.config import load_config
from experiments.run.directory import RunDirectory
from experiments.study import plots
from experiments.study.report import print_table, remarks
from experiments.study.results import Run, references, run_table, variant_table
from tests.conftest import PATIENCE_S, ROOT, Finished, words
from tests.experiments.runs import (
    KINDS,
    SMALL,
    assert_same,
    call_in,
    change,
    contents,
    data_of,
    interrupted_after,
    read,
    weights,
)
from tying.training.trainer import Iteration, Trainer

pytestmark = pytest.mark.e2e

Call = Callable[..., Finished]

FROZEN = "random --env.freeze-after 0"  # decides, and never changes anything
COARSE = "0 1 1 --env.decision-interval 3"
AGENTS = ("independent", "dqn", FROZEN, COARSE)
SEEDS = ("--seeds", "2", "--first-seed", "4")
ONE = ("--jobs", "1", "--no-shallow")  # one run after another, inside this process, and the named variants alone
# Figures of a run that are no clock's.
EXACT = [
    "variant",
    "seed",
    "pattern",
    "test_loss",
    "reward_loss",
    "num_unique_layers",
    "trainable_params",
    "tokens",
    "decisions",
]


def files(folder: Path) -> dict[str, int]:
    """Return when each file below a folder was written."""
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def table_of(folder: Path) -> pd.DataFrame:
    """Return the rows of table.csv that are variants."""
    table = pd.read_csv(folder / "table.csv")
    return table[table["seeds"] > 0].set_index("variant")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A text; its absolute path is a setting, so that a copied comparison is still the same."""
    path = tmp_path_factory.mktemp("text") / "corpus.txt"
    path.write_text(words(6_000), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def comparison(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished comparison; tests that change it take a copy."""
    folder = tmp_path_factory.mktemp("comparison")
    arguments = ["--agents", *AGENTS, *SEEDS, *SMALL, "--data.path", corpus, "--out", "c", *ONE]
    assert call_in(folder, "compare", *arguments) == 0
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
    variants = ("independent", "dqn", "random-env.freeze-after-0", "0-1-1-env.decision-interval-3")
    names = {f"{variant}__s{seed}" for variant in variants for seed in (4, 5)}
    assert {path.name for path in (comparison / "runs").iterdir()} == names
    assert {path.name for path in (comparison / "logs").iterdir()} == {f"{name}.log" for name in names}
    for name in ("curves.png", "maps.png", "pareto.png"):
        assert (comparison / name).read_bytes().startswith(b"\x89PNG")
    for path in (comparison / "logs").iterdir():
        assert "evaluating on the whole test split" in path.read_text()
    written = read(comparison / "comparison.json")
    assert (written["seeds"], list(written["variants"])) == ([4, 5], list(AGENTS))


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
    table = table_of(comparison)
    head, _, *lines = (comparison / "table.md").read_text().splitlines()
    names, *cells = ([cell.strip() for cell in line.split("|")[1:-1]] for line in (head, *lines))
    rows = {row[0]: dict(zip(names, row, strict=True)) for row in cells}
    assert list(rows)[: len(AGENTS)] == list(AGENTS)
    for variant in AGENTS:
        row = rows[variant]
        assert row["test loss"] == f"{table.loc[variant, 'test_loss']:.4f}"
        assert row["block parameters"] == f"{table.loc[variant, 'block_params_share']:.0%}"
    row, figures = rows[COARSE], table.loc[COARSE]
    assert row["difference"] == f"{figures['difference']:+.4f}"  # two pairs have no interval
    assert table["low"].isna().all() and table["equal_time_low"].isna().all()
    assert row["better in"] == f"{int(figures['better_in'])}/2"
    assert rows["independent"]["difference"] == "-"


def test_counting_models_stand_beside_the_variants(comparison: Path) -> None:
    runs = [Run.load(name, RunDirectory(comparison / "runs" / f"{name}__s4")) for name in ("independent", "dqn")]
    known = references(runs, "independent")
    assert list(known) == [f"{order}-gram" for order in range(1, 6)]
    table = variant_table(run_table(runs, "wall_s", "independent"), "independent")
    best = min(known, key=lambda name: known[name])
    assert (
        f"variants know less than the best counting model, {best}: {known[best]:.3f}"
        in (comparison / "report.html").read_text()
    )
    whole = pd.read_csv(comparison / "table.csv")
    below = whole.iloc[len(AGENTS) :].set_index("variant")
    assert below["test_loss"].to_dict() == pytest.approx(known)
    assert below["test_ppl"].to_dict() == pytest.approx({name: np.exp(loss) for name, loss in known.items()})
    others = below.drop(columns=["test_loss", "test_ppl", "decides", "seeds", "pairs", "better_in", "equal_time_better_in"])
    assert others.isna().all(axis=None) and not below[["seeds", "pairs", "better_in"]].any(axis=None)
    (shown,) = [line for line in (comparison / "table.md").read_text().splitlines() if "2-gram" in line]
    cells = [cell.strip() for cell in shown.split("|")]
    assert [cell for cell in cells if cell] == ["2-gram", f"{known['2-gram']:.4f}", f"{np.exp(known['2-gram']):.3f}"]
    screen = StringIO()
    print_table(whole, "independent", Console(file=screen, width=80))
    printed = [line.split() for line in screen.getvalue().splitlines()]
    assert [line for line in printed if "-gram" in " ".join(line)] == [[n, f"{loss:.4f}"] for n, loss in known.items()]
    levels = {
        "low": table["test_loss"].min() - 9,
        "between": table["test_loss"].mean(),
        "high": table["test_loss"].max() + 9,
    }
    axes = plots.pareto(table, "independent", levels).axes[0]
    written = {text.get_text() for text in axes.texts}
    lines = [line.get_ydata()[0] for line in axes.lines if line.get_linestyle() == ":"]
    assert lines == [pytest.approx(np.exp(levels["between"]))]  # the others are off the picture
    assert {"between", f"below the picture: low {np.exp(levels['low']):.3f}"} <= written
    assert f"above the picture: high {np.exp(levels['high']):.3f}" in written
    bits = table_of(comparison)["test_bits_per_byte"]
    assert bits["independent"] > 1
    one = [replace(runs[0], summary={k: v for k, v in runs[0].summary.items() if k != "references"})]
    assert not any("counting model" in line for line in remarks(one, table, "independent"))
    assert remarks(runs, table, "independent")[0].startswith("2 of 2 variants know less than the best counting model")


def test_runs_csv_is_what_the_summaries_say(comparison: Path) -> None:
    table = pd.read_csv(comparison / "runs.csv")
    summaries = {}
    for folder in (comparison / "runs").iterdir():
        summary = read(folder / "final" / "summary.json")
        summaries[summary["agent"], summary["seed"]] = summary
    assert len(table) == len(summaries) == 8
    for row in table.to_dict("records"):
        summary = summaries[row["variant"].partition(" --")[0], row["seed"]]
        assert row["pattern"] == " ".join(map(str, summary["pointers"]))
        for name in ("test_loss", "reward_loss", "num_unique_layers", "trainable_params", "tokens", "decisions"):
            assert row[name] == summary[name], name
        assert row["block_params_share"] == summary["trainable_block_params"] / summary["independent_block_params"]


# Paired runs.


def test_a_run_of_a_comparison_is_the_run_of_train(comparison: Path, corpus: Path, call: Call, tmp_path: Path) -> None:
    assert call("train", *SMALL, "--data.path", corpus, "--agent", "dqn", "--seed", "5", "--out", "single").status == 0
    single, grid = tmp_path / "single", comparison / "runs" / "dqn__s5"
    assert weights(single) == weights(grid)
    ours, theirs = (read(folder / "final" / "summary.json") for folder in (single, grid))
    for name in ("test_loss", "pointers", "reward_loss", "seed", "agent"):
        assert ours[name] == theirs[name], name
    assert len({tuple(json.loads(line)["pointers"]) for line in (grid / "decisions.jsonl").read_text().splitlines()}) > 1


@pytest.mark.parametrize("name", ["dqn__s4", "0-1-1-env.decision-interval-3__s5"])
def test_the_recorded_command_makes_the_same_run(comparison: Path, name: str) -> None:
    folder = comparison / "runs" / name
    _, module, script, *flags = shlex.split((folder / "command.txt").read_text())
    assert (module, script) == ("-m", "experiments.train")
    assert parse(flags).config == load_config(folder / "config.json")


@pytest.mark.parametrize("kind", [name for name in KINDS if KINDS[name].startswith("--task")])
def test_every_task_is_compared_and_its_models_are_loaded(kind: str, call: Call, tmp_path: Path) -> None:
    (tmp_path / "corpus.txt").write_text(words(6_000), encoding="utf-8")
    flags = [*SMALL, *KINDS[kind].split(), *data_of(kind, tmp_path / "corpus.txt"), "--lr", "0.01"]
    ended = call("compare", "--agents", "independent", "dqn", "0 0 0", "--seeds", "1", *flags, "--out", "c", *ONE)
    assert (ended.status, ended.err) == (0, "")
    table = pd.read_csv(tmp_path / "c" / "runs.csv")
    for name, loss in zip(("independent__s0", "dqn__s0", "0-0-0__s0"), table["test_loss"], strict=True):
        run = load_run(tmp_path / "c" / "runs" / name)
        found = run.task.metrics(run.model, run.task.evaluation_batches("test", run.config.trainer.batch_size))
        assert {f"test_{key}": value for key, value in found.items()}.items() <= run.summary.items()
        assert found["loss"] == pytest.approx(loss, rel=1e-12) and len(found) > 1
        assert run.summary["loss_unit"] == f"nats per {run.task.unit}"
        assert run.decisions["reward_loss"].iloc[-1] < run.task.uninformed_loss + 0.5
    metrics = {name for name in table.columns if name.startswith("test_")} - {"test_loss"}
    assert metrics == {f"test_{name}" for name in found if name != "loss" and not name.endswith("ppl")}
    means = table_of(tmp_path / "c")
    assert all(means[name].tolist() == pytest.approx(table[name].tolist()) for name in metrics)
    shown = (tmp_path / "c" / "report.html").read_text(encoding="utf-8")
    assert f"in nats per {run.task.unit} on the test split" in shown
    assert ("<th>accuracy</th>" in shown) == ("accuracy" in found) != ("<th>perplexity</th>" in shown)
    assert table["trainable_params"].iloc[2] < table["trainable_params"].iloc[0]


OPTIONS = {
    "looped": "--model.residual looped --model.depth-embedding sinusoid --model.positions alibi",
    "deepnet": "--model.norm-place post --model.residual deepnet --model.depth-embedding learned",
    "llama": KINDS["llama"],
    "p_hop": KINDS["p_hop"],
}


@pytest.mark.parametrize("option", OPTIONS)
def test_every_option_is_compared_and_resumed_bit_by_bit(option: str, corpus: Path, call: Call, tmp_path: Path) -> None:
    """A learner, a search and a fixed strategy, each of whose runs is interrupted once."""
    flags = [*SMALL, *OPTIONS[option].split(), *data_of(option, corpus), "--seeds", "1", *ONE]
    command = ["compare", "--agents", "dqn", "local_search", "sequence:2", *flags, "--out"]
    assert call(*command, "whole").status == 0
    for done in (5, 3, 1):
        with interrupted_after(done):
            assert call(*command, "parts").status == 130
    finished = call(*command, "parts")
    assert (finished.status, finished.err) == (0, "")
    for name in ("dqn__s0", "local_search__s0", "sequence-2__s0"):
        parts, whole = (tmp_path / folder / "runs" / name for folder in ("parts", "whole"))
        assert_same(parts, whole)
        run = load_run(parts)
        found = run.task.metrics(run.model, run.task.evaluation_batches("test", run.config.trainer.batch_size))
        assert {f"test_{key}": value for key, value in found.items()}.items() <= run.summary.items()


def test_an_agent_that_changes_nothing_is_independent(comparison: Path) -> None:
    runs = pd.read_csv(comparison / "runs.csv").set_index(["variant", "seed"])["test_loss"]
    assert runs["independent", 4] == runs[FROZEN, 4] != runs["independent", 5] == runs[FROZEN, 5]
    row = table_of(comparison).loc[FROZEN]
    assert (row[["difference", "better_in", "changes"]] == 0).all()
    assert row["pairs"] == 2


# Asked for again.


def test_an_untied_model_with_fewer_layers_stands_beside_the_others(copied: Path, corpus: Path, call: Call) -> None:
    """It is added to a comparison that was made without, unless a flag leaves it out."""
    common = ["--agents", "independent", COARSE, *SEEDS, *SMALL, "--data.path", corpus, "--out", "c"]
    finished = call("compare", *ONE, *common)
    assert finished.out.count("as the tied ones have sets of weights (2): add shallow:2\n") == 1
    before = files(copied / "runs")
    finished = call("compare", "--jobs", "1", *common)
    assert (finished.status, finished.err) == (0, "")
    assert "add shallow" not in finished.out and "4 of 6 runs are finished already" in finished.out
    assert before.items() <= files(copied / "runs").items()
    table = table_of(copied)
    assert list(table.index) == ["independent", COARSE, "shallow:2 --env.decision-interval 3"]
    row = table.iloc[-1]
    assert (row["num_layers"], row["num_unique_layers"], row["decides"]) == (2, 2, False)
    assert row["block_params_share"] == pytest.approx(2 / 3)  # of the baseline's three layers
    single = ["--agent", "independent", *SMALL, "--model.num-layers", "2", "--data.path", corpus, "--seed", "4"]
    assert call("train", *single, "--out", "single").status == 0
    assert weights(Path("single")) == weights(copied / "runs" / "shallow-2-env.decision-interval-3__s4")
    axes = plots.pareto(table_of(copied).reset_index(), "independent", {}).axes[0]
    assert [line.get_marker() for line in axes.lines if line.get_marker() in "os^"] == ["s", "s", "^"]


def test_finished_runs_are_taken_as_they_are_and_agents_can_be_added(
    copied: Path, comparison: Path, corpus: Path, call: Call
) -> None:
    before = files(copied / "runs")
    finished = call("compare", *ONE, "--agents", *AGENTS, "cycle:2", *SEEDS, *SMALL, "--data.path", corpus, "--out", "c")
    assert (finished.status, finished.err) == (0, "")
    assert "8 of 10 runs are finished already" in finished.out
    after = files(copied / "runs")
    assert {name: moment for name, moment in after.items() if not name.startswith("cycle-2__")} == before
    new, old = (pd.read_csv(folder / "runs.csv") for folder in (copied, comparison))
    assert list(new["variant"].unique()) == [*AGENTS, "cycle:2"]
    pd.testing.assert_frame_equal(new[new["variant"] != "cycle:2"][EXACT].reset_index(drop=True), old[EXACT])


def test_another_setting_in_the_folder_is_refused(copied: Path, corpus: Path, call: Call) -> None:
    before = files(copied)
    other = ["--data.path", corpus, "--model.dropout", "0.1", "--out", "c"]
    finished = call("compare", *ONE, "--agents", "independent", *SEEDS, *SMALL, *other)
    assert finished.status == 2
    assert "independent__s4: made with other settings (model.dropout = 0.0, now 0.1)" in finished.err.splitlines()[0]
    assert "name a new folder with --out" in finished.err.splitlines()[-1]
    assert files(copied) == before


# Several calls, on several machines.


def exact(folder: Path, *variants: str) -> pd.DataFrame:
    """Return the rows of runs.csv that are of some variants, without the clock."""
    table = pd.read_csv(folder / "runs.csv")
    return table[table["variant"].isin(variants)][EXACT].reset_index(drop=True)


def test_shards_of_which_one_is_killed_make_the_table_of_one_call(
    comparison: Path, corpus: Path, call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["--agents", "independent", "dqn", *SEEDS, *SMALL, "--data.path", corpus, "--out", "c", *ONE]
    first = call("compare", *command, "--shard", "1/2")
    said = "no report yet: 2 of 4 runs are other shards'; the same command without --shard does all"
    assert (first.status, first.err.splitlines()) == (0, [said])
    assert {path.name for path in (tmp_path / "c").iterdir()} == {"comparison.json", "logs", "runs"}
    mine = files(tmp_path / "c" / "runs")
    assert {name.split("/")[0] for name in mine} == {"independent__s4", "dqn__s5"}

    step, steps = Trainer._iterate, iter(range(1_000))

    def killed(trainer: Trainer) -> Iteration:
        if next(steps) == 13:  # in the middle of its first run
            raise KeyboardInterrupt
        return step(trainer)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_iterate", killed)
        assert call("compare", *command, "--shard", "2/2").status == 130
    resumed = next(path for path in (tmp_path / "c" / "runs").iterdir() if path.name not in ("independent__s4", "dqn__s5"))
    assert (resumed / "checkpoints" / "latest").exists() and not (resumed / "final").exists()
    begun = (resumed / "command.txt").stat().st_mtime_ns
    assert call("compare", *command, "--shard", "1/2").err.splitlines() == [said]

    last = call("compare", *command, "--shard", "2/2")
    assert (last.status, last.err) == (0, "")
    assert (resumed / "command.txt").stat().st_mtime_ns == begun
    after = files(tmp_path / "c" / "runs")
    assert {name: moment for name, moment in after.items() if name.split("/")[0] in ("independent__s4", "dqn__s5")} == mine
    pd.testing.assert_frame_equal(exact(tmp_path / "c", "independent", "dqn"), exact(comparison, "independent", "dqn"))
    shards = (tmp_path / "c" / "runs.csv").read_bytes(), (tmp_path / "c" / "table.csv").read_bytes()
    merged = call("compare", *command)
    assert (merged.status, merged.err) == (0, "")
    assert "4 of 4 runs are finished already" in merged.out
    assert files(tmp_path / "c" / "runs") == after
    assert ((tmp_path / "c" / "runs.csv").read_bytes(), (tmp_path / "c" / "table.csv").read_bytes()) == shards
    tables = [table_of(folder) for folder in (tmp_path / "c", comparison)]
    for name in ("seeds", "test_loss", "pairs", "difference", "better_in", "block_params_share"):
        assert tables[0][name].to_dict() == tables[1].loc[["independent", "dqn"], name].to_dict()


def test_a_shard_without_a_folder_is_refused(call: Call, corpus: Path, tmp_path: Path) -> None:
    refused = call("compare", "--agents", "random", *SMALL, "--data.path", corpus, "--shard", "1/2")
    assert refused.status == 2
    assert refused.err.splitlines() == ["error: --shard needs --out: the folder that is common to all parts"]
    assert not list(tmp_path.iterdir())


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
    corpus: Path, call: Call, tmp_path: Path, write_module: Callable[[str, str], str]
) -> None:
    write_module("flaky", FLAKY.format(at_the_sixth='raise RuntimeError("out of <ideas>")'))
    command = ["--agents", "flaky:Mine", "independent", "--seeds", "1", *SMALL, "--data.path", corpus, "--out", "c"]
    finished = call("compare", *ONE, *command)
    assert finished.status == 1
    log = Path("c/logs/flaky-Mine__s0.log")
    assert finished.err.splitlines() == [f"error: flaky:Mine, seed 0: RuntimeError: out of <ideas> (see {log})"]
    assert "Traceback (most recent call last)" in (tmp_path / log).read_text()
    assert "RuntimeError: out of <ideas>" in (tmp_path / log).read_text()
    assert "out of &lt;ideas&gt;" in (tmp_path / "c" / "report.html").read_text()
    assert list(table_of(tmp_path / "c").index) == ["independent"]

    write_module("flaky", FLAKY.format(at_the_sixth="pass"))
    before = files(tmp_path / "c" / "runs" / "independent__s0")
    finished = call("compare", *ONE, *command)
    assert (finished.status, finished.err) == (0, "")
    assert list(table_of(tmp_path / "c").index) == ["flaky:Mine", "independent"]
    assert files(tmp_path / "c" / "runs" / "independent__s0") == before
    assert "FAILED" not in finished.out
    lines = (tmp_path / "c" / "runs" / "flaky-Mine__s0" / "decisions.jsonl").read_text().splitlines()
    assert [json.loads(line)["decision"] for line in lines] == list(range(8))


def test_without_a_run_of_the_baseline_there_is_no_report(
    corpus: Path, call: Call, tmp_path: Path, write_module: Callable[[str, str], str]
) -> None:
    write_module("flaky", FLAKY.format(at_the_sixth="raise ValueError"))
    finished = call("compare", *ONE, "--agents", "flaky:Mine", "--seeds", "1", *SMALL, "--data.path", corpus, "--out", "c")
    assert finished.status == 1
    first, second = finished.err.splitlines()
    assert first.startswith("error: flaky:Mine, seed 0: ValueError: ")
    assert second == "error: no report: not one run of 'flaky:Mine', which differences are to, is finished"
    assert not (tmp_path / "c" / "report.html").exists()


HOLDING = """
import pathlib, time
from agents.random_agent import RandomAgent

class Mine(RandomAgent):
    asked = 0

    def diagnostics(self, observation, action_masks):
        self.asked += 1
        while self.asked == 4 and pathlib.Path("hold").exists():
            time.sleep(0.01)
        return super().diagnostics(observation, action_masks)
"""


def test_a_comparison_that_is_killed_is_resumed_to_the_same_results(
    corpus: Path, call: Call, tmp_path: Path, write_module: Callable[[str, str], str]
) -> None:
    """All its processes die at once; two of them train."""
    write_module("holding", HOLDING)
    agents = ["--agents", "independent", "holding:Mine", *SEEDS, *SMALL, "--data.path", corpus, "--out"]
    command = [sys.executable, "-m", "experiments.compare", *map(str, agents), "c", "--jobs", "2"]
    given = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(tmp_path)]), "OMP_NUM_THREADS": "1"}
    quiet = subprocess.DEVNULL
    (tmp_path / "hold").touch()
    process = subprocess.Popen(command, cwd=tmp_path, env=given, stdout=quiet, stderr=quiet, start_new_session=True)
    records = [tmp_path / "c" / "runs" / f"holding-Mine__s{seed}" / "decisions.jsonl" for seed in (4, 5)]
    deadline = time.monotonic() + PATIENCE_S
    while not all(record.exists() and record.read_bytes().count(b"\n") == 3 for record in records):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    for record in records:
        FileLock(record.with_name(".lock"), timeout=PATIENCE_S).acquire().lock.release()  # its process is gone
    assert not (tmp_path / "c" / "report.html").exists()
    assert len(list((tmp_path / "c" / "runs").glob("*/final/summary.json"))) == 2

    (tmp_path / "hold").unlink()
    for folder in ("c", "whole"):
        finished = call("compare", *ONE, *agents, folder)
        assert (finished.status, finished.err) == (0, "")
    found, expected = (pd.read_csv(tmp_path / folder / "runs.csv") for folder in ("c", "whole"))
    pd.testing.assert_frame_equal(found[EXACT], expected[EXACT], check_exact=True)
    for run in (tmp_path / "c" / "runs").iterdir():
        assert weights(run) == weights(tmp_path / "whole" / "runs" / run.name), run.name


# Bad input.


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["--agents", "nobody"], "unknown agent 'nobody'"),
        (["--agents", "random", "--seeds", "0"], "seeds = [0]"),
        (["--agents", "random", "--seeds", "1", "-2"], "seeds = [1, -2]"),
        (["--agents", "random", "--seeds", "one"], "seeds"),
        (["--agents", "random,nobody"], "unknown agent 'nobody'"),
        (["--agents", "dqn --data.path a,random"], "data.path = 'a,random'"),
        (["--agents", "random", "--seed", "3"], "--seed is for single runs"),
        (["--agents", "random --seed 3"], "--seed is for single runs"),
        (["--agents", "random", "--agent", "dqn"], "--agent is for single runs"),
        (["--agents", "random --data.path 'x"], "no closing quotation"),
        (["--agents", "random", "random"], "'random' is named twice"),
        (["--agents", "random", "0 1 1 3"], "pointers '0 1 1 3' are for 4 layers, the model has 3"),
        (["--agents", "random", "--baseline", "dqn"], "--baseline 'dqn' is none of --agents: random"),
        (["--agents", "random", "--backend", "ray"], "--backend ray needs the `ray` library"),
        (["--agents", "random", "--env.decision-intervl", "3"], "unknown flag --env.decision-intervl"),
        (["--agents"], "agents"),
        (["--seeds", "2"], "agents"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_made(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], part: str
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)  # as where it is not installed
    finished = call("compare", "--jobs", "1", *arguments, *SMALL)
    assert finished.status == 2
    (line,) = finished.err.splitlines()
    assert line.startswith("error: ") and part in line
    assert not list(tmp_path.iterdir())


def test_the_baseline_can_be_chosen(copied: Path, corpus: Path, call: Call) -> None:
    arguments = ["--agents", "independent", COARSE, *SEEDS, *SMALL, "--data.path", corpus, "--out", "c"]
    assert call("compare", *ONE, *arguments, "--baseline", COARSE, "--clock", "cpu").status == 0
    table = table_of(copied)
    runs = pd.read_csv(copied / "runs.csv").pivot(index="seed", columns="variant", values="test_loss")
    assert table.loc[COARSE, "difference"] == 0
    assert table.loc["independent", "difference"] == pytest.approx(np.mean(runs["independent"] - runs[COARSE]))
    assert "processor time" in (copied / "report.html").read_text()


# Its table.


def test_agents_may_be_joined_by_commas_and_seeds_be_named(
    comparison: Path, corpus: Path, call: Call, tmp_path: Path
) -> None:
    words = ["--agents", "independent, 0 1 1", "--seeds", "4", "0", "5", *SMALL, "--data.path", corpus, "--out", "c"]
    assert call("compare", *ONE, *words).status == 0
    runs = pd.read_csv(tmp_path / "c" / "runs.csv")
    assert [tuple(row) for row in runs[["variant", "seed"]].to_numpy()] == [
        (variant, seed) for seed in (4, 0, 5) for variant in ("independent", "0 1 1")
    ]
    for seed in (4, 5):
        run = f"independent__s{seed}"
        assert weights(tmp_path / "c" / "runs" / run) == weights(comparison / "runs" / run)
    row = table_of(tmp_path / "c").loc["0 1 1"]
    assert row["low"] < row["difference"] < row["high"]  # three pairs have an interval
    shown = (tmp_path / "c" / "table.md").read_text()
    assert f"{row['difference']:+.4f} [{row['low']:+.4f}, {row['high']:+.4f}]" in shown


@pytest.mark.parametrize("scale", [1.0, 1e4])
def test_the_printed_table_fits_80_columns(comparison: Path, scale: float) -> None:
    table = pd.read_csv(comparison / "table.csv").assign(low=-12.5, high=12.5)
    long = table.assign(variant="my_package.my_module:MyAgent --agent.learning-rate 0.001 --reward.name [b]fork[/b]")
    table = pd.concat([table, long]).assign(difference=lambda rows: scale * rows["difference"])
    for width in (80, 200):
        screen = StringIO()
        print_table(table, "independent", Console(file=screen, width=width))
        lines = screen.getvalue().splitlines()
        assert max(map(len, lines)) <= width
        for title in ("agent", "loss", "difference", "share", "unique", "better"):
            assert title in lines[1]
    text = "".join(line[:29].strip() for line in lines)
    assert "MyAgent--agent.learning-rate0.001--reward.name[b]fork[/b]" in text.replace(" ", "")


def test_a_damaged_plan_is_one_line_and_nothing_is_trained(copied: Path, corpus: Path, call: Call) -> None:
    (copied / "comparison.json").write_text("[]")
    before = contents(copied)
    arguments = ["--agents", "independent", "cycle:2", *SEEDS, *SMALL, "--data.path", corpus, "--out", "c"]
    finished = call("compare", *ONE, *arguments)
    assert (finished.status, finished.err.count("\n")) == (2, 1)
    assert "c/comparison.json" in finished.err
    assert contents(copied) == before


def test_a_text_that_has_changed_in_between_is_refused(comparison: Path, call: Call, tmp_path: Path) -> None:
    text = tmp_path / "corpus.txt"
    text.write_text(words(6_000))
    arguments = [*SMALL, "--seeds", "1", "--data.path", text, "--out", "c"]
    assert call("compare", *ONE, "--agents", "independent", *arguments).status == 0
    text.write_text(words(6_000, seed=1))
    before = contents(tmp_path / "c" / "runs" / "independent__s0")
    finished = call("compare", *ONE, "--agents", "independent", "0 1 1", *arguments)
    assert finished.status == 2
    (line,) = finished.err.splitlines()
    assert "0-1-1__s0: trained with another corpus than independent, seed 0" in line
    assert contents(tmp_path / "c" / "runs" / "independent__s0") == before


@pytest.mark.parametrize(("agent", "fixed"), [("sequence:3", True), ("dqn", False)])
def test_a_run_from_elsewhere_is_drawn_as_what_its_agent_is(copied: Path, agent: str, fixed: bool) -> None:
    """Its label begins with "run: ", which is no agent's name."""
    folder = copied / "runs" / "dqn__s4"
    change(folder / "final" / "summary.json", [], agent=agent)
    run = Run.load(f"run: {agent}", RunDirectory(folder))
    others = [Run.load("independent", RunDirectory(copied / "runs" / "independent__s4"))]
    table = variant_table(run_table([*others, run], "wall_s", "independent"), "independent")
    assert table.set_index("variant")["decides"].to_dict() == {"independent": False, run.label: not fixed}
    lines = plots.curves([*others, run], "independent", {}).axes[0].lines
    assert [line.get_linestyle() for line in lines] == ["--", "--" if fixed else "-"]
    lines = plots.pareto(table, "independent", {}).axes[0].lines
    points = [line.get_marker() for line in lines if line.get_marker() in "os"]
    assert points == ["s", "s" if fixed else "o"]
