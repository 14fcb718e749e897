"""Pointers: which layer's weights every layer uses, as an immutable value.

L layers have a pointer each: p[i] == i means that layer i owns its weights (it is a *root*), p[i] == j < i
that it uses the weights of root j. The values are exactly the set partitions of the layers, so there are
Bell(L) of them: 15 for L=4, 203 for L=6, 4140 for L=8. This module knows nothing of tensors.
"""

import operator
import re
from collections.abc import Hashable, Iterable, Iterator
from typing import Self

from tying.errors import InputError

_MOST_DIGITS = 6
_RECURRENCE = 0.46  # measured at 1 to 8 uses of the same weights, arXiv 2604.21106
FORMS = "pointers as in '0 1 1 3', labels as in '1-2-2-3'"


def begins_pointers(text: str) -> bool:
    """Return whether a text is meant to be parsed as pointers or labels, and not a name."""
    return text[:1].isdecimal() or text[1:2] == "-"


class Pointers(tuple[int, ...]):
    """A valid pointer tuple: p[i] <= i and p[p[i]] == p[i] for every layer i.

    Args:
        values: One pointer per layer, layer 0 first.

    Raises:
        InputError: If a pointer is no whole number, or names a later layer, or a layer that is not a root.
    """

    __slots__ = ()

    def __new__(cls, values: Iterable[int]) -> Self:
        """Check and make; see the class."""
        try:
            pointers = tuple(operator.index(value) for value in values)
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
        return tuple(layer for layer, root in enumerate(self) if layer == root)

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
        return " ".join(map(str, self))

    def __repr__(self) -> str:
        return f"Pointers({tuple(self)})"


def _is_number(word: str) -> bool:
    return word.isdecimal() and len(word) <= _MOST_DIGITS
