"""LayerBinding: makes blocks obey a Pointers value, and the optimizers with them.

Tied layers hold the *same Parameter objects*: `parameters()` counts each once and autograd sums the gradients of all
positions by itself. Each layer keeps its own module, so its index, its dropout, its buffers and its caches stay right.

The rule of `rebind`: each root keeps the weights it was using; when two roots were using the same weights, the first
keeps them and the later gets a copy (parameters and, unless told otherwise, optimizer moments). Every other layer uses its
root's weights. Weights that nobody uses any more are freed, with their gradients and optimizer state.
`tying.binding.deltas` says what the rule becomes with low-rank deltas.

The weights of a root stand in the param group of the root's layer, in the model's order, and train (requires_grad) if the
root's layer does. Where somebody else changes requires_grad of weights in use, that holds for all layers that use them.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Self

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from tying.binding.checks import refuse_by_blocks, refuse_reducer, refuse_uncopied, refuse_wrappers
from tying.binding.deltas import DeltaPlan, Deltas, LayerDeltas
from tying.binding.hooks import OPEN, bindings_of, divide_gradients, register
from tying.binding.optimizer_state import Optimizers, Owned
from tying.binding.plan import Plan
from tying.binding.sharing import common_names
from tying.binding.slots import Scan, Slots, Weights, copied, read_tying, unroll
from tying.errors import InputError
from tying.pointers import Pointers

__all__ = ["GRADIENTS", "LayerBinding", "bindings_of", "unroll"]

GRADIENTS = ("sum", "mean", "root_only")
UNTIE_MOMENTS = ("copy", "zero")
_NO_DELTAS = Deltas()


class LayerBinding:
    """Binds the parameters of L blocks to a Pointers value that can change at any time between two steps.

    Blocks that share all their shared parameters already are taken as tied; otherwise every layer starts as its own root.
    Parameters that not all blocks have stay with their layer (`private_names`). Several bindings may hold different
    parameters of the same blocks, each with pointers of its own.

    Attributes:
        blocks: The layers, layer 0 first.
        shared_names: The parameters that follow the pointers, as `block.named_parameters()` names them.
        share: As given, like `gradient`, `norms`, `untie_moments` and `model`.
        slots: Where the parameters stand.
        deltas: What tied layers add to their weights.
        guards_loading: Whether load_state_dict refuses values that differ between tied layers.

    Args:
        blocks: L modules (an nn.ModuleList, a Hugging Face model's layers, ...). What they share has the same names,
            shapes, dtypes and devices.
        optimizer: Any torch optimizer over the blocks' parameters, or a list of them that hold different ones; kept in
            step with every rebind. `attach` adds one that is made later.
        share: Which parameters follow the pointers; see `tying.binding.sharing.shared_names`.
        gradient: "sum" (true sharing: the sum over all positions), "mean" (that sum divided by the size of the group)
            or "root_only" (only the root's own position gives weight gradients; the weight-gradient products of the
            others are skipped). The last two stay in force until `close`.
        norms: "shared" or "private": whether norms follow the pointers when `share` names them.
        untie_moments: Optimizer state of a copy: "copy" (its source's) or "zero" (none, as of a new parameter: moments and
            step count begin at zero).
        model: The whole model. With it, weights that are used outside the blocks too are refused, and so is a state of
            other pointers, before any of it is loaded.
        deltas: Low-rank deltas of tied layers; those that are tied already begin with B = 0.

    Raises:
        InputError: If the blocks differ in what they share, cannot be tied, or are bound already; if no optimizer holds a
            parameter that trains; if an option is not known.
    """

    guards_loading = True
    _mean_handles: list[RemovableHandle]

    def __init__(
        self,
        blocks: Iterable[nn.Module],
        optimizer: torch.optim.Optimizer | Sequence[torch.optim.Optimizer] | None = None,
        share: str = "block",
        gradient: str = "sum",
        norms: str = "shared",
        *,
        untie_moments: str = "copy",
        model: nn.Module | None = None,
        deltas: Deltas = _NO_DELTAS,
    ) -> None:
        self.blocks: Sequence[nn.Module] = list(blocks)
        self.share, self.gradient, self.norms, self.model = share, gradient, norms, model
        self.untie_moments = untie_moments
        if not self.blocks:
            raise InputError("no blocks to bind: a model has at least one layer")
        if gradient not in GRADIENTS:
            raise InputError(f"gradient {gradient!r}: allowed are {', '.join(GRADIENTS)}")
        if untie_moments not in UNTIE_MOMENTS:
            raise InputError(f"untie_moments {untie_moments!r}: allowed are {', '.join(UNTIE_MOMENTS)}")
        scans = [Scan(block) for block in self.blocks]
        refuse_wrappers({kind for scan in scans for kind in scan.classes}, "a block")
        self.shared_names = common_names(self.blocks, [tuple(scan.parameters) for scan in scans], share, norms)
        refuse_by_blocks(self.blocks, self.shared_names, gradient, deltas.rank)
        single = set.intersection(*(set(scan.parameters) - set(scan.aliases) for scan in scans))
        self.deltas = LayerDeltas(self.blocks, self.shared_names, single, deltas)
        self.slots = Slots(scans, self.shared_names, model, self.deltas.names)
        used = [[scan.parameters[name] for name in self.shared_names] for scan in scans]
        self._pointers, self._weights = read_tying(self.shared_names, used)
        # Whether a layer's own weights train. For weights in use, requires_grad says so.
        self._trains = [[parameter.requires_grad for parameter in weights] for weights in self._weights]
        self.slots.refuse_second_use(self._weights)
        self._optimizers = Optimizers(
            (*self.shared_names, *self.deltas.names), (*range(len(self.shared_names)), *self.deltas.weight_of)
        )
        given = [] if optimizer is None else optimizer if isinstance(optimizer, Sequence) else [optimizer]
        self._optimizers.add(given, self._owned(), self._pointers, self.slots)
        self._lent = False
        self._take_effect()
        self.deltas.install()
        if self.deltas.names and self._pointers.num_unique < self.num_layers:
            self.deltas.carry_out(self._plan_deltas(self._pointers, {root: self._weights[root] for root in self._pointers}))
            self._optimizers.arrange(self._owned())

    @property
    def private_names(self) -> tuple[tuple[str, ...], ...]:
        """Per layer, the parameters that stay with it."""
        return self.slots.private_names

    @property
    def pointers(self) -> Pointers:
        """The tying in force."""
        return self._pointers

    @property
    def num_layers(self) -> int:
        """Number of layers L."""
        return len(self.blocks)

    @property
    def optimizers(self) -> list[torch.optim.Optimizer]:
        """The optimizers that are kept in step."""
        return [groups.optimizer for groups in self._optimizers.all]

    @property
    def optimizer(self) -> torch.optim.Optimizer | None:
        """The first of `optimizers`, or None."""
        return next(iter(self.optimizers), None)

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self not in OPEN

    @property
    def trainable_params(self) -> int:
        """Parameters of the blocks that exist and train, each counted once (shared and private ones)."""
        unique = {id(p): p for block in self.blocks for p in block.parameters() if p.requires_grad}
        return sum(parameter.numel() for parameter in unique.values())

    def trainable_params_of(self, pointers: Iterable[int]) -> int:
        """Return what `trainable_params` would be under other pointers, without binding them.

        Raises:
            InputError: If they say ranks that deltas here cannot have.
        """
        pointers = pointers if isinstance(pointers, Pointers) else Pointers(pointers)
        ranks = self.deltas.ranks(pointers)
        sizes = [parameter.numel() for parameter in self._weights[0]]
        private = {id(p): p.numel() for p, _ in self.slots.private() if p.requires_grad}
        total = sum(private.values())
        for layer, root in enumerate(pointers):
            own, trains = sizes, self._trains_of(layer)
            if layer != root:
                own, trains = self.deltas.sizes(ranks[layer]), self._deltas_train(layer)
            total += sum(size for size, trained in zip(own, trains, strict=True) if trained)
        return total

    def weights_of(self, layer: int) -> tuple[nn.Parameter, ...]:
        """Return the shared parameters that a layer uses now, in the order of `shared_names`."""
        return tuple(self._weights[layer])

    def rebind(self, pointers: Iterable[int] | str) -> None:
        """Go from the tying in force to any other one, by the rule at the top of this module.

        Call it between two optimizer steps. The loss does not change when layers are only untied. Copies are made, and
        everything is checked, before anything is touched: running out of memory, too, leaves all as it was.

        Args:
            pointers: One per layer, or their text ("0 0 2 2"), with ranks of the deltas or without ("0 0+4 2 2+0").

        Raises:
            InputError: If the pointers are invalid or of another length, or say ranks that deltas here cannot have; if
                parameters were replaced behind the binding's back, cannot be copied, or are in no optimizer.
        """
        new = pointers
        if not isinstance(new, Pointers):
            new = Pointers.parse_ranked(new) if isinstance(new, str) else Pointers(new)
        if len(new) != self.num_layers:
            raise InputError(f"pointers '{new}' are for {len(new)} layers, the model has {self.num_layers}")
        self.deltas.ranks(new)  # refuses those that are too high
        self._check_in_force()
        if new == self._pointers:
            return
        self._optimizers.read(self._owned(), self._pointers, self.slots)
        self._learn_trains(new)
        plan = Plan.of(self._weights, self._pointers, new)
        plan.check(self.shared_names, self._trains, self.slots, self._optimizers)
        refuse_reducer(parameter for weights in self._weights for parameter in weights)
        states = plan.copy(self._trains, self._optimizers.all if self.untie_moments == "copy" else ())
        deltas = self._plan_deltas(new, plan.weights)
        for layer, root in enumerate(new):
            if self._weights[layer] is not plan.weights[root]:
                self._weights[layer] = plan.weights[root]
                self.slots.assign(layer, plan.weights[root])
        self._pointers = new
        for optimizer, duplicate, state in states:
            optimizer.state[duplicate] = state
        self._release(plan, self.deltas.carry_out(deltas))
        self._mean_handles = divide_gradients(self, self._mean_handles)

    def attach(self, optimizer: torch.optim.Optimizer) -> None:
        """Keep one more optimizer in step, made after the binding (also when layers are tied already).

        Raises:
            InputError: If it cannot follow a rebind, or no optimizer holds a parameter that trains.
        """
        self._check_in_force()
        if any(optimizer is known for known in self.optimizers):
            raise InputError("this optimizer is attached already")
        self._optimizers.add([optimizer], self._owned(), self._pointers, self.slots)

    def close(self) -> None:
        """End the binding: hooks go, gradients of tied layers are sums again, layers stay tied as they are."""
        OPEN.discard(self)
        for handle in (*self._handles, *self._mean_handles):
            handle.remove()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def separated(self) -> Iterator[list[Weights]]:
        """While a block of code runs, let every layer use leaves of its own, so that gradients are those of its position.

        The leaves have the values, and the memory, of the weights that each layer uses; neither those nor the optimizer
        are touched, and no `gradient` option is in force. Do not step or rebind meanwhile.

        Yields:
            Per layer, its leaves in the order of `shared_names`.
        """
        leaves = [[nn.Parameter(p.detach(), requires_grad=p.requires_grad) for p in used] for used in self._weights]
        with self._lending(leaves):
            yield leaves

    @contextmanager
    def untied(self) -> Iterator[None]:
        """While a block of code runs, let every layer hold clones of its own, as an ordinary model; the tie comes back.

        For merging, quantising, exporting or saving. What is done to the clones is lost; the optimizers are not touched.

        Raises:
            InputError: If a parameter cannot be copied.
        """
        self._check_in_force()
        for layer, weights in enumerate(self._weights):
            refuse_uncopied(layer, self.shared_names, weights)
        with torch.inference_mode(False), torch.no_grad():
            clones = [copied(weights, [p.requires_grad for p in weights]) for weights in self._weights]
            for layer, own in enumerate(clones):
                for index, product in self.deltas.products(layer).items():
                    own[index].add_(product)
        with self._lending(clones, with_deltas=False):
            yield

    @contextmanager
    def _lending(self, weights: list[Weights], with_deltas: bool = True) -> Iterator[None]:
        self._check_in_force()
        before, live = (self._pointers, self._weights), list(self.deltas.live)
        try:
            self._lent = True
            self._pointers, self._weights = Pointers.independent(self.num_layers), weights
            for layer, own in enumerate(weights):
                self.slots.assign(layer, own)
                if not with_deltas:
                    self.deltas.put(layer, [])
            yield
        finally:
            self._pointers, self._weights = before
            for layer, used in enumerate(self._weights):
                self.slots.assign(layer, used)
                self.deltas.put(layer, live[layer])
            self._lent = False

    def _learn_trains(self, new: Pointers) -> None:
        """Before layers leave or join weights, note for all that use them what somebody may have made of requires_grad."""
        moved = [(old, self._pointers[now]) for old, now in zip(self._pointers, new, strict=True) if old != now]
        for changed in {root for pair in moved for root in pair}:
            trains = [parameter.requires_grad for parameter in self._weights[changed]]
            if trains != self._trains[changed]:
                for layer, root in enumerate(self._pointers):
                    if root == changed:
                        self._trains[layer] = trains

    def _plan_deltas(self, new: Pointers, kept: dict[int, Weights]) -> DeltaPlan:
        """Return what is to become of the deltas, or refuse those that no optimizer would train."""
        if not self.deltas.names:
            return DeltaPlan([], self.deltas.live)
        trains = [self._deltas_train(layer) for layer in range(self.num_layers)]
        no_weights = [False] * len(self.shared_names)
        for layer, rank in enumerate(self.deltas.ranks(new)):
            if rank:
                self._optimizers.refuse_unheld(layer, [*no_weights, *trains[layer]])
        return self.deltas.plan(self._weights, kept, new, trains)

    def _owned(self) -> Owned:
        """Return what every layer owns, for the optimizers: the weights of roots, the deltas of the others."""
        no_weights: list[None] = [None] * len(self.shared_names)
        no_deltas: list[None] = [None] * len(self.deltas.names)
        return [
            [*weights, *no_deltas] if layer == root else [*no_weights, *live] if live else []
            for layer, (root, weights, live) in enumerate(zip(self._pointers, self._weights, self.deltas.live, strict=True))
        ]

    def _release(self, plan: Plan, old_deltas: list[nn.Parameter]) -> None:
        """Bring the optimizers into line after the blocks, and let go of what nobody uses."""
        if not (plan.copied or plan.promoted or plan.freed or self.deltas.names):
            return  # the same roots: the optimizers hold what they held
        freed = [*(parameter for _, weights in plan.freed for parameter in weights), *old_deltas]
        for root, weights in plan.promoted:
            for parameter, trains in zip(weights, self._trains[root], strict=True):
                if parameter.requires_grad != trains:
                    parameter.requires_grad_(trains)
                    parameter.grad = None
        self._optimizers.arrange(self._owned(), freed, plan.promoted)
        for parameter in freed:
            parameter.grad = None
        for other in OPEN:
            if other is not self and any(optimizer in self.optimizers for optimizer in other.optimizers):
                other._optimizers.read(other._owned(), other._pointers, other.slots)

    def _trains_of(self, layer: int) -> list[bool]:
        """Return which weights of its own a layer would train: what the weights that it uses say if somebody changed it."""
        root = self._pointers[layer]
        now = [parameter.requires_grad for parameter in self._weights[root]]
        return self._trains[layer] if now == self._trains[root] else now

    def _deltas_train(self, layer: int) -> list[bool]:
        """Return which parameters of a layer's delta train: those that do now, or that stand beside weights that would."""
        if self.deltas.live[layer]:
            return [parameter.requires_grad for parameter in self.deltas.live[layer]]
        trains = self._trains_of(layer)
        return [trains[index] for index in self.deltas.weight_of]

    def _take_effect(self) -> None:
        self._handles = register(self)
        self._mean_handles = divide_gradients(self, [])

    def _check_in_force(self) -> None:
        if self.closed:
            raise InputError("this binding is closed: bind the blocks anew")
        if self._lent:
            raise InputError("layers are lent inside separated() or untied(): rebind after that block of code")
        self.slots.check(self._weights)

    def __getstate__(self) -> dict[str, Any]:
        mine = ("_handles", "_mean_handles", "slots")  # made anew from the copied blocks
        return {key: value for key, value in vars(self).items() if key not in mine} | {"closed": self.closed}

    def __setstate__(self, state: dict[str, Any]) -> None:
        closed = state.pop("closed")
        vars(self).update(state)
        self.slots = Slots([Scan(block) for block in self.blocks], self.shared_names, self.model, self.deltas.names)
        if not closed:
            self._take_effect()
