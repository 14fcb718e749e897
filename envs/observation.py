"""The observation: one flat float32 vector with finite bounds.

| index            | name             | range   | meaning                                                               |
|------------------|------------------|---------|-----------------------------------------------------------------------|
| 0                | remaining        | 0 to 1  | share of the run's iterations still to come                           |
| 1                | log_perplexity   | 0 to 2  | reward-split loss as a share of log(vocabulary): 1 is a uniform guess |
| 2                | change           | -1 to 1 | that loss now minus before the last window, nats per token            |
| 3                | param_share      | 0 to 1  | trainable block parameters as a share of the untied model's           |
| 4                | frozen           | 0 or 1  | 1 when pointers no longer move                                        |
| 5 + 7i           | pointer of i     | 0 to 1  | pointer of layer i, divided by L - 1                                  |
| 6 + 7i           | root i           | 0 to 1  | 1 when layer i owns its weights; where pointers say ranks, for a tied |
|                  |                  |         | layer half the rank of its delta as a share of the highest, else 0    |
| 7 + 7i           | cursor i         | 0 or 1  | 1 when it is layer i's turn (all 0 where there is no cursor)          |
| 8 + 7i           | gradient of i    | 0 to 1  | norm of its gradient as a share of the largest layer's                |
| 9 + 7i           | similarity of i  | -1 to 1 | cosine of its weights with those of layer i - 1 (0 for layer 0)       |
| 10 + 7i          | gradient_        | -1 to 1 | cosine of its position's gradient with that of layer i - 1 (0 for     |
|                  | similarity of i  |         | layer 0)                                                              |
| 11 + 7i          | agreement of i   | -1 to 1 | cosine of its position's gradient with the sum of the others in its   |
|                  |                  |         | group (1 for a layer alone)                                           |

Before the first window entry 1 is 1 and all figures about gradients and similarities are 0; the last two stay 0 without
`gradient_statistics`. `tying.interface` has the order.
"""

import functools

import numpy as np
from gymnasium import spaces

from tying import interface
from tying.pointers import Pointers
from tying.training.record import StepRecord

_COSINE = (-1.0, 1.0)
_BOUNDS = {  # others: 0 to 1
    "log_perplexity": (0.0, 2.0),
    "change": (-1.0, 1.0),
    "similarity": _COSINE,
    "gradient_similarity": _COSINE,
    "agreement": _COSINE,
}

_SCALARS = {name: interface.place(name) for name in interface.SCALARS}
_AGREEMENT = ("agreement", "agreements")


def space(num_layers: int) -> spaces.Box:
    """Return the observation space for L layers."""
    low, high = _limits(num_layers)
    return spaces.Box(low.astype(np.float32), high.astype(np.float32), dtype=np.float32)


@functools.cache
def _limits(num_layers: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the lowest and the highest value of every entry."""
    scalars = {name: _BOUNDS.get(name, (0.0, 1.0)) for name in interface.SCALARS}
    layers = {name: _BOUNDS.get(name, (0.0, 1.0)) for name in interface.PER_LAYER}
    low, high = (
        interface.flatten(
            {name: bound[side] for name, bound in scalars.items()},
            {name: [bound[side]] * num_layers for name, bound in layers.items()},
        )
        for side in (0, 1)
    )
    return low, high


def observe(
    record: StepRecord,
    *,
    remaining: float,
    cursor: int | None,
    frozen: bool,
    param_share: float,
    uninformed_loss: float,
    highest_rank: int = 0,
) -> np.ndarray:
    """Return the observation after a step, clipped to the space's bounds.

    Args:
        record: Of the last step, or of the start (decision -1).
        remaining: Share of the run's iterations still to come.
        cursor: The layer whose turn it is, or None.
        frozen: Whether pointers no longer move.
        param_share: Share of trainable block parameters under the pointers in force, 0 to 1.
        uninformed_loss: log(vocabulary), nats per token.
        highest_rank: Of low-rank deltas; 0 where there are none.
    """
    values = of_pattern(record.pointers, highest_rank).copy()
    known = record.decision >= 0
    if known and record.gradient_norms:
        values[interface.place("gradient")] = np.array(record.gradient_norms) / max(*record.gradient_norms, 1e-12)
    for name, column in ("similarity", "similarities"), ("gradient_similarity", "gradient_similarities"), _AGREEMENT:
        if known and getattr(record, column):
            values[interface.place(name)] = getattr(record, column)
    if cursor is not None:
        mark_cursor(values, cursor)
    return finish(
        values,
        remaining=remaining,
        log_perplexity=record.reward_loss / uninformed_loss if known else 1.0,
        change=record.reward_loss - record.previous_loss if known else 0.0,
        param_share=param_share,
        frozen=frozen,
    )


@functools.lru_cache(maxsize=1 << 14)
def of_pattern(pointers: Pointers, highest_rank: int = 0) -> np.ndarray:
    """Return an observation in which only what pointers say is there, (D,) float64; others share it: copy it."""
    num_layers = len(pointers)
    values = np.zeros(interface.size(num_layers))
    values[interface.place("pointer")] = np.array(pointers) / max(1, num_layers - 1)
    ranks = np.array(pointers.ranks or [0] * num_layers)
    values[interface.place("root")] = np.where(
        np.array(pointers) == np.arange(num_layers), 1, ranks / max(1, 2 * highest_rank)
    )
    values.setflags(write=False)
    return values


def mark_cursor(values: np.ndarray, cursor: int) -> None:
    """Say in observations, (..., D), whose turn it is."""
    values[..., interface.place("cursor")][..., cursor] = 1


def finish(values: np.ndarray, **scalars: float | np.ndarray) -> np.ndarray:
    """Write `SCALARS` into one observation (D,) or a batch of them (N, D), and return them clipped, as float32."""
    for name, value in scalars.items():
        values[..., _SCALARS[name]] = value
    low, high = _limits(interface.num_layers(values.shape[-1]))
    observation: np.ndarray = np.minimum(np.maximum(values, low, out=values), high, out=values).astype(np.float32)
    return observation
