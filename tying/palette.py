"""One colour and one letter per root, the same in terminals, pictures and TensorBoard."""

import colorsys

from tying.pointers import Pointers


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
