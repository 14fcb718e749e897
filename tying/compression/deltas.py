"""DeltaWeights: what a tied position runs that remembers its own weights by a low-rank delta, without a model tied so."""

from collections import OrderedDict
from collections.abc import Sequence

from torch import Tensor, nn

from tying.binding.deltas import Deltas, LayerDeltas
from tying.binding.slots import Scan
from tying.pointers import Pointers


class DeltaWeights:
    """The weights W_s + B A of a position that joins layer s, B A the best of its rank for its own W_i - W_s.

    They are those of `LayerDeltas` for two layers, of which the second joins the first. Factors are kept up to a bound of
    memory, the last used ones; the sum is made anew for every run.

    Args:
        blocks: The original's, layer 0 first.
        shared: The names of the parameters that follow the sources.
        rank: Of the deltas, at least 1.
        memory: Most bytes of factors that are kept.

    Attributes:
        size: Number of values of one position's deltas.

    Raises:
        InputError: If no weight can have a delta.
    """

    def __init__(self, blocks: Sequence[nn.Module], shared: Sequence[str], rank: int, memory: int) -> None:
        scans = [Scan(block) for block in blocks]
        self._blocks, self._shared, self._rank = blocks, shared, rank
        self._own = [[scan.parameters[name] for name in shared] for scan in scans]
        self._single = set.intersection(*(set(scan.parameters) - set(scan.aliases) for scan in scans))
        self._kept: OrderedDict[tuple[int, int], list[nn.Parameter]] = OrderedDict()
        self.size = sum(self._between(0, 0).sizes(rank))
        self._most = memory // max(1, self.size * self._own[0][0].element_size())

    def of(self, layer: int, source: int) -> dict[str, Tensor]:
        """Return the weights that have a delta, by name."""
        deltas = self._between(layer, source)
        if (layer, source) not in self._kept:
            own, joined = self._own[layer], self._own[source]
            fixed = [[False] * len(deltas.names)] * 2
            self._kept[layer, source] = deltas.plan([joined, own], {0: joined}, Pointers((0, 0)), fixed).live[1]
        factors = self._kept[layer, source]
        self._kept.move_to_end((layer, source))
        while len(self._kept) > self._most:
            self._kept.popitem(last=False)
        deltas.live[1] = factors
        joined = self._own[source]
        return {self._shared[index]: joined[index] + product for index, product in deltas.products(1).items()}

    def _between(self, layer: int, source: int) -> LayerDeltas:
        pair = [self._blocks[source], self._blocks[layer]]
        return LayerDeltas(pair, self._shared, self._single, Deltas(self._rank))
