"""Whose keys and values, or whose map of attention, every position reads: patterns of the literature, by name."""

from collections.abc import Mapping
from fnmatch import fnmatch

from tying import strategies
from tying.errors import InputError
from tying.pointers import Pointers

KV_HELP = (
    "positions that read the keys and values of an earlier one and make queries alone: none, cla:S (groups of S), "
    "trailing:M (the last M), yoco (the upper half), or pointers ('0 0 2 2'); tied: all have the matrices, and those whose "
    "matrices are tied read the keys and values of their root"
)
MAP_HELP = "positions that read the attention map of an earlier one and make values alone; as kv_sharing, which it excludes"
TIED = "tied"
# Per option, the value of `binding.share` that moves nothing else, and the modules of attention that make what is read.
_PARTS = {"kv_sharing": ("kv", "kv", "k_norm"), "attention_sharing": ("map", "qk", "q_norm", "k_norm")}


def sources(text: str, num_layers: int) -> Pointers | None:
    """Return q, one pointer for every position: position i reads what position q[i] makes.

    Args:
        text: "none": every position makes its own; "cla:S": i - i mod S (Brandon et al. 2024, arXiv 2405.12981);
            "trailing:M": the last M positions read those of the last one before them, as in Gemma 3n; "yoco": the upper
            half reads those of its first position (Sun et al. 2024, arXiv 2405.05254, without the windows of the lower
            half); or the pointers themselves. Numbers beyond L mean that all read those of the first. "tied": every
            position makes its own as long as no layers are tied.
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
    if name == TIED and not colon:
        return Pointers.independent(num_layers)
    if name == "yoco" and not colon:
        return Pointers(min(layer, num_layers // 2) for layer in range(num_layers))
    if name not in ("cla", "trailing") or not number.isdecimal() or not int(number):
        raise InputError(
            f"{text!r}: allowed are none, cla:N and trailing:N with N from 1 on, yoco, pointers ('0 0 2 2'), or tied"
        )
    if name == "cla":
        return Pointers(layer - layer % int(number) for layer in range(num_layers))
    last = max(0, num_layers - 1 - int(number))
    return Pointers(min(layer, last) for layer in range(num_layers))


def makers(options: Mapping[str, str], biases: bool, gains: bool) -> tuple[str, ...]:
    """Return the parameters of a block that make what tied positions read; none where no option is "tied".

    Args:
        options: kv_sharing and attention_sharing, and their values.
        biases: Whether linear layers have biases.
        gains: Whether queries and keys are normed.
    """
    for name, (_, matrix, *norms) in _PARTS.items():
        if options[name] == TIED:
            names = [f"{matrix}.weight", *[f"{matrix}.bias"] * biases, *[f"{norm}.weight" for norm in norms] * gains]
            return tuple(f"attn.{own}" for own in names)
    return ()


def check_share(options: Mapping[str, str], makers: tuple[str, ...], share: str, norms: str) -> None:
    """Check that all that makes what is read moves with the pointers.

    Args:
        options: As for `makers`.
        makers: What that returns.
        share: As `norms`, a field of BindingConfig.
        norms: See there.

    Raises:
        InputError: Naming both settings that do not go together.
    """
    for name, (part, *_) in _PARTS.items():
        where, chosen = f"model.{name} = {options[name]!r}", f"binding.share = {share!r}"
        if options[name] != TIED and share == part:
            raise InputError(f"{chosen}: with {where} not every layer has matrices for that alone, as it has with 'tied'")
        if options[name] != TIED:
            continue
        patterns = [pattern.strip() for pattern in share.split(",")]
        missing = [maker for maker in makers if not any(fnmatch(maker, pattern) for pattern in patterns)]
        if share not in ("block", "attention", part) and missing:
            raise InputError(
                f"{where}: {chosen} leaves {', '.join(missing)} with each layer, which make what tied positions read: "
                f"allowed are block, attention, {part}"
            )
        if norms == "private" and any("norm" in maker for maker in makers):
            raise _excluded(options, f"binding.norms = {norms!r}")


def check_training(options: Mapping[str, str], gradient: str, delta_rank: int) -> None:
    """Check that weights which make what tied positions read train as those of one position.

    Args:
        options: As for `makers`, one of them "tied".
        gradient: As `delta_rank`, a field of BindingConfig.
        delta_rank: See there.

    Raises:
        InputError: Naming both settings that do not go together.
    """
    if gradient == "mean":  # of a sum of one term, since one position uses them
        raise _excluded(options, f"binding.gradient = {gradient!r}")
    if delta_rank:  # a position that reads would not use its delta
        raise _excluded(options, f"binding.delta_rank = {delta_rank}")


def _excluded(options: Mapping[str, str], other: str) -> InputError:
    name = next(name for name, text in options.items() if text == TIED)
    return InputError(f"model.{name} = {TIED!r} and {other} exclude each other: tied positions read what their root makes")
