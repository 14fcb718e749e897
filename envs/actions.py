"""Action modes: from an action of the agent to a Pointers value. `tying.interface` has the numbering.

To add one, write its class and a line in `MODES`. One that decides ranks too says so (`decides_ranks = True`); it is made
with the highest rank as well, and has the allowed ones as `ranks`.

Masks leave exactly one action for each pattern that can be reached in a decision, so no two legal actions mean the same.
Every action inside the space is legal without masks too. Halves of layers share with those of their kind alone (`Apart`).
"""

import functools
from typing import Any, Protocol

import numpy as np
from gymnasium import spaces

from tying import interface, registry, strategies
from tying.errors import InputError
from tying.parts import Parts
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


class CursorRank:
    """One layer's turn, as in `cursor`, and the rank of its delta. Discrete(1 + L R), R ranks.

    0 means weights of its own; 1 + j R + k joins j's group with a delta of the k-th rank, and j >= layer means weights of
    its own too. The ranks are 0 and a quarter, a half and all of the highest.

    Args:
        num_layers: L.
        highest: The highest rank.

    Raises:
        InputError: If it is 0: there is nothing to choose.

    Attributes:
        ranks: R ranks, rising.
    """

    summary = "one layer after another, with the rank of its low-rank delta"
    decides_ranks = True

    def __init__(self, num_layers: int, highest: int) -> None:
        if highest < 1:
            raise InputError(
                "env.action_mode = 'cursor_rank' chooses ranks up to binding.delta_rank, which is 0: set it (formulas "
                "and tables have no deltas)"
            )
        self.ranks = tuple(sorted({0, highest // 4, highest // 2, highest}))
        self.space = spaces.Discrete(1 + num_layers * len(self.ranks))

    def decode(self, action: Any, pointers: Pointers, cursor: int) -> Pointers:
        """Return the pattern after an action, with ranks."""
        target, number = divmod(int(action) - 1, len(self.ranks))
        owns = action == 0 or target >= cursor
        ranks = list(pointers.ranks or [0] * len(pointers))
        ranks[cursor] = 0 if owns else self.ranks[number]
        return _moved(Pointers(pointers), cursor, cursor if owns else target).with_ranks(ranks)

    def masks(self, pointers: Pointers, cursor: int) -> np.ndarray:
        """Return True for weights of its own, and for every rank with the roots before the cursor."""
        masks = np.zeros((len(pointers), len(self.ranks)), dtype=bool)
        masks[[root for root in pointers.roots if root < cursor]] = True
        return np.concatenate([[True], masks.ravel()])

    def unchanged(self, pointers: Pointers, cursor: int) -> np.ndarray:
        """Return True for the pointer and the rank that the cursor's layer has now."""
        masks = np.zeros(int(self.space.n), dtype=bool)
        root = pointers[cursor]
        masks[0 if root == cursor else 1 + root * len(self.ranks) + self.ranks.index(pointers.ranks[cursor])] = True
        return masks

    def layer(self, action: Any, cursor: int) -> int | None:
        """Return the cursor."""
        return cursor


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


class Apart:
    """A mode over halves of layers: an action after which halves of different kinds would share changes nothing.

    Args:
        mode: One of `MODES`.
        parts: The layers that it decides.

    Raises:
        InputError: If the mode is another, whose numbering is not known.
    """

    def __init__(self, mode: ActionMode, parts: Parts) -> None:
        if not isinstance(mode, Cursor | Pair | Joint):
            raise InputError(f"action_mode: {type(mode).__name__} is not for halves of layers; cursor, pair and joint are")
        self._mode, self._parts = mode, parts
        self.summary, self.space = mode.summary, mode.space
        layers = range(parts.size)
        self._joins = np.array([[target <= layer and parts.joins(layer, target) for target in layers] for layer in layers])

    def decode(self, action: Any, pointers: Pointers, cursor: int) -> Pointers:
        """Return the pattern after an action."""
        found = self._mode.decode(action, pointers, cursor)
        return found if self._parts.holds(found) else pointers

    def masks(self, pointers: Pointers, cursor: int) -> np.ndarray:
        """Return those of the mode, without targets of another kind."""
        masks = self._mode.masks(pointers, cursor)
        # The flat entries of `joint` are numbered as those of `pair`.
        in_turn = interface.in_turn(self._parts.size, len(masks))
        layer, target = interface.moves(self._parts.size, cursor if in_turn else None).T
        allowed: np.ndarray = masks & self._joins[layer, target]
        return allowed

    def unchanged(self, pointers: Pointers, cursor: int) -> np.ndarray:
        """Return those of the mode."""
        return self._mode.unchanged(pointers, cursor)

    def layer(self, action: Any, cursor: int) -> int | None:
        """Return that of the mode."""
        return self._mode.layer(action, cursor)


MODES: dict[str, type[ActionMode]] = {"cursor": Cursor, "pair": Pair, "joint": Joint, "cursor_rank": CursorRank}
# In which layers take turns.
TURNS = ("cursor", "cursor_rank")


def make(name: str, num_layers: int, highest_rank: int = 0) -> ActionMode:
    """Return an action mode by name, or another person's by "package.module:Class".

    Raises:
        InputError: If there is none of that name, it cannot be imported, or it decides ranks and there are none.
    """
    found = registry.find("action mode", name, MODES)
    mode: ActionMode = found(num_layers, highest_rank) if decides_ranks(found) else found(num_layers)
    return mode


def decides_ranks(mode: Any) -> bool:
    """Return whether a mode, or its class, decides ranks too."""
    return bool(getattr(mode, "decides_ranks", False))


def start(text: str, mode: ActionMode | None, num_layers: int, highest_rank: int, moves: bool) -> Pointers:
    """Return the pattern at the start of a run; it says ranks where the mode decides them.

    Args:
        text: A strategy, or pointers; where they say no ranks, all tied layers have the highest.
        mode: Of the actions.
        num_layers: L.
        highest_rank: Of the deltas.
        moves: Whether pointers move later.

    Raises:
        InputError: If the text is wrong, or says ranks that cannot be there or that the mode would lose.
    """
    pointers = Pointers.parse_ranked(text) if "+" in text else strategies.make(text, num_layers)
    if len(pointers) != num_layers:
        raise InputError(f"pointers {text!r} are for {len(pointers)} layers, the model has {num_layers}")
    decided = tuple(getattr(mode, "ranks", ()))
    if not set(pointers.ranks) <= set(decided or range(0 if moves else highest_rank + 1)):
        allowed = ", ".join(map(str, decided)) or f"none, or with env.freeze_after 0 those up to {highest_rank}"
        raise InputError(
            f"pointers {text!r}: with this env.action_mode and binding.delta_rank = {highest_rank}, ranks may be {allowed}"
        )
    return pointers.with_ranks([highest_rank] * num_layers) if decided and not pointers.ranks else pointers
