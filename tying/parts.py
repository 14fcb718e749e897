"""Parts: whole layers, or their halves as layers of their own, of which only those of one kind share.

A pattern over parts is a Pointers value over "virtual" layers. Of "halves", those of number 0 to L-1 are the attention
halves and L to 2L-1 the feed-forward halves. Where layers can be removed, one more stands before them all, for nothing:
whatever joins it is removed. So actions, observations, agents and tables are those of whole layers. This module knows
nothing of tensors.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate, product

from tying import strategies
from tying.errors import InputError, unknown
from tying.pointers import Pointers, begins_pointers

# Name to what `share` calls each part of a block; see tying.binding.sharing.
SHARES = {"block": ("block",), "halves": ("attention", "feed_forward")}


@dataclass(frozen=True)
class Parts:
    """The virtual layers of a model.

    Attributes:
        num_layers: Layers L of the model.
        name: "block" or "halves".
        removing: Whether a layer that stands for nothing comes before them.

    Raises:
        InputError: If the name is not known.
    """

    num_layers: int
    name: str = "block"
    removing: bool = False

    def __post_init__(self) -> None:
        if self.name not in SHARES:
            raise InputError(unknown(f"parts = {self.name!r}", self.name, SHARES))

    @property
    def shares(self) -> tuple[str, ...]:
        """What `share` calls the parts of a layer."""
        return SHARES[self.name]

    @property
    def apart(self) -> bool:
        """Whether there are layers that cannot share."""
        return len(self.shares) > 1

    @property
    def size(self) -> int:
        """Number of virtual layers V."""
        return self.removing + len(self.shares) * self.num_layers

    @property
    def number(self) -> int:
        """Number of patterns: halves of 6 layers have 203 x 203."""
        return math.prod(_bell(self.num_layers + self.removing) for _ in self.shares)

    @property
    def kinds(self) -> tuple[int | None, ...]:
        """The number of every virtual layer's part, None for nothing, with which all share."""
        return (*[None] * self.removing, *(part for part in range(len(self.shares)) for _ in range(self.num_layers)))

    def joins(self, layer: int, target: int) -> bool:
        """Return whether a layer may join a target's group."""
        return self.kinds[target] in (None, self.kinds[layer])

    def holds(self, pointers: Pointers) -> bool:
        """Return whether a pattern is one of these layers: of their number, and only those of one kind share."""
        return len(pointers) == self.size and all(self.joins(layer, root) for layer, root in enumerate(pointers))

    def every(self) -> Iterator[Pointers]:
        """Yield every pattern once, in lexicographic order."""
        own = list(Pointers.all(self.num_layers + self.removing))
        return map(self._together, product(own, repeat=len(self.shares)))

    def num_sets(self, params: int, independent_params: int) -> float:
        """Return the sets of weights that parameters are; a layer has one, of which halves are shares by their parameters.

        Args:
            params: Of all weights that exist.
            independent_params: The same where none are shared.
        """
        return self.num_layers * params / independent_params

    def make(self, text: str) -> Pointers:
        """Return the pattern of a text: pointers over all virtual layers, or a strategy, which holds for every part.

        Raises:
            InputError: If it is not valid, or ties parts of different kinds.
        """
        if self.apart and not begins_pointers(text):
            own = strategies.make(text, self.num_layers)
            own = Pointers((0, *(root + 1 for root in own))) if self.removing else own
            return self._together([own] * len(self.shares))
        found = strategies.make(text, self.size)
        if not self.holds(found):
            raise InputError(f"pattern '{found}': attention and feed-forward halves have no weights to share")
        return found

    def label(self, *layers: int) -> str:
        """Return the name of one or more virtual layers: "layer 3", "layers 1 and 3", "attention 1 and attention 3"."""
        named = [divmod(layer - self.removing, self.num_layers) for layer in layers]
        if self.apart:
            return " and ".join(f"{self.shares[part].replace('_', '-')} {place}" for part, place in named)
        return f"layer{'s' if len(layers) > 1 else ''} {' and '.join(str(place) for _, place in named)}"

    def _together(self, patterns: "tuple[Pointers, ...] | list[Pointers]") -> Pointers:
        """Return one pattern of a pattern for each part, each over the layers of the part and nothing."""
        first = int(self.removing)
        moved = (
            0 if root < first else root + part * self.num_layers
            for part, pattern in enumerate(patterns)
            for root in pattern[first:]
        )
        return Pointers((*[0] * first, *moved))


def _bell(num_layers: int) -> int:
    """Return the number of patterns, the Bell number, by Bell's triangle."""
    row = [1]
    for _ in range(num_layers - 1):
        row = list(accumulate(row, initial=row[-1]))
    return row[-1]
