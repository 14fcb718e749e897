"""Sources: whose weights every position of a trained model runs, as an immutable value.

Position i runs the block of position i with the shared weights that layer `sources[i]` had in the original, or passes its
input on where `sources[i]` is None: the layer is removed. Positions with the same source are tied. Unlike a root, a source
may be a later layer: "4 4 4" in the middle of a model is a group that uses the values of its last member.
"""

import re
from collections.abc import Iterable
from typing import Self

from tying.errors import InputError
from tying.pointers import Pointers

_REMOVED = "-"


class Sources(tuple[int | None, ...]):
    """One source per position, layer 0 first.

    Args:
        values: Layers 0 to L-1, or None for a layer that is removed.

    Raises:
        InputError: If a value is no layer, or there are none.
    """

    __slots__ = ()

    def __new__(cls, values: Iterable[int | None]) -> Self:
        """Check and make; see the class."""
        sources = tuple(values)
        if not sources:
            raise InputError("sources are empty: a model has at least one layer")
        for layer, source in enumerate(sources):
            if source is not None and not (isinstance(source, int) and 0 <= source < len(sources)):
                raise InputError(f"sources[{layer}] = {source!r}: allowed are layers 0 to {len(sources) - 1}, and None")
        return super().__new__(cls, sources)

    @classmethod
    def original(cls, num_layers: int) -> Self:
        """Every position runs its own weights."""
        return cls(range(num_layers))

    @classmethod
    def of(cls, pointers: Pointers, removing: bool) -> Self:
        """Return a tying whose groups have the values of their first layers.

        Args:
            pointers: Over L layers; with `removing` over L + 1, of which layer 0 stands for nothing: the layers that join
                it are removed. So every agent and every table of tyings can remove layers too.
            removing: Whether they are.
        """
        return cls(None if root == 0 else root - 1 for root in pointers[1:]) if removing else cls(pointers)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read what `str` prints: "0 0 - 5 5 5".

        Raises:
            InputError: If the text is not a list of layers and dashes.
        """
        words = re.split(r"[\s,]+", text.strip())
        if not all(word == _REMOVED or (word.isdecimal() and len(word) <= 6) for word in words):
            raise InputError(f"sources {text!r}: expected a layer or '-' for every position, as in '0 0 - 5 5 5'")
        return cls(None if word == _REMOVED else int(word) for word in words)

    @property
    def kept(self) -> tuple[int, ...]:
        """The positions that are not removed."""
        return tuple(layer for layer, source in enumerate(self) if source is not None)

    @property
    def num_sets(self) -> int:
        """Number of sets of weights K that exist."""
        return len({source for source in self if source is not None})

    @property
    def pointers(self) -> Pointers:
        """The tying of the positions that are kept, numbered from 0."""
        return Pointers.from_labels(self[layer] for layer in self.kept)  # raises where all are removed

    @property
    def groups(self) -> tuple[tuple[int, ...], ...]:
        """The positions that share, one tuple per set of weights."""
        kept = self.kept
        return tuple(tuple(kept[member] for member in group) for group in self.pointers.groups) if kept else ()

    @property
    def entries(self) -> list[int | None]:
        """One entry per position: the first position of its group, or None where it is removed. JSON-ready."""
        first = {member: group[0] for group in self.groups for member in group}
        return [first.get(layer) for layer in range(len(self))]

    def with_donor(self, group: Iterable[int], donor: int) -> "Sources":
        """Return the same with other values for a group: those that layer `donor` had."""
        members = set(group)
        return Sources(donor if layer in members else source for layer, source in enumerate(self))

    def __str__(self) -> str:
        return " ".join(_REMOVED if source is None else str(source) for source in self)

    def __repr__(self) -> str:
        return f"Sources.parse({str(self)!r})"


def in_order(many: Iterable[Sources]) -> list[Sources]:
    """Return sources in lexicographic order, in which neighbours share the longest prefixes."""
    return sorted(many, key=lambda sources: [-1 if source is None else source for source in sources])
