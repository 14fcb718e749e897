"""What a rebind will do to the weights, made and checked before anything is touched."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, Self

import torch
from torch import nn

from tying.binding.checks import refuse_hooks, refuse_uncopied
from tying.binding.optimizer_state import Optimizers, ParamGroups
from tying.binding.slots import Slots, Weights, copied
from tying.pointers import Pointers


class Plan(NamedTuple):
    """What becomes of the weights when pointers change, by the rule of `tying.binding.layer_binding`.

    Attributes:
        weights: Of every root that keeps what it uses; `copy` adds those of the others.
        copied: A root that needs a copy, and of what.
        promoted: The new root of weights that stay.
        freed: The root until now, and its weights.
    """

    weights: dict[int, Weights]
    copied: list[tuple[int, Weights]]
    promoted: list[tuple[int, Weights]]
    freed: list[tuple[int, Weights]]

    @classmethod
    def of(cls, used: Sequence[Weights], old: Pointers, new: Pointers) -> Self:
        """Return the plan of a change.

        Args:
            used: The weights that each layer uses until now.
            old: The tying in force.
            new: The one that comes.
        """
        plan = cls({}, [], [], [])
        kept: set[int] = set()
        for root in new.roots:
            weights = used[root]
            if id(weights) in kept:
                plan.copied.append((root, weights))
                continue
            kept.add(id(weights))
            plan.weights[root] = weights
            if old[root] != root:
                plan.promoted.append((root, weights))
        plan.freed.extend((root, used[root]) for root in old.roots if id(used[root]) not in kept)
        return plan

    def check(self, names: Sequence[str], trains: Sequence[list[bool]], slots: Slots, optimizers: Optimizers) -> None:
        """Refuse what would train wrongly.

        Args:
            names: Of the weights.
            trains: Per layer, which weights of its own train.
            slots: Where they stand.
            optimizers: Which are to hold them.

        Raises:
            InputError: If weights cannot be copied or freed, or no optimizer would move them.
        """
        for root, source in self.copied:
            refuse_uncopied(root, names, source)
        for root, weights in self.freed:
            refuse_hooks(root, names, weights)
        slots.refuse_second_use([weights for _, weights in self.freed])
        for root, _ in (*self.copied, *self.promoted):
            optimizers.refuse_unheld(root, trains[root])

    def copy(
        self, trains: Sequence[list[bool]], optimizers: Iterable[ParamGroups]
    ) -> list[tuple[torch.optim.Optimizer, nn.Parameter, dict[Any, Any]]]:
        """Add the copies of parameters to the plan, and return those of their optimizer state.

        Args:
            trains: As for `check`.
            optimizers: Those whose state is copied.
        """
        states = []
        # Parameters made in inference mode could never train.
        with torch.inference_mode(False), torch.no_grad():
            for root, source in self.copied:
                self.weights[root] = copied(source, trains[root])
                for groups in optimizers:
                    found = groups.copied_state(root, source, self.weights[root])
                    states += [(groups.optimizer, duplicate, state) for duplicate, state in found]
        return states
