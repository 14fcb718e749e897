"""The observation: one flat float32 vector with finite bounds, laid out by index.

| index            | name             | range   | meaning                                                               |
|------------------|------------------|---------|-----------------------------------------------------------------------|
| 0                | remaining        | 0 to 1  | share of the run's iterations still to come                           |
| 1                | log_perplexity   | 0 to 2  | reward-split loss as a share of log(vocabulary): 1 is knowing nothing |
| 2                | change           | -1 to 1 | that loss now minus before the last window, nats per token            |
| 3                | param_share      | 0 to 1  | trainable block parameters as a share of the untied model's           |
| 4                | frozen           | 0 or 1  | 1 when pointers no longer move                                        |
| 5 + 5i           | pointer of i     | 0 to 1  | pointer of layer i, divided by L - 1                                  |
| 6 + 5i           | root i           | 0 or 1  | 1 when layer i owns its weights                                       |
| 7 + 5i           | cursor i         | 0 or 1  | 1 when it is layer i's turn (all 0 where there is no cursor)          |
| 8 + 5i           | gradient of i    | 0 to 1  | norm of its gradient as a share of the largest layer's                |
| 9 + 5i           | similarity of i  | -1 to 1 | cosine of its weights with those of layer i - 1 (0 for layer 0)       |

Before the first window entry 1 is 1 and the gradient and similarity entries are 0. All that concerns a layer stands
together, so that a policy can read layers one by one, whatever L is.
"""

from dataclasses import dataclass

import numpy as np
from gymnasium import spaces

from tying.pointers import Pointers
from tying.records import Window

NUM_SCALARS = 5
PER_LAYER = 5


@dataclass(frozen=True)
class State:
    """What an observation shows.

    Attributes:
        pointers: In force.
        cursor: The layer whose turn it is, or None.
        remaining: Share of the iterations still to come.
        frozen: Whether pointers no longer move.
        window: The last window; None before the first.
        previous_loss: Reward loss before that window, nats per token.
        uniform_loss: log(vocabulary), nats per token.
    """

    pointers: Pointers
    cursor: int | None
    remaining: float
    frozen: bool
    window: Window | None
    previous_loss: float
    uniform_loss: float


def space(num_layers: int) -> spaces.Box:
    """Return the observation space for L layers."""
    low = np.zeros(NUM_SCALARS + PER_LAYER * num_layers, dtype=np.float32)
    high = np.ones_like(low)
    high[1] = 2
    low[2] = -1
    low[NUM_SCALARS + 4 :: PER_LAYER] = -1
    return spaces.Box(low, high, dtype=np.float32)


def observe(state: State) -> np.ndarray:
    """Return the observation of a state, clipped to the space's bounds."""
    num_layers = len(state.pointers)
    scalars = np.array([state.remaining, 1.0, 0.0, state.pointers.num_unique / num_layers, state.frozen], dtype=np.float64)
    layers = np.zeros((num_layers, PER_LAYER))
    layers[:, 0] = np.array(state.pointers) / max(1, num_layers - 1)
    layers[list(state.pointers.roots), 1] = 1
    if state.cursor is not None:
        layers[state.cursor, 2] = 1
    if state.window is not None:
        window = state.window
        scalars[1] = window.reward_loss / state.uniform_loss
        scalars[2] = window.reward_loss - state.previous_loss
        scalars[3] = window.param_share
        if window.gradient_norms:
            layers[:, 3] = np.array(window.gradient_norms) / max(*window.gradient_norms, 1e-12)
        if window.similarities:
            layers[:, 4] = window.similarities
    bounds = space(num_layers)
    flat = np.concatenate([scalars, layers.ravel()])
    observation: np.ndarray = np.clip(flat, bounds.low, bounds.high).astype(np.float32)
    return observation
