"""The interface between environments and agents: the entries of an observation and the numbering of actions.

Environments write observations and read actions; agents do the reverse. Both know only this module. L layers.

An observation has `SCALARS` first, then `PER_LAYER` once for every layer, so that a policy can read layers one by one,
whatever L is. `envs.observation` says what each entry means.

A Discrete action space has L actions where the environment walks over the layers (`cursor`), L(L+1)/2 where the agent
chooses the layer too (`pair`), and 1 + L R where it walks over the layers and the agent chooses one of R ranks as well as
the target (`cursor_rank`). No two of these numbers are equal for L > 1 and R > 1.
"""

import functools
from collections.abc import Mapping, Sequence

import numpy as np

from tying.pointers import Pointers

SCALARS = ("remaining", "log_perplexity", "change", "param_share", "frozen")
PER_LAYER = ("pointer", "root", "cursor", "gradient", "similarity", "gradient_similarity", "agreement")


def size(num_layers: int) -> int:
    """Return the length of the observation for L layers."""
    return len(SCALARS) + len(PER_LAYER) * num_layers


def num_layers(size: int) -> int:
    """Return L of an observation of that length."""
    return (size - len(SCALARS)) // len(PER_LAYER)


def place(name: str) -> int | slice:
    """Return where an entry stands in the last dimension of observations: an index, or for every layer, a slice."""
    if name in SCALARS:
        return SCALARS.index(name)
    return slice(len(SCALARS) + PER_LAYER.index(name), None, len(PER_LAYER))


def flatten(scalars: Mapping[str, float], layers: Mapping[str, Sequence[float] | np.ndarray]) -> np.ndarray:
    """Return one flat float64 vector from named scalars and named columns of length L."""
    columns = np.stack([np.asarray(layers[name], dtype=np.float64) for name in PER_LAYER], axis=1)
    return np.concatenate([[scalars[name] for name in SCALARS], columns.ravel()])


class ObservationView:
    """An observation by name.

    Args:
        observation: As the environment returns it.
    """

    def __init__(self, observation: np.ndarray) -> None:
        self.observation = observation
        self._layers = observation[len(SCALARS) :].reshape(-1, len(PER_LAYER))

    @property
    def num_layers(self) -> int:
        """Number of layers L."""
        return len(self._layers)

    def scalar(self, name: str) -> float:
        """Return an entry of `SCALARS`."""
        return float(self.observation[SCALARS.index(name)])

    def layers(self, name: str) -> np.ndarray:
        """Return an entry of `PER_LAYER` for every layer, shape (L,)."""
        return self._layers[:, PER_LAYER.index(name)]

    @functools.cached_property
    def pointers(self) -> Pointers:
        """The tying in force."""
        return Pointers((self.layers("pointer") * max(1, self.num_layers - 1)).round().astype(int).tolist())

    @property
    def effective_blocks(self) -> float:
        """Untied blocks that are worth as much as the tying in force, 1 to L; see `Pointers.effective_blocks`."""
        return self.pointers.effective_blocks

    @functools.cached_property
    def cursor(self) -> int | None:
        """The layer whose turn it is; None where there is no cursor."""
        turns = np.flatnonzero(self.layers("cursor"))
        return int(turns[0]) if turns.size else None

    @property
    def progress(self) -> float:
        """Share of the run's iterations that are done, 0 to 1; exact for shares of few digits, as 0.3 in float32 is not."""
        return round(1 - self.scalar("remaining"), 6)

    @property
    def frozen(self) -> bool:
        """Whether pointers no longer move."""
        return bool(self.scalar("frozen"))


@functools.cache
def pairs(num_layers: int) -> np.ndarray:
    """Return (layer, target) of every action of `pair`, shape (L(L+1)/2, 2): number i(i+1)/2 + j is layer i, target j."""
    found = np.array([(layer, target) for layer in range(num_layers) for target in range(layer + 1)])
    found.setflags(write=False)
    return found


@functools.cache
def moves(num_layers: int, cursor: int | None) -> np.ndarray:
    """Return (layer, target) of every Discrete action, shape (A, 2); target == layer means weights of its own.

    Args:
        num_layers: L.
        cursor: The layer whose turn it is, and A = L; None where the agent chooses the layer, and A = L(L+1)/2.
    """
    if cursor is None:
        return pairs(num_layers)
    found = np.stack([np.full(num_layers, cursor), np.minimum(np.arange(num_layers), cursor)], axis=1)
    found.setflags(write=False)
    return found


def num_ranks(num_layers: int, num_actions: int) -> int:
    """Return R of a Discrete space of that size; 0 where its actions choose no ranks."""
    number, rest = divmod(num_actions - 1, num_layers)
    return 0 if rest or number < 2 else number


def in_turn(num_layers: int, num_actions: int) -> bool:
    """Return whether a Discrete space of that size is that of `cursor`."""
    return num_actions == num_layers
