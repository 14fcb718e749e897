"""Agents as a stable-baselines3 user expects them: by name, in a loop over all names, other people's and the library's."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest

import agents
import envs  # noqa: F401 (registers the environments)
from agents.base import action_of, masks_of
from tying.errors import InputError

INSTANT = ["tying/FormulaTying-v0", "tying/TyingBench-v0"]
Write = Callable[[str, str], str]


def instant(mode: str = "cursor", **options: Any) -> gymnasium.Env[Any, Any]:
    return gymnasium.make(INSTANT[0], action_mode=mode, **options)


def counted(env: gymnasium.Env[Any, Any]) -> list[Any]:
    """Return the list of an environment's records, which grows."""
    seen: list[Any] = []
    env.unwrapped.on_decision = lambda record, *_: seen.append(record)  # type: ignore[attr-defined]
    return seen


# Every name.


@pytest.mark.parametrize("env_id", INSTANT)
@pytest.mark.parametrize("name", agents.names())
def test_every_name_has_an_environment_that_it_fits(name: str, env_id: str) -> None:
    if name == "gradient_similarity" and env_id == "tying/TyingBench-v0":
        with pytest.raises(InputError, match="a table has no gradients"):
            agents.make_env(name, env_id=env_id)
        return
    env = agents.make_env(name, env_id=env_id, num_decisions=6)
    seen = counted(env)
    agent = agents.make(name, env, seed=1).learn(total_timesteps=9)
    assert len(seen) == 9
    assert agent.name == name


@pytest.mark.parametrize("name", agents.names())
def test_every_name_decides_in_training(name: str) -> None:
    env = agents.make_env(name, preset="tiny", **{"trainer.iterations": 12, "model.width": 8, "decision_interval": 4})
    seen = counted(env)
    agents.make(name, env).learn(3)
    assert [record.iteration for record in seen] == [4, 8, 12]


def test_recommended_settings_stand_below_what_is_given() -> None:
    assert agents.make_env("thompson", env_id=INSTANT[0]).unwrapped.config.action_mode == "pair"  # type: ignore[attr-defined]
    given: Any = agents.make_env("paper", preset="tiny", decision_interval=2, **{"reward.param_weight": 0.3}).unwrapped
    config = given.training_config
    assert (config.env.decision_interval, config.env.initial_pointers) == (2, "all_tied")
    assert (config.reward.name, config.reward.param_weight) == ("paper", 0.3)
    cursor = agents.make_env("ucb", env_id=INSTANT[0], action_mode="pair", reward={"param_weight": 0.2}).unwrapped
    assert (cursor.config.action_mode, cursor.reward.config.param_weight) == ("pair", 0.2)  # type: ignore[attr-defined]
    with pytest.raises(InputError, match="did you mean 'dqn'"):
        agents.make_env("dqm")


# Arguments of learn.


@pytest.mark.parametrize("name", ["dqn", "ppo", "random", "thompson"])
def test_all_ways_to_say_how_long_are_alike(name: str) -> None:
    decided = []
    for learn in (
        lambda agent, env: agent.learn(env, 12),
        lambda agent, env: agent.learn(env, decisions=12),
        lambda agent, env: agent.learn(12),
        lambda agent, env: agent.learn(total_timesteps=12),
        lambda agent, env: agent.learn(env, total_timesteps=12),
    ):
        env = agents.make_env(name, env_id=INSTANT[0])
        seen = counted(env)
        learn(agents.make(name, env, seed=4), env)
        decided.append([record.pointers for record in seen])
    assert len(decided[0]) == 12
    assert decided == [decided[0]] * 5


@pytest.mark.parametrize("decisions", [None, -1])
def test_a_missing_length_is_one_line(decisions: int | None) -> None:
    for name in ("random", "dqn", "double_dqn"):
        with pytest.raises(InputError, match=f"^learn: decisions = {decisions}: expected a whole number of at least 0$"):
            agents.make(name, instant()).learn(decisions=decisions)


@pytest.mark.parametrize(
    "name",
    [
        "local_search",
        "evolution",
        "surrogate",
        "cross_entropy",
        "additive",
        "greedy",
        "recurrent_ppo",
        "gradient_similarity",
        "thompson",
    ],
)
def test_an_agent_answers_before_it_was_told_that_a_run_begins(name: str) -> None:
    env = agents.make_env(name, env_id=INSTANT[0])
    agent = agents.make(name, env)
    observation, _ = env.reset(seed=0)
    for _ in range(3):
        action = agent.predict(observation, masks_of(env))
        assert env.action_space.contains(action)
        observation, *_ = env.step(action)


# Algorithms of stable-baselines3 and sb3-contrib.


@pytest.mark.parametrize(
    ("name", "mode"),
    [
        ("stable_baselines3:PPO", "cursor"),
        ("stable_baselines3:PPO", "joint"),
        ("stable_baselines3:DQN", "pair"),
        ("stable_baselines3:A2C", "joint"),
        ("sb3_contrib:QRDQN", "cursor"),
        ("sb3_contrib:TRPO", "cursor"),
        ("sb3_contrib:MaskablePPO", "cursor"),
    ],
)
def test_a_class_of_the_library_is_an_agent(name: str, mode: str, tmp_path: Path) -> None:
    env = instant(mode)
    seen = counted(env)
    agent: Any = agents.make(name, env, seed=2, gamma=0.7).learn(env, 30)
    assert len(seen) == 30
    assert agent.model.gamma == 0.7
    assert agent.name == name
    agent.save(tmp_path / "agent")
    loaded: Any = agents.load(tmp_path / "agent", instant(mode))
    assert (loaded.model.gamma, loaded.model.num_timesteps) == (0.7, 30)
    observation, _ = env.reset(seed=0)
    action = agent.predict(observation, masks_of(env), deterministic=True)
    assert env.action_space.contains(action)
    assert np.array_equal(action, loaded.predict(observation, masks_of(env), deterministic=True))


def test_an_algorithm_of_the_library_has_the_librarys_defaults() -> None:
    from stable_baselines3 import PPO

    ours: Any = agents.make("stable_baselines3:PPO", instant())
    theirs = PPO("MlpPolicy", instant())
    for field in ("n_steps", "batch_size", "gamma", "n_epochs", "gae_lambda", "ent_coef"):
        assert getattr(ours.model, field) == getattr(theirs, field), field


def test_an_algorithm_that_does_not_fit_is_one_line() -> None:
    for name, mode in (("stable_baselines3:SAC", "cursor"), ("stable_baselines3:DQN", "joint")):
        with pytest.raises(InputError, match=name.partition(":")[2]) as caught:
            agents.make(name, instant(mode))
        assert len(caught.value.lines) == 1 and "\n" not in str(caught.value)
    with pytest.raises(InputError, match=r"unknown setting 'agent\.gama': did you mean 'agent\.gamma'"):
        agents.make("stable_baselines3:PPO", instant(), gama=0.5)


# Other people's agents.

STRANGERS = '''
from agents import Agent

class Plain(Agent):
    """Knows no masks."""
    def predict(self, observation):
        return 1

class Tuple(Agent):
    """Answers as stable-baselines3 does."""
    def predict(self, observation, state=None, episode_start=None, deterministic=False):
        return 2, None

class Both(Agent):
    """Masks, and a memory."""
    def predict(self, observation, action_masks=None, deterministic=False):
        self.seen = action_masks
        return int(action_masks.argmax()), ("memory",)

class Open(Agent):
    """Takes anything."""
    def predict(self, observation, **others):
        self.seen = others["action_masks"]
        return 0

class Wrong(Agent):
    """Answers with no action."""
    def predict(self, observation):
        return "left"

class Silent(Agent):
    """Does not decide."""
'''


@pytest.mark.parametrize(("name", "action"), [("Plain", 1), ("Tuple", 2), ("Both", 0), ("Open", 0)])
def test_other_peoples_predict_may_know_less_or_return_more(name: str, action: int, write_module: Write) -> None:
    write_module("strangers_agents", STRANGERS)
    env = instant()
    seen = counted(env)
    agent: Any = agents.make(f"strangers_agents:{name}", env).learn(env, 5)
    assert [record.action for record in seen] == [action] * 5
    if name in ("Both", "Open"):
        assert agent.seen.dtype == bool


def test_a_pair_of_numbers_is_an_action_for_two_layers() -> None:
    class Two(agents.Agent):
        def predict(self, observation: np.ndarray) -> Any:  # type: ignore[override]
            return (0, 1)

    env = instant("joint", num_layers=2, best="independent")
    assert action_of(Two(env), env.reset(seed=0)[0], None) == (0, 1)


def test_other_peoples_mistakes_are_one_line(write_module: Write) -> None:
    write_module("strangers_agents", STRANGERS)
    env = instant()
    with pytest.raises(InputError, match="action 'left' is outside the space"):
        agents.make("strangers_agents:Wrong", env).learn(env, 1)
    with pytest.raises(InputError, match="it lacks predict"):
        agents.make("strangers_agents:Silent", env)
    with pytest.raises(InputError, match="cannot be imported: AttributeError"):
        agents.make("strangers_agents:Nobody", env)


def test_other_peoples_agents_are_saved_by_their_name(write_module: Write, tmp_path: Path) -> None:
    write_module("strangers_agents", STRANGERS)
    agents.make("strangers_agents:Plain", instant(), seed=8).save(str(tmp_path / "agent"))
    loaded = agents.load(str(tmp_path / "agent"), instant(), trust=True)
    assert (loaded.name, loaded.seed, type(loaded).__name__) == ("strangers_agents:Plain", 8, "Plain")


def test_what_an_agent_fixes_may_be_given_again_and_not_otherwise() -> None:
    env = instant("joint")
    assert agents.make("sequence:3", env, strategy="sequence:3").config.strategy == "sequence:3"
    with pytest.raises(InputError, match=r"its name fixes agent\.strategy = 'sequence:3'"):
        agents.make("sequence:3", env, strategy="all_tied")
