"""The interface: observations by name, and the numbering of actions."""

import numpy as np
import pytest

from tying import Pointers, interface
from tying.interface import ObservationView


def observe(pointers: Pointers, cursor: int | None = None, **scalars: float) -> np.ndarray:
    """Return an observation in float32, as environments do, in which every other entry has a value of its own."""
    num_layers = len(pointers)
    columns = {name: np.arange(num_layers) + 10.0 * place for place, name in enumerate(interface.PER_LAYER)}
    columns["pointer"] = np.array(pointers) / max(1, num_layers - 1)
    columns["cursor"] = np.arange(num_layers) == cursor
    values = {name: float(place) for place, name in enumerate(interface.SCALARS)} | scalars
    return interface.flatten(values, columns).astype(np.float32)


def test_what_is_written_is_read() -> None:
    for number, pointers in enumerate(Pointers.all(5)):
        cursor = None if number % 5 == 0 else number % 5
        observation = observe(pointers, cursor, frozen=number % 2)
        assert interface.num_layers(len(observation)) == 5
        assert len(observation) == interface.size(5)
        view = ObservationView(observation)
        assert (view.pointers, view.cursor, view.frozen, view.num_layers) == (pointers, cursor, bool(number % 2), 5)
        assert view.effective_blocks == pointers.effective_blocks
        assert view.scalar("param_share") == interface.SCALARS.index("param_share")
        place = interface.PER_LAYER.index("agreement")
        assert view.layers("agreement").tolist() == [10 * place + layer for layer in range(5)]


@pytest.mark.parametrize("num_layers", [1, 2, 12, 48, 200])
def test_pointers_of_any_depth_survive_float32(num_layers: int) -> None:
    for pointers in (
        Pointers.independent(num_layers),
        Pointers([0] * num_layers),
        Pointers([0, *[min(1, num_layers - 1)] * (num_layers - 1)]),
    ):
        assert ObservationView(observe(pointers)).pointers == pointers


@pytest.mark.parametrize("num_decisions", [3, 7, 10, 60, 125, 1000])
def test_progress_is_exact_where_the_remaining_share_is_not(num_decisions: int) -> None:
    """After k of n windows `progress` is at least a threshold of k / n: agents need no tolerance of their own."""
    inexact = 0
    for done in range(num_decisions + 1):
        share = done / num_decisions
        view = ObservationView(observe(Pointers((0,)), remaining=1 - share))
        assert view.progress == round(share, 6)
        inexact += 1 - view.scalar("remaining") != share
    assert inexact or num_decisions == 3


def test_pairs_are_numbered_as_published() -> None:
    """(0, 0), (1, 0), (1, 1), (2, 0), ...: number i (i + 1) / 2 + j is layer i, target j."""
    found = interface.pairs(6)
    assert found.shape == (21, 2)
    assert [list(pair) for pair in found[:5]] == [[0, 0], [1, 0], [1, 1], [2, 0], [2, 1]]
    for number, (layer, target) in enumerate(found.tolist()):
        assert number == layer * (layer + 1) // 2 + target
    with pytest.raises(ValueError, match="read-only"):
        found[0] = 1


def test_moves_of_a_cursor_are_those_of_its_layer() -> None:
    assert interface.moves(4, 2).tolist() == [[2, 0], [2, 1], [2, 2], [2, 2]]
    assert np.array_equal(interface.moves(4, None), interface.pairs(4))


def test_the_size_of_a_space_tells_whether_layers_come_in_turn() -> None:
    for num_layers in range(2, 9):
        assert interface.in_turn(num_layers, num_layers)
        assert not interface.in_turn(num_layers, len(interface.pairs(num_layers)))
