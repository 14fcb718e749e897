"""The console command, scripts run as files, and commands that are printed to be copied."""

import json
import os
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from experiments import __main__ as console
from experiments.run import cli
from tests.conftest import ROOT, Finished, Scripts
from tests.experiments.runs import SMALL, interrupted_after

pytestmark = pytest.mark.e2e

Call = Callable[..., Finished]


def start(*command: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, *map(str, command)], cwd=cwd, env=env, capture_output=True, text=True)


@pytest.mark.parametrize(
    "command", [["-m", "experiments.train"], [ROOT / "experiments" / "train.py"], ["-m", "experiments", "train"]]
)
def test_train_is_one_program_however_it_is_called(tmp_path: Path, command: list[str | Path]) -> None:
    wrong = start(*command, "--sed", "3", cwd=tmp_path)
    assert (wrong.returncode, wrong.stderr) == (2, "error: unknown flag --sed: did you mean --seed?\n")
    shown = start(*command, "--help", cwd=tmp_path)
    assert shown.returncode == 0
    assert shown.stdout.startswith("usage: python -m experiments.train [--flags]")
    assert list(tmp_path.iterdir()) == []


def test_a_script_run_as_a_file_trains(tmp_path: Path, text_file: Path) -> None:
    done = start(
        ROOT / "experiments" / "train.py",
        *SMALL,
        "--agent",
        "random",
        "--data.path",
        text_file,
        "--out",
        "run",
        cwd=tmp_path,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "run" / "final" / "summary.json").is_file()


def test_the_console_command_has_every_script(capsys: pytest.CaptureFixture[str]) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["scripts"] == {"layer-tying": "experiments.__main__:main"}
    main = lambda words: cli.dispatch("layer-tying", console.__doc__ or "", console.COMMANDS, words)  # noqa: E731
    assert cli.status(main, ["--help"]) == 0
    shown = capsys.readouterr().out
    for name in ("train", "sample", "compare", "retrain", "signal-study", "tyingbench", "bench"):
        assert name in shown
    assert cli.status(main, ["trian"]) == 2
    assert "did you mean 'train'?" in capsys.readouterr().err
    assert cli.status(main, []) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert cli.status(main, ["sample", "nowhere"]) == 2
    assert capsys.readouterr().err.startswith("error: nowhere: not a run directory")


# Printed commands.

FOLDER = "run [b]x"


def printed(text: str, word: str) -> list[str]:
    """Return the words of the command that was printed behind a word, as a shell reads them."""
    (line,) = [line for line in text.splitlines() if line.startswith(word)]
    return shlex.split(line.removeprefix(word).partition("   (")[0])


def test_printed_commands_are_quoted_and_work(call: Call, text_file: Path) -> None:
    arguments = [*SMALL, "--agent", "random", "--data.path", text_file, "--out", FOLDER]
    with interrupted_after(3):
        stopped = call("train", *arguments)
    assert stopped.status == 130
    _, _, script, *words = printed(stopped.err, "to resume: ")
    assert (script, words) == ("experiments.train", ["--resume", FOLDER])
    finished = call("train", *words)
    assert finished.status == 0
    assert f"run {FOLDER}\n" in finished.out
    _, _, script, *words = printed(finished.out, "sample ")
    assert call(script.removeprefix("experiments."), *words).status == 0
    assert printed(finished.out, "resume ")[-1] == FOLDER
    assert f"{FOLDER} is finished:\n" in call("train", *printed(finished.out, "resume ")[3:]).out
    command = shlex.split(Path(FOLDER, "command.txt").read_text())
    assert command[-2:] == ["--out", FOLDER]


def test_a_comparison_prints_names_as_they_are(call: Call, text_file: Path) -> None:
    agents, folder = ["independent", "random --data.path '[b]x.txt'"], "c [i]y"
    Path("[b]x.txt").write_text(text_file.read_text())
    words = ["--seeds", "1", *SMALL, "--data.path", text_file, "--jobs", "1", "--out", folder]
    finished = call("compare", "--agents", *agents, *words)
    assert finished.status == 0
    assert f"2 runs in {folder};" in finished.out
    assert f"{agents[1]}, seed 0: test loss" in finished.out
    assert "[b]x.txt" in finished.out.partition("agent  ")[2]  # in the table
    assert printed(finished.out, "report ") == [f"{folder}/report.html"]
    assert printed(finished.out, "look ")[-1] == f"{folder}/runs"
    command = json.loads(Path(folder, "comparison.json").read_text())["command"]
    assert shlex.split(command)[3 : 3 + 1 + len(agents)] == ["--agents", *agents]


def test_a_progress_display_shows_a_folder_with_brackets(scripts: Scripts, tmp_path: Path, text_file: Path) -> None:
    finished = scripts.run("train", *SMALL, "--data.path", text_file, "--agent", "random", "--out", FOLDER, cwd=tmp_path)
    assert (finished.status, finished.err) == (0, "")
    assert f"run {FOLDER}\n" in finished.out
    assert f"python -m experiments.sample '{FOLDER}'\n" in finished.out
