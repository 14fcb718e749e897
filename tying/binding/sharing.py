"""Which parameters of a block follow the pointers, and which stay with each layer.

A block's parameters are named as `block.named_parameters()` names them ("attn.qkv.weight"). Which part of a block a
parameter belongs to is read from the modules around it, so `share` means the same in blocks of every library:

- attention: self- and cross-attention, their projections and the norms of queries and keys;
- kv, map: of attention, the modules that make keys and values, or queries and keys, and nothing else;
- feed_forward: the MLP, or experts and their router; in blocks that hold the two matrices themselves, those;
- neither: the norms of the residual stream (before or after a part), layer scales, convolutions, state-space mixers.

Parameters that tell positions apart (the scales of a residual path, a depth embedding) never follow pointers, whatever
`share` is: their module's class says so by an attribute `per_position = True`.
"""

import re
from collections.abc import Iterable, Sequence
from fnmatch import fnmatch

from torch import nn

from tying.errors import InputError
from tying.pointers import Pointers

_ATTENTION = re.compile(r"attn|attention", re.IGNORECASE)
_FEED_FORWARD_CLASS = re.compile(
    r"mlp|ffn|feed_?forward|(?-i:FF$)|swiglu|moe|expert|intermediate|output$|dense(gated)?(relu|act)dense", re.IGNORECASE
)
_FEED_FORWARD_ATTRIBUTE = re.compile(r"mlp|ff|feed_?forward|intermediate|output|moe|expert", re.IGNORECASE)
# A module of attention that makes queries, keys, values, or several of them, or norms them.
_MAKER = re.compile(r"([qkv]+|query|key|value)(_proj|_norm)?")
_MADE = {"kv": {"k", "v"}, "map": {"q", "k"}}
PARTS = ("attention", "feed_forward", *_MADE)
_NORM_WORDS = re.compile(r"layer|norm|rms|ln|_|\d", re.IGNORECASE)


def norm_names(block: nn.Module) -> frozenset[str]:
    """Return the parameters that belong to normalisation modules (LayerNorm, RMSNorm, ...: by class name)."""
    return frozenset(
        f"{path}.{name}"
        for path, module in block.named_modules()
        if path and _is_norm(module)
        for name, _ in module.named_parameters(recurse=False)
    )


def position_names(block: nn.Module) -> frozenset[str]:
    """Return the parameters in modules whose class has `per_position = True`."""
    return frozenset(
        f"{path}.{name}"
        for path, module in block.named_modules()
        if path and getattr(module, "per_position", False) is True
        for name, _ in module.named_parameters()
    )


def part_names(block: nn.Module, part: str) -> frozenset[str]:
    """Return a block's parameters in one of `PARTS`: the module's docstring says what belongs to each."""
    if part in _MADE:
        return _makers(part_names(block, "attention"), _MADE[part])
    found: dict[str, set[str]] = {"attention": set(), "feed_forward": set()}
    _collect(block, "", None, found)
    if found["attention"] and not found["feed_forward"]:
        found["feed_forward"] = {
            f"{attribute}.{name}"
            for attribute, module in block.named_children()
            if _is_matrix(module) and not _ATTENTION.search(attribute)
            for name, _ in module.named_parameters()
        }
    return frozenset(found[part])


def _makers(names: Iterable[str], wanted: set[str]) -> frozenset[str]:
    """Return the names in modules that make nothing but what is wanted; none, unless all of it is made so."""
    chosen, made = set(), set()
    for name in names:
        for attribute in filter(_MAKER.fullmatch, name.split(".")[:-1]):
            stem, _, kind = attribute.partition("_")
            letters = {stem[0]} if stem in ("query", "key", "value") else set(stem)
            if letters <= wanted:
                chosen.add(name)
                made |= letters if kind != "norm" else set()
    return frozenset(chosen) if made == wanted else frozenset()


def _collect(module: nn.Module, path: str, part: str | None, found: dict[str, set[str]]) -> None:
    """Walk down; the outermost module that names a part decides for everything below it but residual norms."""
    if part is not None:
        found[part].update(path + name for name, _ in module.named_parameters(recurse=False))
    for attribute, child in module.named_children():
        if _is_norm(child) and (part is None or not _NORM_WORDS.sub("", attribute)):
            continue  # a residual norm: "norm", "LayerNorm"; inside a part, "q_norm" or "kv_a_layernorm" say what they norm
        _collect(child, f"{path}{attribute}.", part or _part_of(attribute, child), found)


def _part_of(attribute: str, module: nn.Module) -> str | None:
    kind = type(module).__name__
    if "scale" in kind.lower():
        return None
    if _ATTENTION.search(kind) or _ATTENTION.search(attribute):
        return "attention"
    if _FEED_FORWARD_CLASS.search(kind) or _FEED_FORWARD_ATTRIBUTE.match(attribute):
        return "feed_forward"
    return None


def _is_norm(module: nn.Module) -> bool:
    return "norm" in type(module).__name__.lower() and not any(list(child.parameters()) for child in module.children())


def _is_matrix(module: nn.Module) -> bool:
    weight = getattr(module, "weight", None)
    return weight is not None and weight.dim() == 2 and not list(module.children())


def shared_names(block: nn.Module, share: str, norms: str) -> tuple[str, ...]:
    """Return the names of the parameters that follow the pointers, in the block's own order.

    Args:
        block: One of the equal blocks.
        share: "block" (everything), one of `PARTS`, or patterns of parameter names joined by commas ("attn.*,mlp.up.*");
            without those of `position_names` in any case.
        norms: "shared": norms are treated like any other parameter; "private": norms never follow the pointers.

    Raises:
        InputError: If the choice is unknown or matches no parameter.
    """
    return common_names([block], [[name for name, _ in block.named_parameters()]], share, norms)


def common_names(blocks: Sequence[nn.Module], names: Sequence[Sequence[str]], share: str, norms: str) -> tuple[str, ...]:
    """Return the names that follow the pointers in blocks that may differ: chosen by `share`, and had by all.

    Args:
        blocks: The blocks, layer 0 first.
        names: The parameters of each block, in the block's own order.
        share: See `shared_names`.
        norms: See `shared_names`.

    Raises:
        InputError: If the choice is unknown, matches no parameter, or none that all blocks have.
    """
    if norms not in ("shared", "private"):
        raise InputError(f"norms {norms!r}: allowed are 'shared' and 'private'")
    # Blocks of one class with the same parameters are built alike: the choice is made once for all of them.
    kinds = {(type(block), tuple(own)): block for block, own in zip(blocks, names, strict=True)}
    chosen = [_choose(block, own, share, norms) for (_, own), block in kinds.items()]
    everything = list(dict.fromkeys(name for _, own in kinds for name in own))
    for pattern in _patterns(share):
        if not any(fnmatch(name, pattern) for name in everything):
            raise InputError(
                f"share {share!r}: {pattern!r} matches no parameter of the block; allowed are 'block', "
                f"{', '.join(map(repr, PARTS))} or patterns of {', '.join(everything)}"
            )
    if not any(chosen):
        raise InputError(
            f"share {share!r} with norms {norms!r} leaves nothing to share; the block has {', '.join(everything)}"
        )
    common = frozenset.intersection(*chosen)
    if not common:
        raise InputError(f"share {share!r} with norms {norms!r}: blocks differ, no chosen parameter is in all of them")
    if len(kinds) > 1 and any(own != common for own in chosen) and common <= norm_names(blocks[0]):
        raise InputError(
            f"share {share!r}: the blocks have only norms in common ({', '.join(sorted(common))}): "
            "bind those that are alike"
        )
    return tuple(name for name in names[0] if name in common)


def _choose(block: nn.Module, names: Sequence[str], share: str, norms: str) -> frozenset[str]:
    if share == "block":
        chosen = frozenset(names)
    elif share in PARTS:
        chosen = part_names(block, share) & frozenset(names)
    else:
        chosen = frozenset(name for name in names if any(fnmatch(name, pattern) for pattern in _patterns(share)))
    chosen -= position_names(block)
    return chosen if norms == "shared" else chosen - norm_names(block)


def _patterns(share: str) -> list[str]:
    if share in ("block", *PARTS):
        return []
    return [pattern.strip() for pattern in share.split(",")]


def spare_parameters(blocks: Sequence[nn.Module], share: str, norms: str, pointers: Pointers) -> list[nn.Parameter]:
    """Return the parameters of untied blocks that a tying replaces by those of other layers.

    Args:
        blocks: The blocks, layer 0 first.
        share: See `shared_names`.
        norms: See `shared_names`.
        pointers: The tying.
    """
    own = [dict(block.named_parameters()) for block in blocks]
    shared = common_names(blocks, [tuple(names) for names in own], share, norms)
    return [own[layer][name] for layer, root in enumerate(pointers) if layer != root for name in shared]


def trainable_params(block: nn.Module, names: Iterable[str], pointers: Pointers) -> int:
    """Return the trainable parameters of all blocks under some pointers, each counted once.

    Args:
        block: One of the equal blocks; `LayerBinding.trainable_params_of` counts blocks that differ.
        names: Its parameters that follow the pointers.
        pointers: One for each block.
    """
    sizes = {name: parameter.numel() for name, parameter in block.named_parameters() if parameter.requires_grad}
    shared = sum(sizes.get(name, 0) for name in names)
    return pointers.num_unique * shared + len(pointers) * (sum(sizes.values()) - shared)
