"""A grid of runs: what its entries mean, where its runs are, and what it refuses before anything is made."""

import json
import shlex
from collections.abc import Sequence
from io import StringIO
from pathlib import Path

import pytest
from experiments.cli import gather
from experiments.command import parse
from experiments.settings import Settings
from rich.console import Console

from experiments import grid
from experiments.retrain import fixed_entries
from tying.errors import InputError
from tying.files import write_json
from tying.pointers import Pointers

TINY = ("--preset", "tiny")


def entry(text: str, *common: str) -> grid.Entry:
    return grid.Entry.parse(text, (*TINY, *common))


def refused(*texts: str, common: Sequence[str] = ()) -> list[str]:
    """Return the lines with which entries are refused."""
    with pytest.raises(InputError) as caught:
        grid.parse_entries(texts, (*TINY, *common))
    assert not any("\n" in line for line in caught.value.lines)
    return list(caught.value.lines)


def begin(cell: grid.Cell) -> None:
    """Make a cell's folder what it is once its run has begun."""
    cell.run.path.mkdir(parents=True)
    write_json(cell.run.config_file, {"format": 1, **cell.settings.to_dict()})


# What an entry means.


def test_an_entry_is_an_agent_with_flags_of_its_own() -> None:
    found = entry("dqn --reward fork --env.decision-interval=2")
    assert found.label == "dqn --reward fork --env.decision-interval=2"
    assert found.settings.agent == "dqn"
    assert (found.settings.setup.reward.name, found.settings.setup.env.decision_interval) == ("fork", 2)


def test_names_may_have_spaces() -> None:
    found = entry("  0 1 1 3   --env.decision-interval 2 ")
    assert found.label == "0 1 1 3 --env.decision-interval 2"
    assert found.settings.agent == "0 1 1 3"
    assert found.settings.setup.env.decision_interval == 2


def test_values_may_have_spaces_and_dashes_in_quotes() -> None:
    found = entry("random --data.path 'my texts/a --b.txt' --reward level")
    assert found.settings.setup.data.path == "my texts/a --b.txt"
    assert found.settings.setup.reward.name == "level"


def test_own_flags_stand_above_the_common_ones() -> None:
    common = ("--reward.param-weight", "0.5", "--model.width", "16")
    found = entry("random --reward.param-weight 0.7", *common).settings.setup
    assert (found.reward.param_weight, found.model.width) == (0.7, 16)
    assert entry("random", *common).settings.setup.reward.param_weight == 0.5


@pytest.mark.parametrize(
    "text", ["independent", "0 1 1 3 --env.decision-interval 2", "random --data.path 'my texts/a.txt' --no-model.bias"]
)
def test_the_recorded_flags_make_the_same_run_again(text: str, tmp_path: Path) -> None:
    """What command.txt gets; no shell, so that a word is a word."""
    (cell,) = grid.plan(tmp_path, [entry(text, "--trainer.iterations", "8")], [5])
    job = grid._job(cell)
    command = parse(shlex.split(shlex.join(job.flags)))
    assert (command.settings, command.out) == (cell.settings, cell.run.path)
    assert command.settings is not None and command.settings.run.seed == 5


# What is refused.


def test_all_mistakes_are_told_once() -> None:
    lines = refused("nobody", "random --agnt 1", "dqn --agent.gamma 7", common=("--env.decision-intervl", "3"))
    assert len(lines) == len(set(lines)) == 4
    for part in ("unknown agent 'nobody'", "--agnt", "agent.gamma = '7'", "--env.decision-intervl"):
        assert sum(part in line for line in lines) == 1, part


def test_an_entry_that_is_named_twice_is_refused() -> None:
    assert refused("random", "independent", " random ") == ["entry 'random' is named twice"]


@pytest.mark.parametrize(
    "flags", [("--resume", "runs/x"), ("--seed", "3"), ("--seed=3",), ("--agent", "dqn"), ("--out", "x")]
)
def test_flags_of_single_runs_are_refused(flags: tuple[str, ...]) -> None:
    flag = flags[0].partition("=")[0]
    for lines in (refused("random", "independent", common=flags), refused(f"random {shlex.join(flags)}")):
        (line,) = lines
        assert line.startswith(f"{flag} is for single runs: ")


def test_a_quotation_without_an_end_is_refused() -> None:
    assert refused("random --data.path 'a b") == ['entry "random --data.path \'a b": no closing quotation']


def test_words_behind_a_flag_are_gathered_in_several_places() -> None:
    assert gather("--agents", ["--agents", "a", "b --x 1", "--seeds", "2"]) == [
        "--agents",
        '["a", "b --x 1"]',
        "--seeds",
        "2",
    ]
    assert gather("--agents", ["--agents", "a", "--agents", "b"]) == ["--agents", '["a", "b"]']


# Where the runs are.


def test_seeds_are_outermost(tmp_path: Path) -> None:
    cells = grid.plan(tmp_path, [entry("independent"), entry("0 1 1 3")], [4, 5])
    assert [(cell.seed, cell.settings.run.seed, cell.entry.label) for cell in cells] == [
        (4, 4, "independent"),
        (4, 4, "0 1 1 3"),
        (5, 5, "independent"),
        (5, 5, "0 1 1 3"),
    ]
    assert cells[3].run.path == tmp_path / "runs" / "0-1-1-3__s5"
    assert cells[3].log == tmp_path / "logs" / "0-1-1-3__s5.log"
    assert not list(tmp_path.iterdir())


def test_a_folder_of_other_settings_is_refused_with_the_setting(tmp_path: Path) -> None:
    begin(grid.plan(tmp_path, [entry("random")], [0])[0])
    assert len(grid.plan(tmp_path, [entry("random"), entry("independent")], [0, 1])) == 4  # of the same settings
    with pytest.raises(InputError) as caught:
        grid.plan(tmp_path, [entry("random", "--trainer.iterations", "8")], [0, 1])
    run, advice = caught.value.lines
    assert run.endswith("random__s0: made with other settings (trainer.iterations = 40, now 8)")
    assert advice == f"{tmp_path} holds another comparison: name a new folder with --out"


def test_several_other_settings_are_counted(tmp_path: Path) -> None:
    begin(grid.plan(tmp_path, [entry("random")], [0])[0])
    other = entry("random", "--model.width", "16", "--model.dropout", "0.5", "--reward", "level")
    with pytest.raises(InputError, match=r"model\.\w+ = .*, now .* and 2 more\)"):
        grid.plan(tmp_path, [other], [0])


def test_entries_that_would_have_one_folder_are_refused(tmp_path: Path) -> None:
    entries = [entry("random --reward.param-weight 0.5"), entry("random --reward.param-weight=0.5")]
    with pytest.raises(InputError, match="would have one folder"):
        grid.plan(tmp_path, entries, [0])


def test_what_the_grid_is_of_is_written_down_and_added_to(tmp_path: Path) -> None:
    grid.write_plan(tmp_path, [entry("random")], [0], ["python", "-m", "x", "--agents", "random --reward level"])
    grid.write_plan(tmp_path, [entry("0 1 1 3")], [0, 1], ["again"])
    assert json.loads((tmp_path / "comparison.json").read_text()) == {
        "format": 1,
        "command": "again",
        "seeds": [0, 1],
        "entries": {"random": "--preset tiny --agent random", "0 1 1 3": "--preset tiny --agent '0 1 1 3'"},
    }


# Who carries the runs out.


def test_every_run_that_is_not_done_is_carried_out_and_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grid, "_carry_out", lambda cell: grid.Outcome(cell, 1.0, "no time"))
    cells = grid.plan(tmp_path, [entry("random"), entry("independent")], [0, 1, 2])
    write_json(cells[3].run.final / "summary.json", {})
    screen = StringIO()
    outcomes = grid.carry_out(cells, jobs=1, backend="loky", console=Console(file=screen, width=100))
    assert sorted((o.cell.entry.label, o.cell.seed) for o in outcomes) == [
        (label, seed) for label in ("independent", "random") for seed in (0, 1, 2)
    ]
    assert [(o.cell.entry.label, o.cell.seed) for o in outcomes if o.failure is None] == [("independent", 1)]
    there, *lines = screen.getvalue().splitlines()
    assert there == "1 of 6 runs are there already"
    assert len(lines) == 5
    assert lines[0].startswith("1/5, ") and lines[0].endswith("random, seed 0: FAILED: no time")


# What retrain compares with.


def test_the_published_rivals_of_a_pattern() -> None:
    assert fixed_entries(Pointers((0, 0, 0, 3)), "0 0 0 3") == {
        "sequence:2": "sequence:2",
        "cycle:2": "cycle:2",
        "cycle_rev:2": "cycle_rev:2",
        "private_first": "private_first",
        "0 0 0 3": "immediate_repeat:3",
    }
    others = fixed_entries(Pointers((0, 0, 2, 0)), "0 0 2 0")
    assert "0 0 2 0" not in others and "immediate_repeat:3" in others
    assert fixed_entries(Pointers((0, 0)), "0 0") == {"0 0": "all_tied"}


def test_settings_of_a_cell_are_those_of_its_entry_at_its_seed(tmp_path: Path) -> None:
    (cell,) = grid.plan(tmp_path, [entry("random")], [9])
    plain: Settings = entry("random").settings
    assert {**cell.settings.flat(), "seed": 0} == plain.flat()
    assert cell.settings.run.seed == 9
