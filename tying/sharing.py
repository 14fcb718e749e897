"""Which parameters of a block follow the pointers, and which stay with each layer.

A block's parameters are named as `block.named_parameters()` names them ("attn.qkv.weight"). Sharing is chosen by the
parts of those names, so it works for blocks that other libraries wrote.
"""

from collections.abc import Iterable
from fnmatch import fnmatch

from torch import nn

from tying.errors import InputError
from tying.pointers import Pointers

_ATTENTION_PARTS = ("attn", "attention")
_FEED_FORWARD_PARTS = ("mlp", "ffn", "ff", "feed_forward", "feedforward", "intermediate", "output", "fc1", "fc2")


def norm_names(block: nn.Module) -> frozenset[str]:
    """Return the parameters that belong to normalisation modules (LayerNorm, RMSNorm, ...: by class name)."""
    return frozenset(
        f"{path}.{name}" if path else name
        for path, module in block.named_modules()
        if "norm" in type(module).__name__.lower()
        for name, _ in module.named_parameters(recurse=False)
    )


def _in_attention(name: str) -> bool:
    return any(mark in part.lower() for part in name.split(".") for mark in _ATTENTION_PARTS)


def _in_feed_forward(name: str) -> bool:
    return not _in_attention(name) and any(part.lower() in _FEED_FORWARD_PARTS for part in name.split("."))


def shared_names(block: nn.Module, share: str, norms: str) -> tuple[str, ...]:
    """Return the names of the parameters that follow the pointers, in the block's own order.

    Args:
        block: One of the equal blocks.
        share: "block" (everything), "attention" (parts with attn or attention in their path), "feed_forward" (parts
            named mlp, ffn, intermediate, ...), or patterns of parameter names joined by commas ("attn.*,mlp.up.*").
        norms: "shared": norms are treated like any other parameter; "private": norms never follow the pointers.

    Raises:
        InputError: If the choice is unknown or matches no parameter.
    """
    if norms not in ("shared", "private"):
        raise InputError(f"norms {norms!r}: allowed are 'shared' and 'private'")
    names = [name for name, _ in block.named_parameters()]
    if share == "block":
        chosen = names
    elif share == "attention":
        chosen = [name for name in names if _in_attention(name)]
    elif share == "feed_forward":
        chosen = [name for name in names if _in_feed_forward(name)]
    else:
        patterns = [pattern.strip() for pattern in share.split(",")]
        idle = [pattern for pattern in patterns if not any(fnmatch(name, pattern) for name in names)]
        if idle:
            raise InputError(
                f"share {share!r}: {idle[0]!r} matches no parameter of the block; allowed are 'block', 'attention', "
                f"'feed_forward' or patterns of {', '.join(names)}"
            )
        chosen = [name for name in names if any(fnmatch(name, pattern) for pattern in patterns)]
    if norms == "private":
        private = norm_names(block)
        chosen = [name for name in chosen if name not in private]
    if not chosen:
        raise InputError(f"share {share!r} with norms {norms!r} leaves nothing to share; the block has {', '.join(names)}")
    return tuple(chosen)


def trainable_params(block: nn.Module, names: Iterable[str], pointers: Pointers) -> int:
    """Return the trainable parameters of all blocks under some pointers, each counted once.

    Args:
        block: One of the equal blocks.
        names: Its parameters that follow the pointers.
        pointers: One for each block.
    """
    sizes = {name: parameter.numel() for name, parameter in block.named_parameters() if parameter.requires_grad}
    shared = sum(sizes.get(name, 0) for name in names)
    return pointers.num_unique * shared + len(pointers) * (sum(sizes.values()) - shared)
