"""What outlives the block that made it: keys and values for later tokens; these, or maps of attention, for later positions.

Shapes: B batch, H heads, K heads of keys and values, T tokens, S tokens that are seen, D features per head.
"""

from torch import Tensor

from tying.pointers import Pointers

# Keys, normed and rotated already, and values: (B, K, S, D) each. Where maps are shared, a map comes first: (B, H, T, S),
# the probabilities of attention. Empty before the first token.
Read = tuple[Tensor, ...]


class Cache:
    """The keys and values of all tokens so far, one entry for every position whose keys and values are read.

    It belongs to positions, not to weights: tied blocks have an entry each.

    Args:
        sources: q of every position: it reads the keys and values that position q[i] makes; q[i] == i: its own.
    """

    def __init__(self, sources: Pointers) -> None:
        self._sources = sources
        self._kept: dict[int, Read] = {}

    @property
    def num_tokens(self) -> int:
        """Tokens T that the model has seen."""
        return self._kept[0][0].shape[2] if self._kept else 0

    @property
    def num_bytes(self) -> int:
        """What it takes."""
        return sum(part.nbytes for entry in self._kept.values() for part in entry)

    def before(self, position: int) -> Read:
        """Return what a block is given: what its position made of earlier tokens, or all that its source made."""
        return self._kept.get(self._sources[position], ())

    def reads(self, position: int) -> bool:
        """Return whether a position reads what another one makes."""
        return self._sources[position] != position

    def keep(self, position: int, read: Read) -> None:
        """Take what a block has read: its own keys and values, or once more those of its source."""
        self._kept[self._sources[position]] = read


class MapCache(Cache):
    """The same where positions read maps of attention: keys of those that make maps, values of all, maps of new tokens.

    Args:
        sources: Per position, the one whose map it reads.
    """

    def __init__(self, sources: Pointers) -> None:
        super().__init__(sources)
        self._maps: dict[int, Tensor] = {}

    def before(self, position: int) -> Read:
        """See Cache.before; the map of its source comes first, if it makes none."""
        own = self._kept.get(position, ())
        return (self._maps[self._sources[position]], *own) if self.reads(position) else own

    def keep(self, position: int, read: Read) -> None:
        """See Cache.keep."""
        self._maps[position], *own = read
        self._kept[position] = tuple(own)
