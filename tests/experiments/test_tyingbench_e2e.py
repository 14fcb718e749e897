"""`tyingbench` as a person runs it: a table of all tyings, its report, and the benchmark of agents."""

import csv
import hashlib
import itertools
import json
import shlex
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from filelock import FileLock

from envs.config import TrainingConfig
from envs.presets import PRESETS
from experiments.run import cli
from experiments.tyingbench import agents, build, goals
from experiments.tyingbench.__main__ import main
from tests.conftest import Finished, Scripts, single_thread, words
from tests.envs.tables import make_rows, write_table
from tying import Pointers, tasks
from tying.config import build as build_config
from tying.config import to_dict
from tying.errors import DivergenceError
from tying.training import trainer as trainer_module
from tying.training.trainer import Trainer
from tying.tyingbench import BUDGETS, COLUMNS, TyingBench, read_rows

pytestmark = pytest.mark.e2e

Run = Callable[..., Finished]

PATTERNS = list(Pointers.all(3))
FLAGS = (
    "--layers 3 --seeds 2 --preset tiny --trainer.iterations 8 --model.width 8 --model.context 16 --reward.num-batches 3 "
    "--jobs 1 --out t"
).split()


def error_lines(finished: Finished) -> list[str]:
    return finished.err.splitlines()


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def files(folder: Path) -> dict[str, bytes]:
    """Return what is in each file below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def lines_of(path: Path) -> list[dict[str, str]]:
    """Return a table's lines but for the clock."""
    with path.open(encoding="utf-8", newline="") as file:
        return [{name: cell for name, cell in line.items() if name != "seconds"} for line in csv.DictReader(file)]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A text; its absolute path is a setting, so that a copied table is still the same."""
    path = tmp_path_factory.mktemp("text") / "corpus.txt"
    path.write_text(words(6_000), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def built(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished table; tests that change it take a copy."""
    folder = tmp_path_factory.mktemp("built")
    with pytest.MonkeyPatch.context() as patch, single_thread():
        patch.chdir(folder)
        assert cli.status(main, ["build", *FLAGS, "--data.path", str(corpus)]) == 0
    return folder / "t"


@pytest.fixture
def copied(built: Path, tmp_path: Path) -> Path:
    """The table's folder in the test's own."""
    return Path(shutil.copytree(built, tmp_path / "t"))


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], one_thread: None) -> Run:
    """Call the script inside this process, in the test's own folder."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str | Path) -> Finished:
        capsys.readouterr()
        status = cli.status(main, [str(argument) for argument in arguments])
        return Finished(status, *capsys.readouterr())

    return run


@pytest.fixture
def build_again(call: Run, corpus: Path) -> Run:
    """Ask for the table again; further flags stand above the others."""
    return lambda *arguments: call("build", *FLAGS, "--data.path", corpus, *arguments)


# A table.


def test_every_artefact_is_there(built: Path, corpus: Path) -> None:
    assert {path.name for path in built.iterdir()} == {".lock", "plan.json", "rows.csv", "table.csv", "table.json"}
    bench = TyingBench.load(built / "table.csv")
    assert (bench.patterns, bench.seeds, bench.budgets) == (tuple(PATTERNS), (0, 1), BUDGETS)
    rows = read_rows(built / "table.csv")
    assert [(row.pointers, row.seed, row.budget) for row in rows] == [
        (pattern, seed, budget) for pattern in PATTERNS for seed in (0, 1) for budget in BUDGETS
    ]
    facts = read(built / "table.json")
    assert facts["format"] == 1
    assert facts["vocab_size"] == 256
    assert facts["text_sha256"] == hashlib.sha256(corpus.read_bytes()).hexdigest()
    config = build_config(TrainingConfig, facts["config"])
    assert facts["corpus_sha256"] == tasks.make(config.task, config.model, config.data).facts()["corpus_sha256"]
    assert facts["corpus_sha256"] != facts["text_sha256"]  # of the splits, and of the whole text
    assert facts["seconds"] == pytest.approx(sum(row.seconds for row in rows if row.budget == 1), abs=0.01)
    digests = {name: facts[name] for name in ("vocab_size", "text_sha256", "corpus_sha256")}
    plan = read(built / "plan.json")
    assert plan.pop("made_by")["packages"]["torch"] == torch.__version__
    assert plan == {"config": facts["config"], **digests}
    assert facts["made_by"]["packages"].keys() >= {"torch", "numpy"}
    assert shlex.split(facts["command"]) == [
        *("python", "-m", "experiments.tyingbench", "build"),
        *(*FLAGS, "--data.path", str(corpus)),
    ]


def test_seeds_are_outermost_so_that_less_is_a_table_of_fewer_seeds(built: Path) -> None:
    jobs = dict.fromkeys((row.seed, row.pointers) for row in read_rows(built / "rows.csv"))
    assert list(jobs) == [(seed, pattern) for seed in (0, 1) for pattern in PATTERNS]


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize(("pattern", "seed"), [((0, 0, 2), 1), ((0, 1, 2), 0)])
def test_a_row_is_what_a_run_of_its_own_comes_to(built: Path, pattern: tuple[int, ...], seed: int) -> None:
    """Trained straight to the end: that a run is judged on its way leaves no trace."""
    bench = TyingBench.load(built / "table.csv")
    config = build_config(TrainingConfig, bench.facts["config"])
    task = tasks.make(config.task, config.model, config.data)
    trainer = Trainer(task, config.trainer, config.optim, config.binding, seed)
    trainer.rebind(pattern)
    trainer.train(8)
    row = bench.query(pattern, seed=seed)
    assert row["test_loss"] == pytest.approx(trainer.evaluate("test"), abs=1e-6)
    assert row["reward_loss"] == pytest.approx(trainer.evaluate("reward", 3), abs=1e-6)
    assert row["tokens"] == trainer.tokens == 8 * 8 * 16
    assert (row["trainable_params"], row["block_params"]) == (trainer.trainable_params, trainer.binding.trainable_params)
    assert bench.query(pattern, 0.25, seed)["tokens"] == 2 * 8 * 16


def test_losses_fall_and_patterns_and_seeds_differ(built: Path) -> None:
    bench = TyingBench.load(built / "table.csv")
    assert (bench.losses("test", 0.25) > bench.losses("test", 1.0)).all()
    assert len({*bench.losses().ravel()}) == 10


def test_several_processes_make_the_same_table(scripts: Scripts, built: Path, corpus: Path, tmp_path: Path) -> None:
    finished = scripts.run("tyingbench", "build", *FLAGS, "--data.path", corpus, "--jobs", "2", cwd=tmp_path)
    assert (finished.status, finished.err) == (0, "")
    assert "10 jobs in t, 0 of them done; after an interruption, the same command resumes them" in finished.out
    assert finished.out.endswith("table      t/table.csv\n")
    assert lines_of(tmp_path / "t" / "table.csv") == lines_of(built / "table.csv")


@pytest.mark.parametrize(("flags", "name"), [([], "table"), (["--preset=mini"], "mini"), (["--preset", "mini"], "mini")])
def test_a_table_is_of_the_preset_for_tables_unless_another_is_asked_for(
    call: Run, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: list[str], name: str
) -> None:
    def fail(*_: Any) -> None:
        raise DivergenceError("no time")

    monkeypatch.setattr(build, "train", fail)
    command = ["build", "--layers", "3", "--seeds", "1", "--jobs", "1", "--data.path", corpus, "--out", "t", *flags]
    assert call(*command).status == 1
    plan, preset = read(tmp_path / "t" / "plan.json")["config"], to_dict(PRESETS[name])
    assert plan["model"] == {**preset["model"], "num_layers": 3}
    assert plan["data"] == {**preset["data"], "path": str(corpus)}
    for section in ("trainer", "optim", "binding", "reward"):
        assert plan[section] == preset[section]


# Asked for again.


@pytest.mark.parametrize(
    ("cut", "done"),
    [
        (lambda text: text[:-7], 9),  # in the middle of the last line
        (lambda text: text[: text.rindex("\n", 0, -1) + 1], 9),  # two lines of three
        (lambda text: text[: text.rindex("\n", 0, -1) - 3], 9),  # one line and a piece
        (lambda text: "".join(text.splitlines(keepends=True)[:10]), 3),
        (lambda text: text[: text.index("\n") + 1], 0),
    ],
    ids=["line", "job", "job and line", "seed", "everything"],
)
def test_a_table_that_is_cut_short_is_resumed_to_the_same(
    copied: Path, built: Path, build_again: Run, cut: Callable[[str], str], done: int
) -> None:
    for name in ("table.csv", "table.json"):
        (copied / name).unlink()
    rows = copied / "rows.csv"
    rows.write_text(cut(rows.read_text()))
    finished = build_again()
    assert (finished.status, finished.err) == (0, "")
    assert f"10 jobs in t, {done} of them done" in finished.out
    assert lines_of(copied / "table.csv") == lines_of(built / "table.csv")
    kept = (built / "rows.csv").read_text().splitlines()[: 1 + 3 * done]
    assert rows.read_text().splitlines()[: 1 + 3 * done] == kept  # with the seconds that they took
    assert len(read_rows(rows)) == 30


def test_a_job_that_is_not_whole_is_tried_again_wherever_it_stands(copied: Path, built: Path, build_again: Run) -> None:
    rows = copied / "rows.csv"
    lines = rows.read_text().splitlines(keepends=True)
    rows.write_text("".join(lines[:5] + lines[6:]))
    assert "9 of them done" in build_again().out
    assert lines_of(copied / "table.csv") == lines_of(built / "table.csv")


def test_a_finished_table_is_taken_as_it_is(copied: Path, build_again: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    before, facts = files(copied), read(copied / "table.json")
    monkeypatch.setattr(build, "train", lambda *job: pytest.fail(f"trained {job}"))
    (copied / "table.csv").unlink()
    assert build_again().status == 0
    again = files(copied)
    assert again.keys() == before.keys()
    assert [name for name in again if again[name] != before[name]] in ([], ["table.json"])  # sums of rounded seconds
    assert read(copied / "table.json")["seconds"] == pytest.approx(facts["seconds"], abs=0.01)
    assert read(copied / "table.json")["config"] == facts["config"]


def test_more_seeds_and_fewer_can_be_asked_for_later(copied: Path, built: Path, build_again: Run) -> None:
    finished = build_again("--seeds", "3")
    assert finished.status == 0
    assert "15 jobs in t, 10 of them done" in finished.out
    bench = TyingBench.load(copied / "table.csv")
    assert bench.seeds == (0, 1, 2)
    assert [line for line in lines_of(copied / "table.csv") if line["seed"] != "2"] == lines_of(built / "table.csv")
    assert (copied / "rows.csv").read_bytes().startswith((built / "rows.csv").read_bytes())
    assert build_again("--seeds", "1").status == 0
    assert TyingBench.load(copied / "table.csv").seeds == (0,)
    assert len(read_rows(copied / "rows.csv")) == 45  # none is lost
    assert build_again().status == 0
    assert (copied / "table.csv").read_bytes() == (built / "table.csv").read_bytes()


@pytest.mark.parametrize(
    ("other", "difference"),
    [
        (["--layers", "2"], "config.model.num_layers = 3, now 2"),
        (["--model.dropout", "0.1"], "config.model.dropout = 0.0, now 0.1"),
        (["--trainer.iterations", "12"], "config.trainer.iterations = 8, now 12"),
        (["--reward.num-batches", "2"], "config.reward.num_batches = 3, now 2"),
    ],
)
def test_other_settings_in_the_folder_are_refused(
    copied: Path, build_again: Run, other: list[str], difference: str
) -> None:
    before = files(copied)
    finished = build_again(*other)
    assert finished.status == 2
    assert error_lines(finished) == [f"error: t/plan.json: a table with {difference}: name a new folder with --out"]
    assert files(copied) == before


def test_rows_of_another_torch_are_said_in_one_line(copied: Path, build_again: Run) -> None:
    plan = read(copied / "plan.json")
    plan["made_by"]["packages"]["torch"] = "1.0"
    (copied / "plan.json").write_text(json.dumps(plan))
    with pytest.warns(UserWarning, match=r"rows of this table are made by different things: torch 1\.0, now "):
        assert build_again().status == 0
    assert read(copied / "plan.json") == plan  # what made the first rows stays


def test_a_text_that_has_changed_is_refused(copied: Path, call: Run, corpus: Path, tmp_path: Path) -> None:
    """The settings hold its path alone, so the digest must tell."""
    own = tmp_path / "own.txt"
    own.write_bytes(corpus.read_bytes())
    flags = [*FLAGS[:-2], "--out", "mine", "--data.path", own]
    assert call("build", *flags, "--seeds", "1").status == 0
    rows = tmp_path / "mine" / "rows.csv"
    rows.write_text("".join(rows.read_text().splitlines(keepends=True)[:7]))  # 2 jobs of 5
    own.write_text(words(6_000, seed=1), encoding="utf-8")
    before = files(tmp_path / "mine")
    finished = call("build", *flags, "--seeds", "1")
    assert finished.status == 2
    (line,) = error_lines(finished)
    assert line.startswith("error: mine/plan.json: a table with text_sha256 = '") and line.endswith("with --out")
    assert files(tmp_path / "mine") == before


@pytest.mark.parametrize("damage", ["[]", "{}", "3", "{"])
def test_a_damaged_plan_is_refused(copied: Path, build_again: Run, damage: str) -> None:
    (copied / "plan.json").write_text(damage)
    finished = build_again()
    assert finished.status == 2
    (line,) = error_lines(finished)
    assert line.startswith("error: t/plan.json: ")


def test_a_damaged_record_is_refused(copied: Path, build_again: Run) -> None:
    rows = copied / "rows.csv"
    rows.write_text(rows.read_text().replace("0 0 2,1,0.5", "0 0 2,1,half", 1))
    before = files(copied)
    finished = build_again()
    assert finished.status == 2
    (line,) = error_lines(finished)
    assert line.startswith("error: t/rows.csv: line ")
    assert files(copied) == before


def test_shards_of_which_one_is_killed_make_the_table_of_one_call(
    built: Path, build_again: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = build_again("--shard", "1/2")
    said = "no table yet: 5 of 10 jobs are other shards'; the same command without --shard does all"
    assert (first.status, error_lines(first)) == (0, [said])
    assert {path.name for path in (tmp_path / "t").iterdir()} == {".lock-1-of-2", "plan.json", "rows-1-of-2.csv"}

    train, calls = build.train, iter(range(100))

    def killed(*arguments: Any) -> Any:
        if next(calls) == 2:
            raise KeyboardInterrupt
        return train(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(build, "train", killed)
        assert build_again("--shard", "2/2").status == 130
    own = tmp_path / "t" / "rows-2-of-2.csv"
    own.write_bytes(own.read_bytes()[:-10])  # it died in the middle of a line
    last = build_again("--shard", "2/2")
    assert (last.status, last.err) == (0, "")
    assert lines_of(tmp_path / "t" / "table.csv") == lines_of(built / "table.csv")
    done = [{(line["pointers"], line["seed"]) for line in lines_of(tmp_path / "t" / f"rows-{i}-of-2.csv")} for i in (1, 2)]
    assert len(done[0]) == len(done[1]) == 5 and not done[0] & done[1]

    table = (tmp_path / "t" / "table.csv").read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(build, "train", None)
        assert build_again().status == 0
    assert (tmp_path / "t" / "table.csv").read_bytes() == table


def test_one_call_does_the_jobs_that_shards_left(built: Path, build_again: Run, tmp_path: Path) -> None:
    assert build_again("--shard", "3/4").status == 0
    kept = tmp_path / "t" / "rows-3-of-4.csv"
    kept.write_bytes(kept.read_bytes()[:-10])
    assert build_again().status == 0
    assert lines_of(tmp_path / "t" / "table.csv") == lines_of(built / "table.csv")
    assert build_again("--seeds", "1", "--shard", "1/2").status == 0  # nothing is left to do
    assert {line["seed"] for line in lines_of(tmp_path / "t" / "table.csv")} == {"0"}


def test_calls_that_could_do_the_same_jobs_are_refused(copied: Path, build_again: Run) -> None:
    with FileLock(copied / ".lock-1-of-2"):
        for shard in ([], ["--shard", "1/2"], ["--shard", "1/3"]):
            refused = build_again(*shard)
            assert refused.status == 2
            assert error_lines(refused) == ["error: t: another process is building this table"]
        assert build_again("--shard", "2/2").status == 0
    with FileLock(copied / ".lock"):
        assert build_again("--shard", "1/2").status == 2
    assert build_again().status == 0


def test_a_second_process_is_refused(copied: Path, build_again: Run) -> None:
    before = files(copied)
    with FileLock(copied / ".lock"):
        finished = build_again("--seeds", "3")
    assert finished.status == 2
    assert error_lines(finished) == ["error: t: another process is building this table"]
    assert files(copied) == before
    assert build_again().status == 0


# Failures.


class Flaky(Trainer):
    """Diverges in the middle of one run."""

    def train(self, num_iterations: int, on_iteration: Any = None) -> Any:
        if self.pointers == (0, 1, 0) and self.seed == 1 and self.iteration > 0:
            raise DivergenceError("iteration 2: loss nan")
        return super().train(num_iterations, on_iteration)


def test_a_run_that_diverges_is_told_and_the_others_are_kept(
    tmp_path: Path, built: Path, build_again: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(trainer_module, "Trainer", Flaky)
        finished = build_again()
    assert finished.status == 1
    assert error_lines(finished) == [
        "error: '0 1 0', seed 1: iteration 2: loss nan",
        "error: no table: 1 of 10 jobs failed; the same command tries them again",
    ]
    assert "'0 1 0', seed 1: FAILED: iteration 2: loss nan" in finished.out
    assert {path.name for path in (tmp_path / "t").iterdir()} == {".lock", "plan.json", "rows.csv"}
    there = lines_of(tmp_path / "t" / "rows.csv")
    assert len(there) == 27
    assert all(line in lines_of(built / "table.csv") for line in there)

    finished = build_again()
    assert (finished.status, finished.err) == (0, "")
    assert "10 jobs in t, 9 of them done" in finished.out
    assert lines_of(tmp_path / "t" / "table.csv") == lines_of(built / "table.csv")


def test_settings_that_diverge_are_a_failure_of_every_run(tmp_path: Path, build_again: Run) -> None:
    finished = build_again("--seeds", "1", "--optim.weight-decay", "1e30", "--optim.warmup-iterations", "0")
    assert finished.status == 1
    assert len(error_lines(finished)) == 6
    assert error_lines(finished)[-1] == "error: no table: 5 of 5 jobs failed; the same command tries them again"
    assert "try a lower optim.learning_rate" in error_lines(finished)[0]
    assert (tmp_path / "t" / "rows.csv").read_text() == ",".join(COLUMNS) + "\n"


# Bad input.


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["--trainer.iterations", "10"], "trainer.iterations = 10: a quarter of them must be a whole number"),
        (["--layers", "1"], "layers = '1'"),
        (["--layers", "9"], "layers = '9'"),
        (["--seeds", "0"], "seeds = '0'"),
        (["--jobs", "0"], "jobs = '0'"),
        (["--backend", "ray"], "--backend ray needs the `ray` library"),
        (["--modle.width", "8"], "unknown flag --modle.width"),
        (["--seed", "3"], "--seed is for single runs"),
        (["--data.path", "nothing.txt"], "data.path = 'nothing.txt'"),
        (["--model.num-layers", "4"], "model.num_layers = 4: the number of layers is --layers here"),
        (["--n-layer", "4"], "model.num_layers = 4: the number of layers is --layers here"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_made(
    build_again: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], part: str
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)  # as where it is not installed
    finished = build_again(*arguments)
    assert finished.status == 2
    (line,) = error_lines(finished)
    assert line.startswith("error: ") and part in line
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("bild", "unknown command 'bild' of tyingbench: did you mean 'build'?"),
        ("zzz", "unknown command 'zzz' of tyingbench: allowed are build, questions, report, agents, pretrain"),
    ],
)
def test_a_subcommand_that_is_none_is_refused_with_the_nearest(call: Run, name: str, part: str) -> None:
    finished = call(name, "--out", "t")
    assert finished.status == 2
    (line,) = error_lines(finished)
    assert line == f"error: {part}"


def test_without_a_subcommand_all_are_named(call: Run) -> None:
    finished = call()
    assert finished.status == 2
    (line,) = error_lines(finished)
    assert all(name in line for name in ("build", "report", "agents"))
    assert call("--help").status == 0


# What it says.


def test_a_report_has_every_table_and_picture(call: Run, built: Path, tmp_path: Path) -> None:
    finished = call("report", "--table", built / "table.csv", "--out", "r")
    assert (finished.status, finished.err) == (0, "")
    assert finished.out == "report     r/report.md\n"
    pictures = {"landscape", "extremes", "pairs", "early"}
    assert {path.name for path in (tmp_path / "r").iterdir()} == {"report.md", *(f"{name}.png" for name in pictures)}
    page = (tmp_path / "r" / "report.md").read_text()
    assert page.startswith(f"# {built / 'table.csv'}: 5 patterns, 2 seeds\n")
    assert [line[3:] for line in page.splitlines() if line.startswith("## ")] == [
        "sizes",
        "published",
        "trust",
        "rules",
        "budgets",
        "gate",
    ]
    assert not {"nan", "inf", "nan%", "-inf%"} & set(page.replace("[", " ").replace("]", " ").split())
    for name in pictures:
        assert f"![{name}]({name}.png)" in page
        assert (tmp_path / "r" / f"{name}.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(("layers", "seeds", "part"), [(4, 1, "seed"), (2, 2, "layers")])
def test_a_table_that_says_nothing_has_no_report(call: Run, tmp_path: Path, layers: int, seeds: int, part: str) -> None:
    write_table(tmp_path / "few.csv", make_rows(layers, seeds))
    finished = call("report", "--table", "few.csv", "--out", "r")
    assert finished.status == 2
    (line,) = error_lines(finished)
    assert part in line
    assert not (tmp_path / "r").exists()


def test_a_report_of_no_table_is_refused(call: Run, tmp_path: Path) -> None:
    finished = call("report", "--table", "nothing", "--out", "r")
    assert finished.status == 2
    (line,) = error_lines(finished)
    assert line.startswith("error: unknown table 'nothing': ")
    assert not list(tmp_path.iterdir())


# Agents.

AGENTS = ("random", "local_search --agent.explore 0.5")
BENCHMARK = ("--trials", "3", "--queries", "6", "--param-weights", "0", "0.1", "--jobs", "1", "--out", "l")


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """A table in the test's own folder."""
    return write_table(tmp_path / "own.csv", make_rows())


def test_the_benchmark_judges_every_agent_at_every_weight(call: Run, table: Path, tmp_path: Path) -> None:
    finished = call("agents", "--agents", *AGENTS, *BENCHMARK, "--table", table)
    assert (finished.status, finished.err) == (0, "")
    folder = tmp_path / "l"
    assert {path.name for path in folder.iterdir()} == {
        *("trials.csv", "agents.csv", "agents.md", "agents.json", "agents.png")
    }
    assert (folder / "agents.png").read_bytes().startswith(b"\x89PNG")
    found = pd.read_csv(folder / "agents.csv")
    assert list(zip(found["param_weight"], found["agent"], found["queries"], strict=True)) == [
        (weight, agent, query) for weight in (0.0, 0.1) for agent in AGENTS for query in range(1, 7)
    ]
    assert set(found["trials"]) == {3}
    assert found["regret"].between(0, 1).all()
    assert (found["low"] <= found["regret"]).all() and (found["regret"] <= found["high"]).all()
    raw = pd.read_csv(folder / "trials.csv")
    assert len(raw) == 3 * 2 * len(AGENTS)
    means = raw.groupby(["agent", "param_weight"])["after_6"].mean()
    for row in found[found["queries"] == 6].itertuples():
        assert means[row.agent, row.param_weight] == pytest.approx(row.regret, abs=2e-5)
    facts = read(folder / "agents.json")
    assert facts.keys() == {"command", "trials", "seconds"}
    assert facts["trials"] == 3
    assert shlex.split(facts["command"])[:6] == ["python", "-m", "experiments.tyingbench", "agents", "--agents", "random"]


def test_the_figures_of_a_benchmark_are_means_of_its_trials(call: Run, table: Path, tmp_path: Path) -> None:
    assert call("agents", "--agents", *AGENTS, *BENCHMARK, "--table", table).status == 0
    found = pd.read_csv(tmp_path / "l" / "agents.csv").set_index(["agent", "param_weight", "queries"])["regret"]
    bench = TyingBench.load(table)
    for variant in agents.variants(AGENTS, bench):
        trials = [agents.trial(variant, goals.weighted(bench, 0.1), seed, 6) for seed in range(3)]
        for query in range(6):
            mean = sum(trial[query] for trial in trials) / 3
            assert found[variant.label, 0.1, query + 1] == pytest.approx(mean, abs=1e-5)


def test_budgets_of_sets_take_the_place_of_weights(call: Run, table: Path, tmp_path: Path) -> None:
    """Every trial asks other slices, in turn."""
    flags = ("--agents", *AGENTS, *BENCHMARK, "--sets", "2", "1", "--table", table)
    finished = call("agents", *flags)
    assert (finished.status, finished.err) == (0, "")
    raw = pd.read_csv(tmp_path / "l" / "trials.csv").set_index(["agent", "sets", "trial"])["after_6"]
    bench = TyingBench.load(table)
    for variant in agents.variants(AGENTS, bench):
        for sets, seed in itertools.product((2, 1), range(3)):
            expected = agents.trial(variant, goals.within(bench, sets, seed), seed, 6)[-1]
            assert raw[variant.label, sets, seed] == pytest.approx(expected, abs=1e-5)
    assert "sets" in finished.out.split()
    refused = call("agents", *flags, "--sets", "3")
    assert (refused.status, refused.err.count("\n")) == (2, 1)
    assert "--sets 3" in refused.err


def test_the_table_to_read_ends_with_the_last_query(call: Run, table: Path, tmp_path: Path) -> None:
    finished = call("agents", "--agents", *AGENTS, *BENCHMARK, "--table", table)
    figures = pd.read_csv(tmp_path / "l" / "agents.csv")
    head, _, *lines = (tmp_path / "l" / "agents.md").read_text().splitlines()
    names, *cells = ([cell.strip() for cell in line.split("|")[1:-1]] for line in (head, *lines))
    assert names == ["weight", "agent", "6 queries"]
    last = figures[figures["queries"] == 6]
    assert cells == [
        [f"{row['param_weight']:g}", row["agent"], f"{row['regret']:.4f} [{row['low']:.4f}, {row['high']:.4f}]"]
        for row in last.to_dict("records")
    ]
    assert cells[0][2] in finished.out


def test_a_weight_that_is_named_twice_counts_once(call: Run, table: Path, tmp_path: Path) -> None:
    flags = ["--trials", "2", "--queries", "3", "--jobs", "1", "--out", "l"]
    assert call("agents", "--agents", "random", "--param-weights", "0.1", "0.1", *flags, "--table", table).status == 0
    found = pd.read_csv(tmp_path / "l" / "agents.csv")
    assert found[["queries", "trials"]].to_numpy().tolist() == [[1, 2], [2, 2], [3, 2]]


def test_a_benchmark_without_a_weight_is_refused(call: Run, table: Path) -> None:
    finished = call("agents", "--agents", "random", "--param-weights", "--trials", "2", "--jobs", "1", "--table", table)
    assert finished.status == 2
    (line,) = error_lines(finished)
    assert line == "error: --param-weights: a value is missing"


def test_a_benchmark_without_a_folder_is_shown_alone(call: Run, table: Path, tmp_path: Path) -> None:
    finished = call("agents", "--agents", "random", "--trials", "2", "--queries", "10", "--jobs", "1", "--table", table)
    assert finished.status == 0
    assert "10 queries" in finished.out
    assert [path.name for path in tmp_path.iterdir() if path.suffix not in (".csv", ".json")] == []


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["--agents", "gradient_similarity"], "decides by gradients, and a table has none"),
        (["--agents", "nobody"], "unknown agent 'nobody'"),
        (["--agents", "random", "random"], "'random' is named twice"),
        (["--agents", "random", "--trials", "1"], "trials = '1'"),
        (["--agents", "random", "--queries", "0"], "queries = '0'"),
        (["--agents", "random", "--budget", "0.3"], "budget 0.3 is not in the table"),
        (["--agents", "random", "--param-weights", "low"], "low"),
        (["--agents", "random", "--param-weights=-0.5"], "param_weight"),
        (["--agents", "random", "--table", "nothing"], "unknown table 'nothing'"),
        (["--agents", "random", "--backend", "ray"], "--backend ray needs the `ray` library"),
        (["--agents", "random", "--agnts", "1"], "--agnts"),
    ],
)
def test_bad_input_of_the_benchmark_is_one_line_and_nothing_is_made(
    call: Run, table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], part: str
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    before = files(tmp_path)
    finished = call("agents", *BENCHMARK, "--table", table, *arguments)
    assert finished.status == 2
    (line,) = error_lines(finished)
    assert line.startswith("error: ") and part in line
    assert files(tmp_path) == before


# Pre-training.


def test_a_pretrained_agent_begins_a_run(call: Run, table: Path, tmp_path: Path) -> None:
    agent = "double_dqn --agent.network per_layer --agent.learning-starts 4"
    flags = ["--decisions", "12", "--episode", "4", "--table", table]
    finished = call("pretrain", agent, *flags, "--out", "policy")
    assert (finished.status, finished.err) == (0, "")
    regret = float(finished.out.partition("regret")[2].split()[0])
    bench = TyingBench.load(table)
    assert min(abs(regret - bench.normalised_regret(pattern, 0.1)) for pattern in bench.patterns) < 1e-4
    variant = agents.Variant.parse(f"{agent} --agent.init-from policy", ["--preset", "tiny"])
    env = agents.make_env(agents.variants(["double_dqn"], bench)[0], bench, 4, {"param_weight": 0.1})
    assert agents.make_agent(variant, env, 0).config.init_from == "policy"


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["random"], "--out is missing"),
        (["random", "--out", "there"], "--out there: name a new folder"),
        (["gradient_similarity", "--out", "p"], "decides by gradients, and a table has none"),
        (["--out", "p"], "AGENT is missing"),
        (["random", "--out", "p", "--episode", "0"], "episode = '0'"),
    ],
)
def test_bad_input_of_pretraining_is_one_line_and_nothing_is_made(
    call: Run, table: Path, tmp_path: Path, arguments: list[str], part: str
) -> None:
    (tmp_path / "there").mkdir()
    finished = call("pretrain", "--table", table, *arguments)
    assert finished.status == 2
    (line,) = error_lines(finished)
    assert part in line
    assert {path.name for path in tmp_path.iterdir()} == {"there", "own.csv", "own.json"}
