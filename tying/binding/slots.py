"""Slots: where the parameters of every layer stand.

A place is the `_parameters` dict of a module and a key in it. A block may hold one parameter in several places (tied
inside itself); all of them follow. Weights are the shared parameters that one layer uses, in the order of the names.
"""

import copy
import operator
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain

import torch
from torch import nn

from tying.binding.checks import refuse_kind
from tying.binding.deltas import KEYS, DeltaLinear
from tying.errors import InputError
from tying.pointers import Pointers

Weights = list[nn.Parameter]
# Where a parameter of a block stands in the model's order: (layer, index into all names of that block); a delta stands
# right behind the module that it is added to.
Rank = tuple[int, ...]
_Place = tuple[dict[str, nn.Parameter | None], str]


class Scan:
    """One block's parameters, each once, under its first name.

    Attributes:
        parameters: Name -> parameter, in the block's own order.
        places: Name -> every place where the block holds that parameter.
        aliases: Name -> the further names of a parameter that the block holds more than once.
        classes: The classes of the block's modules.
        flat: The names in recurrent modules of torch, which run from a list of their own and would not see a tie.
    """

    def __init__(self, block: nn.Module) -> None:
        self.parameters: dict[str, nn.Parameter] = {}
        self.places: dict[str, list[_Place]] = {}
        self.aliases: dict[str, list[str]] = {}
        self.classes: set[type] = set()
        self.flat: set[str] = set()
        first: dict[int, str] = {}
        for path, module in block.named_modules():
            self.classes.add(type(module))
            if isinstance(module, nn.RNNBase):
                self.flat.update(f"{path}.{key}" if path else key for key in module._parameters)
            for key, parameter in module._parameters.items():
                if parameter is None or (key in KEYS and isinstance(module, DeltaLinear)):
                    continue
                name = f"{path}.{key}" if path else key
                known = first.setdefault(id(parameter), name)
                if known is name:
                    self.parameters[name] = parameter
                    self.places[name] = [(module._parameters, key)]
                else:
                    self.places[known].append((module._parameters, key))
                    self.aliases.setdefault(known, []).append(name)


class Slots:
    """The places of the parameters of all layers.

    Attributes:
        private_names: Per layer, the parameters that are not shared.
        ranks: Per layer, name -> rank.
        ids: Of the shared places, to be compared with those of other slots.

    Args:
        scans: Of the blocks, layer 0 first.
        names: The shared parameters; every block has them.
        model: The whole model, if known.
        deltas: The names of deltas, which layers have at times.

    Raises:
        InputError: If the blocks differ in what they share, or two layers are one module.
    """

    def __init__(
        self, scans: Sequence[Scan], names: Sequence[str], model: nn.Module | None, deltas: Sequence[str] = ()
    ) -> None:
        shared = set(names)
        self._names = names
        _check_equal(scans, names)
        # Per layer: (dict, key, index into the names), flat over all places.
        self._places = [
            [(*place, index) for index, name in enumerate(names) for place in scan.places[name]] for scan in scans
        ]
        self._dicts = [parameters for places in self._places for parameters, _, _ in places]
        self._keys = [key for places in self._places for _, key, _ in places]
        self._indices = [index for _, _, index in self._places[0]] if scans[0].aliases else None
        self.ids = {(id(parameters), key) for parameters, key in zip(self._dicts, self._keys, strict=True)}
        if len(self.ids) < len(self._keys):
            self._refuse_common_module()
        self.private_names = tuple(tuple(name for name in scan.parameters if name not in shared) for scan in scans)
        self.ranks: list[dict[str, Rank]] = [
            {name: (layer, number) for number, name in enumerate(scan.parameters)} for layer, scan in enumerate(scans)
        ]
        for ranks in self.ranks:
            for name in deltas:
                path, _, key = name.rpartition(".")
                stem = f"{path}." if path else ""
                ranks[name] = (*ranks.get(f"{stem}bias", ranks[f"{stem}weight"]), KEYS.index(key))
        self._private = [
            [scan.places[name][0] for name in own] for scan, own in zip(scans, self.private_names, strict=True)
        ]
        self._outside = [
            (module._parameters, key, f"{path}.{key}" if path else key)
            for path, module in (model.named_modules() if model is not None else ())
            for key in module._parameters
            if (id(module._parameters), key) not in self.ids
        ]

    def assign(self, layer: int, weights: Sequence[torch.Tensor]) -> None:
        """Put weights into the places of a layer."""
        for parameters, key, index in self._places[layer]:
            parameters[key] = weights[index]  # type: ignore[assignment]

    def check(self, weights: Sequence[Weights]) -> None:
        """Check that every place holds what the binding put there.

        Raises:
            InputError: If something else replaced a parameter, naming it.
        """
        expected = weights if self._indices is None else [[own[i] for i in self._indices] for own in weights]
        if all(map(operator.is_, map(dict.get, self._dicts, self._keys), chain.from_iterable(expected))):
            return
        for layer, places in enumerate(self._places):
            for parameters, key, index in places:
                found = parameters.get(key)
                if found is not weights[layer][index]:
                    where = f"layer {layer}: {self._names[index]!r}"
                    refuse_kind(found, where)
                    raise InputError(
                        f"{where} was replaced after binding (load_state_dict with assign=True, pruning, a "
                        "parametrization, a move to 'meta'): undo that, or bind anew"
                    )

    def private(self) -> Iterator[tuple[nn.Parameter, Rank]]:
        """Yield the parameters that are not shared, as they are now, with their ranks."""
        for layer, places in enumerate(self._private):
            for name, (parameters, key) in zip(self.private_names[layer], places, strict=True):
                parameter = parameters.get(key)
                if parameter is not None:
                    yield parameter, self.ranks[layer][name]

    def refuse_second_use(self, weights: Iterable[Weights]) -> None:
        """Refuse weights that the model uses outside the blocks too.

        Raises:
            InputError: If there are any, naming both places.
        """
        used = {id(parameters.get(key)): name for parameters, key, name in self._outside}
        for own in weights if used else ():
            for name, parameter in zip(self._names, own, strict=True):
                if id(parameter) in used:
                    raise InputError(
                        f"{name!r} of a layer is also {used[id(parameter)]!r}, outside the blocks: give that a parameter "
                        "of its own, or choose `share` to leave it out"
                    )

    def _refuse_common_module(self) -> None:
        owner: dict[tuple[int, str], int] = {}
        for layer, places in enumerate(self._places):
            for parameters, key, index in places:
                first = owner.setdefault((id(parameters), key), layer)
                if first != layer:
                    raise InputError(
                        f"layers {first} and {layer} are one module where {self._names[index]!r} stands, and can never be "
                        "untied: bind tying.binding.unroll(blocks), which makes a module for each layer"
                    )


def read_tying(names: Sequence[str], used: Sequence[Weights]) -> tuple[Pointers, list[Weights]]:
    """Find out which blocks share already.

    Args:
        names: The shared parameters.
        used: Those of every layer.

    Raises:
        InputError: If two blocks share only a part of them.
    """
    pointers = Pointers.from_labels(tuple(map(id, weights)) for weights in used)
    owner: dict[int, int] = {}
    for layer, weights in enumerate(used):
        for name, parameter in zip(names, weights, strict=True):
            if owner.setdefault(id(parameter), pointers[layer]) != pointers[layer]:
                raise InputError(
                    f"blocks {owner[id(parameter)]} and {layer} share {name!r} but not all of {tuple(names)}: "
                    "untie it first, or choose `share` accordingly"
                )
    return pointers, [used[root] for root in pointers]


def copied(weights: Weights, trains: Iterable[bool]) -> Weights:
    """Return equal and separate parameters, with the attributes that people put on them.

    Args:
        weights: To copy.
        trains: requires_grad of each copy.
    """
    copies = []
    for parameter, own in zip(weights, trains, strict=True):
        copies.append(nn.Parameter(parameter.detach().clone(), requires_grad=own))
        vars(copies[-1]).update(vars(parameter))
    return copies


def _check_equal(scans: Sequence[Scan], names: Sequence[str]) -> None:
    expected = scans[0]
    flat = next((name for name in names if name in expected.flat), None)
    if flat is not None:
        raise InputError(
            f"{flat!r} is in a recurrent module of torch, which keeps a second list of its weights: leave it out"
        )
    for index, scan in enumerate(scans):
        for name in names:
            ours, theirs = scan.parameters[name], expected.parameters[name]
            if type(ours) is not nn.Parameter:
                refuse_kind(ours, f"block {index}: {name!r}")
            if ours.shape != theirs.shape or ours.dtype != theirs.dtype or ours.device != theirs.device:
                attribute = next(a for a in ("shape", "dtype", "device") if getattr(ours, a) != getattr(theirs, a))
                found, wanted = (_show(getattr(p, attribute)) for p in (ours, theirs))
                raise InputError(
                    f"blocks differ: {attribute} of {name!r} is {found} in block {index}, {wanted} in block 0: choose "
                    "`share` to leave it out, or bind the blocks that are alike"
                )
            if scan.aliases.get(name) != expected.aliases.get(name):
                raise InputError(
                    f"blocks differ: {name!r} is also {scan.aliases.get(name, [])} in block {index}, "
                    f"{expected.aliases.get(name, [])} in block 0"
                )


def _show(value: object) -> str:
    return str(tuple(value)) if isinstance(value, torch.Size) else str(value)


def unroll(blocks: Iterable[nn.Module]) -> nn.ModuleList:
    """Give every layer modules of its own that hold the same parameters, so that layers that are one module can be untied.

    Args:
        blocks: The layers in the order in which they run; some may be, or hold, the same module.

    Returns:
        A block per layer. The first use of a module is the module itself, later ones are copies with buffers of their
        own. Put it in the place of the loop over the one module.
    """
    seen: set[int] = set()
    unrolled = nn.ModuleList()
    for block in blocks:
        own = {id(module) for module in block.modules() if any(p is not None for p in module._parameters.values())}
        unrolled.append(copy.deepcopy(block, {id(p): p for p in block.parameters()}) if own & seen else block)
        seen |= own
    return unrolled
