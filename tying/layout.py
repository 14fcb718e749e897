"""Layout of the observation: the names of its entries in order, known to who writes it (envs) and who reads it (agents).

`SCALARS` come first, then `PER_LAYER` once for every layer. All that concerns a layer stands together, so that a policy
can read layers one by one, whatever L is. What each entry means is told in `envs.observation`.
"""

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


def flatten(scalars: Mapping[str, float], layers: Mapping[str, Sequence[float] | np.ndarray]) -> np.ndarray:
    """Return one flat float64 vector from named scalars and named columns of length L."""
    columns = np.stack([np.asarray(layers[name], dtype=np.float64) for name in PER_LAYER], axis=1)
    return np.concatenate([[scalars[name] for name in SCALARS], columns.ravel()])


class View:
    """Reads an observation by name.

    Args:
        observation: As the environment gives it.
    """

    def __init__(self, observation: np.ndarray) -> None:
        self._scalars = observation[: len(SCALARS)]
        self._layers = observation[len(SCALARS) :].reshape(-1, len(PER_LAYER))

    @property
    def num_layers(self) -> int:
        """Number of layers L."""
        return len(self._layers)

    def scalar(self, name: str) -> float:
        """Return an entry of `SCALARS`."""
        return float(self._scalars[SCALARS.index(name)])

    def layers(self, name: str) -> np.ndarray:
        """Return an entry of `PER_LAYER` for every layer, shape (L,)."""
        return self._layers[:, PER_LAYER.index(name)]

    @property
    def pointers(self) -> Pointers:
        """The tying in force."""
        return Pointers((self.layers("pointer") * max(1, self.num_layers - 1)).round().astype(int).tolist())

    @property
    def cursor(self) -> int | None:
        """The layer whose turn it is; None where there is no cursor."""
        turns = np.flatnonzero(self.layers("cursor"))
        return int(turns[0]) if turns.size else None
