"""Pointers: which layer's weights every layer uses, as an immutable value.

L layers have a pointer each: p[i] == i means that layer i owns its weights (it is a *root*), p[i] == j < i
that it uses the weights of root j. The values are exactly the set partitions of the layers, so there are
Bell(L) of them: 15 for L=4, 203 for L=6, 4140 for L=8. This module knows nothing of tensors.

A pattern may also say which rank the low-rank delta of every tied layer has (`tying.binding.deltas`): "0 0+4 2 2+0". Those
that say none are the set partitions, and leave the rank to the binding.
"""

import operator
import re
from collections.abc import Hashable, Iterable, Iterator, Sequence
from typing import Self

from tying.errors import InputError

_MOST_DIGITS = 6
_RANKED = re.compile(rf"(\d{{1,{_MOST_DIGITS}}})\+(\d{{1,{_MOST_DIGITS}}})", re.ASCII)
_RECURRENCE = 0.46  # measured at 1 to 8 uses of the same weights, arXiv 2604.21106
FORMS = "pointers as in '0 1 1 3', labels as in '1-2-2-3'"


def begins_pointers(text: str) -> bool:
    """Return whether a text is meant to be parsed as pointers or labels, and not a name."""
    return text[:1].isdecimal() or text[1:2] == "-"


class Pointers(tuple[int, ...]):
    """A valid pointer tuple: p[i] <= i and p[p[i]] == p[i] for every layer i.

    Args:
        values: One pointer per layer, layer 0 first; texts "0+4" for all tied layers, or for none, say the ranks too.

    Raises:
        InputError: If a pointer is no whole number, or names a later layer, or a layer that is not a root.
    """

    __slots__ = ()

    def __new__(cls, values: Iterable[int | str]) -> Self:
        """Check and make; see the class."""
        try:
            entries = tuple(values)
            if any(isinstance(entry, str) and "+" in entry for entry in entries):
                return _ranked(entries)  # type: ignore[return-value]
            pointers = tuple(operator.index(value) for value in entries)  # type: ignore[arg-type]
        except TypeError as error:
            raise InputError(f"pointers {values!r}: expected one whole number per layer, as in (0, 1, 1, 3)") from error
        if not pointers:
            raise InputError("pointers are empty: a model has at least one layer")
        for layer, root in enumerate(pointers):
            if not 0 <= root <= layer:
                raise InputError(f"pointers[{layer}] = {root}: a layer points at itself or an earlier one (0 to {layer})")
            if pointers[root] != root:
                raise InputError(
                    f"pointers[{layer}] = {root}, but layer {root} owns no weights: it points at {pointers[root]}"
                )
        return super().__new__(cls, pointers)

    @classmethod
    def independent(cls, num_layers: int) -> Self:
        """Every layer owns its weights: conventional training."""
        return cls(range(num_layers))

    @classmethod
    def from_labels(cls, labels: Iterable[Hashable]) -> Self:
        """Layers with equal labels share; the first layer with a label becomes its root ("ABBA" -> 0 1 1 0)."""
        first: dict[Hashable, int] = {}
        return cls([first.setdefault(label, layer) for layer, label in enumerate(labels)])

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read what `str` prints: "0 1 1 3". Commas, or bare digits for up to ten layers ("0113"), work too.

        Between dashes stand labels instead, a number or a letter per layer, equal where layers share: "1-2-2-3", "a-b-b-c".

        Raises:
            InputError: If the text is neither a list of numbers nor one of labels, or the numbers are not valid pointers.
        """
        labels = text.strip().split("-")
        if len(labels) > 1 and all(_is_number(label) or (label.isalpha() and len(label) == 1) for label in labels):
            return cls.from_labels(int(label) if label.isdecimal() else label for label in labels)
        words = re.split(r"[\s,]+", text.strip().strip("()[]"))
        if len(words) == 1:
            words = list(words[0])
        if not words or not all(map(_is_number, words)):
            raise InputError(f"pointers {text!r}: expected one per layer: {FORMS}")
        return cls(map(int, words))

    @classmethod
    def parse_ranked(cls, text: str) -> "Pointers":
        """Read what `parse` reads, and patterns that say ranks: "0 0+4 2 2+0".

        Raises:
            InputError: If the text is neither, or only some tied layers have a rank.
        """
        return cls(int(word) if _is_number(word) else word for word in text.split()) if "+" in text else cls.parse(text)

    @classmethod
    def all(cls, num_layers: int) -> Iterator[Self]:
        """Every value for this many layers, each once, in lexicographic order."""

        def extend(prefix: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
            if len(prefix) == num_layers:
                yield prefix
                return
            layer = len(prefix)
            for root in (*sorted(set(prefix)), layer):
                yield from extend((*prefix, root))

        return map(cls, extend(()))

    @property
    def num_layers(self) -> int:
        """Number of layers L."""
        return len(self)

    @property
    def roots(self) -> tuple[int, ...]:
        """The layers that own weights, in rising order; layer 0 is always the first."""
        return tuple(sorted(set(self)))

    @property
    def num_unique(self) -> int:
        """Number of unique layers: how many sets of weights exist."""
        return len(set(self))

    @property
    def effective_blocks(self) -> float:
        """Untied blocks worth as much by the iso-depth law: the sum over groups of size ** 0.46, from 1 to L.

        The exponent is that of whole stacks trained from scratch (arXiv 2604.21106); its use for groups is ours.
        """
        return float(sum(len(group) ** _RECURRENCE for group in self.groups))

    @property
    def groups(self) -> tuple[tuple[int, ...], ...]:
        """The layers that share, root first, one tuple per root: 0 1 1 3 -> ((0,), (1, 2), (3,))."""
        members: dict[int, list[int]] = {}
        for layer, root in enumerate(self):
            members.setdefault(root, []).append(layer)
        return tuple(tuple(group) for group in members.values())

    @property
    def ranks(self) -> tuple[int, ...]:
        """The rank of every layer's delta, 0 for roots; empty where the pattern says none."""
        return ()

    def with_ranks(self, ranks: Iterable[int]) -> "Pointers":
        """Return the same tying with a rank for the delta of every tied layer.

        Where nothing is tied, there is nothing to say: that is the pattern without ranks.

        Args:
            ranks: One per layer; those of roots are not read.

        Raises:
            InputError: If there are not L of them, or a tied layer's is no whole number of at least 0.
        """
        given = list(ranks)
        if len(given) != len(self):
            raise InputError(f"ranks {given}: {len(given)} for {len(self)} layers")
        kept = tuple(0 if layer == root else rank for (layer, root), rank in zip(enumerate(self), given, strict=True))
        if not all(type(rank) is int and rank >= 0 for rank in kept):
            raise InputError(f"ranks {given}: expected whole numbers of at least 0")
        return Pointers(self) if self.num_unique == len(self) else RankedPointers(self, kept)

    def to_list(self) -> list[int | str]:
        """Return the JSON form, which the constructor reads: numbers, and texts "0+4" for tied layers with ranks."""
        return list(self)

    def others(self, layer: int) -> tuple[int, ...]:
        """Return the layers that share with a layer, itself left out: of layer 1 in 0 1 1 1, (2, 3)."""
        return tuple(other for other, root in enumerate(self) if root == self[layer] and other != layer)

    def move(self, layer: int, target: int) -> Self:
        """Change one layer: `target == layer` gives it weights of its own, `target < layer` joins target's group.

        If the layer was the root of others and leaves, the next of them becomes the root of those that stay.
        A root told to own its weights stays as it is, dependents included.

        Args:
            layer: The layer to change, 0 to L-1.
            target: The layer itself, or any earlier layer (not necessarily a root).

        Raises:
            InputError: If the layer does not exist or the target is a later layer.
        """
        if not 0 <= layer < len(self):
            raise InputError(f"layer {layer}: there are layers 0 to {len(self) - 1}")
        if not 0 <= target <= layer:
            raise InputError(f"target {target} for layer {layer}: allowed are 0 to {layer}")
        root = layer if target == layer else self[target]
        if root == self[layer]:
            return self
        labels = list(self)
        # A label of its own keeps the layer apart from those that pointed at it until now.
        labels[layer] = -1 if root == layer else root
        return self.from_labels(labels)

    def __str__(self) -> str:
        return " ".join(map(str, self.to_list()))

    def __repr__(self) -> str:
        return f"Pointers({tuple(self.to_list())})"


class RankedPointers(Pointers):
    """Pointers that say ranks, made by `Pointers.with_ranks`; at least one layer is tied. None equals one without ranks."""

    _ranks: tuple[int, ...]

    def __new__(cls, values: Iterable[int | str], ranks: tuple[int, ...]) -> Self:
        """Take over what `with_ranks` has checked."""
        made = tuple.__new__(cls, values)
        made._ranks = ranks
        return made

    @property
    def ranks(self) -> tuple[int, ...]:
        """See Pointers.ranks."""
        return self._ranks

    def move(self, layer: int, target: int) -> Pointers:  # type: ignore[override]
        """See Pointers.move; layers that stay tied keep their ranks, one that was a root has rank 0."""
        return Pointers(self).move(layer, target).with_ranks(self._ranks)

    def to_list(self) -> list[int | str]:
        """See Pointers.to_list."""
        return [
            root if layer == root else f"{root}+{rank}"
            for (layer, root), rank in zip(enumerate(self), self._ranks, strict=True)
        ]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RankedPointers) and tuple.__eq__(self, other) and self._ranks == other._ranks

    def __ne__(self, other: object) -> bool:  # tuple has its own
        return not self == other

    def __hash__(self) -> int:
        return hash((tuple(self), self._ranks))

    def __reduce__(self) -> tuple[type, tuple[list[int | str]]]:
        return Pointers, (self.to_list(),)


def _ranked(entries: Sequence[int | str]) -> Pointers:
    """Return the pattern that numbers, of roots, and texts, of tied layers, say."""
    found = [_RANKED.fullmatch(entry) if isinstance(entry, str) else None for entry in entries]
    where = f"pointers {' '.join(map(str, entries))!r}"
    if any(isinstance(entry, str) and match is None for entry, match in zip(entries, found, strict=True)):
        raise InputError(f"{where}: expected one per layer, as in '0 0+4 2 2+0'")
    pointers = Pointers(int(match[1]) if match else entry for entry, match in zip(entries, found, strict=True))
    for layer, (root, match) in enumerate(zip(pointers, found, strict=True)):
        if (match is None) != (layer == root):
            which = "is tied and has no rank" if match is None else "owns its weights and has a rank"
            raise InputError(f"{where}: layer {layer} {which}; ranks are those of all tied layers, as in '0 0+4 2 2+0'")
    return pointers.with_ranks(int(match[2]) if match else 0 for match in found)


def _is_number(word: str) -> bool:
    return word.isdecimal() and len(word) <= _MOST_DIGITS
