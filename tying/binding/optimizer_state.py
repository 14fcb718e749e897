"""The param groups and the state of one optimizer, kept in step with the pointers.

Every layer has a home for each of its shared parameters: a place in the order of a param group, where the parameter stood
when the optimizer was made. After a rebind each group holds the weights of the roots at the homes of the roots' layers, so
the groups, with their order, are a function of the pointers: an optimizer whose model is tied alike can load the state by
position. Parameters that are not shared keep their places.

A delta's home is beside that of the weight that it is added to. What a layer owns has an entry for each of the names: its
shared parameters, or None where it is tied, and its deltas, or None where it has none.
"""

import copy
import operator
import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any, NamedTuple

import torch
from torch import nn

from tying.binding.slots import Rank, Slots, Weights
from tying.errors import InputError

# A parameter of a layer: (layer, index into the names).
_Slot = tuple[int, int]
# Per layer, what it owns; empty where that is nothing.
Owned = Sequence[Sequence[nn.Parameter | None]]


class _Entry(NamedTuple):
    """One place in the order of a group: a slot, or a parameter that is not shared."""

    slot: _Slot | None
    rank: Rank | None
    parameter: nn.Parameter | None
    name: str


class _Run(NamedTuple):
    """A stretch of a group's order: slots of one layer, picked out of what it owns, or (layer -1) fixed parameters."""

    layer: int
    pick: Callable[[Sequence[Any]], Sequence[Any]] | None
    parameters: list[nn.Parameter]
    names: list[str]

    def held_names(self, owned: Owned) -> list[str]:
        """Return the names of what the stretch holds."""
        if self.pick is None or not owned[self.layer]:
            return self.names if self.pick is None else []
        held = self.pick(owned[self.layer])
        return [name for name, parameter in zip(self.names, held, strict=True) if parameter is not None]


class _Group:
    """The order of one param group; `params` is the group's own list, by whose identity the group is known."""

    def __init__(self, params: list[nn.Parameter], entries: Sequence[_Entry]) -> None:
        self.params = params
        self.slots = [entry.slot for entry in entries if entry.slot is not None]
        self.runs = list(_runs(entries))
        self.left = list(params)


class ParamGroups:
    """Moves the shared parameters between the groups of one optimizer.

    Attributes:
        optimizer: Anything with torch's `param_groups` and `state`.
        slots: The (layer, index into the names) that have a home here.
        whole: The layers that have a home here for every name.

    Args:
        optimizer: See above.
        names: The shared parameters, and the deltas.
        beside: For each of them, the index of the shared parameter at whose home it stands where it has none of its own.

    Raises:
        InputError: If the optimizer cannot follow a rebind.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, names: Sequence[str], beside: Sequence[int]) -> None:
        # accelerate wraps an optimizer in another that has it as `optimizer`.
        if isinstance(getattr(optimizer, "optimizer", optimizer), torch.optim.LBFGS):
            raise InputError(
                "LBFGS keeps one flat history of all parameters, which cannot follow a rebind: use another optimizer"
            )
        self.optimizer = optimizer
        self.slots: frozenset[_Slot] = frozenset()
        self.whole: frozenset[int] = frozenset()
        self._names = names
        self._beside = beside
        self._all_or_nothing = all(index == other for index, other in enumerate(beside))  # without deltas
        self._groups: list[_Group] | None = None

    def is_as_left(self) -> bool:
        """Return whether the groups hold exactly what `arrange` left in them."""
        groups, found = self._groups or [], self.optimizer.param_groups
        if len(found) != len(groups):
            return False
        for group, given in zip(groups, found, strict=True):
            params, left = given["params"], group.left
            if params is not group.params or len(params) != len(left) or not all(map(operator.is_, params, left)):
                return False
        return True

    def read(self, owned: Owned, pointers: Sequence[int], places: Slots) -> None:
        """Learn the homes from the groups as they stand; those of tied layers, in groups that still exist, are kept.

        Args:
            owned: What every layer owns.
            pointers: The tying in force.
            places: Of the blocks' parameters, for their ranks.
        """
        ranks: dict[int, Rank] = {}
        for parameter, rank in places.private():
            ranks.setdefault(id(parameter), rank)  # tied by another binding, it stands where its first layer has it
        slot_of: dict[int, _Slot] = {}
        for layer, own in enumerate(owned):
            for index, owned_one in enumerate(own):
                if owned_one is not None:
                    slot_of[id(owned_one)] = (layer, index)
                    ranks[id(owned_one)] = places.ranks[layer][self._names[index]]
        orders: dict[int, list[_Entry]] = {}
        homes: dict[_Slot, tuple[int, str]] = {}
        for given in self.optimizer.param_groups:
            order = orders[id(given["params"])] = []
            labels = given.get("param_names") or [""] * len(given["params"])
            for parameter, label in zip(given["params"], labels, strict=True):
                slot = slot_of.get(id(parameter))
                order.append(_Entry(slot, ranks.get(id(parameter)), None if slot else parameter, label))
                if slot is not None:
                    homes[slot] = (id(given["params"]), label)
        missing: dict[int, list[_Entry]] = {}
        for entry, home in self._absent_entries(owned, pointers, homes, orders.keys(), places):
            missing.setdefault(home, []).append(entry)
        self._groups = [
            _Group(given["params"], _merged(orders[id(given["params"])], missing.get(id(given["params"]), [])))
            for given in self.optimizer.param_groups
        ]
        self.slots = frozenset(slot for group in self._groups for slot in group.slots)
        held = Counter(layer for layer, _ in self.slots)
        self.whole = frozenset(layer for layer, number in held.items() if number == len(self._names))

    def _absent_entries(
        self,
        owned: Owned,
        pointers: Sequence[int],
        homes: Mapping[_Slot, tuple[int, str]],
        groups: Iterable[int],
        places: Slots,
    ) -> Iterator[tuple[_Entry, int]]:
        """Yield an entry and its group for every slot of what a layer does not own: its known home, or else its root's."""
        existing = set(groups)
        known = {slot: id(group.params) for group in self._groups or [] for slot in group.slots}
        for layer, root in enumerate(pointers):
            for index, name in enumerate(self._names):
                slot = (layer, index)
                if owned[layer] and owned[layer][index] is not None:
                    continue
                beside = self._beside[index]
                if self._groups is not None and slot not in known and (layer, beside) not in homes:
                    continue  # a frozen layer that no group held: it has no home
                home, label = homes.get((root, beside), (0, ""))
                if known.get(slot) in existing:
                    home = known[slot]
                if home in existing:
                    label = _name_of(label, self._names[beside], name, layer - root)
                    yield _Entry(slot, places.ranks[layer][name], None, label), home

    def arrange(self, owned: Owned) -> None:
        """Put what every layer owns at its homes."""
        for group, given in zip(self._groups or [], self.optimizer.param_groups, strict=True):
            held: list[nn.Parameter] = []
            for layer, pick, parameters, _ in group.runs:
                if pick is None:
                    held += parameters
                elif owned[layer]:
                    own = pick(owned[layer])
                    held += own if self._all_or_nothing else [parameter for parameter in own if parameter is not None]
            group.left = held
            group.params[:] = held
            if "param_names" in given:
                given["param_names"][:] = [name for run in group.runs for name in run.held_names(owned)]

    def copied_state(self, layer: int, sources: Weights, copies: Weights) -> list[tuple[nn.Parameter, dict[Any, Any]]]:
        """Return (copy, equal and separate state) for the copies with a home here whose source has state."""
        state = self.optimizer.state
        return [
            (duplicate, {key: _separate(value) for key, value in state[source].items()})
            for index, (source, duplicate) in enumerate(zip(sources, copies, strict=True))
            if source in state and (layer, index) in self.slots
        ]

    def forget(self, parameters: Iterable[nn.Parameter]) -> None:
        """Drop the state of parameters."""
        for parameter in parameters:
            self.optimizer.state.pop(parameter, None)


class Optimizers:
    """The param groups of all optimizers that a binding keeps in step.

    Args:
        names: See ParamGroups, as for the next.
        beside: See there.
    """

    def __init__(self, names: Sequence[str], beside: Sequence[int]) -> None:
        self._names, self._beside = names, beside
        self.all: list[ParamGroups] = []

    def add(
        self,
        optimizers: Iterable[torch.optim.Optimizer],
        owned: Owned,
        pointers: Sequence[int],
        places: Slots,
    ) -> None:
        """Take optimizers in.

        Raises:
            InputError: If one cannot follow a rebind, or none holds a parameter that trains; none is taken in then.
        """
        before = list(self.all)
        self.all += [ParamGroups(optimizer, self._names, self._beside) for optimizer in optimizers]
        try:
            for groups in self.all[len(before) :]:
                groups.read(owned, pointers, places)
            for layer, own in enumerate(owned):
                self.refuse_unheld(layer, [parameter is not None and parameter.requires_grad for parameter in own])
        except InputError:
            self.all = before
            raise

    def read(self, owned: Owned, pointers: Sequence[int], places: Slots) -> None:
        """Learn the groups anew where somebody else changed them."""
        for groups in self.all:
            if not groups.is_as_left():
                groups.read(owned, pointers, places)

    def refuse_unheld(self, layer: int, trains: Sequence[bool]) -> None:
        """Refuse parameters that are to train for a layer while no optimizer would move them.

        Args:
            layer: The layer.
            trains: For the first of the names, or all.

        Raises:
            InputError: If there are any.
        """
        if not self.all or any(layer in groups.whole for groups in self.all):
            return
        for index, (name, trained) in enumerate(zip(self._names, trains, strict=False)):
            if trained and not any((layer, index) in groups.slots for groups in self.all):
                raise InputError(
                    f"layer {layer}: {name!r} trains but no optimizer holds it: give all optimizers, as a list, or freeze "
                    "it (requires_grad_(False))"
                )

    def arrange(
        self, owned: Owned, freed: Sequence[nn.Parameter] = (), promoted: Sequence[tuple[int, Weights]] = ()
    ) -> None:
        """Put what every layer owns at its homes, and drop the state of what has none any more."""
        for groups in self.all:
            groups.arrange(owned)
            groups.forget(freed)
            for root, own in promoted:
                if root not in groups.whole:
                    groups.forget(p for index, p in enumerate(own) if (root, index) not in groups.slots)


def _separate(value: Any) -> Any:
    return value.clone() if isinstance(value, torch.Tensor) else copy.deepcopy(value)


def _runs(entries: Sequence[_Entry]) -> Iterator[_Run]:
    for layer, stretch in groupby(entries, key=lambda entry: -1 if entry.slot is None else entry.slot[0]):
        own = list(stretch)
        indices = [entry.slot[1] for entry in own if entry.slot is not None]
        pick = None
        if indices:
            # A getter of one item returns no tuple; one of a slice does for every consecutive stretch.
            consecutive = indices == list(range(indices[0], indices[-1] + 1))
            pick = operator.itemgetter(slice(indices[0], indices[-1] + 1)) if consecutive else operator.itemgetter(*indices)
        yield _Run(layer, pick, [e.parameter for e in own if e.parameter is not None], [e.name for e in own])


def _merged(entries: list[_Entry], missing: list[_Entry]) -> list[_Entry]:
    """Put missing entries where the model's order has them: behind the entry with the next lower rank."""
    if not missing:
        return entries
    present = sorted((entry.rank, number) for number, entry in enumerate(entries) if entry.rank is not None)
    behind: dict[int, list[_Entry]] = {}
    for entry in sorted(missing, key=lambda entry: entry.rank or (0, 0)):
        place = bisect_left(present, (entry.rank, -1)) - 1
        number = present[place][1] if place >= 0 else present[0][1] - 1 if present else len(entries) - 1
        behind.setdefault(number, []).append(entry)
    merged = list(behind.get(-1, []))
    for number, entry in enumerate(entries):
        merged += [entry, *behind.get(number, [])]
    return merged


def _name_of(root_name: str, shared_name: str, name: str, distance: int) -> str:
    """Return the name of a layer's parameter: from that of its root's, with the layer's number in its path moved on."""
    prefix = root_name.removesuffix(shared_name)
    return re.sub(r"(\d+)(\D*)$", lambda m: f"{int(m[1]) + distance}{m[2]}", prefix) + name if root_name else ""
