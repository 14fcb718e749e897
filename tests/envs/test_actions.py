"""Action modes: legal actions lead to every pattern in reach, each by exactly one of them."""

import pytest

from envs import actions
from tying import Pointers

PARTITIONS = list(Pointers.all(5))


def reachable(pointers: Pointers, layers: range) -> set[Pointers]:
    return {pointers.move(layer, target) for layer in layers for target in range(layer + 1)}


def test_cursor_masks_leave_one_action_for_each_pattern() -> None:
    mode = actions.make("cursor", 5)
    for pointers in PARTITIONS:
        for cursor in range(1, 5):
            legal = [int(a) for a in mode.masks(pointers, cursor).nonzero()[0]]
            reached = [mode.decode(action, pointers, cursor) for action in legal]
            everything = {mode.decode(action, pointers, cursor) for action in range(5)}
            assert len(set(reached)) == len(reached)
            assert set(reached) == everything == reachable(pointers, range(cursor, cursor + 1))


def test_pair_masks_leave_one_action_for_each_pattern() -> None:
    mode = actions.make("pair", 5)
    for pointers in PARTITIONS:
        reached = [mode.decode(a, pointers, 0) for a in mode.masks(pointers, 0).nonzero()[0]]
        assert len(set(reached)) == len(reached)
        assert set(reached) == reachable(pointers, range(5))


def test_joint_reaches_every_pattern_from_every_other() -> None:
    mode = actions.make("joint", 5)
    for pointers in PARTITIONS:
        assert mode.decode(list(pointers), Pointers.independent(5), 0) == pointers
    assert mode.decode([0, 0, 1, 2, 3], Pointers.independent(5), 0) == (0, 0, 0, 0, 0)


@pytest.mark.parametrize("name", ["cursor", "pair", "joint"])
def test_unchanged_masks_change_nothing(name: str) -> None:
    mode = actions.make(name, 5)
    for pointers in PARTITIONS:
        for cursor in range(1, 5):
            flat = mode.unchanged(pointers, cursor)
            assert flat.shape == mode.masks(pointers, cursor).shape
            if name == "joint":
                assert flat.sum() == 5
                action = [int(a) for a in flat.nonzero()[0] - [0, 1, 3, 6, 10]]
            else:
                (action,) = (int(a) for a in flat.nonzero()[0])
            assert mode.decode(action, pointers, cursor) == pointers


def test_layers_that_actions_decide() -> None:
    assert actions.make("cursor", 4).layer(0, 2) == 2
    assert actions.make("pair", 4).layer(4, 0) == 2
    assert actions.make("joint", 4).layer([0, 0, 0, 0], 0) is None
