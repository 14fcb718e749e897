"""Whose keys and values every position reads: patterns of the literature, by name."""

from tying import strategies
from tying.errors import InputError
from tying.pointers import Pointers

HELP = (
    "positions that read the keys and values of an earlier one and make queries alone: none, cla:S (groups of S), "
    "trailing:M (the last M), yoco (the upper half), or pointers ('0 0 2 2')"
)


def sources(text: str, num_layers: int) -> Pointers | None:
    """Return q, one pointer for every position: position i reads the keys and values that position q[i] makes.

    Args:
        text: "none": no position lacks its own; "cla:S": i - i mod S (Brandon et al. 2024, arXiv 2405.12981); "trailing:M":
            the last M positions read those of the last one before them, as in Gemma 3n; "yoco": the upper half reads those
            of its first position (Sun et al. 2024, arXiv 2405.05254, without the windows of the lower half); pointers, or
            any strategy of `tying.strategies`.
        num_layers: Number of positions L.

    Returns:
        None for "none", under which keys and values are no separate matrices.

    Raises:
        InputError: If the text is none of these, or its number does not fit.
    """
    name, _, number = text.strip().partition(":")
    if text == "none":
        return None
    if name == "yoco" and not number:
        return Pointers(min(layer, num_layers // 2) for layer in range(num_layers))
    if name not in ("cla", "trailing"):
        return strategies.make(text, num_layers)
    most = num_layers if name == "cla" else num_layers - 1
    if not number.isdecimal() or not 1 <= int(number) <= most:
        raise InputError(f"{text!r}: expected {name}:N with N from 1 to {most}, for {num_layers} layers")
    if name == "cla":
        return Pointers(layer - layer % int(number) for layer in range(num_layers))
    return Pointers(min(layer, num_layers - 1 - int(number)) for layer in range(num_layers))
