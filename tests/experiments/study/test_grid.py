"""A grid of runs: the meaning of its variants, the places of its runs, and what it refuses before anything is made."""

import json
import re
import shlex
from collections.abc import Iterator, Sequence
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from experiments.run.cli import Failed, Incomplete
from experiments.run.command_line import parse
from experiments.study import grid
from experiments.study.workers import StudyConfig
from tests.experiments.runs import write_summary
from tying.errors import InputError
from tying.files import write_json
from tying.hf.config import HFConfig
from tying.models.config import GPTConfig

TINY = ("--preset", "tiny")


def variant(text: str, *common: str) -> grid.Variant:
    return grid.Variant.parse(text, (*TINY, *common))


def refused(*texts: str, common: Sequence[str] = ()) -> list[str]:
    """Return the lines with which variants are refused."""
    with pytest.raises(InputError) as caught:
        grid.parse_variants(texts, (*TINY, *common))
    assert not any("\n" in line for line in caught.value.lines)
    return list(caught.value.lines)


@pytest.fixture
def texts(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files whose names have to be quoted, in the folder that scripts run in."""
    folder = tmp_path_factory.mktemp("texts")
    monkeypatch.chdir(folder)
    Path("my texts").mkdir()
    for name in ("a.txt", "a --b.txt"):
        Path("my texts", name).touch()


def begin(spec: grid.RunSpec) -> None:
    """Make a run's folder as it is once the run has begun."""
    write_json(spec.directory.config_file, spec.config.to_json())


# What a variant means.


def test_a_variant_is_an_agent_with_flags_of_its_own() -> None:
    found = variant("dqn --reward fork --env.decision-interval=2")
    assert found.label == "dqn --reward fork --env.decision-interval=2"
    assert found.config.agent.name == "dqn"
    assert (found.config.reward.name, found.config.env.decision_interval) == ("fork", 2)


def test_names_may_have_spaces() -> None:
    found = variant("  0 1 1 3   --env.decision-interval 2 ")
    assert found.label == "0 1 1 3 --env.decision-interval 2"
    assert found.config.agent.name == "0 1 1 3"
    assert found.config.env.decision_interval == 2


@pytest.mark.usefixtures("texts")
def test_values_may_have_spaces_and_dashes_in_quotes() -> None:
    found = variant("random --data.path 'my texts/a --b.txt' --reward level")
    assert found.config.data.path == "my texts/a --b.txt"
    assert found.config.reward.name == "level"


def test_own_flags_stand_above_the_common_ones() -> None:
    common = ("--reward.param-weight", "0.5", "--model.width", "16")
    found = variant("random --reward.param-weight 0.7", *common).config
    assert (found.reward.param_weight, found.model.width) == (0.7, 16)
    assert variant("random", *common).config.reward.param_weight == 0.5


@pytest.mark.parametrize(
    "text", ["independent", "0 1 1 3 --env.decision-interval 2", "random --data.path 'my texts/a.txt' --no-model.bias"]
)
@pytest.mark.usefixtures("texts")
def test_the_recorded_flags_make_the_same_run_again(text: str, tmp_path: Path) -> None:
    """What command.txt gets; no shell, so that a word is a word."""
    (spec,) = grid.plan(tmp_path, [variant(text, "--trainer.iterations", "8")], [5])
    command = parse(shlex.split(shlex.join(spec.words)))
    assert (command.config, command.out) == (spec.config, spec.directory.path)
    assert spec.config.run.seed == 5


# What is refused.


def test_all_mistakes_are_told_once() -> None:
    lines = refused("nobody", "random --agnt 1", "dqn --agent.gamma 7", common=("--env.decision-intervl", "3"))
    assert len(lines) == len(set(lines)) == 4
    for part in ("unknown agent 'nobody'", "--agnt", "agent.gamma = '7'", "--env.decision-intervl"):
        assert sum(part in line for line in lines) == 1, part


def test_a_variant_that_is_named_twice_is_refused() -> None:
    assert refused("random", "independent", " random ") == ["variant 'random' is named twice"]


@pytest.mark.parametrize(
    "flags", [("--resume", "runs/x"), ("--seed", "3"), ("--seed=3",), ("--agent", "dqn"), ("--out", "x")]
)
def test_flags_of_single_runs_are_refused(flags: tuple[str, ...]) -> None:
    flag = flags[0].partition("=")[0]
    for lines in (refused("random", "independent", common=flags), refused(f"random {shlex.join(flags)}")):
        (line,) = lines
        assert line.startswith(f"{flag} is for single runs: ")


def test_a_quotation_without_an_end_is_refused() -> None:
    assert refused("random --data.path 'a b") == ['variant "random --data.path \'a b": no closing quotation']


# Fewer layers.


def test_shallow_is_an_untied_model_of_fewer_layers() -> None:
    found = variant("shallow:2 --optim.learning-rate 1e-3", "--env.initial-pointers", "0 1 1 3")
    assert found.label == "shallow:2 --optim.learning-rate 1e-3"
    own, deep = found.config.resolved(), variant("independent --optim.learning-rate 1e-3").config.resolved()
    assert (own["model"].pop("num_layers"), deep["model"].pop("num_layers")) == (2, 4)
    assert own["agent"] == deep["agent"] == {"name": "independent", "strategy": "independent"}
    assert own == deep
    assert parse([*found.words, "--out", "unused"]).config == found.config  # its command makes the same run


@pytest.mark.parametrize("depth", ["0", "4", "x", "", "-1", "1.5", "٢", "02"])
def test_shallow_needs_fewer_layers_than_the_model_has(depth: str) -> None:
    assert refused(f"shallow:{depth}") == [
        f"variant 'shallow:{depth}': expected shallow:K with K from 1 to 3, fewer layers than the model has"
    ]
    assert len(refused("shallow")) == 1


def test_shallow_tells_the_mistakes_of_the_flags_as_other_variants_do() -> None:
    assert refused("shallow:2 --reward forc", "independent --reward forc") == refused("independent --reward forc")
    assert refused("shallow:2 --seed 3")[0].startswith("--seed is for single runs")


def added(*texts: str, common: Sequence[str] = ()) -> list[str]:
    """Return the variants that a comparison of others is given beside them."""
    given = (*TINY, *common)
    variants = grid.parse_variants(texts, given)
    found = grid.with_shallow_rivals(variants, given)
    assert found[: len(variants)] == variants
    return [variant.label for variant in found[len(variants) :]]


def test_fixed_patterns_get_the_untied_model_of_as_many_layers() -> None:
    assert added("sequence:2", "0 1 1 3", "cycle:2", "independent", "dqn") == ["shallow:2", "shallow:3"]
    assert added("tie_after:50:all_tied", "untie_after:50:all_tied") == ["shallow:1"]  # the second one ends untied
    frozen = "dqn --env.initial-pointers '0 0 2 2' --env.freeze-after 0"
    assert added(frozen, frozen.replace("dqn", "random"), "shallow:2 --trainer.iterations 8") == [
        frozen.replace("dqn", "shallow:2")
    ]
    assert added("shallow:2", "all_tied", "cycle:2") == ["shallow:1"]
    assert added("cycle:2", "independent --model.num-layers 2") == []


def test_a_rival_has_the_flags_of_its_variant_unless_one_trains_like_it() -> None:
    slow = "--optim.learning-rate 1e-3"
    assert added("cycle:2", f"sequence:2 {slow}") == ["shallow:2", f"shallow:2 {slow}"]
    assert added(f"sequence:2 {slow}", f"shallow:2 {slow}") == []
    assert added("cycle:2 --env.decision-interval 2", "shallow:2") == []  # no decision is taken there
    assert added("0 0 2 --model.num-layers 3", "0 0 2 2 4 --model.num-layers 5") == [
        "shallow:2 --model.num-layers 3",
        "shallow:3 --model.num-layers 5",
    ]


def test_a_model_that_has_to_be_tied_has_no_shallow_rival() -> None:
    assert added("all_tied", "cycle:2", common=("--model.halting", "act")) == []


def test_a_pretrained_model_has_no_shallow_rival(tmp_path: Path) -> None:
    assert grid.shallow_rivals(GPTConfig(num_layers=4), 3) == ["shallow:3"]
    assert grid.shallow_rivals(GPTConfig(num_layers=4), 4) == []
    assert grid.shallow_rivals(GPTConfig(num_layers=4, kv_sharing="cla:3"), 1) == ["shallow:1"]
    assert grid.shallow_rivals(GPTConfig(num_layers=4, kv_sharing="0 0 2 2"), 3) == []  # of no other number of layers
    write_json(tmp_path / "config.json", {"num_hidden_layers": 4})
    pretrained = HFConfig(pretrained=str(tmp_path))
    assert (pretrained.num_layers, grid.shallow_rivals(pretrained, 3)) == (4, [])
    flags = ["--task", "hf", "--model.pretrained", str(tmp_path)]
    assert refused("shallow:3", common=flags) == ["variant 'shallow:3': a pretrained model comes with all of its layers"]


# Where the runs are.


def test_seeds_are_outermost(tmp_path: Path) -> None:
    specs = grid.plan(tmp_path, [variant("independent"), variant("0 1 1 3")], [4, 5])
    assert [(spec.config.run.seed, spec.label) for spec in specs] == [
        (4, "independent"),
        (4, "0 1 1 3"),
        (5, "independent"),
        (5, "0 1 1 3"),
    ]
    assert specs[3].directory.path == tmp_path / "runs" / "0-1-1-3__s5"
    assert specs[3].log == tmp_path / "logs" / "0-1-1-3__s5.log"
    assert not list(tmp_path.iterdir())


def test_a_folder_of_other_settings_is_refused_with_the_setting(tmp_path: Path) -> None:
    begin(grid.plan(tmp_path, [variant("random")], [0])[0])
    assert len(grid.plan(tmp_path, [variant("random"), variant("independent")], [0, 1])) == 4  # of the same settings
    with pytest.raises(InputError) as caught:
        grid.plan(tmp_path, [variant("random", "--trainer.iterations", "8")], [0, 1])
    run, advice = caught.value.lines
    assert run.endswith("random__s0: made with other settings (trainer.iterations = 40, now 8)")
    assert advice == f"{tmp_path} holds another comparison: name a new folder with --out"


def test_several_other_settings_are_counted(tmp_path: Path) -> None:
    begin(grid.plan(tmp_path, [variant("random")], [0])[0])
    other = variant("random", "--model.width", "16", "--model.dropout", "0.5", "--reward", "level")
    with pytest.raises(InputError, match=r"model\.\w+ = .*, now .* and 2 more\)"):
        grid.plan(tmp_path, [other], [0])


def test_variants_that_would_have_one_folder_are_refused(tmp_path: Path) -> None:
    variants = [variant("random --reward.param-weight 0.5"), variant("random --reward.param-weight=0.5")]
    with pytest.raises(InputError, match="would have one folder"):
        grid.plan(tmp_path, variants, [0])


def test_the_plan_is_written_down_and_added_to(tmp_path: Path) -> None:
    grid.write_plan(tmp_path, [variant("random")], [0], ["python", "-m", "x", "--agents", "random --reward level"])
    grid.write_plan(tmp_path, [variant("0 1 1 3")], [0, 1], ["again"])
    assert json.loads((tmp_path / "comparison.json").read_text()) == {
        "format": 2,
        "command": "again",
        "seeds": [0, 1],
        "variants": {"random": "--preset tiny --agent random", "0 1 1 3": "--preset tiny --agent '0 1 1 3'"},
    }


@pytest.mark.parametrize("content", ["[]", "{}", "{", "3", '{"variants": ["random"]}', '{"entries": {}}'])
def test_a_damaged_plan_is_refused_in_one_line_and_left_as_it_is(tmp_path: Path, content: str) -> None:
    path = tmp_path / "comparison.json"
    path.write_text(content)
    with pytest.raises(InputError, match=re.escape(str(path))) as caught:
        grid.write_plan(tmp_path, [variant("random")], [0], ["again"])
    assert len(caught.value.lines) == 1
    assert path.read_text() == content


# Training the runs.


def test_every_run_that_is_not_finished_is_trained_and_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []

    def fail(plain: Any) -> grid.Result:
        done.append(plain[1])
        return grid.Result(plain[1], 1.0, "no time")

    monkeypatch.setattr(grid, "_run", fail)
    specs = grid.plan(tmp_path, [variant("random"), variant("independent")], [0, 1, 2])
    write_summary(specs[3].directory.path)
    screen = StringIO()
    failures = grid.run_all(specs, StudyConfig(jobs=1), Console(file=screen, width=100))
    unfinished = [spec for spec in specs if spec is not specs[3]]
    assert sorted(done) == sorted(str(spec.directory.path) for spec in unfinished)
    assert sorted(failures) == sorted(f"{spec.title}: no time" for spec in unfinished)
    there, *lines = screen.getvalue().splitlines()
    assert there == "1 of 6 runs are finished already"
    assert len(lines) == 5
    assert lines[0].startswith("1/5, ") and lines[0].endswith("random, seed 0: FAILED: no time")


def test_every_shard_trains_its_own_runs_and_the_last_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []

    def finish(plain: Any) -> grid.Result:
        done.append(plain[1])
        write_summary(Path(plain[1]))
        return grid.Result(plain[1], 1.0, None)

    monkeypatch.setattr(grid, "_run", finish)
    specs = grid.plan(tmp_path, [variant("random"), variant("independent")], [0, 1, 2])
    console = Console(file=StringIO())
    with pytest.raises(Incomplete, match=r"^no report yet: 3 of 6 runs are other shards'; the same command"):
        grid.run_all(specs, StudyConfig(jobs=1, shard="2/2", out="unused"), console)
    first = list(done)
    assert {spec.label for spec in specs if str(spec.directory.path) in first} == {"random", "independent"}
    assert grid.run_all(specs, StudyConfig(jobs=1, shard="1/2", out="unused"), console) == []
    assert len(first) == 3 and sorted(done) == sorted(str(spec.directory.path) for spec in specs)


def test_a_shard_tells_failures_while_others_are_at_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grid, "_run", lambda plain: grid.Result(plain[1], 1.0, "no time"))
    specs = grid.plan(tmp_path, [variant("random"), variant("independent")], [0])
    with pytest.raises(Failed) as caught:
        grid.run_all(specs, StudyConfig(jobs=1, shard="1/2", out="unused"), Console(file=StringIO()))
    assert caught.value.status == 1
    failure, rest = caught.value.lines
    assert failure == "random, seed 0: no time"
    assert rest.startswith("no report yet: 1 of 2 runs are other shards'")


def test_runs_that_a_cluster_loses_are_failures_and_the_others_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lose(function: Any, items: Sequence[Any], config: StudyConfig) -> Iterator[grid.Result]:
        write_summary(Path(items[0][1]))
        yield grid.Result(items[0][1], 1.0, None)
        raise Failed(["1 of 2 tasks were lost"])

    monkeypatch.setattr(grid.workers, "run_all", lose)
    specs = grid.plan(tmp_path, [variant("random"), variant("independent")], [0])
    assert grid.run_all(specs, StudyConfig(jobs=1), Console(file=StringIO())) == ["1 of 2 tasks were lost"]


@pytest.mark.parametrize("name", ["tokenizer", "pretrained", "init_from"])
def test_inputs_of_one_name_must_be_the_same(tmp_path: Path, name: str) -> None:
    specs = grid.plan(tmp_path, [variant("random"), variant("independent")], [0])
    for number, spec in enumerate(specs):
        write_summary(spec.directory.path, **{name: str(number), f"{name}_sha256": str(number)})
    assert grid.run_all(specs, StudyConfig(jobs=1), Console(file=StringIO())) == []
    for number, spec in enumerate(specs):
        write_summary(spec.directory.path, **{name: "one", f"{name}_sha256": str(number)})
    with pytest.raises(InputError, match=f"{specs[1].directory.path}: trained with another {name} than random, seed 0"):
        grid.run_all(specs, StudyConfig(jobs=1), Console(file=StringIO()))


def test_runs_of_one_corpus_must_be_of_one_text(tmp_path: Path) -> None:
    specs = grid.plan(tmp_path, [variant("random"), variant("independent --data.max-chars 9")], [0, 1])
    texts = {spec.directory.path: "abba"[number] for number, spec in enumerate(specs)}
    for spec in specs:
        write_summary(spec.directory.path, corpus_sha256=texts[spec.directory.path])
    with pytest.raises(InputError) as caught:
        grid.run_all(specs, StudyConfig(jobs=1), Console(file=StringIO()))
    (line,) = caught.value.lines
    assert line.startswith(f"{specs[2].directory.path}: trained with another corpus than random, seed 0")
    for spec in specs:
        summary = spec.directory.read_summary()
        write_json(spec.directory.final / "summary.json", {**summary, "corpus_sha256": spec.label[0]})
    assert grid.run_all(specs, StudyConfig(jobs=1), Console(file=StringIO())) == []  # other data settings, other texts
