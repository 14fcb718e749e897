"""The figures of `bench`: which there are, how they are judged, and those that no clock decides."""

import itertools
import json
import types
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from experiments import bench
from experiments.run import cli
from experiments.study import gpu, savings, speed
from experiments.study.figure import Figure, interleaved, ratios
from tests.conftest import ROOT
from tying.models.config import GPTConfig
from tying.models.gpt import GPT


def test_a_verdict_names_the_aim_and_whether_it_is_reached() -> None:
    assert Figure("speed", 2.0, "{:.1f}").verdict == ""
    assert Figure("speed", 2.0, "{:.1f}", ">= 1", True).verdict == ">= 1  reached"
    assert Figure("speed", 0.5, "{:.1f}", ">= 1", False).verdict == ">= 1  MISSED"


def test_repeats_have_a_median_a_range_and_a_verdict() -> None:
    figure = Figure.of("speed", [3.0, 1.0, 2.5], "x{:.1f}", ">= 2", 2)
    assert (figure.value, figure.text, figure.verdict) == (2.5, "x2.5 [x1.0, x3.0]", ">= 2  reached")
    assert Figure.of("time", [3.0], "{:.0f}", "< 2", 2, less=True).verdict == "< 2  MISSED"
    assert ratios({"a": [1.0, 2.0], "b": [3.0, 1.0]}, "a", "b") == [3.0, 0.5]


def test_what_falls_with_the_number_of_sets_is_what_is_counted() -> None:
    figures = {figure.name: figure.value for figure in savings.falls_with_sets(1, GPTConfig(width=64, context=16))}
    block = 12 * 64**2 + 13 * 64
    untied, rest = 6 * block, 256 * 64 + 16 * 64 + 2 * 64
    for pattern, blocks in (("sequence:3", 3 * block), ("all_tied", block)):
        share = (rest + blocks) / (rest + untied)
        assert figures[f"bytes of parameters, gradients, moments, {pattern} / independent"] == pytest.approx(share)
        assert figures[f"bytes of a checkpoint, {pattern} / independent"] == pytest.approx(share, rel=0.05)


def test_both_ways_of_decoding_give_the_same_text() -> None:
    model = GPT(GPTConfig(num_layers=2, width=16, context=12), 30, 0).eval()
    assert torch.equal(savings._generate(model), savings._generate_anew(model))
    assert [figure.name for figure in savings.decoding(1, model.config)] == [
        "cached, tokens/s",
        "uncached, tokens/s",
        "cached / uncached",
    ]


def test_candidates_take_turns() -> None:
    turns: list[tuple[str, int]] = []
    runs = {name: (lambda count, name=name: turns.append((name, count))) for name in ("a", "b")}
    seconds = interleaved(runs, repeats=2, iterations=5)
    assert turns == [("a", 3), ("b", 3), ("a", 5), ("b", 5), ("a", 5), ("b", 5)]  # warm up first
    assert {name: len(values) for name, values in seconds.items()} == {"a": 2, "b": 2}


def test_a_tie_allocates_nothing_and_an_untie_its_copy() -> None:
    figures = {figure.name: figure for figure in speed._rebinding(repeats=2)}
    assert figures["bytes allocated by a tie"].value == 0
    assert figures["bytes allocated by an untie / bytes of the copy"].value == 1
    assert figures["bytes allocated by a tie"].reached and figures["a tie, ms"].value > 0


def test_decisions_are_timed_after_many_of_one_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """The decisions themselves are the agent's; a clock that counts says which of them are timed."""
    ticks = itertools.count()
    monkeypatch.setattr(speed, "time", types.SimpleNamespace(process_time=lambda: next(ticks) ** 2 / 1000))
    few, many = speed._decisions(before=4, timed=3)
    assert (few.name, many.name) == tuple(
        f"processor time of each after 4 in one run, ms, {layers} layers" for layers in (6, 48)
    )
    assert few.value == pytest.approx((6**2 - 3**2) / 3)  # from the end of the fourth to that of the seventh
    assert many.value == pytest.approx((13**2 - 10**2) / 3)
    assert few.reached and not many.reached


@pytest.mark.parametrize(("name", "module"), [("bench-2-cores", speed), ("bench-h100", gpu)])
def test_the_shipped_figures_are_of_the_sections_that_there_are(name: str, module: types.ModuleType) -> None:
    shipped = json.loads((ROOT / f"docs/data/{name}.json").read_text())["figures"]
    titles = list(module.sections(3, 2, 64))
    assert list(dict.fromkeys(name.partition(":")[0] for name in shipped)) == titles


def test_bench_shows_and_writes_every_figure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def measure() -> Iterator[Figure]:
        yield Figure("speed", 1234.5, "{:,.0f}", ">= 2,000", False)
        yield Figure("size", 7, "{:.0f}", spread=(6, 9))

    monkeypatch.setattr(speed, "sections", lambda *counts: {str(counts): measure})
    words = ["--repeats", "4", "--iterations", "3", "--job-iterations", "70", "--out", str(tmp_path / "b.json")]
    assert cli.status(bench.main, words) == 0
    out = capsys.readouterr().out
    assert "(4, 3, 70): speed" in out and "1,234" in out and ">= 2,000  MISSED" in out
    written = json.loads((tmp_path / "b.json").read_text())
    assert written["figures"] == {"(4, 3, 70): speed": 1234.5, "(4, 3, 70): size": 7}
    assert written["ranges"] == {"(4, 3, 70): size": [6, 9]}
    assert written.keys() == {"machine", "date", "figures", "ranges"}


@pytest.mark.parametrize(
    ("words", "part"),
    [(["--repeats", "2"], "repeats = '2'"), (["--out", "/dev/null/b.json"], "--out"), (["--rep", "3"], "--rep")],
)
def test_bad_input_is_one_line(words: list[str], part: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.status(bench.main, words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and part in line


def test_a_gpu_is_timed_on_random_tokens_of_the_whole_vocabulary() -> None:
    task = gpu._task(GPTConfig(num_layers=2, width=16, context=12), 30)
    tokens, targets = task.batch(0, 0, 4)
    assert tokens.shape == targets.shape == (4, 12) and task.data.vocab_size == 30
    assert set(task.data.splits["train"].tolist()) == set(range(30))
