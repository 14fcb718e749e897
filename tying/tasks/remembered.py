"""Remembered: what a fixed model makes of batches, computed once for those that are asked again."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary


class Remembered:
    """A function of tokens by a model that no longer changes. It follows the tokens to their device.

    Args:
        model: The model; it is put in evaluation mode.
        compute: (model, tokens) -> tensor, without gradients.
        memory: Most bytes of answers that are kept, each for as long as its tokens are.
    """

    def __init__(self, model: nn.Module, compute: Callable[[nn.Module, Tensor], Tensor], memory: int = 2**28) -> None:
        self._model = model.eval()
        self._compute = compute
        self._memory = memory
        self._device: torch.device | None = None  # of the model, once there are tokens
        self._kept: Any = WeakTensorKeyDictionary()

    @torch.no_grad()
    def __call__(self, tokens: Tensor) -> Tensor:
        """Return the answer for tokens."""
        if tokens not in self._kept:
            if tokens.device != self._device:
                self._model.to(tokens.device)
                self._device = tokens.device
            answer = self._compute(self._model, tokens)
            kept = sum(value.numel() * value.element_size() for value in self._kept.values())
            if kept + answer.numel() * answer.element_size() > self._memory:
                return answer
            self._kept[tokens] = answer
        found: Tensor = self._kept[tokens]
        return found
