"""Whose keys and values, or whose map of attention, every position reads: patterns of the literature, by name."""

from tying import strategies
from tying.errors import InputError
from tying.pointers import Pointers

KV_HELP = (
    "positions that read the keys and values of an earlier one and make queries alone: none, cla:S (groups of S), "
    "trailing:M (the last M), yoco (the upper half), or pointers ('0 0 2 2')"
)
MAP_HELP = "positions that read the attention map of an earlier one and make values alone; as kv_sharing, which it excludes"


def sources(text: str, num_layers: int) -> Pointers | None:
    """Return q, one pointer for every position: position i reads what position q[i] makes.

    Args:
        text: "none": every position makes its own; "cla:S": i - i mod S (Brandon et al. 2024, arXiv 2405.12981);
            "trailing:M": the last M positions read those of the last one before them, as in Gemma 3n; "yoco": the upper
            half reads those of its first position (Sun et al. 2024, arXiv 2405.05254, without the windows of the lower
            half); or the pointers themselves. Numbers beyond L mean that all read those of the first.
        num_layers: Number of positions L.

    Returns:
        None for "none".

    Raises:
        InputError: If the text is none of these, or its number does not fit.
    """
    if text == "none":
        return None
    name, colon, number = text.strip().partition(":")
    if name[:1].isdecimal():
        return strategies.make(text, num_layers)
    if name == "yoco" and not colon:
        return Pointers(min(layer, num_layers // 2) for layer in range(num_layers))
    if name not in ("cla", "trailing") or not number.isdecimal() or not int(number):
        raise InputError(
            f"{text!r}: allowed are none, cla:N and trailing:N with N from 1 on, yoco, or pointers ('0 0 2 2')"
        )
    if name == "cla":
        return Pointers(layer - layer % int(number) for layer in range(num_layers))
    last = max(0, num_layers - 1 - int(number))
    return Pointers(min(layer, last) for layer in range(num_layers))
