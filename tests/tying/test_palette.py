"""Colours and letters tell roots apart; the picture of a run has a row per layer."""

import numpy as np

from tying import Pointers
from tying.palette import ansi_row, colour, letter, picture


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


def test_a_picture_has_a_colour_per_group_from_its_time_on() -> None:
    shown = picture([(0, Pointers((0, 1, 2))), (50, Pointers((0, 1, 1))), (75, Pointers((0, 0, 0)))], num_iterations=100)
    assert (shown.shape, shown.dtype) == ((48, 512, 3), np.uint8)
    rows = shown[[4, 20, 36]]
    assert len(np.unique(rows[:, 0], axis=0)) == 3  # the pattern at the start is a line
    for column, groups in ((100, 2), (255, 2), (257, 1), (383, 1)):
        assert len(np.unique(rows[:, column], axis=0)) == groups, column
    assert (shown[:, 385:] == shown[-1, -1]).all()  # still to come
