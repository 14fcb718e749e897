"""Golden figures: eight short runs decide, are rewarded and end as they did when golden.json was recorded.

Bit by bit on the machine of the record, within 1e-4 on another. A change that is meant to change figures records them anew,
with a note in golden.json: python -m tests.experiments.test_golden NAME ...
"""

import json
import sys
import tempfile
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import torch

from experiments.run.provenance import made_by
from tests.conftest import Finished, words
from tests.experiments.runs import call_in, decisions, read

pytestmark = pytest.mark.e2e

FILE = Path(__file__).with_name("golden.json")
GOLDEN = json.loads(FILE.read_text(encoding="utf-8"))
COMMON = "--preset tiny --data.path corpus.txt --trainer.iterations 120 --seed 3 --out run".split()


def machine() -> dict[str, Any]:
    """Return what decides the last bits of a figure."""
    names = ("torch", "numpy", "scipy", "scikit-learn", "stable-baselines3", "sb3-contrib")
    return {
        "processor": made_by()["processor"],
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "packages": {name: metadata.version(name) for name in names},
    }


def write_corpus(folder: Path) -> None:
    (folder / "corpus.txt").write_text(words(20_000), encoding="utf-8")


def figures(run: Path) -> dict[str, Any]:
    """Return a run's decisions by column, its final test loss and its pointers."""
    columns = ("action", "pointers", "reward", "reward_loss")
    summary = read(run / "final" / "summary.json")
    return {
        **{name: [line[name] for line in decisions(run)] for name in columns},
        **{f"final_{name}": summary[name] for name in ("test_loss", "pointers")},
    }


def test_the_record_is_of_runs_that_differ() -> None:
    runs = GOLDEN["runs"].values()
    assert len({run["final_test_loss"] for run in runs}) == len(runs)
    assert all(len(run["reward"]) == 30 for run in runs)


@pytest.mark.parametrize("name", GOLDEN["runs"])
def test_figures_are_those_of_the_record(train: Callable[..., Finished], tmp_path: Path, name: str) -> None:
    write_corpus(tmp_path)
    expected = dict(GOLDEN["runs"][name])
    finished = train(*COMMON, *expected.pop("flags").split())
    assert finished.status == 0, finished.err
    found = figures(tmp_path / "run")
    if machine() == GOLDEN["made_by"]:
        assert found == expected
        return
    for column in ("action", "pointers", "final_pointers"):
        assert found[column] == expected[column]
    for column in ("reward", "reward_loss", "final_test_loss"):
        assert found[column] == pytest.approx(expected[column], rel=1e-4, abs=1e-4)


def record(names: list[str]) -> None:
    """Write the figures of some runs anew; all of them must be of one machine."""
    if machine() != GOLDEN["made_by"]:
        raise SystemExit(f"golden.json is of another machine or other packages: {GOLDEN['made_by']}; this is {machine()}")
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            write_corpus(Path(folder))
            flags = GOLDEN["runs"][name]["flags"]
            assert call_in(Path(folder), "train", *COMMON, *flags.split()) == 0
            GOLDEN["runs"][name] = {"flags": flags, **figures(Path(folder) / "run")}
    FILE.write_text(dump(GOLDEN), encoding="utf-8")


def dump(golden: dict[str, Any]) -> str:
    """Return JSON with one line per column."""
    runs = []
    for name, run in golden["runs"].items():
        lines = ",\n".join(
            f"      {json.dumps(key)}: {json.dumps(value, separators=(',', ':'))}" for key, value in run.items()
        )
        runs.append(f"    {json.dumps(name)}: {{\n{lines}\n    }}")
    head = "".join(f"  {json.dumps(key)}: {json.dumps(golden[key])},\n" for key in ("made_by", "notes"))
    return "{\n" + head + '  "runs": {\n' + ",\n".join(runs) + "\n  }\n}\n"


if __name__ == "__main__":
    record(sys.argv[1:] or list(GOLDEN["runs"]))
