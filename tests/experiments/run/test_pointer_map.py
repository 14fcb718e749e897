"""The map of a run: one colour per group, time from left to right."""

import numpy as np

from experiments.run.pointer_map import draw, to_array
from tying import Pointers


def test_tied_layers_have_one_colour_in_the_map() -> None:
    figure = draw([(10, Pointers((0, 1, 2))), (20, Pointers((0, 1, 1)))], title="map")
    mesh = figure.axes[0].collections[0]
    colours = np.asarray(mesh.get_array())
    assert colours.shape == (3, 2, 3)
    assert np.array_equal(colours[1, 1], colours[2, 1])
    assert not np.array_equal(colours[1, 0], colours[2, 0])
    assert to_array(figure).dtype == np.uint8


def test_windows_are_as_wide_as_they_are_long_and_a_resumed_map_begins_where_it_was() -> None:
    figure = draw([(30, Pointers((0, 1))), (100, Pointers((0, 0)))], start=20)
    mesh = figure.axes[0].collections[0]
    edges = np.unique(mesh.get_coordinates()[..., 0])
    assert edges.tolist() == [20, 30, 100]
    assert figure.axes[0].get_xlim() == (20, 100)
