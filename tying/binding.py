"""LayerBinding: makes equal blocks obey a Pointers value, and the optimizer with them.

Tied layers hold the *same Parameter objects*: `parameters()` counts each once and autograd sums the gradients of all
positions by itself. Each layer keeps its own module, so its index, its dropout and its caches stay right.

The rule of `rebind`: each root keeps the weights it was using; when two roots were using the same weights, the first
keeps them and the later gets a copy (parameters and optimizer moments). Every other layer uses its root's weights.
Weights that nobody uses any more are freed, with their gradients and optimizer state.
"""

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from tying.errors import InputError
from tying.pointers import Pointers
from tying.sharing import shared_names, trainable_params

GRADIENTS = ("sum", "mean", "root_only")

# The weights that one root owns: its shared parameters, in the order of LayerBinding.shared_names. Compared by identity.
_Weights = list[nn.Parameter]


class LayerBinding:
    """Binds the parameters of L equal blocks to a Pointers value that can change at any time between two steps.

    Blocks that share all their shared parameters already are taken as tied; otherwise every layer starts as its own root.

    Args:
        blocks: L modules with the same parameter names, shapes, dtypes and devices (an nn.ModuleList, a Hugging Face
            model's layers, ...).
        optimizer: Any torch optimizer over the blocks' parameters; it is kept in step with every rebind.
        share: Which parameters follow the pointers; see `tying.sharing.shared_names`.
        gradient: "sum" (true sharing: the sum over all positions), "mean" (that sum divided by the size of the group)
            or "root_only" (only the root's own position gives weight gradients; the weight-gradient products of the
            others are skipped).
        norms: "shared" or "private": whether norms follow the pointers when `share` names them.

    Raises:
        InputError: If the blocks differ (naming the first difference), or an option is not known.
    """

    def __init__(
        self,
        blocks: Iterable[nn.Module],
        optimizer: torch.optim.Optimizer | None = None,
        share: str = "block",
        gradient: str = "sum",
        norms: str = "shared",
    ) -> None:
        self.blocks: Sequence[nn.Module] = list(blocks)
        if not self.blocks:
            raise InputError("no blocks to bind: a model has at least one layer")
        if gradient not in GRADIENTS:
            raise InputError(f"gradient {gradient!r}: allowed are {', '.join(GRADIENTS)}")
        _check_equal(self.blocks)
        self.optimizer = optimizer
        self.gradient = gradient
        self.shared_names = shared_names(self.blocks[0], share, norms)
        # A slot is where a parameter hangs: the `_parameters` dict of its module, and the key in it.
        self._slots = [[_slot(block, name) for name in self.shared_names] for block in self.blocks]
        self._pointers, self._weights = self._read_tying()
        self._mean_hooks: list[torch.utils.hooks.RemovableHandle] = []
        if gradient == "root_only":
            for layer, block in enumerate(self.blocks):
                self._skip_weight_gradients(layer, block)
        self._scale_gradients()

    @property
    def pointers(self) -> Pointers:
        """The tying in force."""
        return self._pointers

    @property
    def num_layers(self) -> int:
        """Number of layers L."""
        return len(self.blocks)

    @property
    def trainable_params(self) -> int:
        """Parameters of the blocks that exist and train, each counted once (shared and private ones)."""
        unique = {id(p): p for block in self.blocks for p in block.parameters() if p.requires_grad}
        return sum(parameter.numel() for parameter in unique.values())

    def trainable_params_of(self, pointers: Pointers) -> int:
        """Return what `trainable_params` would be under other pointers, without binding them."""
        return trainable_params(self.blocks[0], self.shared_names, pointers)

    def weights_of(self, layer: int) -> tuple[nn.Parameter, ...]:
        """Return the shared parameters that a layer uses now, in the order of `shared_names`."""
        return tuple(self._weights[layer])

    @property
    def num_uses(self) -> dict[nn.Parameter, int]:
        """Number of layers that use each shared parameter."""
        return {p: len(group) for group in self._pointers.groups for p in self._weights[group[0]]}

    def rebind(self, pointers: Iterable[int]) -> None:
        """Go from the tying in force to any other one, by the rule at the top of this module.

        Call it between two optimizer steps. The loss does not change when layers are only untied. The copies are made
        before anything else is touched, so running out of memory leaves the binding as it was.

        Raises:
            InputError: If the pointers are invalid or of another length.
        """
        new = pointers if isinstance(pointers, Pointers) else Pointers(pointers)
        if len(new) != self.num_layers:
            raise InputError(f"pointers '{new}' are for {len(new)} layers, the model has {self.num_layers}")
        if new == self._pointers:
            return
        kept: set[int] = set()
        copies: list[tuple[_Weights, _Weights]] = []
        of_root: dict[int, _Weights] = {}
        for root in new.roots:
            weights = self._weights[root]
            if id(weights) in kept:
                of_root[root] = _copy_parameters(weights)
                copies.append((weights, of_root[root]))
            else:
                kept.add(id(weights))
                of_root[root] = weights
        freed = {id(weights): weights for weights in self._weights if id(weights) not in kept}
        for layer, root in enumerate(new):
            if self._weights[layer] is not of_root[root]:
                self._hang(layer, of_root[root])
        self._pointers = new
        if self.optimizer is not None:
            _add_copies(self.optimizer, copies)
            _drop(self.optimizer, [parameter for weights in freed.values() for parameter in weights])
        for weights in freed.values():
            for parameter in weights:
                parameter.grad = None
        self._scale_gradients()

    @contextmanager
    def separated(self) -> Iterator[list[_Weights]]:
        """While a block of code runs, let every layer use leaves of its own, so that gradients are those of its position.

        The leaves have the values, and the memory, of the weights that each layer uses; neither those nor the optimizer
        are touched, and no `gradient` option is in force. Do not step or rebind meanwhile.

        Yields:
            Per layer, its leaves in the order of `shared_names`.
        """
        pointers, weights = self._pointers, self._weights
        leaves = [[nn.Parameter(p.detach(), requires_grad=p.requires_grad) for p in used] for used in weights]
        try:
            self._pointers = Pointers.independent(self.num_layers)
            self._weights = list(weights)
            for layer, own in enumerate(leaves):
                self._hang(layer, own)
            yield leaves
        finally:
            self._pointers, self._weights = pointers, weights
            for layer, used in enumerate(weights):
                self._hang(layer, used)

    def _hang(self, layer: int, weights: _Weights) -> None:
        for (parameters, key), parameter in zip(self._slots[layer], weights, strict=True):
            parameters[key] = parameter
        self._weights[layer] = weights

    def _read_tying(self) -> tuple[Pointers, list[_Weights]]:
        """Find out which blocks share already; sharing only a part of the shared parameters is an error."""
        used = [[_parameter(slot) for slot in slots] for slots in self._slots]
        pointers = Pointers.from_labels(tuple(map(id, weights)) for weights in used)
        owner: dict[int, int] = {}
        for layer, weights in enumerate(used):
            for name, parameter in zip(self.shared_names, weights, strict=True):
                if owner.setdefault(id(parameter), pointers[layer]) != pointers[layer]:
                    raise InputError(
                        f"blocks {owner[id(parameter)]} and {layer} share {name!r} but not all of {self.shared_names}: "
                        "untie it first, or choose `share` accordingly"
                    )
        return pointers, [used[root] for root in pointers]

    def _skip_weight_gradients(self, layer: int, block: nn.Module) -> None:
        """While a tied, non-root block runs, hang detached views in its slots: autograd then never forms its products."""

        def detach(*_: Any) -> None:
            if self._pointers[layer] != layer:
                for (parameters, key), parameter in zip(self._slots[layer], self._weights[layer], strict=True):
                    parameters[key] = parameter.detach()  # type: ignore[assignment]

        def restore(*_: Any) -> None:
            self._hang(layer, self._weights[layer])

        block.register_forward_pre_hook(detach)
        # always_call: an exception inside the block must not leave detached views behind.
        block.register_forward_hook(restore, always_call=True)

    def _scale_gradients(self) -> None:
        """With gradient "mean", divide the summed gradient of every shared set by the size of its group."""
        if self.gradient != "mean":
            return
        for handle in self._mean_hooks:
            handle.remove()
        self._mean_hooks = [
            # A hook on a leaf sees the sum over all positions of one backward pass, before it is accumulated.
            parameter.register_hook(_divide_by(len(group)))
            for group in self._pointers.groups
            if len(group) > 1
            for parameter in self._weights[group[0]]
            if parameter.requires_grad
        ]


def _divide_by(size: int) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda gradient: gradient / size


def _parameter(slot: tuple[dict[str, nn.Parameter | None], str]) -> nn.Parameter:
    parameters, key = slot
    parameter = parameters[key]
    assert parameter is not None  # the slot was made from named_parameters, which leaves out empty ones
    return parameter


def _slot(block: nn.Module, name: str) -> tuple[dict[str, nn.Parameter | None], str]:
    path, _, key = name.rpartition(".")
    return block.get_submodule(path)._parameters, key


def _check_equal(blocks: Sequence[nn.Module]) -> None:
    expected = dict(blocks[0].named_parameters())
    for index, block in enumerate(blocks[1:], start=1):
        found = dict(block.named_parameters())
        odd = next((name for name in [*expected, *found] if (name in expected) != (name in found)), None)
        if odd is not None:
            has, lacks = (0, index) if odd in expected else (index, 0)
            raise InputError(f"blocks differ: block {has} has a parameter {odd!r}, block {lacks} does not")
        for name, parameter in found.items():
            for what in ("shape", "dtype", "device", "requires_grad"):
                ours, theirs = getattr(parameter, what), getattr(expected[name], what)
                if ours != theirs:
                    raise InputError(
                        f"blocks differ: {what} of {name!r} is {_show(ours)} in block {index}, {_show(theirs)} in block 0"
                    )


def _show(value: object) -> str:
    return str(tuple(value)) if isinstance(value, torch.Size) else str(value)


def _copy_parameters(weights: _Weights) -> _Weights:
    return [nn.Parameter(p.detach().clone(), requires_grad=p.requires_grad) for p in weights]


def _add_copies(optimizer: torch.optim.Optimizer, copies: list[tuple[_Weights, _Weights]]) -> None:
    """Give every copy its source's param group and an equal, separate optimizer state."""
    if not copies:
        return
    group_of = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    for sources, duplicates in copies:
        for source, duplicate in zip(sources, duplicates, strict=True):
            if id(source) in group_of:
                group_of[id(source)]["params"].append(duplicate)
            if source in optimizer.state:
                optimizer.state[duplicate] = {
                    key: value.clone() if isinstance(value, torch.Tensor) else copy.deepcopy(value)
                    for key, value in optimizer.state[source].items()
                }


def _drop(optimizer: torch.optim.Optimizer, freed: Sequence[nn.Parameter]) -> None:
    if not freed:
        return
    gone = set(map(id, freed))
    for group in optimizer.param_groups:
        group["params"][:] = [p for p in group["params"] if id(p) not in gone]
    for parameter in freed:
        optimizer.state.pop(parameter, None)
