"""The observation: one flat float32 vector with finite bounds, laid out by index.

| index            | name             | range   | meaning                                                               |
|------------------|------------------|---------|-----------------------------------------------------------------------|
| 0                | remaining        | 0 to 1  | share of the run's iterations still to come                           |
| 1                | log_perplexity   | 0 to 2  | reward-split loss as a share of log(vocabulary): 1 is knowing nothing |
| 2                | change           | -1 to 1 | that loss now minus before the last window, nats per token            |
| 3                | param_share      | 0 to 1  | trainable block parameters as a share of the untied model's           |
| 4                | frozen           | 0 or 1  | 1 when pointers no longer move                                        |
| 5 + 7i           | pointer of i     | 0 to 1  | pointer of layer i, divided by L - 1                                  |
| 6 + 7i           | root i           | 0 or 1  | 1 when layer i owns its weights                                       |
| 7 + 7i           | cursor i         | 0 or 1  | 1 when it is layer i's turn (all 0 where there is no cursor)          |
| 8 + 7i           | gradient of i    | 0 to 1  | norm of its gradient as a share of the largest layer's                |
| 9 + 7i           | similarity of i  | -1 to 1 | cosine of its weights with those of layer i - 1 (0 for layer 0)       |
| 10 + 7i          | gradient_        | -1 to 1 | cosine of its position's gradient with that of layer i - 1 (0 for     |
|                  | similarity of i  |         | layer 0)                                                              |
| 11 + 7i          | agreement of i   | -1 to 1 | cosine of its position's gradient with the sum of the others in its   |
|                  |                  |         | group (1 for a layer alone)                                           |

Before the first window entry 1 is 1 and all figures about gradients and similarities are 0; the last two stay 0 without
`gradient_statistics`. `tying.layout` has the order; `tying.layout.View` reads entries by name.
"""

import functools
from dataclasses import dataclass

import numpy as np
from gymnasium import spaces

from tying import layout
from tying.pointers import Pointers
from tying.records import Window


@dataclass(frozen=True)
class State:
    """What an observation shows.

    Attributes:
        pointers: In force.
        cursor: The layer whose turn it is, or None.
        remaining: Share of the iterations still to come.
        frozen: Whether pointers no longer move.
        param_share: Share of trainable block parameters under the pointers, 0 to 1.
        window: The last window; None before the first.
        previous_loss: Reward loss before that window, nats per token.
        uniform_loss: log(vocabulary), nats per token.
    """

    pointers: Pointers
    cursor: int | None
    remaining: float
    frozen: bool
    param_share: float
    window: Window | None
    previous_loss: float
    uniform_loss: float


_COSINE = (-1.0, 1.0)
_BOUNDS = {  # others: 0 to 1
    "log_perplexity": (0.0, 2.0),
    "change": (-1.0, 1.0),
    "similarity": _COSINE,
    "gradient_similarity": _COSINE,
    "agreement": _COSINE,
}


def space(num_layers: int) -> spaces.Box:
    """Return the observation space for L layers."""
    return spaces.Box(*_limits(num_layers), dtype=np.float32)


@functools.cache
def _limits(num_layers: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the lowest and the highest value of every entry."""
    scalars = {name: _BOUNDS.get(name, (0.0, 1.0)) for name in layout.SCALARS}
    layers = {name: _BOUNDS.get(name, (0.0, 1.0)) for name in layout.PER_LAYER}
    low, high = (
        layout.flatten(
            {name: bound[side] for name, bound in scalars.items()},
            {name: [bound[side]] * num_layers for name, bound in layers.items()},
        ).astype(np.float32)
        for side in (0, 1)
    )
    return low, high


def observe(state: State) -> np.ndarray:
    """Return the observation of a state, clipped to the space's bounds."""
    num_layers = len(state.pointers)
    scalars = {
        "remaining": state.remaining,
        "log_perplexity": 1.0,
        "change": 0.0,
        "param_share": state.param_share,
        "frozen": float(state.frozen),
    }
    layers = {name: np.zeros(num_layers) for name in layout.PER_LAYER}
    layers["pointer"] = np.array(state.pointers) / max(1, num_layers - 1)
    layers["root"][list(state.pointers.roots)] = 1
    if state.cursor is not None:
        layers["cursor"][state.cursor] = 1
    if state.window is not None:
        window = state.window
        scalars["log_perplexity"] = window.reward_loss / state.uniform_loss
        scalars["change"] = window.reward_loss - state.previous_loss
        if window.gradient_norms:
            layers["gradient"] = np.array(window.gradient_norms) / max(*window.gradient_norms, 1e-12)
        cosines = {
            "similarity": window.similarities,
            "gradient_similarity": window.gradient_similarities,
            "agreement": window.agreements,
        }
        layers |= {name: np.array(values) for name, values in cosines.items() if values}
    observation: np.ndarray = np.clip(layout.flatten(scalars, layers), *_limits(num_layers)).astype(np.float32)
    return observation
