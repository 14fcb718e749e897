"""Files of other people run nothing: names in them are imported only with --trust, and nothing is unpickled."""

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import agents
from envs import EnvConfig  # noqa: F401 (registers the environments)
from experiments.run.load import load_run
from tests.conftest import Finished
from tests.experiments.runs import SMALL, call_in, change, interrupted_after
from tying.errors import InputError
from tying.files import digest, write_checksums
from tying.registry import foreign_names

pytestmark = pytest.mark.e2e

Call = Callable[..., Finished]
EVIL = "from pathlib import Path\nPath({mark!r}).touch()\nfrom agents import Agent as A\n"
TIED = "import tying\ndef f(num_layers):\n    return [0] * num_layers\n"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of double DQN, and one that was interrupted."""
    folder = tmp_path_factory.mktemp("runs")
    assert call_in(folder, "train", *SMALL, "--agent", "double_dqn", "--out", "whole") == 0
    with interrupted_after(5):
        assert call_in(folder, "train", *SMALL, "--agent", "double_dqn", "--out", "stopped") == 130
    return folder


def evil_run(runs: Path, name: str, tmp_path: Path, section: str, values: dict[str, Any]) -> Path:
    """Return a stranger's run whose settings, digest and all, name code that leaves a mark."""
    run = Path(shutil.copytree(runs / name, tmp_path / "shared", symlinks=True))
    (tmp_path / "evil.py").write_text(EVIL.format(mark=str(tmp_path / "mark")))
    change(run / "config.json", ["resolved", section], **values)
    change(run / "versions.json", [], config_sha256=digest(json.loads((run / "config.json").read_text())))
    return run


NAMED = [
    ("agent", {"name": "evil:A"}),
    ("reward", {"name": "evil:A"}),
    ("env", {"action_mode": "evil:A"}),
    ("env", {"initial_pointers": "evil:A:3"}),
    ("model", {"name": "evil:A"}),
    ("task", {"name": "evil:A"}),
]


@pytest.mark.parametrize(("section", "values"), NAMED, ids=str)
def test_names_in_a_strangers_run_are_not_imported(
    call: Call, runs: Path, tmp_path: Path, section: str, values: dict[str, Any]
) -> None:
    whole = evil_run(runs, "whole", tmp_path, section, values)
    shutil.rmtree(whole / "final")
    calls = [("train", "--resume", whole), ("train", "--config", settings(tmp_path, section, values), "--out", "o")]
    calls += [("compare", "--agents", "random", "--config", settings(tmp_path, section, values), "--out", "c")]
    shutil.copytree(runs / "whole" / "final", whole / "final")
    if section != "agent":
        calls += [("sample", whole), ("retrain", whole)]
    for words in calls:
        if words[:2] == ("train", "--resume"):
            shutil.move(whole / "final", tmp_path / "kept")
        ended = call(*words)
        if words[:2] == ("train", "--resume"):
            shutil.move(tmp_path / "kept", whole / "final")
        assert ended.status == 2, words
        assert "would import evil:A, which runs code" in ended.err and "--trust" in ended.err
    assert not (tmp_path / "mark").exists()


def settings(tmp_path: Path, section: str, values: dict[str, Any]) -> Path:
    path = tmp_path / "settings.json"
    path.write_text(json.dumps({f"{section}.{name}": value for name, value in values.items()}))
    return path


def test_sample_needs_no_agent_and_so_no_trust(call: Call, runs: Path, tmp_path: Path) -> None:
    run = evil_run(runs, "whole", tmp_path, "agent", {"name": "evil:A"})
    assert call("sample", run, "--prompt", "a", "--num-tokens", "2").status == 0
    assert not (tmp_path / "mark").exists()


def test_trust_imports_them(call: Call, runs: Path, tmp_path: Path) -> None:
    run = evil_run(runs, "whole", tmp_path, "env", {"initial_pointers": "evil:A"})
    (tmp_path / "evil.py").write_text(TIED.replace("def f", "def A"))
    with pytest.raises(InputError, match="would import evil:A"):
        load_run(run)
    assert load_run(run, trust=True).config.env.initial_pointers == "evil:A"
    assert call("sample", run, "--trust", "--prompt", "a", "--num-tokens", "2").status == 0


def test_a_name_on_the_command_line_is_trusted_and_its_run_can_be_resumed_with_trust(call: Call, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(TIED)
    with interrupted_after(5):
        stopped = call("train", *SMALL, "--agent", "mine:f", "--out", "o")
    assert stopped.status == 130
    assert "to resume: python -m experiments.train --resume o --trust" in stopped.err.splitlines()
    assert "would import mine:f" in call("train", "--resume", "o").err
    assert call("train", "--resume", "o", "--trust").status == 0
    agent = json.loads(Path("o/final/agent/agent.json").read_text())
    assert agent["agent"] == "mine:f"
    env = agents.make_env("mine:f", env_id="tying/FormulaTying-v0", num_layers=3)
    with pytest.raises(InputError, match="would import mine:f"):
        agents.load("o/final/agent", env)
    assert agents.load("o/final/agent", env, trust=True).name == "mine:f"


def test_a_comparison_of_names_typed_goes_on_without_trust(call: Call, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(TIED)
    words = ("compare", *SMALL, "--agents", "mine:f", "independent", "--seeds", "1", "--jobs", "1", "--out", "c")
    assert call(*words).status == 0
    shutil.rmtree(tmp_path / "c" / "runs" / "mine-f__s0" / "final")
    assert call(*words).status == 0


@pytest.mark.parametrize(
    ("value", "names"),
    [
        ("random", []),
        ("sequence:3", []),
        ("stable_baselines3:PPO", []),
        ("stable_baselines3.evil:PPO", ["stable_baselines3.evil:PPO"]),
        ("tie_after:50:sandwich", []),
        ("a.b:c", ["a.b:c"]),
        ("this:x:3", ["this:x"]),
        (" this : x", ["this:x"]),
        ("tie_after:50:a.b:c:3", ["a.b:c"]),
        ({"agent": {"name": "a:b"}, "data": {"path": "c:d"}, "data.path": "e:f", "agent.init_from": "g:h"}, ["a:b"]),
        ([["a:b"], 3, None], ["a:b"]),
    ],
    ids=str,
)
def test_names_are_found_wherever_they_stand(value: Any, names: list[str]) -> None:
    assert foreign_names(value) == names


class Bomb:
    """Leaves a mark when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return Path.touch, (self.mark,)


def plant(path: Path, mark: Path) -> None:
    """Put a pickle in place of a file, in the form that fits its ending."""
    if path.suffix in (".npz", ".npy"):
        content = np.array([Bomb(mark)], dtype=object)
        with path.open("wb") as file:
            np.savez(file, content=content) if path.suffix == ".npz" else np.save(file, content)
    else:
        path.write_bytes(pickle.dumps(Bomb(mark)))


def test_a_bomb_explodes_where_it_is_unpickled(tmp_path: Path) -> None:
    plant(tmp_path / "bomb", tmp_path / "mark")
    pickle.loads((tmp_path / "bomb").read_bytes())
    assert (tmp_path / "mark").exists()


@pytest.mark.parametrize("name", ["dqn", "double_dqn", "paper", "ppo", "local_search", "thompson", "surrogate"])
def test_no_file_of_an_agent_is_unpickled(name: str, tmp_path: Path) -> None:
    env = agents.make_env(name, env_id="tying/FormulaTying-v0", num_layers=4)
    agents.make(name, env).learn(env, 30).save(tmp_path / "agent")
    for number, path in enumerate(sorted((tmp_path / "agent").iterdir())):
        folder = Path(shutil.copytree(tmp_path / "agent", tmp_path / str(number)))
        plant(folder / path.name, tmp_path / "mark")
        with pytest.raises(InputError):
            agents.load(folder, env)
    assert not (tmp_path / "mark").exists()


def test_no_file_of_a_run_is_unpickled(call: Call, runs: Path, tmp_path: Path) -> None:
    for name in ("whole", "stopped"):
        files = [path.relative_to(runs / name) for path in sorted((runs / name).rglob("*")) if path.is_file()]
        for number, file in enumerate(file for file in files if "tb" not in file.parts):
            run = Path(shutil.copytree(runs / name, tmp_path / f"{name}{number}", symlinks=True))
            plant(run / file, tmp_path / "mark")
            for folder in (run / "final", *(run / "checkpoints").glob("0*")):  # a stranger makes checksums fit
                if folder.is_dir() and file.name != "checksums.json":
                    (folder / "checksums.json").unlink()
                    write_checksums(folder)
            for words in (("sample", run, "--prompt", "a", "--num-tokens", "1"), ("train", "--resume", run)):
                assert call(*words).status in (0, 1, 2)
    assert not (tmp_path / "mark").exists()
