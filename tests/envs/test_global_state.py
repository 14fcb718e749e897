"""torch's global state neither changes a run nor is changed by it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch

import agents
import envs  # noqa: F401 (registers the environments)
from tying.isolation import isolated

pytestmark = pytest.mark.usefixtures("one_thread")


@contextmanager
def dtype() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


@contextmanager
def device() -> Iterator[None]:
    torch.set_default_device("meta")
    try:
        yield
    finally:
        torch.set_default_device(None)


@contextmanager
def deterministic() -> Iterator[None]:
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


@contextmanager
def rounded() -> Iterator[None]:
    torch.set_float32_matmul_precision("medium")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision("highest")


MODES: dict[str, Callable[[], Any]] = {
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "grad off": lambda: torch.set_grad_enabled(False),
    "float64": dtype,
    "meta": device,
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "deterministic": deterministic,
    "rounded products": rounded,
}


def state() -> tuple[Any, ...]:
    return (
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        torch.is_autocast_enabled("cpu"),
        torch.get_default_dtype(),
        torch.get_default_device(),
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        torch.get_num_threads(),
        torch.get_float32_matmul_precision(),
    )


def played(text: str) -> list[Any]:
    """Return what the steps of an episode gave, with ties, unties, forks, frozen steps and gradient statistics."""
    env = gymnasium.make(
        "tying/LayerTying-v0",
        preset="tiny",
        gradient_statistics=True,
        decision_interval=2,
        freeze_after=0.8,
        **{"trainer.iterations": 12, "reward.name": "fork", "data.path": text, "model.dropout": 0.1, "model.width": 16},
    )
    observation, _ = env.reset(seed=0)
    steps: list[Any] = [observation.tolist()]
    for action in (0, 2, 1, 1, 3, 0):
        observation, reward, *_, info = env.step(action)
        steps.append((observation.tolist(), reward, repr(info)))
    return steps


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("corpus") / "corpus.txt"
    path.write_text("the layers are tied and untied again; " * 100)
    return str(path)


@pytest.mark.parametrize("mode", MODES)
def test_an_environment_gives_the_same_record_in_every_mode(text: str, mode: str) -> None:
    expected = played(text)
    with MODES[mode]():
        before = state()
        assert played(text) == expected
        assert state() == before


@pytest.mark.parametrize("device", ["cuda", "mkldnn"])
def test_products_are_those_of_float32(device: str) -> None:
    matmul = getattr(torch.backends, device).matmul
    with rounded():
        before = matmul.fp32_precision
        with isolated():
            assert matmul.fp32_precision == "ieee"
        assert matmul.fp32_precision == before != "ieee"


def learned(name: str) -> list[Any]:
    env = agents.make_env(name, env_id="tying/FormulaTying-v0", num_layers=4, num_decisions=12)
    agent = agents.make(name, env, seed=3)
    rewards = []
    agent.learn(env, 60, callback=lambda _: rewards.append(env.unwrapped.record.reward))
    observation, _ = env.reset(seed=5)
    masks = env.unwrapped.action_masks()
    agent.begin_episode(observation)
    told = {key: np.asarray(value).tolist() for key, value in agent.diagnostics(observation, masks).items()}
    action = agent.predict(observation, masks, deterministic=True)
    return [rewards, told, repr(agent.explain(observation, masks, action)), np.asarray(action).tolist()]


@pytest.mark.parametrize("mode", ["inference_mode", "float64", "meta", "autocast"])
@pytest.mark.parametrize("name", ["dqn", "ppo", "double_dqn", "paper", "recurrent_ppo", "surrogate"])
def test_an_agent_decides_the_same_in_every_mode(name: str, mode: str) -> None:
    expected = learned(name)
    with MODES[mode]():
        before = state()
        assert learned(name) == expected
        assert state() == before
