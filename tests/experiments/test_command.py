"""The command line of `train`: which source of a setting wins, and that every mistake is one clear line."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agents.paper import PaperAgent
from experiments.command import parse
from experiments.settings import Settings
from tests.conftest import Finished, single_thread, words
from tying.errors import InputError

Train = Callable[..., Finished]


def settings(*arguments: str | Path) -> Settings:
    """Return what a command line asks for."""
    command = parse([str(argument) for argument in arguments])
    assert command.settings is not None
    return command.settings


def complaints(*arguments: str | Path) -> list[str]:
    """Return the lines with which a command line is refused."""
    with pytest.raises(InputError) as caught:
        settings(*arguments)
    assert not any("\n" in line for line in caught.value.lines)
    return list(caught.value.lines)


def complaint(*arguments: str | Path) -> str:
    (line,) = complaints(*arguments)
    return line


@pytest.fixture
def config(tmp_path: Path) -> Callable[[Any], Path]:
    """Write a --config file."""

    def write(values: Any) -> Path:
        (tmp_path / "given.json").write_text(json.dumps(values))
        return tmp_path / "given.json"

    return write


Config = Callable[[Any], Path]


# Which source wins: preset < the agent's wishes < --config < flags.


def test_preset_is_where_settings_start() -> None:
    tiny, small = settings("--preset", "tiny"), settings()
    assert (tiny.preset, tiny.setup.model.width) == ("tiny", 32)
    assert (small.preset, small.setup.model.width) == ("small", 128)


def test_agents_wishes_stand_above_the_preset() -> None:
    plain, fixed = settings("--preset", "small"), settings("--preset", "small", "--agent", "independent")
    assert (plain.setup.env.action_mode, plain.setup.env.freeze_after) == ("cursor", 0.8)
    assert (fixed.setup.env.action_mode, fixed.setup.env.freeze_after) == ("joint", 1.0)


def test_agents_wish_settings_of_any_section() -> None:
    setup = settings("--preset", "small", "--agent", "paper").setup
    assert (setup.reward.name, setup.env.decision_interval, setup.binding.gradient) == ("paper", 4, "sum")
    above = settings("--preset", "small", "--agent", "paper", "--reward", "level", "--binding.gradient", "mean").setup
    assert (above.reward.name, above.binding.gradient) == ("level", "mean")


def test_wishes_follow_the_agents_hyperparameters(config: Config) -> None:
    flag = settings("--agent", "paper", "--agent.reference-semantics")
    file = settings("--config", config({"agent": {"name": "paper", "reference_semantics": True}}))
    assert flag == file
    assert flag.setup.binding.gradient == "root_only"
    over = settings(
        "--config", config({"agent": {"name": "paper", "reference_semantics": True}}), "--agent.no-reference-semantics"
    )
    assert over.setup.binding.gradient == "sum"
    own = {"agent": {"name": "paper", "reference_semantics": True}, "binding": {"gradient": "mean"}}
    assert settings("--config", config(own)).setup.binding.gradient == "mean"


def test_wishes_that_do_not_exist_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PaperAgent, "wishes", classmethod(lambda cls, config: {"env.action_mod": "cursor"}))
    assert "did you mean 'env.action_mode'?" in complaint("--agent", "paper")


def test_config_stands_above_the_agents_wishes(config: Config) -> None:
    path = config({"env": {"freeze_after": 0.25}})
    found = settings("--preset", "small", "--agent", "independent", "--config", path)
    assert (found.setup.env.action_mode, found.setup.env.freeze_after) == ("joint", 0.25)


def test_flags_stand_above_all(config: Config) -> None:
    path = config({"env": {"freeze_after": 0.25}, "seed": 5, "preset": "tiny", "model": {"width": 64}})
    found = settings("--config", path, "--agent", "independent", "--env.freeze-after", "0.5", "--model.width=16")
    assert (found.setup.env.freeze_after, found.setup.model.width, found.run.seed) == (0.5, 16, 5)
    assert found.setup.model.num_layers == 4  # the file's preset is in force below it


def test_preset_flag_stands_above_the_files_preset(config: Config) -> None:
    found = settings("--config", config({"preset": "tiny", "seed": 5}), "--preset", "small")
    assert (found.preset, found.setup.model.width, found.run.seed) == ("small", 128, 5)


def test_agent_of_the_file_brings_its_wishes_and_hyperparameters(config: Config) -> None:
    found = settings("--config", config({"agent": {"name": "ppo", "n_steps": 8}}))
    assert (found.agent, found.hyperparameters["n_steps"]) == ("ppo", 8)


def test_hyperparameters_of_another_agent_are_left_out(config: Config) -> None:
    found = settings("--config", config({"agent": {"name": "ppo", "n_steps": 8}}), "--agent", "a2c")
    assert found.agent == "a2c"
    assert found.hyperparameters["n_steps"] == settings("--agent", "a2c").hyperparameters["n_steps"]


@pytest.mark.parametrize("name", ["agent", "reward"])
def test_file_may_give_a_name_alone(config: Config, name: str) -> None:
    value = {"agent": "a2c", "reward": "level"}[name]
    found = settings("--config", config({name: value}))
    assert (found.agent if name == "agent" else found.setup.reward.name) == value


@pytest.mark.parametrize(
    "arguments",
    [
        ("--agent", "dqn", "--agent.gamma", "0.25", "--seed", "7"),
        ("--preset", "tiny", "--agent", "sequence:2", "--env.initial-pointers", "0 1 1 3"),
        ("--agent", "0 1 1 3 3 5", "--no-model.bias", "--reward", "level"),
        ("--preset", "shakespeare-char", "--agent", "ppo", "--binding.norms", "private"),
        ("--agent", "paper", "--agent.reference-semantics"),
    ],
    ids=" ".join,
)
def test_own_config_reproduces_the_settings(config: Config, arguments: tuple[str, ...]) -> None:
    first = settings(*arguments)
    assert settings("--config", config({"format": 1, **first.to_dict()})) == first


def test_short_forms_say_the_same_as_long_ones() -> None:
    short = settings("--agent", "a2c", "--reward=level", "--model.no-bias", "--model", "gpt")
    assert short == settings("--agent.name", "a2c", "--reward.name", "level", "--no-model.bias", "--model.name=gpt")
    assert not short.setup.model.bias  # type: ignore[attr-defined]


def test_process_environment_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SEED", "PRESET", "MODEL"):
        monkeypatch.setenv(name, "rubbish")
        monkeypatch.setenv(name.lower(), "rubbish")
    assert settings().run.seed == 0


def test_help_names_every_setting_with_its_range(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parse(["--agent", "ppo", "--help"])
    text = capsys.readouterr().out
    assert caught.value.code == 0
    assert all(flag in text for flag in ("--seed", "--agent.n-steps", "--model.num-layers", "--reward.param-weight"))
    assert ">= 1" in text


# Mistakes of the command line itself.


@pytest.mark.parametrize(
    ("flag", "nearest"),
    [
        ("--sed", "--seed"),
        ("--see", "--seed"),
        ("--env.freeze_after", "--env.freeze-after"),
        ("--modle.width", "--model.width"),
        ("--agent.n-step", "--agent.n-steps"),
        ("--preste", "--preset"),
    ],
)
def test_unknown_flag_offers_the_nearest(flag: str, nearest: str) -> None:
    assert complaint("--agent", "ppo", flag, "1") == f"unknown flag {flag}: did you mean {nearest!r}?"


def test_hyperparameter_of_another_agent_is_unknown() -> None:
    assert "unknown flag --agent.n-steps" in complaint("--agent", "dqn", "--agent.n-steps", "8")


def test_unknown_preset_offers_the_nearest() -> None:
    assert complaint("--preset", "tinny").startswith("unknown preset 'tinny': did you mean 'tiny'?")


def test_unknown_agent_offers_the_nearest() -> None:
    assert complaint("--agent", "dqm").startswith("unknown agent 'dqm': did you mean 'dqn'?")


@pytest.mark.parametrize(
    ("flag", "value"),
    [("--seed", "one"), ("--model.width", "1.5"), ("--optim.learning-rate", "fast"), ("--env.action-mode", "pear")],
)
def test_wrong_type_names_field_and_value(flag: str, value: str) -> None:
    line = complaint(flag, value)
    assert line.startswith(f"{flag.removeprefix('--').replace('-', '_')} = {value!r}: ")


@pytest.mark.parametrize(
    ("flag", "value", "limit"),
    [
        ("--seed", "-1", "greater than or equal to 0"),
        ("--model.dropout", "1", "less than 1"),
        ("--env.freeze-after", "1.01", "less than or equal to 1"),
        ("--optim.learning-rate", "0", "greater than 0"),
        ("--optim.learning-rate", "inf", "finite"),
        ("--optim.learning-rate", "nan", "finite"),
        ("--trainer.iterations", "0", "greater than or equal to 1"),
        ("--agent.batch-size", "0", "greater than or equal to 1"),
    ],
)
def test_value_out_of_range_names_the_limit(flag: str, value: str, limit: str) -> None:
    line = complaint(f"{flag}={value}")
    assert line.startswith(f"{flag.removeprefix('--').replace('-', '_')} = ")
    assert limit in line


@pytest.mark.parametrize(
    ("arguments", "words_in_line"),
    [
        (("--model.num-heads", "3"), ("num_heads = 3", "width = 128")),
        (("--trainer.micro-batches", "3"), ("micro_batches = 3", "batch_size = 16")),
        (("--data.path", "a", "--data.hf", "b"), ("data.path", "data.hf")),
        (("--env.initial-pointers", "0 2 1 3 4 5"), ("env.initial_pointers", "pointers[1] = 2")),
        (("--env.initial-pointers", "0 1"), ("env.initial_pointers", "6")),
        (("--env.initial-pointers", "sequense:2"), ("env.initial_pointers", "'sequence'")),
    ],
    ids=str,
)
def test_settings_that_do_not_fit_each_other_are_named(arguments: tuple[str, ...], words_in_line: tuple[str, ...]) -> None:
    line = complaint(*arguments)
    assert all(word in line for word in words_in_line)


def test_several_mistakes_are_told_together() -> None:
    found = complaints("--sed", "3", "--model.width", "wide", "--env.freeze-after", "2", "--preset", "tinny")
    assert len(found) == 4
    for part in ("--sed", "model.width", "env.freeze_after", "'tinny'"):
        assert sum(part in line for line in found) == 1


@pytest.mark.parametrize("flag", ["--seed", "--preset", "--agent", "--model.width", "--out", "--resume", "--config"])
def test_flag_without_a_value_is_named(flag: str) -> None:
    assert flag in complaint(flag)


def test_stray_argument_is_named() -> None:
    assert "'stray'" in complaint("--seed", "3", "stray")


def test_resume_takes_no_other_flags() -> None:
    line = complaint("--resume", "runs/x", "--seed", "3", "--out=y")
    assert "--seed" in line
    assert "--out" in line


def test_resume_takes_one_run() -> None:
    assert "runs/y" in complaint("--resume", "runs/x", "runs/y")


@pytest.mark.parametrize(
    ("values", "part"),
    [
        ({"sed": 3}, "'sed'"),
        ({"model": {"widht": 3}}, "did you mean 'model.width'?"),
        ({"model": 3}, "model = 3"),
        ({"agent": 3}, "agent"),
        ({"agent": {"name": 3}}, "agent"),
        ({"preset": 3}, "preset"),
        ({"agent": {"name": "dqn", "n_steps": 8}}, "agent.n_steps"),
        ({"format": 99}, "format"),
        ([], "not a JSON object"),
    ],
    ids=str,
)
def test_mistake_in_a_config_file_is_named(config: Config, values: Any, part: str) -> None:
    assert part in complaint("--config", config(values))


@pytest.mark.parametrize("content", [None, "", "{", "\xff"])
def test_config_file_that_cannot_be_read_is_named(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "given.json"
    if content is not None:
        path.write_bytes(content.encode("latin-1"))
    assert str(path) in complaint("--config", path)


# Mistakes that show when the run is about to begin: status 2, one line, nothing created.


def refuse(train: Train, folder: Path, *arguments: str | Path) -> str:
    """Run `train`, check how it refuses, and return its line."""
    before = {path: path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}
    finished = train(*arguments)
    after = {path: path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}
    assert finished.status == 2
    assert len(finished.complaints) == 1, finished.err
    assert finished.complaints[0].startswith("error: ")
    assert before == after
    return finished.complaints[0]


TINY = ("--preset", "tiny", "--agent", "random")


@pytest.mark.parametrize("arguments", [("--sed", "3"), ("--preset", "tinny"), ("--model.width", "0"), ("stray",)], ids=str)
def test_mistake_of_the_command_line_is_status_2(train: Train, tmp_path: Path, arguments: tuple[str, ...]) -> None:
    refuse(train, tmp_path, *arguments)


def test_several_mistakes_are_a_line_each_and_status_2(train: Train, tmp_path: Path) -> None:
    finished = train("--sed", "3", "--model.width", "0")
    assert finished.status == 2
    assert len(finished.complaints) == 2
    assert all(line.startswith("error: ") for line in finished.complaints)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (None, "no such file"),
        (b"", "no text"),
        (b"short", "too short for model.context = 32"),
        (b"x" * 300, "reward has 30"),
        (b"good\xff", "byte 4 (0xff)"),
    ],
    ids=["missing", "empty", "short", "splits too short", "not UTF-8"],
)
def test_bad_corpus_is_refused(train: Train, tmp_path: Path, content: bytes | None, part: str) -> None:
    path = tmp_path / "corpus.txt"
    if content is not None:
        path.write_bytes(content)
    line = refuse(train, tmp_path, *TINY, "--data.path", path)
    assert str(path) in line
    assert part in line


def test_unreachable_data_set_is_refused(train: Train, tmp_path: Path) -> None:
    assert "nobody/nothing" in refuse(train, tmp_path, *TINY, "--data.hf", "nobody/nothing")


def test_missing_preset_corpus_is_refused(train: Train, tmp_path: Path) -> None:
    assert "input.txt" in refuse(train, tmp_path, "--preset", "shakespeare-char")


def test_used_out_folder_is_refused(train: Train, tmp_path: Path) -> None:
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "thesis.tex").write_text("dear")
    line = refuse(train, tmp_path, *TINY, "--out", "used")
    assert "not empty" in line


@pytest.mark.skipif("__import__('torch').cuda.is_available()", reason="this machine has the device")
def test_device_that_is_not_there_is_refused(train: Train, tmp_path: Path, text_file: Path) -> None:
    line = refuse(train, tmp_path, *TINY, "--data.path", text_file, "--trainer.device", "cuda")
    assert "trainer.device = 'cuda'" in line
    assert "cpu" in line


@pytest.mark.parametrize(
    ("agent", "arguments"),
    [("dqn", ("--env.action-mode", "joint")), ("sequence:2", ("--env.action-mode", "cursor"))],
)
def test_agent_that_does_not_fit_the_actions_names_those_that_do(
    train: Train, tmp_path: Path, agent: str, arguments: tuple[str, ...]
) -> None:
    line = refuse(train, tmp_path, "--preset", "tiny", "--agent", agent, *arguments)
    fitting = line.partition("agents that fit: ")[2]
    assert "ppo" in fitting
    assert "random" in fitting
    assert agent not in fitting


def test_pattern_of_another_length_is_refused(train: Train, tmp_path: Path) -> None:
    assert "4" in refuse(train, tmp_path, "--preset", "tiny", "--agent", "0 1 1")


BASE = "from agents.base import Agent\n"


@pytest.mark.parametrize(
    ("source", "part"),
    [
        ("raise RuntimeError('broken\\nvery')", "RuntimeError: broken"),
        ("import nothing_of_that_name", "nothing_of_that_name"),
        ("def broken(:", "SyntaxError"),
        ("x = 1", "Mine"),
        ("class Mine: pass", "lacks predict, learn"),
        (BASE + "class Mine(Agent): pass", "lacks predict"),
        ("def Mine(env): pass", "lacks predict"),
    ],
)
def test_strangers_agent_that_is_none_is_refused(
    train: Train, tmp_path: Path, write_module: Callable[[str, str], str], source: str, part: str
) -> None:
    write_module("stranger", source)
    line = refuse(train, tmp_path, "--preset", "tiny", "--agent", "stranger:Mine")
    assert "stranger:Mine" in line
    assert part in line


def test_strangers_missing_module_is_refused(train: Train, tmp_path: Path) -> None:
    assert "no_such_module" in refuse(train, tmp_path, "--preset", "tiny", "--agent", "no_such_module:Mine")


GOOD = BASE + (
    "from tying.config import config, setting\n"
    "@config\n"
    "class MineConfig:\n"
    "    target: int = setting('the layer that all join', default=0, ge=0)\n"
    "class Mine(Agent):\n"
    "    Config = MineConfig\n"
    "    def predict(self, observation, action_masks=None, deterministic=False):\n"
    "        return self.config.target\n"
)


def test_strangers_hyperparameters_are_flags(train: Train, write_module: Callable[[str, str], str]) -> None:
    write_module("stranger", GOOD)
    found = settings("--agent", "stranger:Mine", "--agent.target", "2")
    assert found.hyperparameters == {"target": 2}
    assert "agent.target" in complaint("--agent", "stranger:Mine", "--agent.target", "-2")
    assert "'--agent.target'" in complaint("--agent", "stranger:Mine", "--agent.targte", "2")


def test_strangers_agent_trains(
    train: Train, tmp_path: Path, text_file: Path, write_module: Callable[[str, str], str]
) -> None:
    write_module("stranger", GOOD)
    flags = ("--preset", "tiny", "--trainer.iterations", "16", "--data.path", text_file, "--out", "run")
    assert train(*flags, "--agent", "stranger:Mine").status == 0
    assert json.loads((tmp_path / "run" / "final" / "pointers.json").read_text()) == [0, 0, 0, 0]


# Resuming.


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was interrupted after its fourth decision of six; its checkpoint is after the third."""
    from experiments import cli
    from experiments.recorder import Recorder
    from experiments.train import main

    folder = tmp_path_factory.mktemp("stopped")
    (folder / "corpus.txt").write_text(words(4_000), encoding="utf-8")
    on_decision = Recorder.on_decision

    def interrupt(self: Recorder, decision: Any, *arguments: Any) -> None:
        on_decision(self, decision, *arguments)
        if decision.index == 3:
            raise KeyboardInterrupt

    flags = ["--data.path", str(folder / "corpus.txt"), "--out", str(folder / "run")]
    with pytest.MonkeyPatch.context() as patch, single_thread():
        patch.setattr(Recorder, "on_decision", interrupt)
        shape = ["--trainer.iterations", "12", "--env.decision-interval", "2", "--checkpoint-interval", "3"]
        assert cli.status(main, [*TINY, *shape, *flags]) == 130
    return folder / "run"


@pytest.fixture
def run(stopped: Path, tmp_path: Path) -> Path:
    """A copy of the interrupted run."""
    return Path(shutil.copytree(stopped, tmp_path / "run", symlinks=True))


def test_interrupted_run_can_be_resumed(train: Train, run: Path) -> None:
    """The cases below must fail for their own reasons."""
    assert train("--resume", run).status == 0
    assert (run / "final" / "summary.json").is_file()


@pytest.mark.parametrize("content", [None, "file"])
def test_resume_of_no_run_is_refused(train: Train, tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "nothing"
    if content is None:
        path.mkdir()
    line = refuse(train, tmp_path, "--resume", path)
    assert "not a run directory" in line


def change(path: Path, **values: Any) -> None:
    """Change a JSON file's values; None takes a key out."""
    changed = {**json.loads(path.read_text()), **values}
    path.write_text(json.dumps({key: value for key, value in changed.items() if value is not None}))


@pytest.mark.parametrize(
    ("values", "part"),
    [
        ({"format": 99}, "written by format 99"),
        ({"format": None}, "written by format None"),
        ({"sed": 3}, "did you mean 'seed'?"),
        ({"seed": None}, "'seed' is missing"),
        ({"model": {"widht": 3}}, "did you mean 'model.width'?"),
        ({"agent": {"name": "dqm"}}, "did you mean 'dqn'?"),
        ({"agent": {"name": "random", "gamma": 0.5}}, "agent.gamma"),
        ({"agent": "random"}, "agent = 'random'"),
        ({"agent": {"gamma": 0.5}}, "with a name"),
        ({"agent": None}, "'agent' is missing"),
        ({"seed": -1}, "seed = -1"),
    ],
    ids=str,
)
def test_config_of_another_version_is_refused(
    train: Train, tmp_path: Path, run: Path, values: dict[str, Any], part: str
) -> None:
    change(run / "config.json", **values)
    line = refuse(train, tmp_path, "--resume", run)
    assert str(run / "config.json") in line
    assert part in line


def damaged(run: Path, train: Train) -> str:
    """Resume a damaged run, check that its evidence is left alone, and return the line."""
    record = (run / "decisions.jsonl").read_bytes()
    finished = train("--resume", run)
    assert finished.status == 2
    assert len(finished.complaints) == 1, finished.err
    assert (run / "checkpoints" / "000003").is_dir()
    assert record.startswith((run / "decisions.jsonl").read_bytes())
    assert not (run / "final").exists()
    return finished.complaints[0]


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "state.json"])
def test_damaged_checkpoint_is_refused(train: Train, run: Path, name: str) -> None:
    path = run / "checkpoints" / "000003" / name
    path.write_bytes(path.read_bytes()[:-20])
    assert str(path) in damaged(run, train)


@pytest.mark.parametrize("line", [0, 1, 2])
def test_damaged_record_is_refused(train: Train, tmp_path: Path, run: Path, line: int) -> None:
    path = run / "decisions.jsonl"
    record = path.read_bytes().split(b"\n")
    record[line] = record[line][:50]
    path.write_bytes(b"\n".join(record))
    assert refuse(train, tmp_path, "--resume", run).endswith(f"{path}: line {line + 1} is damaged")


@pytest.mark.parametrize("kept", [0, 2])
def test_record_shorter_than_the_checkpoint_is_refused(train: Train, tmp_path: Path, run: Path, kept: int) -> None:
    path = run / "decisions.jsonl"
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:kept]))
    assert f"{kept} decisions, but the newest checkpoint is after 3" in refuse(train, tmp_path, "--resume", run)


def test_corpus_that_has_changed_is_refused(train: Train, tmp_path: Path, run: Path) -> None:
    (tmp_path / "other.txt").write_text(words(4_000, seed=1), encoding="utf-8")
    config = json.loads((run / "config.json").read_text())
    change(run / "config.json", data={**config["data"], "path": str(tmp_path / "other.txt")})
    assert "no longer the text" in damaged(run, train)


# `sample`


def test_sample_of_no_run_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from experiments import cli, sample

    for arguments in ([str(tmp_path)], [], [str(tmp_path), "--tempreature", "1"], [str(tmp_path), "--num-tokens", "0"]):
        assert cli.status(sample.main, arguments) == 2
        assert len(capsys.readouterr().err.splitlines()) == 1


def test_sample_of_a_run_without_a_model_is_refused(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from experiments import cli, sample

    shutil.rmtree(run / "checkpoints")
    assert cli.status(sample.main, [str(run)]) == 2
    assert "no model yet" in capsys.readouterr().err
