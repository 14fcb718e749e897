"""Environments as users of Gymnasium and stable-baselines3 use them: by id, in vectors, in processes, on video."""

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.wrappers import RecordVideo
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import SubprocVecEnv, VecEnv

import envs  # noqa: F401 (registers the environments)

# Short runs: one episode is four decisions.
SHORT: dict[str, dict[str, Any]] = {
    "tying/LayerTying-v0": {"trainer": {"iterations": 8, "batch_size": 2}, "decision_interval": 2, "model": {"width": 8}},
    "tying/FormulaTying-v0": {"num_decisions": 4},
    "tying/TyingBench-v0": {"num_decisions": 4},
}
IDS = list(SHORT)


def check_steps(vector: VecEnv) -> None:
    """Step a vector of two to the end of its episodes, which begin again by themselves."""
    observations = vector.reset()
    assert observations.shape == (2, *vector.observation_space.shape)
    assert vector.env_method("action_masks")[0].dtype == bool
    for step in range(1, 6):
        observations, rewards, dones, infos = vector.step([vector.action_space.sample() for _ in range(2)])
        assert dones.tolist() == [step == 4] * 2
        assert np.isfinite(rewards).all()
        assert all("reward_terms" in info for info in infos)
    vector.close()


@pytest.mark.parametrize("env_id", IDS)
def test_a_vector_of_environments(env_id: str) -> None:
    check_steps(make_vec_env(env_id, n_envs=2, seed=0, env_kwargs=SHORT[env_id]))


@pytest.mark.parametrize("env_id", IDS)
def test_a_vector_by_id_alone(env_id: str) -> None:
    vector = make_vec_env(env_id, n_envs=2)
    assert vector.reset().shape[0] == 2
    vector.close()


@pytest.mark.parametrize("env_id", IDS)
def test_environments_in_processes_of_their_own(env_id: str) -> None:
    check_steps(make_vec_env(f"envs:{env_id}", n_envs=2, seed=0, env_kwargs=SHORT[env_id], vec_env_cls=SubprocVecEnv))


@pytest.mark.parametrize("env_id", IDS)
def test_an_algorithm_learns_by_id_alone(env_id: str) -> None:
    model = PPO("MlpPolicy", env_id, n_steps=8, batch_size=8, n_epochs=1, device="cpu")
    model.learn(8)
    observation = model.get_env().reset()
    action, _ = model.predict(observation)
    assert model.action_space.contains(action[0])


@pytest.mark.parametrize("env_id", IDS)
def test_an_episode_is_recorded_on_video(env_id: str, tmp_path: Path) -> None:
    env = gymnasium.make(env_id, render_mode="rgb_array", **SHORT[env_id])
    recorded = RecordVideo(env, str(tmp_path / "videos"), episode_trigger=lambda episode: True, disable_logger=True)
    recorded.reset(seed=0)
    for _ in range(4):
        _, _, terminated, _, _ = recorded.step(env.action_space.sample())
    assert terminated
    recorded.close()
    (video,) = (tmp_path / "videos").glob("*.mp4")
    assert video.stat().st_size > 1_000


@pytest.mark.parametrize("env_id", IDS)
def test_pictures_of_a_vector_are_tiled(env_id: str) -> None:
    vector = make_vec_env(env_id, n_envs=2, seed=0, env_kwargs={**SHORT[env_id], "render_mode": "rgb_array"})
    vector.reset()
    picture = vector.render()
    assert picture is not None and picture.dtype == np.uint8
    vector.close()
