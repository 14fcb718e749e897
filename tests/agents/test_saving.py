"""Agents saved and loaded: by strings and paths, of any name; what does not fit or is damaged is one line."""

import json
import pickle
from pathlib import Path
from typing import Any

import cloudpickle
import gymnasium
import numpy as np
import pytest

import agents
import envs  # noqa: F401 (registers the environments)
from agents.base import Agent, masks_of
from tying.errors import InputError

ID = "tying/FormulaTying-v0"
SAVED = [*agents.names(), "sequence:3", "0 1 1 3 3 5"]


def environment(name: str, num_layers: int = 6, **settings: Any) -> gymnasium.Env[Any, Any]:
    return agents.make_env(name, env_id=ID, num_layers=num_layers, **settings)


def learned(name: str, seed: int = 3, **hyperparameters: Any) -> Agent:
    env = environment(name)
    return agents.make(name, env, seed=seed, **hyperparameters).learn(env, 40)


@pytest.fixture(scope="module", params=SAVED)
def saved(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """An agent's name and the folder that it was saved to."""
    folder = tmp_path_factory.mktemp("agents") / "agent"
    learned(request.param).save(folder)
    return request.param, folder


def refusal(folder: Path, env: gymnasium.Env[Any, Any]) -> str:
    """Return the one line with which a folder is refused."""
    with pytest.raises(InputError) as caught:
        agents.load(folder, env)
    (line,) = caught.value.lines
    assert "\n" not in line
    return line


@pytest.mark.parametrize("name", agents.names())
def test_strings_and_paths_are_alike(name: str, tmp_path: Path) -> None:
    agent = learned(name)
    agent.save(str(tmp_path / "as text"))
    agent.save(tmp_path / "as path")
    loaded = [
        agents.load(str(tmp_path / "as path"), environment(name)),
        agents.load(tmp_path / "as text", environment(name)),
        type(agent).load(str(tmp_path / "as text"), environment(name)),
        type(agent).load(tmp_path / "as path", environment(name)),
    ]
    env = environment(name)
    observation, _ = env.reset(seed=5)
    decided = []
    for other in loaded:
        assert (type(other), other.name, other.seed, other.config) == (type(agent), name, 3, agent.config)
        other.begin_episode(observation)
        decided.append(np.asarray(other.predict(observation, masks_of(env), deterministic=True)).tolist())
    assert decided == [decided[0]] * 4


def test_a_folder_is_written_once(tmp_path: Path) -> None:
    agent = learned("random")
    agent.save(tmp_path / "agent")
    with pytest.raises(OSError, match="agent"):
        agent.save(tmp_path / "agent")
    assert agents.load(tmp_path / "agent", environment("random")).seed == 3


def test_another_depth_is_refused_in_one_line(saved: tuple[str, Path]) -> None:
    name, folder = saved
    line = refusal(folder, environment(name, num_layers=4))
    assert "6" in line and "4" in line


def test_other_actions_are_refused_in_one_line(tmp_path: Path) -> None:
    for name in ("dqn", "double_dqn", "random", "thompson"):
        env = environment(name, action_mode="pair")
        agents.make(name, env).save(tmp_path / name)
        assert "action_space Discrete(21), this environment has Discrete(6)" in refusal(
            tmp_path / name, environment(name, action_mode="cursor")
        )


def test_a_folder_that_holds_no_agent_is_refused(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "nowhere"):
        assert refusal(folder, environment("dqn")) == f"{folder}: no saved agent (there is no agent.json)"


def damages(path: Path) -> list[bytes | None]:
    """Return contents that a damaged file may have; None: it is missing."""
    whole = path.read_bytes()
    found: list[bytes | None] = [None, b"", whole[: len(whole) // 2], b"rubbish \x00\x80" * 20]
    return [*found, b"[]", b"null", b"{}", b'{"best": 3}', b'{"best": [0, 2]}'] if path.suffix == ".json" else found


def test_every_missing_or_damaged_file_is_one_line(saved: tuple[str, Path]) -> None:
    name, folder = saved
    env = environment(name)
    for path in [path for path in folder.rglob("*") if path.is_file()]:
        whole = path.read_bytes()
        for damage in damages(path):
            path.unlink()
            if damage is not None:
                path.write_bytes(damage)
            line = refusal(folder, env)
            path.write_bytes(whole)
            assert str(folder) in line, (path.name, damage)
    agents.load(folder, env)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("agent", 3),
        ("seed", "three"),
        ("num_layers", None),
        ("hyperparameters", [1]),
        ("agent", "dqm"),
        ("action_space", 1),
    ],
)
def test_facts_of_another_kind_are_one_line(field: str, value: Any, tmp_path: Path) -> None:
    learned("random").save(tmp_path / "agent")
    path = tmp_path / "agent" / "agent.json"
    facts = json.loads(path.read_text())
    path.write_text(json.dumps({**facts, field: value}))
    refusal(tmp_path / "agent", environment("random"))


def test_hyperparameters_of_another_version_are_named(tmp_path: Path) -> None:
    learned("thompson").save(tmp_path / "agent")
    path = tmp_path / "agent" / "agent.json"
    facts = json.loads(path.read_text())
    facts["hyperparameters"] = {**facts["hyperparameters"], "memory": 3}
    path.write_text(json.dumps(facts))
    assert "agent.memory" in refusal(tmp_path / "agent", environment("thompson"))


# Nothing that is loaded is unpickled.


def forbid_pickle(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_: Any, **__: Any) -> None:
        raise AssertionError("unpickled")

    for module in (pickle, cloudpickle):
        for function in ("load", "loads"):
            monkeypatch.setattr(module, function, forbidden)


def test_nothing_is_unpickled(saved: tuple[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    name, folder = saved
    assert {path.suffix for path in folder.rglob("*") if path.is_file()} <= {".json", ".npz", ".pt", ".zip"}
    env = environment(name)
    forbid_pickle(monkeypatch)
    agents.load(folder, env)


# What is learned goes on from where it was.


@pytest.mark.parametrize("name", ["dqn", "qrdqn"])
def test_a_loaded_dqn_keeps_its_clock_and_its_replay_buffer(name: str, tmp_path: Path) -> None:
    agent: Any = learned(name, exploration_fraction=0.5, exploration_final_eps=0.1)
    agent.save(tmp_path / "agent")
    env = environment(name)
    loaded: Any = agents.load(tmp_path / "agent", env)
    assert loaded.model.num_timesteps == agent.model.num_timesteps == 40
    assert loaded.model.exploration_rate == agent.model.exploration_rate == pytest.approx(0.1)
    ours, theirs = agent.model.replay_buffer, loaded.model.replay_buffer
    assert (theirs.pos, theirs.full, theirs.size()) == (ours.pos, ours.full, ours.size())
    for part in ("observations", "next_observations", "actions", "rewards", "dones"):
        assert np.array_equal(getattr(ours, part), getattr(theirs, part)), part
    seen: list[float] = []
    loaded.learn(env, 20, callback=lambda agent: seen.append(agent.model.exploration_rate))
    assert max(seen) == pytest.approx(0.1)  # exploration does not start again
    assert theirs.size() > ours.size() > 30
    assert loaded.model.num_timesteps == 60


def test_a_loaded_double_dqn_does_not_explore_again(tmp_path: Path) -> None:
    agent: Any = learned("double_dqn", exploration_final_eps=0.1)
    agent.save(tmp_path / "agent")
    loaded: Any = agents.load(tmp_path / "agent", environment("double_dqn"))
    assert agents.make("double_dqn", environment("double_dqn")).epsilon == 1  # type: ignore[attr-defined]
    assert loaded.epsilon == agent.epsilon == pytest.approx(0.1)
    loaded.learn(environment("double_dqn"), 5)
    assert loaded.epsilon == pytest.approx(0.1)


@pytest.mark.parametrize("name", ["ppo", "maskable_ppo", "recurrent_ppo", "a2c"])
def test_a_loaded_policy_keeps_its_clock(name: str, tmp_path: Path) -> None:
    agent: Any = learned(name)
    agent.save(tmp_path / "agent")
    loaded: Any = agents.load(tmp_path / "agent", environment(name))
    assert (loaded.model.num_timesteps, loaded.model._n_updates) == (agent.model.num_timesteps, agent.model._n_updates)
    loaded.learn(environment(name), 10)
    assert loaded.model.num_timesteps == agent.model.num_timesteps + 10
