"""Pictures of the tying: colours tell roots apart, the map has one colour per group."""

import numpy as np
from tying.pointer_map import draw, to_array

from tying import Pointers
from tying.palette import ansi_row, colour, letter


def test_letters_are_the_roots_own() -> None:
    assert [letter(root) for root in (0, 1, 25, 26)] == ["A", "B", "Z", "26"]


def test_colours_of_up_to_twelve_roots_are_far_apart() -> None:
    colours = np.array([colour(root, 12) for root in range(12)])
    apart = np.linalg.norm(colours[:, None] - colours[None], axis=-1)[~np.eye(12, dtype=bool)]
    assert apart.min() > 0.1


def test_the_row_has_a_letter_per_layer_and_bold_roots() -> None:
    row = ansi_row(Pointers((0, 1, 1)))
    assert row.count("\x1b[1;") == 2
    assert row.count("B") == 2


def test_tied_layers_have_one_colour_in_the_map() -> None:
    figure = draw([(10, Pointers((0, 1, 2))), (20, Pointers((0, 1, 1)))], title="map")
    mesh = figure.axes[0].collections[0]
    colours = np.asarray(mesh.get_array())
    assert colours.shape == (3, 2, 3)
    assert np.array_equal(colours[1, 1], colours[2, 1])
    assert not np.array_equal(colours[1, 0], colours[2, 0])
    assert to_array(figure).dtype == np.uint8
