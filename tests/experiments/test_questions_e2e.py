"""tyingbench questions: a table of every pattern of a trained model, and agents judged on it."""

import json
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from experiments.tyingbench import questions
from tests.conftest import Finished, words
from tests.tying.hf.folders import make_folder
from tying import Pointers
from tying.tyingbench import TyingBench

pytestmark = pytest.mark.filterwarnings("ignore:.*has no weights for (bert.)?pooler")
Call = Callable[..., Finished]


@pytest.fixture
def flags(tmp_path: Path) -> tuple[str, ...]:
    folder = make_folder("bert", tmp_path / "bert")
    (tmp_path / "corpus.txt").write_text(words(6_000), encoding="utf-8")
    sizes = ("--model.context", "16", "--trainer.batch-size", "4", "--reward.num-batches", "1")
    return ("questions", str(folder), *sizes, "--data.path", str(tmp_path / "corpus.txt"), "--slices", "3")


def test_a_table_has_every_pattern_on_every_slice(call: Call, flags: tuple[str, ...], tmp_path: Path) -> None:
    done = call("tyingbench.__main__", *flags, "--out", "own.csv")
    assert done.status == 0, done.err
    bench = TyingBench.load(tmp_path / "own.csv")
    assert len(bench.patterns) == 15  # of three layers, and of nothing
    assert bench.seeds == (0, 1, 2)
    assert bench.facts["removing"] is True
    untied, empty = Pointers.independent(4), Pointers((0, 0, 0, 0))
    assert bench.losses()[bench.index(untied)].max() == pytest.approx(0, abs=1e-6)
    assert bench.losses()[bench.index(empty)].min() > 0
    assert bench.query(empty)["block_params"] == 0
    assert bench.query(untied)["param_share"] == 1
    assert bench.query("0 1 1 3")["param_share"] == pytest.approx(2 / 3)
    assert len({tuple(row) for row in bench.losses("test").T.round(9)}) == 3  # slices are other texts
    done = call(
        "tyingbench.__main__", "agents", "--agents", "random", "local_search", "--trials", "3", "--queries", "8",
        "--jobs", "1", "--table", "own.csv", "--out", "judged",
    )  # fmt: skip
    assert done.status == 0, done.err
    assert set(pd.read_csv(tmp_path / "judged" / "agents.csv")["agent"]) == {"random", "local_search"}


def test_a_table_of_tyings_alone_has_the_losses_of_the_whole_one(
    call: Call, flags: tuple[str, ...], tmp_path: Path
) -> None:
    assert call("tyingbench.__main__", *flags, "--out", "whole.csv").status == 0
    assert call("tyingbench.__main__", *flags, "--no-removing", "--out", "tied.csv").status == 0
    whole, tied = (TyingBench.load(tmp_path / name) for name in ("whole.csv", "tied.csv"))
    assert [str(pointers) for pointers in tied.patterns] == ["0 0 0", "0 0 2", "0 1 0", "0 1 1", "0 1 2"]
    assert tied.facts["removing"] is False
    for pointers in tied.patterns:
        same = Pointers((0, *(root + 1 for root in pointers)))
        for column in ("test_loss", "reward_loss", "block_params"):
            assert tied.query(pointers)[column] == pytest.approx(whole.query(same)[column], abs=1e-9)


def test_halves_are_tied_apart_and_kept_small(call: Call, flags: tuple[str, ...], tmp_path: Path) -> None:
    both = ("--parts", "halves", "--no-removing")
    done = call("tyingbench.__main__", *flags, *both, "--out", "halves.csv.gz")
    assert done.status == 0, done.err
    assert (
        call("tyingbench.__main__", *flags, "--no-removing", "--binding.norms", "private", "--out", "whole.csv").status == 0
    )
    halves, whole = TyingBench.load(tmp_path / "halves.csv.gz"), TyingBench.load(tmp_path / "whole.csv")
    assert len(halves.patterns) == 25
    assert halves.facts["parts"] == "halves"
    for pointers in whole.patterns:  # both halves tied alike, and no norms: the same as whole layers with private norms
        same = Pointers((*pointers, *(root + 3 for root in pointers)))
        for column in ("test_loss", "reward_loss", "block_params", "param_share"):
            assert halves.query(same)[column] == pytest.approx(whole.query(pointers)[column], abs=2e-6)
    assert (tmp_path / "halves.jsonl").is_file()
    assert (tmp_path / "halves.json").is_file()
    refused = call("tyingbench.__main__", *flags, *both, "--binding.share", "attention", "--out", "no.csv")
    assert refused.status == 2
    assert "both set" in refused.err
    refused = call("tyingbench.__main__", *flags, "--binding.delta-rank", "2", "--out", "no.csv")
    assert refused.status == 2
    assert "have no deltas" in refused.err


def test_donors_are_never_worse_on_the_split_that_chooses(call: Call, flags: tuple[str, ...], tmp_path: Path) -> None:
    assert call("tyingbench.__main__", *flags, "--out", "first.csv").status == 0
    assert call("tyingbench.__main__", *flags, "--donors", "--out", "donors.csv").status == 0
    first, donors = (TyingBench.load(tmp_path / name) for name in ("first.csv", "donors.csv"))
    assert (donors.losses("reward") <= first.losses("reward") + 1e-6).all()
    assert (donors.losses("reward") < first.losses("reward") - 1e-6).any()


def test_an_interrupted_table_resumes(
    call: Call, flags: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert call("tyingbench.__main__", *flags, "--out", "whole.csv").status == 0
    add = questions.Ledger.add

    def interrupted(self: questions.Ledger, line: dict) -> dict:
        if len(self.lines) == 20:
            raise KeyboardInterrupt
        return add(self, line)

    with monkeypatch.context() as patched:
        patched.setattr(questions.Ledger, "add", interrupted)
        assert call("tyingbench.__main__", *flags, "--out", "own.csv").status == 130
    assert len((tmp_path / "own.jsonl").read_text().splitlines()) == 20
    assert call("tyingbench.__main__", *flags, "--out", "own.csv").status == 0
    mine, other = (pd.read_csv(tmp_path / name).drop(columns="seconds") for name in ("own.csv", "whole.csv"))
    assert mine.equals(other)


def test_bad_input_is_one_line(call: Call, flags: tuple[str, ...], tmp_path: Path) -> None:
    assert "name a CSV file" in call("tyingbench.__main__", *flags, "--out", "table").err
    assert "name a CSV file" in call("tyingbench.__main__", *flags).err
    refused = call("tyingbench.__main__", *flags, "--slices", "99", "--out", "own.csv")
    assert refused.status == 2
    assert "fewer than 99 slices" in refused.err
    assert not (tmp_path / "own.csv").exists()
    config = json.loads((tmp_path / "bert" / "config.json").read_text())
    (tmp_path / "bert" / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 9}))
    assert call("tyingbench.__main__", *flags, "--out", "own.csv").status == 2
