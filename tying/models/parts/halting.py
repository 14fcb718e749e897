"""Adaptive computation time: every token decides how many steps it takes (Graves 2016, arXiv 1603.08983).

Shapes: B batch, T tokens, C width, S steps.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn

_EPSILON = 0.01  # a token halts once its probabilities add up to more than 1 - this
_BIAS = 1.0  # of the probability at the start, as in tensor2tensor


class Halted(NamedTuple):
    """How a pass ended.

    Attributes:
        weights: Of the state after each step in the result, (S, B, T); they add up to 1 for every token.
        steps: N, how many each token took, (B, T).
        remainder: R, the weight of its last step, (B, T).
    """

    weights: Tensor
    steps: Tensor
    remainder: Tensor

    @property
    def ponder(self) -> Tensor:
        """mean(N + R): N has no gradient, that of R asks for higher probabilities before the last step."""
        return (self.steps + self.remainder).mean()


class Halting(nn.Module):
    """Runs steps until every token has halted, and returns the mean of its states by their weights.

    After step n a token halts with probability p_n = sigmoid(w . state + b). Its weight is p_n, and at the last step, where
    the sum would pass 0.99 or steps are at their end, what is missing to 1. From then on its state stays as it is, and
    others see it so.

    Args:
        width: C.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.unit = nn.Linear(width, 1)

    @torch.no_grad()
    def start(self) -> None:
        """Set the initial bias."""
        self.unit.bias.fill_(_BIAS)

    def forward(self, x: Tensor, steps: Sequence[Callable[[Tensor], Tensor]]) -> tuple[Tensor, Halted]:
        """Return the result and how it came about: (B, T, C) -> (B, T, C)."""
        total = torch.zeros_like(x[..., 0], dtype=torch.promote_types(x.dtype, torch.float32))  # (B, T)
        count, remainder, running = torch.zeros_like(total), torch.zeros_like(total), torch.ones_like(total).bool()
        result, weights = torch.zeros_like(x), []
        for number, step in enumerate(steps):
            if not self.training and not running.any():
                break
            x = torch.where(running[..., None], step(x), x)
            p = self.unit(x)[..., 0].to(total.dtype).sigmoid()
            halts = running & ((total + p > 1 - _EPSILON) | (number == len(steps) - 1))
            weight = torch.where(halts, 1 - total, p) * running
            result = result + weight[..., None] * x
            weights.append(weight)
            count, remainder = count + running, remainder + weight * halts
            total, running = total + weight, running & ~halts
        return result, Halted(torch.stack(weights), count, remainder)

    @contextmanager
    def watched(self) -> Iterator[list[Halted]]:
        """While a block of code runs, note how every pass ends."""
        found: list[Halted] = []
        handle = self.register_forward_hook(lambda module, inputs, output: found.append(output[1]))
        try:
            yield found
        finally:
            handle.remove()
