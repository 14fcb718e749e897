"""Low-rank deltas: what a tied layer adds to the weights of its root (Bae et al. 2024, arXiv 2410.20672).

Position i computes with E_i = W_root + B_i A_i in every linear layer whose weight follows the pointers. A_i, (rank, in),
and B_i, (out, rank), belong to the position and follow no pointer. A root has none, since beside a weight of full rank it
would add nothing: what exists trains, and without ties the model is the one without deltas, bit by bit.

The rule of `LayerBinding.rebind` is said of E then: each root keeps the E that it was using, so its weights become W + B A
and its delta goes. For any other layer:

- while its weights stay the same in object and values, its delta stays, with its moments;
- where they stay but a new root added its delta to them, the new delta is the best of its rank to keep E_i: the truncated
  singular value decomposition of E_i - W_root (Eckart & Young 1936);
- where it joins other weights, the new delta is that too (start "svd": tie with memory), or has B = 0 ("zero");
- where its weights stay and the pattern says another rank (`Pointers.ranks`), the new delta is that with either start: of a
  higher rank exact, of rank 0 none.

New deltas have no moments yet. With B = 0, A is drawn: it would get no gradient if it were 0 too.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tying.errors import InputError
from tying.pointers import Pointers
from tying.seeding import derive_seed

STARTS = ("svd", "zero")
KEYS = ("delta_a", "delta_b")


@dataclass(frozen=True)
class Deltas:
    """Which deltas tied layers have.

    Attributes:
        rank: Of each delta, where the pointers say no ranks, and the highest that they may say; at most that of the weight
            beside it. 0: no deltas.
        start: How a layer's delta begins when it joins other weights: "svd" or "zero", see the module.
        seed: Determines A where B begins as 0.

    Raises:
        InputError: If the rank is negative, or the start is not known.
    """

    rank: int = 0
    start: str = "svd"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.rank < 0 or self.start not in STARTS:
            raise InputError(f"deltas: rank {self.rank}, start {self.start!r}: allowed are 0 or more, {', '.join(STARTS)}")


class DeltaLinear(nn.Linear):
    """A linear layer that adds a low-rank delta where it has one: y = W x + b + B A x.

    B A is not formed: activations of the size of the rank are kept for the backward pass, no second weight.
    """

    delta_a: nn.Parameter | None
    delta_b: nn.Parameter | None

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        """W + B A, for code that computes with the weight itself; W, the parameter, where there is no delta."""
        weight: Tensor = self._parameters["weight"]  # type: ignore[assignment]
        return weight if self.delta_a is None or self.delta_b is None else weight + self.delta_b @ self.delta_a

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out)."""
        y = F.linear(x, self._parameters["weight"], self.bias)  # type: ignore[arg-type]
        if self.delta_a is None or self.delta_b is None:
            return y
        return y + F.linear(F.linear(x, self.delta_a), self.delta_b)


class DeltaPlan(NamedTuple):
    """What a rebind will do to the deltas, made before anything is touched."""

    merges: list[tuple[nn.Parameter, Tensor]]  # what is added to a root's weight
    live: list[list[nn.Parameter]]  # per layer


class LayerDeltas:
    """The deltas of all layers.

    Attributes:
        names: Of a layer's, as `block.named_parameters()` names them, A before B of each linear layer.
        weight_of: For each of them, the index of the weight beside it in the names of the shared parameters.
        live: Per layer, the parameters that there are now, in the order of `names`; none for roots.

    Args:
        blocks: Layer 0 first.
        shared: The names of their shared parameters.
        single: Those of them that stand in one place of a block only: a delta would change what the others compute.
        deltas: See there.

    Raises:
        InputError: If no weight can have one, or deltas are there already.
    """

    def __init__(self, blocks: Sequence[nn.Module], shared: Sequence[str], single: Iterable[str], deltas: Deltas) -> None:
        linears = _linears(blocks, shared, set(single))
        for layers in linears.values():
            if any(isinstance(module, DeltaLinear) and module.delta_a is not None for module in layers):
                raise InputError("the blocks have deltas of a binding before: bind those of tying.hf.untied(model)")
        if deltas.rank and not linears:
            raise InputError(f"deltas of rank {deltas.rank}: none of {', '.join(shared)} is the weight of an nn.Linear")
        self._deltas = deltas
        self._linears = linears if deltas.rank else {}
        self.names = [_join(path, key) for path in self._linears for key in KEYS]
        self.weight_of = [shared.index(_join(path, "weight")) for path in self._linears for _ in KEYS]
        self.live: list[list[nn.Parameter]] = [[] for _ in blocks]

    def ranks(self, pointers: Pointers) -> tuple[int, ...]:
        """Return the rank of every layer's delta under pointers, 0 where it has none.

        Raises:
            InputError: If they say a rank above that of the deltas.
        """
        highest = self._deltas.rank
        if max(pointers.ranks, default=0) > highest:
            raise InputError(f"pointers '{pointers}': rank {max(pointers.ranks)}, and deltas here have at most {highest}")
        return pointers.ranks or tuple(0 if layer == root else highest for layer, root in enumerate(pointers))

    def sizes(self, rank: int) -> list[int]:
        """Return the number of values of each parameter of a delta."""
        pairs = ((layers[0], _rank(layers[0], rank)) for layers in self._linears.values())
        return [size for linear, own in pairs for size in (own * linear.in_features, own * linear.out_features)]

    def install(self) -> None:
        """Let the linear layers take deltas in; they compute as before."""
        for module in (module for layers in self._linears.values() for module in layers):
            if not isinstance(module, DeltaLinear):
                module.__class__ = DeltaLinear
                for key in KEYS:
                    module.register_parameter(key, None)

    def put(self, layer: int, own: list[nn.Parameter]) -> None:
        """Put parameters, or none, into the places of a layer."""
        parameters = iter(own)
        for layers in self._linears.values():
            for key in KEYS:
                layers[layer]._parameters[key] = next(parameters, None)
        self.live[layer] = own

    def products(self, layer: int) -> dict[int, Tensor]:
        """Return B A of a layer by the index of the weight that it is added to; nothing for roots."""
        own = self.live[layer]
        return {self.weight_of[i]: (own[i + 1] @ own[i]).detach() for i in range(0, len(own), 2)}

    def plan(
        self,
        used: Sequence[Sequence[nn.Parameter]],
        kept: Mapping[int, Sequence[nn.Parameter]],
        new: Pointers,
        trains: Sequence[Sequence[bool]],
    ) -> DeltaPlan:
        """Return what a rebind will do, by the rule of the module.

        Args:
            used: The weights that each layer uses until now.
            kept: Those that each new root is going to have, with the values of before.
            new: The tying that comes.
            trains: Per layer, requires_grad of each parameter of a new delta.
        """
        plan = DeltaPlan([], [[] for _ in new])
        ranks = self.ranks(new)
        with torch.inference_mode(False), torch.no_grad():
            merged = {root: self.products(root) for root in new.roots}
            plan.merges.extend((kept[root][i], product) for root, own in merged.items() for i, product in own.items())
            for layer, root in enumerate(new):
                if not ranks[layer]:
                    continue
                stays = kept[root] is used[layer]
                if stays and not self.live[root] and self.sizes(ranks[layer]) == [p.numel() for p in self.live[layer]]:
                    plan.live[layer] = self.live[layer]
                else:
                    svd = stays or self._deltas.start == "svd"
                    pairs = self._starts(layer, used[layer], kept[root], merged[root], ranks[layer], svd)
                    plan.live[layer] = [
                        nn.Parameter(value, requires_grad=trained)
                        for value, trained in zip(chain.from_iterable(pairs), trains[layer], strict=True)
                    ]
        return plan

    def _starts(
        self,
        layer: int,
        used: Sequence[Tensor],
        joined: Sequence[Tensor],
        merged: Mapping[int, Tensor],
        rank: int,
        svd: bool,
    ) -> Iterator[tuple[Tensor, ...]]:
        """Yield A and B of every linear layer."""
        own = self.products(layer)
        for number, (path, layers) in enumerate(self._linears.items()):
            index = self.weight_of[2 * number]
            difference = used[index] - joined[index]
            if index in own:
                difference += own[index]
            if index in merged:
                difference -= merged[index]
            seed = derive_seed(self._deltas.seed, f"delta {path}", layer)
            pair = _start(difference, _rank(layers[layer], rank), svd, seed)
            yield tuple(value.to(used[index].dtype) for value in pair)

    def carry_out(self, plan: DeltaPlan) -> list[nn.Parameter]:
        """Do what was planned, once every layer has its weights; return the parameters that nobody uses any more."""
        with torch.no_grad():
            for parameter, product in plan.merges:
                parameter.add_(product)
        freed = []
        for layer, (before, own) in enumerate(zip(list(self.live), plan.live, strict=True)):
            if own is not before:
                freed += before
                self.put(layer, own)
        return freed


@torch.no_grad()
def merge(model: nn.Module) -> None:
    """Make every DeltaLinear of an untied model an ordinary nn.Linear of the weight W + B A, in place."""
    for module in model.modules():
        if isinstance(module, DeltaLinear):
            module._parameters["weight"].copy_(module.weight)  # type: ignore[union-attr]
            for key in KEYS:
                del module._parameters[key]
            module.__class__ = nn.Linear  # type: ignore[assignment]


def _linears(blocks: Sequence[nn.Module], shared: Sequence[str], single: set[str]) -> dict[str, list[nn.Linear]]:
    """Return the linear layers of all blocks whose weights can have a delta, by their paths."""
    found = {}
    for name in shared:
        path, _, key = name.rpartition(".")
        if key == "weight" and name in single:
            modules = [block.get_submodule(path) for block in blocks]
            if all(type(module) in (nn.Linear, DeltaLinear) for module in modules):
                found[path] = modules
    return found  # type: ignore[return-value]


def _rank(linear: nn.Linear, rank: int) -> int:
    return min(rank, linear.in_features, linear.out_features)


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


def _start(difference: Tensor, rank: int, svd: bool, seed: int) -> tuple[Tensor, ...]:
    """Return A (rank, in) and B (out, rank) whose product is the best for a difference, or 0."""
    rows, columns = difference.shape
    if svd and difference.any():
        precise = difference if difference.dtype == torch.float64 else difference.float()
        u, s, v = torch.linalg.svd(precise, full_matrices=False)
        # Contiguous: LAPACK's columns are, and fused optimizers take a parameter and its moments for equal in layout.
        return tuple(factor.clone(memory_format=torch.contiguous_format) for factor in (v[:rank], u[:, :rank] * s[:rank]))
    drawn = torch.randn(rank, columns, generator=torch.Generator().manual_seed(seed)) / math.sqrt(columns)
    return drawn.to(difference.device), difference.new_zeros(rows, rank)
