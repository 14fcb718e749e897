"""One colour and one letter per root, the same in terminals, pictures and TensorBoard."""

import colorsys
from collections.abc import Sequence

import numpy as np

from tying.pointers import Pointers

_CELL = 16  # pixels per layer
_WIDTH = 512  # pixels of a picture
_EMPTY = 235


def letter(root: int) -> str:
    """Return A for root 0, B for 1, ...; after Z the number itself."""
    return chr(ord("A") + root) if root < 26 else str(root)


def colour(root: int, num_layers: int) -> tuple[float, float, float]:
    """Return the RGB colour (0 to 1) of a root; neighbours are far apart in hue and alternate in lightness."""
    hue = (0.58 + root * 0.618034) % 1.0  # steps by the golden ratio never come close to a hue used shortly before
    return colorsys.hls_to_rgb(hue, 0.42 if root % 2 else 0.62, 0.65)


def ansi_row(pointers: Pointers) -> str:
    """Return one coloured letter per layer: layers with the same letter share; a root's own letter is bold."""
    return " ".join(_ansi(layer, root, len(pointers)) for layer, root in enumerate(pointers))


def _ansi(layer: int, root: int, num_layers: int) -> str:
    red, green, blue = (round(255 * part) for part in colour(root, num_layers))
    style = "1;" if layer == root else ""
    return f"\x1b[{style}38;2;{red};{green};{blue}m{letter(root)}\x1b[0m"


def picture(history: Sequence[tuple[int, Pointers]], num_iterations: int) -> np.ndarray:
    """Return the map of a run as pixels: a row per layer, a colour per root, time from left to right.

    Args:
        history: (iteration at the end of the window, pointers in force in it), in rising order; the first may end at 0.
        num_iterations: Of the whole run; the part still to come is grey.

    Returns:
        (16 L, 512, 3) uint8.
    """
    num_layers = len(history[0][1])
    pixels = np.full((num_layers * _CELL, _WIDTH, 3), _EMPTY, dtype=np.uint8)
    start = 0
    for iteration, pointers in history:
        end = max(1, round(_WIDTH * iteration / num_iterations))  # at least a line for the pattern at the start
        for layer, root in enumerate(pointers):
            rows = slice(layer * _CELL, (layer + 1) * _CELL - 2)
            pixels[rows, start:end] = [round(255 * part) for part in colour(root, num_layers)]
        start = end
    return pixels
