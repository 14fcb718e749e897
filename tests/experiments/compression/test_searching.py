"""What an agent that searches is rewarded for."""

import types
from typing import Any

import numpy as np
import pytest

from experiments.compression import searching
from experiments.run.command_line import parse_config
from tying.compression.search import Questions
from tying.compression.sources import Sources

ORIGINAL = Sources.original(3)
LOSSES = {Sources((0, 0, 2)): 9.0, Sources((0, 1, 1)): 7.0, Sources((0, 1, 0)): 12.0, Sources((0, 0, 0)): 40.0}


def test_nothing_above_the_budget_is_rewarded_more_than_what_is_within_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tied model can be far worse than one that knows nothing, whose loss is 2 here."""
    made: list[Any] = []

    def make(name: str, env: Any, seed: int, **hyperparameters: Any) -> Any:
        made.append(env)
        return types.SimpleNamespace(learn=lambda env, decisions: None)

    monkeypatch.setattr(searching, "agents", types.SimpleNamespace(make=make))
    walk: Any = types.SimpleNamespace(
        num_layers=3, set_params=10, loss=lambda s: 0.5 if s == ORIGINAL else LOSSES.get(s, 3.0)
    )
    config = parse_config(("--env.action-mode", "joint", "--agent", "random"), [])
    flags = types.SimpleNamespace(search="random", removing=True, decisions=9)
    compression: Any = types.SimpleNamespace(flags=flags, config=config)
    found = searching.find(Questions(walk), 2, compression, 2.0)
    assert {Sources((0, 0, 2)), Sources((0, 1, 1)), Sources((0, 1, 0))} <= set(found.tied)
    (env,) = made
    returns = {}
    for pattern in [(0, 1, 2, 3), (0, 1, 1, 3), (0, 1, 2, 2), (0, 1, 2, 1), (0, 1, 1, 1), (0, 0, 2, 3)]:
        env.reset(seed=0)
        returns[pattern] = float(env.step(np.array(pattern))[1])  # of one decision, from the original
    above = returns.pop((0, 1, 2, 3))
    assert above <= min(returns.values())
    order = sorted(returns, key=returns.__getitem__, reverse=True)
    assert order[:2] == [(0, 0, 2, 3), (0, 1, 2, 2)]  # those that are better than the worst rule are told apart
