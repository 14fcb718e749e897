"""Action modes: from an action of the agent to a Pointers value. `tying.interface` has the numbering.

To add one, write its class and a line in `MODES`.

Masks leave exactly one action for each pattern that can be reached in a decision, so no two legal actions mean the same.
Every action inside the space is legal without masks too.
"""

import functools
from typing import Any, Protocol

import numpy as np
from gymnasium import spaces

from tying import interface, registry
from tying.pointers import Pointers


@functools.lru_cache(maxsize=1 << 16)  # instant environments come to the same patterns again and again
def _moved(pointers: Pointers, layer: int, target: int) -> Pointers:
    return pointers.move(layer, target)


class ActionMode(Protocol):
    """The questions that an action mode answers; `cursor` is the layer whose turn it is."""

    summary: str

    def __init__(self, num_layers: int) -> None:
        """Make the mode for L layers."""
        ...

    @property
    def space(self) -> spaces.Space[Any]:
        """The action space."""
        ...

    def decode(self, action: Any, pointers: Pointers, cursor: int) -> Pointers:
        """Return the pattern after an action."""
        ...

    def masks(self, pointers: Pointers, cursor: int) -> np.ndarray:
        """Return which actions are legal: bool, flat over all components of the space."""
        ...

    def unchanged(self, pointers: Pointers, cursor: int) -> np.ndarray:
        """Return the masks that leave only the action that changes nothing."""
        ...

    def layer(self, action: Any, cursor: int) -> int | None:
        """Return the layer that an action decides; None for several."""
        ...


class Cursor:
    """One layer's turn at a time, 1 to L-1 over and over. Discrete(L): j < layer joins j's group, j >= layer owns."""

    summary = "one layer after another"

    def __init__(self, num_layers: int) -> None:
        self.space = spaces.Discrete(num_layers)

    def decode(self, action: Any, pointers: Pointers, cursor: int) -> Pointers:
        """Return the pattern after an action."""
        return _moved(pointers, *interface.moves(len(pointers), cursor)[int(action)].tolist())

    def masks(self, pointers: Pointers, cursor: int) -> np.ndarray:
        """Return True for the roots before the cursor, and for the cursor itself (own weights)."""
        masks = np.zeros(len(pointers), dtype=bool)
        masks[[root for root in pointers.roots if root < cursor]] = True
        masks[cursor] = True
        return masks

    def unchanged(self, pointers: Pointers, cursor: int) -> np.ndarray:
        """Return True for the pointer that the cursor's layer has now."""
        masks = np.zeros(len(pointers), dtype=bool)
        masks[pointers[cursor]] = True
        return masks

    def layer(self, action: Any, cursor: int) -> int | None:
        """Return the cursor."""
        return cursor


class Pair:
    """Any layer and its target at once. Discrete(L(L+1)/2): (0,0), (1,0), (1,1), (2,0), ... as in the published code."""

    summary = "any one layer"

    def __init__(self, num_layers: int) -> None:
        self._moves = interface.moves(num_layers, None)
        self.space = spaces.Discrete(len(self._moves))

    def decode(self, action: Any, pointers: Pointers, cursor: int) -> Pointers:
        """Return the pattern after an action."""
        return _moved(pointers, *self._moves[int(action)].tolist())

    def masks(self, pointers: Pointers, cursor: int) -> np.ndarray:
        """Return True for (0,0), which changes nothing, and for every pair that changes something, once."""
        roots = np.zeros(len(pointers), dtype=bool)
        roots[list(pointers.roots)] = True
        layer, target = self._moves.T
        masks: np.ndarray = np.where(layer == target, ~roots[layer], roots[target] & (np.array(pointers)[layer] != target))
        masks[0] = True
        return masks

    def unchanged(self, pointers: Pointers, cursor: int) -> np.ndarray:
        """Return True for (0,0) alone."""
        masks = np.zeros(len(self._moves), dtype=bool)
        masks[0] = True
        return masks

    def layer(self, action: Any, cursor: int) -> int | None:
        """Return the layer of the pair."""
        return int(self._moves[int(action), 0])


class Joint:
    """Every layer at once. MultiDiscrete([1, 2, ..., L]): layer i gives a target 0 to i; targets may be tied themselves."""

    summary = "all layers at once"

    def __init__(self, num_layers: int) -> None:
        self.space = spaces.MultiDiscrete(np.arange(1, num_layers + 1))

    def decode(self, action: Any, pointers: Pointers, cursor: int) -> Pointers:
        """Return the pattern that the action spells out, whatever the pattern was."""
        resolved: list[int] = []
        for layer, target in enumerate(int(a) for a in action):
            resolved.append(layer if target == layer else resolved[target])
        return Pointers(resolved)

    def masks(self, pointers: Pointers, cursor: int) -> np.ndarray:
        """Return all True: the meaning of an entry depends on the others, so none can be excluded by itself."""
        return np.ones(int(self.space.nvec.sum()), dtype=bool)

    def unchanged(self, pointers: Pointers, cursor: int) -> np.ndarray:
        """Return True for every layer's present pointer."""
        return np.concatenate([np.arange(layer + 1) == root for layer, root in enumerate(pointers)])

    def layer(self, action: Any, cursor: int) -> int | None:
        """Return None: all layers are decided."""
        return None


MODES: dict[str, type[ActionMode]] = {"cursor": Cursor, "pair": Pair, "joint": Joint}


def make(name: str, num_layers: int) -> ActionMode:
    """Return an action mode by name, or another person's by "package.module:Class".

    Raises:
        InputError: If there is none of that name, or it cannot be imported.
    """
    mode: ActionMode = registry.find("action mode", name, MODES)(num_layers)
    return mode
