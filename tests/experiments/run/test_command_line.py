"""The command line of `train`: names and values of flags, help, and every mistake as one clear line."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from experiments.run.command_line import parse
from tests.conftest import ROOT, Finished
from tests.experiments.runs import config_of, contents, mistake, mistakes
from tying.errors import nearest

Train = Callable[..., Finished]


# Names and values of flags.


@pytest.mark.parametrize(
    ("short", "full"),
    [
        ("--agent ppo", "--agent.name ppo"),
        ("--model gpt --reward=level --task causal_lm", "--model.name gpt --reward.name level --task.name=causal_lm"),
        ("--lr 1e-3", "--optim.learning-rate 1e-3"),
        ("--learning_rate 1e-3 --weight-decay 0", "--optim.learning-rate 1e-3 --optim.weight-decay 0"),
        ("--steps 7", "--trainer.iterations 7"),
        ("--iterations=7", "--trainer.iterations 7"),
        ("--max-iters 7", "--trainer.iterations 7"),
        ("--max_steps 7", "--trainer.iterations 7"),
        ("--batch-size 4 --device cpu", "--trainer.batch-size 4 --trainer.device cpu"),
        ("--n-layer 2 --n_head 2 --n-embd 8", "--model.num-layers 2 --model.num-heads 2 --model.width 8"),
        ("--block-size 16 --dropout 0.1", "--model.context 16 --model.dropout 0.1"),
        ("--param-weight 0.3", "--reward.param-weight 0.3"),
        ("--seed 3 --log-interval 4", "--run.seed 3 --run.log_interval 4"),
        ("--env.freeze_after 0.5 --model.num_layers=3", "--env.freeze-after 0.5 --model.num-layers=3"),
        ("--lr 1 --lr 1e-3", "--lr 1e-3"),  # the last one holds
    ],
)
def test_flags_have_other_names(short: str, full: str) -> None:
    found = config_of(*short.split())
    assert found == config_of(*full.split())
    assert found != config_of()


@pytest.mark.parametrize("value", ["model", "agent", "reward", "lr", "no-bias", "steps=3"])
@pytest.mark.parametrize("equals", [False, True])
def test_values_are_never_taken_for_flags(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str, equals: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(value).write_text("a text")
    words = (
        [f"--out=runs/../new-{value}", f"--data.path={value}"]
        if equals
        else ["--out", f"new-{value}", "--data.path", value]
    )
    command = parse(["--agent", "random", *words])
    assert command.config is not None
    assert command.config.data.path == value
    assert command.out == Path(f"runs/../new-{value}" if equals else f"new-{value}")
    Path(value).unlink()
    assert parse(["--out", value]).out == Path(value)


@pytest.mark.parametrize(
    ("flags", "value"),
    [
        ("--model.bias", True),
        ("--model.bias true", True),
        ("--model.bias=True", True),
        ("--no-model.bias=false", True),
        ("--model.bias false", False),
        ("--model.bias=FALSE", False),
        ("--no-model.bias", False),
        ("--model.no-bias", False),
        ("--model.no_bias --seed 3", False),
    ],
)
def test_switches_have_four_forms(flags: str, value: bool) -> None:
    default = config_of("--preset", "mini" if value else "tiny").to_json()["resolved"]  # without biases, and with them
    assert default["model"]["bias"] is not value
    assert config_of("--preset", default["preset"], *flags.split()).resolved()["model"]["bias"] is value


def test_a_switch_takes_no_other_word_for_its_value() -> None:
    assert mistake("--trainer.compile", "stray").startswith("unexpected argument 'stray'")
    assert mistake("--no-model.no-bias").startswith("unknown flag --no-model.no-bias")


@pytest.mark.parametrize("flags", ["--optim.learning-rate -1e-3", "--lr=-1e-3", "--lr -1e-3"])
def test_negative_numbers_are_values(flags: str) -> None:
    assert mistake(*flags.split()) == "optim.learning_rate = '-1e-3': input should be greater than 0"


@pytest.mark.parametrize("word", ["None", "none", "null"])
def test_none_is_a_value_where_a_setting_may_have_none(word: str) -> None:
    above = ["--reward.param-target", "0.5", "--data.path", "no/such/file"]
    found = config_of(*above, "--reward.param-target", word, f"--data.path={word}")
    assert (found.reward.param_target, found.data.path) == (None, None)
    assert parse(["--out", word]).out is None
    assert mistake("--seed", word).startswith("run.seed = ")


def test_pointers_are_one_value() -> None:
    found = config_of("--preset", "tiny", "--agent", "0 1 1 3", "--env.initial-pointers", "0 0 2 2")
    assert (found.agent.name, found.env.initial_pointers) == ("0 1 1 3", "0 0 2 2")


# Help.

HEAVY = {"torch", "stable_baselines3", "sb3_contrib", "sklearn", "transformers", "tensorboard", "datasets", "pandas"}


def test_help_has_every_setting_with_its_range_and_examples_that_are_right(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parse(["--agent", "ppo", "--preset", "tiny", "--help"])
    text = capsys.readouterr().out
    assert caught.value.code == 0
    assert all(flag in text for flag in ("--seed", "--agent.n-steps", "--model.num-layers", "--reward.param-weight"))
    assert "--agent.target-update-interval" not in text  # of dqn
    assert re.search(r"--model.width \[INT\][^(]*\(default 32\)", text)  # as it is with this preset
    assert ">= 1" in text
    examples = re.findall(r"^  python -m experiments\.train (.*)$", text.partition("examples:")[2], re.MULTILINE)
    assert len(examples) >= 5
    for example in examples:
        words = example.split()
        if not {"--data.path", "--config", "--resume", "my_package.my_module:MyAgent"} & set(words):
            assert config_of(*words)
        else:  # these name what a person has
            line = mistake(*words)
            assert any(part in line for part in ("no such file", "cannot be imported", "not a run directory")), line


@pytest.mark.parametrize(
    "words",
    [
        "train --help",
        "train --agent surrogate --help",
        "train --sed 3",
        "train --agent double_dqn --agent.gama 3",
        "train --agent paper --device tpu",
        "train --agent surrogate --lr fast",
        "train --agent ppo --preset tinny",
        "train --data.path no/such/file",
        "train --resume no/such/run",
        "train --config no/such/file.json",
        "compare --help",
        "compare --agents dqn,paper,local_search --sed 3",
        "retrain no/such/run",
        "sample --help",
        "sample no/such/run --device tpu",
    ],
)
def test_help_and_mistakes_need_no_heavy_library(tmp_path: Path, words: str) -> None:
    """That makes them quick on any machine."""
    script, *flags = words.split()
    code = (
        "import importlib, sys\n"
        "from experiments.run import cli\n"
        f"status = cli.status(importlib.import_module('experiments.{script}').main, {flags})\n"
        f"print(status, sorted({HEAVY} & set(sys.modules)))\n"
    )
    command, env = [sys.executable, "-c", code], {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
    told = len(done.stderr.splitlines())
    assert (done.stdout.splitlines()[-1], told) == (("0 []", 0) if "--help" in flags else ("2 []", 1)), done
    assert not list(tmp_path.iterdir())


# Mistakes of the command line itself.


@pytest.mark.parametrize(
    ("flag", "near"),
    [
        ("--sed", "--seed"),
        ("--see", "--seed"),
        ("--model.widht", "--model.width"),
        ("--modle.width", "--model.width"),
        ("--agent.n-step", "--agent.n-steps"),
        ("--preste", "--preset"),
        ("--learning-rat", "--optim.learning-rate"),
        ("--num-layers", "--model.num-layers"),
    ],
)
def test_an_unknown_flag_offers_the_nearest(flag: str, near: str) -> None:
    assert mistake("--agent", "ppo", flag, "1") == f"unknown flag {flag}: did you mean {near}?"


@pytest.mark.parametrize("flag", ["--mistyped", "--zzz", "--chosen", "--foo.bar"])
def test_an_unknown_flag_that_is_like_none_offers_none(flag: str) -> None:
    assert mistake(flag, "1") == f"unknown flag {flag}: see --help"


@pytest.mark.parametrize(
    ("flags", "part"),
    [
        ("--seeds 0 1 2", "experiments.compare has --seeds"),
        ("--agents dqn,ppo", "experiments.compare has --agents"),
        ("--total_timesteps 100", "--trainer.iterations"),
    ],
)
def test_flags_of_habit_are_answered(flags: str, part: str) -> None:
    assert part in mistake(*flags.split())


@pytest.mark.parametrize(
    ("given", "allowed", "found"),
    [
        ("tinny", ["small", "tiny"], "tiny"),
        ("learning_rat", ["optim.learning_rate", "optim.beta1"], "optim.learning_rate"),
        ("optim.learning_rat", ["agent.learning_rate", "optim.learning_rate"], "optim.learning_rate"),
        ("xylophone", ["small", "tiny"], None),
        ("x", [], None),
    ],
)
def test_hints_are_given_above_a_likeness_alone(given: str, allowed: list[str], found: str | None) -> None:
    assert nearest(given, allowed) == found


def test_a_hyperparameter_of_another_agent_is_unknown() -> None:
    assert "unknown flag --agent.n-steps" in mistake("--agent", "dqn", "--agent.n-steps", "8")


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        ("--preset tinny", "unknown preset 'tinny': did you mean 'tiny'?"),
        ("--agent dqm --agent.gamma 7", "unknown agent 'dqm': did you mean 'dqn'?"),
        ("--reward forkk", "did you mean 'fork'?"),
        ("--model zzz", "unknown model 'zzz': allowed are gpt, llama, bert, vit"),
    ],
)
def test_an_unknown_name_offers_the_nearest(flags: str, line: str) -> None:
    assert line in mistake(*flags.split())


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        ("--task masked_lm --model gpt", "model.name = 'gpt': task 'masked_lm' trains bert"),
        (
            "--model bert",
            "model.name = 'bert': only task 'masked_lm' or 'sequence_classification' trains it; add --task masked_lm",
        ),
        ("--task image_classification --model bert", "model.name = 'bert': only task 'masked_lm' or"),
        ("--task sequence_classification --model vit", "model.name = 'vit': only task 'image_classification' trains it"),
        (
            "--task masked_lm --data.corpus digits",
            "data.corpus = 'digits': no running text; leave it out, or choose another task",
        ),
        (
            "--task image_classification --data.max-chars 5",
            "data.max_chars = 5: is of texts; task image_classification reads",
        ),
        (
            "--task image_classification --data.corpus python-docs",
            "data.corpus = 'python-docs': task image_classification reads",
        ),
        ("--task sequence_classification --data.corpus digits", "texts with labels are read from one .tsv or .jsonl file"),
        ("--task hf --task.whole-words", "task.whole_words = True: only with task.head = 'masked_lm'"),
        ("--model llama --model.num-kv-heads 3", "model.num_kv_heads = 3: must divide model.num_heads = 4"),
        ("--model.num-heads 128 --model.positions rotary", "model.num_heads = 128: rotary positions need an even number"),
    ],
)
def test_settings_that_exclude_each_other_are_refused_in_one_line(flags: str, line: str) -> None:
    assert line in mistake(*flags.split())


def test_a_task_comes_with_its_model_and_data_below_a_persons_own() -> None:
    for task, model, corpus in (
        ("masked_lm", "bert", "python-stdlib"),
        ("sequence_classification", "bert", "python-functions"),
        ("image_classification", "vit", "digits"),
    ):
        flags = ("--preset", "tiny", "--task", task)
        made = config_of(*flags)
        assert (made.model.name, made.data.corpus, made.optim.learning_rate) == (model, corpus, 1e-3)
        assert made.chosen == {"preset": "tiny", "task.name": task}
        assert config_of(*flags, "--lr", "0.1").optim.learning_rate == 0.1
        sizes = {"num_layers": 4, "num_heads": 2, "width": 32}  # of the preset, below a person's own
        assert vars(made.model).items() >= sizes.items() and getattr(made.model, "context", 32) == 32
        own = config_of(*flags, "--model", model, "--model.width", "8").model
        assert vars(own).items() >= {**sizes, "width": 8}.items()
    assert config_of("--preset", "tiny").data.max_chars == 200_000
    assert config_of("--preset", "tiny", "--task", "image_classification").data.max_chars is None


@pytest.mark.parametrize(
    ("flag", "value", "part"),
    [
        ("--model.width", "1.5", "valid integer"),
        ("--optim.learning-rate", "fast", "valid number"),
        ("--env.action-mode", "pear", "did you mean 'pair'?"),
        ("--env.action-mode", "xyz", "allowed are cursor, pair, joint"),
        ("--model.dropout", "1", "less than 1"),
        ("--env.freeze-after", "1.01", "less than or equal to 1"),
        ("--optim.learning-rate", "0", "greater than 0"),
        ("--optim.learning-rate", "inf", "finite"),
        ("--optim.learning-rate", "nan", "finite"),
        ("--trainer.iterations", "0", "greater than or equal to 1"),
        ("--agent.batch-size", "0", "greater than or equal to 1"),
        ("--run.seed", "one", "valid integer"),
        ("--run.seed", "-1", "greater than or equal to 0"),
        ("--trainer.device", "tpu", "'auto', 'cpu', 'cuda' or 'mps'"),
        ("--reward.param-weight", "1e308", "less than or equal to 1000000"),
        ("--agent.learning-rate", "1e300", "less than or equal to 1"),
        ("--env.initial-pointers", "0 " + "1" * 5_000, "pointers '0 111"),
        ("--model.num-heads", "3", "width = 128"),
        ("--trainer.micro-batches", "3", "batch_size = 16"),
        ("--data.path", "no/such/file", "no such file, folder or glob"),
    ],
)
def test_a_wrong_value_names_setting_value_and_limit(flag: str, value: str, part: str) -> None:
    line = mistake(f"{flag}={value}")
    assert flag[2:].rpartition(".")[2].replace("-", "_") in line
    assert value in line
    assert part in line


@pytest.mark.parametrize(
    ("pattern", "part"),
    [("0 2 1 3 4 5", "pointers[1] = 2"), ("0 1", "6"), ("sequense:2", "did you mean 'sequence'?")],
)
def test_a_wrong_pattern_is_named(pattern: str, part: str) -> None:
    line = mistake("--env.initial-pointers", pattern)
    assert line.startswith("env.initial_pointers")
    assert part in line


def test_settings_that_exclude_each_other_are_named(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    line = mistake("--data.path", tmp_path / "a", "--data.hf", "b")
    assert "data.path" in line and "data.hf" in line


@pytest.mark.skipif("__import__('torch').cuda.is_available()", reason="this machine has the device")
def test_a_device_that_is_not_there_is_refused() -> None:
    assert mistake("--device", "cuda").startswith("trainer.device = 'cuda': this machine does not have it")


def test_every_mistake_is_told_at_once_and_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "thesis.tex").touch()
    words = (
        "--sed 3 --model.width wide --env.freeze-after 2 --preset tinny --agent dqm --device tpu --data.path nowhere "
        "--out used --seeds 0 1"
    )
    found = mistakes("stray", *words.split())
    parts = "--sed:|model.width|env.freeze_after|'tinny'|'dqm'|'tpu'|'nowhere'|--out used|--seeds|'stray'".split("|")
    assert len(found) == len(parts), found
    for part in parts:
        assert sum(part in line for line in found) == 1, part


@pytest.mark.parametrize(
    "flag", ["--seed", "--preset", "--agent", "--model.width", "--out", "--resume", "--config", "--lr"]
)
@pytest.mark.parametrize("behind", [[], ["--dropout", "0.1"]])
def test_a_flag_without_a_value_is_named(flag: str, behind: list[str]) -> None:
    line = mistake(flag, *behind) if flag != "--resume" or not behind else mistake(flag)
    assert line.endswith(": a value is missing")
    assert {"--seed": "--seed", "--lr": "learning-rate", "--agent": "--agent"}.get(flag, flag) in line


def test_resume_takes_one_run_and_no_other_flags() -> None:
    line = mistake("--resume", "runs/x", "--seed", "3", "--out=y")
    assert "--seed" in line and "--out" in line
    assert "runs/y" in mistake("--resume", "runs/x", "runs/y")


# Mistakes are status 2, a line each, and nothing is written.


def refuse(train: Train, folder: Path, *words: str | Path) -> str:
    """Call `train`, check how it refuses, and return its line."""
    before = contents(folder)
    finished = train(*words)
    (line,) = finished.err.splitlines()
    assert finished.status == 2
    assert line.startswith("error: ")
    assert contents(folder) == before
    return line


TINY = ("--preset", "tiny", "--agent", "random")


def test_mistakes_are_a_line_each_and_status_2(train: Train, tmp_path: Path) -> None:
    finished = train("--sed", "3", "--model.width", "0")
    assert finished.status == 2
    assert [line.partition(": ")[0] for line in finished.err.splitlines()] == ["error", "error"]
    assert finished.out == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (b"", "no text"),
        (b"short", "too short for model.context = 32"),
        (b"x" * 300, "reward has 30"),
        (b"good\xff", "byte 4 (0xff)"),
    ],
    ids=["empty", "short", "splits too short", "not UTF-8"],
)
def test_a_bad_corpus_is_refused(train: Train, tmp_path: Path, content: bytes, part: str) -> None:
    path = tmp_path / "corpus.txt"
    path.write_bytes(content)
    line = refuse(train, tmp_path, *TINY, "--data.path", path)
    assert str(path) in line
    assert part in line


@pytest.mark.parametrize(
    ("words", "part"),
    [
        ((*TINY, "--data.hf", "nobody/nothing"), "nobody/nothing"),
        (("--preset", "shakespeare-char"), "input.txt"),
        (("--preset", "tiny", "--agent", "0 1 1"), "4"),
        (("--preset", "tiny", "--agent", "sequence:9"), "sequence:9 needs 1 to 4"),
        (("--preset", "tiny", "--agent", "no_such_module:Mine"), "No module named 'no_such_module'"),
    ],
    ids=str,
)
def test_settings_that_only_show_later_are_refused_before_anything_is_written(
    train: Train, tmp_path: Path, words: tuple[str, ...], part: str
) -> None:
    assert part in refuse(train, tmp_path, *words)


@pytest.mark.parametrize("content", ["file in it", "file"])
def test_a_used_folder_is_refused(train: Train, tmp_path: Path, content: str) -> None:
    if content == "file":
        (tmp_path / "used").touch()
        assert "no folder that can be written to" in refuse(train, tmp_path, *TINY, "--out", "used/run")
    else:
        (tmp_path / "used").mkdir()
        (tmp_path / "used" / "thesis.tex").touch()
    assert "not empty" in refuse(train, tmp_path, *TINY, "--out", "used")


@pytest.mark.parametrize(
    ("agent", "words"), [("dqn", ("--env.action-mode", "joint")), ("sequence:2", ("--env.action-mode", "cursor"))]
)
def test_an_agent_that_does_not_fit_the_actions_names_those_that_do(
    train: Train, tmp_path: Path, agent: str, words: tuple[str, ...]
) -> None:
    line = refuse(train, tmp_path, "--preset", "tiny", "--agent", agent, *words)
    fitting = line.partition("agents that fit: ")[2]
    assert "ppo" in fitting and "random" in fitting
    assert agent not in fitting


# Another person's agent.

BASE = "from agents.base import Agent\n"
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


@pytest.mark.parametrize(
    ("source", "part"),
    [
        ("raise RuntimeError('broken\\nvery')", "RuntimeError: broken"),
        ("import nothing_of_that_name", "nothing_of_that_name"),
        ("def broken(:", "SyntaxError"),
        ("x = 1", "Mine"),
        ("class Mine: pass", "lacks predict, learn"),
        (BASE + "class Mine(Agent): pass", "lacks predict"),
    ],
)
def test_an_agent_that_is_none_is_refused(
    train: Train, tmp_path: Path, write_module: Callable[[str, str], str], source: str, part: str
) -> None:
    write_module("stranger", source)
    line = refuse(train, tmp_path, "--preset", "tiny", "--agent", "stranger:Mine", "--agent.target", "2")
    assert "stranger:Mine" in line
    assert part in line


def test_hyperparameters_of_another_persons_agent_are_flags(
    train: Train, text_file: Path, tmp_path: Path, write_module: Callable[[str, str], str]
) -> None:
    write_module("helpful", GOOD)
    assert config_of("--agent", "helpful:Mine", "--agent.target", "2").hyperparameters == {"target": 2}
    assert "agent.target" in mistake("--agent", "helpful:Mine", "--agent.target", "-2")
    assert mistake("--agent", "helpful:Mine", "--agent.targte", "2").endswith("did you mean --agent.target?")
    flags = ("--preset", "tiny", "--steps", "16", "--data.path", text_file, "--out", "run")
    assert train(*flags, "--agent", "helpful:Mine").status == 0
    assert (tmp_path / "run" / "final" / "pointers.json").read_text() == "[0, 0, 0, 0]\n"
