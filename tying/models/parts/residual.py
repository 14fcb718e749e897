"""How the parts of a block are added to the residual stream: one class per way, by name in `RESIDUALS`.

A branch is a part f of a block with its norm: x + f(norm(x)) where norms come first, norm(x + f(x)) where they come last.

Shapes: B batch, T tokens, C width, L layers, K sets of weights.
"""

import math
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from tying.errors import InputError
from tying.models.parts.in_force import pointers_in_force

Branch = tuple[nn.Module, Callable[[Tensor], Tensor]]

# The parts of a block in the order in which they run, and the matrix of each that writes to the residual stream.
_PARTS = {"attn": "attn.proj.weight", "mlp": "mlp.down.weight"}


class Plain(nn.Module):
    """x + f(x).

    Attributes:
        per_position: What it learns stays with its layer; see `tying.binding.sharing`.

    Args:
        width: C.
        num_layers: L.
        norm_first: Whether norms come before the parts.
    """

    per_position = True

    def __init__(self, width: int, num_layers: int, norm_first: bool) -> None:
        super().__init__()
        self.norm_first = norm_first

    def forward(self, x: Tensor, *branches: Branch) -> Tensor:
        """Run the parts of a block one after another: (B, T, C) -> (B, T, C)."""
        for index, (norm, part) in enumerate(branches):
            x = self.add(index, x, part(norm(x))) if self.norm_first else norm(self.add(index, x, part(x)))
        return x

    def add(self, index: int, x: Tensor, y: Tensor) -> Tensor:
        """Return the sum of the stream and what part number `index` of the block made of it."""
        return x + y

    def scale_weights(self, blocks: nn.ModuleList, generator: torch.Generator) -> None:
        """Change the initial weights of all blocks, once for the whole model; each set of weights is met once."""


class Looped(Plain):
    """x + eps f(norm(x)) with eps = 1/(n sqrt(K)), n the number of positions that use the part's weights now.

    Updates of tied layers point the same way, so that their sum grows with n and not with its root (arXiv 2606.18524, for
    K layers that are all repeated n times; n of each position for any pointers is ours). Untied, eps is 1/sqrt(L).
    """

    scales: Tensor

    def __init__(self, width: int, num_layers: int, norm_first: bool) -> None:
        super().__init__(width, num_layers, norm_first)
        # A tensor, so that a compiled block serves all layers and every tying.
        self.register_buffer("scales", torch.ones(len(_PARTS)), persistent=False)
        self._known: tuple[float, ...] = ()

    def add(self, index: int, x: Tensor, y: Tensor) -> Tensor:
        """See Plain.add."""
        return x + self.scales[index] * y

    def follow(self, scales: tuple[float, ...]) -> None:
        """Take over an eps for each part; a new tensor, since a backward pass may still need the old one."""
        if scales != self._known:
            self.scales, self._known = self.scales.new_tensor(scales), scales


class Admin(Plain):
    """norm(omega x + f(x)), a vector omega that trains for each part of each position (Liu et al. 2020, arXiv 2004.08249).

    omega starts at sqrt((n + 1)/ln(n + 1) - 1), n = 2L parts, which needs no profile (microsoft/admin-torch: an output
    that changes by O(log n)); `profile_admin` puts measured values in its place.
    """

    def __init__(self, width: int, num_layers: int, norm_first: bool) -> None:
        super().__init__(width, num_layers, norm_first)
        self.omegas = nn.ParameterList(torch.empty(width) for _ in _PARTS)
        number = len(_PARTS) * num_layers + 1
        self.start = math.sqrt(number / math.log(number) - 1)

    def add(self, index: int, x: Tensor, y: Tensor) -> Tensor:
        """See Plain.add."""
        scaled: Tensor = self.omegas[index] * x
        return scaled + y

    @torch.no_grad()
    def scale_weights(self, blocks: nn.ModuleList, generator: torch.Generator) -> None:
        """See Plain.scale_weights; only omegas are."""
        for residual in _residuals(blocks):
            for omega in residual.omegas:
                omega.fill_(self.start)


class DeepNet(Plain):
    """norm(alpha x + f(x)), alpha = (2L)^(1/4), of an encoder or a decoder alone (Wang et al. 2022, arXiv 2203.00555).

    Matrices start by Xavier's normal scheme; its gain is beta = (8L)^(-1/4) but for those of queries and keys.
    """

    def __init__(self, width: int, num_layers: int, norm_first: bool) -> None:
        super().__init__(width, num_layers, norm_first)
        self.alpha: float = (2 * num_layers) ** 0.25
        self.beta: float = (8 * num_layers) ** -0.25

    def add(self, index: int, x: Tensor, y: Tensor) -> Tensor:
        """See Plain.add."""
        return self.alpha * x + y

    @torch.no_grad()
    def scale_weights(self, blocks: nn.ModuleList, generator: torch.Generator) -> None:
        """See Plain.scale_weights."""
        for name, matrix in _matrices(blocks).items():
            *_, module, _ = name.split(".")  # "qkv" has the rows of queries, keys and values; others have one kind
            kinds = module if set(module) <= set("qkv") else "-"
            for kind, rows in zip(kinds, matrix.chunk(len(kinds)), strict=True):
                nn.init.xavier_normal_(rows, 1.0 if kind in "qk" else self.beta, generator=generator)


class B2T(Plain):
    """Norms behind the parts, and a path beside all of a block's norms but the last (Takase et al. 2022, arXiv 2206.00330).

    norm(x + h + f(h)) with h what the parts before made of the block's input x. Matrices start 1/sqrt(L) as large.
    """

    def forward(self, x: Tensor, *branches: Branch) -> Tensor:
        """See Plain.forward."""
        *first, (norm, last) = branches
        h = super().forward(x, *first)
        y: Tensor = norm(x + h + last(h))
        return y

    @torch.no_grad()
    def scale_weights(self, blocks: nn.ModuleList, generator: torch.Generator) -> None:
        """See Plain.scale_weights."""
        for matrix in _matrices(blocks).values():
            matrix.mul_(len(blocks) ** -0.5)


RESIDUALS: dict[str, type[Plain]] = {
    "plain": Plain,
    "looped": Looped,
    "admin": Admin,
    "deepnet": DeepNet,
    "b2t": B2T,
}


def scale_weights(blocks: nn.ModuleList, generator: torch.Generator) -> None:
    """Change the initial weights of blocks as their residuals ask; see `Plain.scale_weights`."""
    _residuals(blocks)[0].scale_weights(blocks, generator)


def follow_pointers(blocks: nn.ModuleList) -> None:
    """Bring the scales of blocks under `Looped` into line with the tying in force; others are left alone."""
    residuals = _residuals(blocks)
    if not any(isinstance(residual, Looped) for residual in residuals):
        return
    scales = []
    for name in _PARTS.values():
        pointers = pointers_in_force(list(blocks), name)
        sizes = Counter(pointers)
        scales.append([1 / (sizes[root] * math.sqrt(len(sizes))) for root in pointers])
    for residual, own in zip(residuals, zip(*scales, strict=True), strict=True):
        residual.follow(own)


@torch.no_grad()
def profile_admin(model: nn.Module, *batch: Tensor) -> None:
    """Put measured omegas in the place of those that `Admin` starts with; call it before training.

    The i-th part of the model gets sqrt(1 + the variances over a batch of what the parts before it add), which is the
    root of the variance of its input had nothing been normed (Liu et al. 2020, section 4.3). There is no dropout, and
    nothing else of the model changes: the same batch gives the same omegas.

    Args:
        model: A model of `tying.models` with `residual="admin"`.
        *batch: What it is called with, such as tokens (B, T).

    Raises:
        InputError: If it has other residuals.
    """
    blocks: Any = getattr(model, "h", ())
    if not blocks or not all(isinstance(getattr(block, "residual", None), Admin) for block in blocks):
        raise InputError("profile_admin: only a model with model.residual = 'admin' has omegas")
    variance = 1.0

    def note(omega: Tensor, _: nn.Module, __: Any, output: Tensor) -> None:
        nonlocal variance
        omega.fill_(math.sqrt(variance))  # used right behind the part
        variance += float(output.var(correction=0))

    trains = model.training
    handles = [
        block.get_submodule(part).register_forward_hook(partial(note, block.residual.omegas[index]))
        for block in blocks
        for index, part in enumerate(_PARTS)
    ]
    try:
        model.eval()(*batch)
    finally:
        model.train(trains)
        for handle in handles:
            handle.remove()


def _residuals(blocks: Any) -> list[Any]:
    return [block.residual for block in blocks]


def _matrices(blocks: nn.Module) -> dict[str, nn.Parameter]:
    """Return the matrices of linear layers by name, each set of weights once."""
    named = blocks.named_parameters()
    return {name: matrix for name, matrix in named if matrix.dim() == 2 and name.endswith(".weight")}
