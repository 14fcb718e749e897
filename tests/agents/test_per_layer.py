"""Policies that read layer by layer: what they learned means the same for any number of layers."""

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch

import agents
import envs  # noqa: F401 (registers the environments)
from agents.base import masks_of
from agents.networks import PerLayerNetwork
from envs.formula import distance
from tying import interface
from tying.errors import InputError
from tying.pointers import Pointers


def network(num_layers: int, mode: str = "cursor", seed: int = 0) -> PerLayerNetwork:
    actions = num_layers if mode == "cursor" else num_layers * (num_layers + 1) // 2
    return PerLayerNetwork(num_layers, actions, 16, torch.Generator().manual_seed(seed))


def observe(pointers: Pointers, cursor: int | None, **scalars: float) -> torch.Tensor:
    num_layers = len(pointers)
    columns = {name: np.zeros(num_layers) for name in interface.PER_LAYER}
    columns["pointer"] = np.array(pointers) / max(1, num_layers - 1)
    columns["root"][list(pointers.roots)] = 1
    if cursor is not None:
        columns["cursor"][cursor] = 1
    values = {name: 0.5 for name in interface.SCALARS} | scalars
    return torch.tensor(interface.flatten(values, columns), dtype=torch.float32)


def test_its_weights_do_not_depend_on_the_number_of_layers_or_the_action_mode() -> None:
    shapes = {
        tuple((name, tuple(value.shape)) for name, value in network(num_layers, mode).state_dict().items())
        for num_layers in (2, 4, 6, 12)
        for mode in ("cursor", "pair")
    }
    assert len(shapes) == 1


def test_a_batch_is_its_rows() -> None:
    rows = torch.stack([observe(pattern, 1 + i % 3) for i, pattern in enumerate(Pointers.all(4))])
    values = network(4)(rows)
    assert values.shape == (15, 4)
    for row, value in zip(rows, values, strict=True):
        torch.testing.assert_close(network(4)(row), value)


@pytest.mark.parametrize("pattern", ["0 1 1 3 1", "0 0 0 0 0", "0 1 2 3 4"])
def test_both_action_modes_value_the_same_change_alike(pattern: str) -> None:
    pointers = Pointers.parse(pattern)
    of_pairs = network(5, "pair")(observe(pointers, None))
    for layer in range(1, 5):
        of_layer = network(5)(observe(pointers, layer))
        for target in range(5):
            same = layer * (layer + 1) // 2 + min(target, layer)
            torch.testing.assert_close(of_layer[target], of_pairs[same])


def test_it_sees_the_pattern_and_the_time_and_nothing_that_differs_between_models() -> None:
    pattern = Pointers((0, 1, 1, 3))
    plain = network(4)(observe(pattern, 2))
    columns = interface.ObservationView(observe(pattern, 2).numpy())
    noisy = observe(pattern, 2, log_perplexity=1.7, change=-0.3)
    for layer in range(columns.num_layers):
        for name in ("gradient", "similarity", "gradient_similarity", "agreement"):
            noisy[len(interface.SCALARS) + layer * len(interface.PER_LAYER) + interface.PER_LAYER.index(name)] = 0.1 * layer
    torch.testing.assert_close(network(4)(noisy), plain)
    assert not torch.allclose(network(4)(observe(pattern, 2, remaining=0.1)), plain)
    assert not torch.allclose(network(4)(observe(Pointers((0, 1, 2, 3)), 2)), plain)


def test_equal_places_as_shares_of_the_depth_are_valued_alike_whatever_the_depth() -> None:
    """All tied or all apart, first and last layer: every feature is a share, so 4 and 7 layers look the same."""
    four, seven = observe(Pointers((0, 0, 0, 0)), 3), observe(Pointers((0,) * 7), 6)
    short, long = network(4)(four)[0], network(7)(seven)[0]
    # The share of unique layers, 1/4 and 1/7, is the one feature that differs; told to be equal, the values are.
    root = len(interface.SCALARS) + interface.PER_LAYER.index("root")
    assert not torch.allclose(short, long)
    four[root], seven[root] = 4.0, 7.0  # the sum of roots is what the share is made from
    first = network(4)._features(four[None])[0, 0]
    second = network(7)._features(seven[None])[0, 0]
    differing = (first - second).abs() > 1e-6
    assert differing.sum() <= 1  # the root's own mark, 4 and 7


def make_env(num_layers: int, best: str, decisions: int = 20, **settings: Any) -> gymnasium.Env[Any, Any]:
    return gymnasium.make("tying/FormulaTying-v0", num_layers=num_layers, best=best, num_decisions=decisions, **settings)


def test_an_agent_begins_with_what_another_learned(tmp_path: Path) -> None:
    learned = agents.make("double_dqn", make_env(4, "sandwich"), network="per_layer").learn(make_env(4, "sandwich"), 30)
    learned.save(tmp_path / "policy")
    began: Any = agents.make("double_dqn", make_env(7, "sandwich"), network="per_layer", init_from=str(tmp_path / "policy"))
    saved = learned.learner.network.state_dict()  # type: ignore[attr-defined]
    for part in (began.learner.network, began.learner.target):
        for name, value in part.state_dict().items():
            torch.testing.assert_close(value, saved[name], rtol=0, atol=0)
    assert began.epsilon == began.config.exploration_final_eps
    assert began.learner.rewards == [] and len(began.learner.replay) == 0  # what was seen elsewhere is left there
    zero: Any = agents.make("double_dqn", make_env(7, "sandwich"), network="per_layer")
    assert zero.epsilon == 1.0


def test_what_cannot_be_begun_with_is_said_in_one_line(tmp_path: Path) -> None:
    env = make_env(4, "sandwich")
    agents.make("double_dqn", env).save(tmp_path / "flat")
    agents.make("double_dqn", env, network="per_layer", width=8).save(tmp_path / "narrow")
    (tmp_path / "empty").mkdir()
    cases = {
        ("flat", "per_layer", 6): "its network is 'flat', here agent.network is 'per_layer'",
        ("narrow", "per_layer", 6): "its width is 8, here agent.width is 64",
        ("flat", "flat", 6): "its network does not fit",
        ("empty", "flat", 4): "empty: no saved agent",
        ("nowhere", "flat", 4): "nowhere': no such folder",
    }
    for (folder, kind, num_layers), refusal in cases.items():
        with pytest.raises(InputError, match=refusal) as caught:
            agents.make("double_dqn", make_env(num_layers, "sandwich"), network=kind, init_from=str(tmp_path / folder))
        assert len(caught.value.lines) == 1
    agents.make("double_dqn", env, init_from=str(tmp_path / "flat"))  # of the same size a flat one fits too


def final_distance(agent: Any, env: gymnasium.Env[Any, Any]) -> float:
    """Return how far the pattern is from the best after an episode of the agent's best decisions."""
    inner: Any = env.unwrapped
    observation, _ = env.reset(seed=0)
    terminated = False
    while not terminated:
        action = agent.predict(observation, masks_of(env), deterministic=True)
        observation, _, terminated, _, _ = env.step(action)
    return distance(inner.pointers, inner.best)


@pytest.mark.learning
def test_what_was_learned_with_five_layers_helps_with_eight() -> None:
    """Without a further decision; private_first is best, mean of 3 seeds: 0.0 from the best pattern, untaught 0.45."""
    taught, untaught = [], []
    for seed in range(3):
        small = agents.make("double_dqn", make_env(5, "private_first"), seed=seed, network="per_layer")
        small.learn(make_env(5, "private_first"), 400)
        large: Any = agents.make("double_dqn", make_env(8, "private_first"), seed=seed, network="per_layer")
        untaught.append(final_distance(large, make_env(8, "private_first")))
        large.learner.network.load_state_dict(small.learner.network.state_dict())  # type: ignore[attr-defined]
        taught.append(final_distance(large, make_env(8, "private_first")))
    assert np.mean(taught) < np.mean(untaught) - 0.3
