"""Keys and values that outlive the block which made them: for later tokens, and for later positions.

Shapes: B batch, K heads of keys and values, T tokens, D features per head.
"""

from torch import Tensor

from tying.pointers import Pointers

# Keys, normed and rotated already, and values: (B, K, T, D) each. Empty before the first token.
KeysValues = tuple[Tensor, ...]


class Cache:
    """The keys and values of all tokens so far, one entry for every position whose keys and values are read.

    It belongs to positions, not to weights: tied blocks have an entry each.

    Args:
        sources: q of every position: it reads the keys and values that position q[i] makes; q[i] == i: its own.
    """

    def __init__(self, sources: Pointers) -> None:
        self._sources = sources
        self._kept: dict[int, KeysValues] = {}

    @property
    def num_tokens(self) -> int:
        """Tokens T that the model has seen."""
        return self._kept[0][0].shape[2] if self._kept else 0

    @property
    def num_bytes(self) -> int:
        """What it takes."""
        return sum(part.nbytes for entry in self._kept.values() for part in entry)

    def before(self, position: int) -> KeysValues:
        """Return what a block is given: what its position made of earlier tokens, or all that its source made."""
        return self._kept.get(self._sources[position], ())

    def keep(self, position: int, entry: KeysValues) -> None:
        """Take what a block has read: its own keys and values, or once more those of its source."""
        self._kept[self._sources[position]] = entry
