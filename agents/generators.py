"""The state of the global random generators, JSON-ready: libraries of agents draw from them."""

import random
from typing import Any

import numpy as np


def state() -> dict[str, Any]:
    """Return the state of Python's, numpy's and torch's global generators."""
    import torch  # when a snapshot is written, not for the settings of agents

    kind, words, place, has_normal, normal = np.random.get_state(legacy=True)
    return {
        "python": random.getstate(),
        "numpy": [kind, np.asarray(words).tolist(), place, has_normal, normal],
        "torch": torch.get_rng_state().tolist(),
    }


def set_state(saved: dict[str, Any]) -> None:
    """Put the generators into a saved state.

    Raises:
        KeyError, TypeError, ValueError: If it is damaged.
    """
    import torch

    version, words, normal = saved["python"]
    random.setstate((version, tuple(words), normal))
    np.random.set_state(tuple(saved["numpy"]))
    torch.set_rng_state(torch.tensor(saved["torch"], dtype=torch.uint8))
