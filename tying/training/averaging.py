"""Averaged: a moving average of a model's weights that stays right while layers are tied and untied.

`torch.optim.swa_utils.AveragedModel` walks two models side by side, so after a rebind it averages different layers into
each other. Here an average belongs to a set of weights, and follows the rule of `rebind`: a set that is kept keeps its
average, a copy begins with a copy of it, and weights that are freed take theirs along.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from tying.binding.deltas import DeltaLinear
from tying.errors import InputError


class Averaged:
    """The average of the parameters of a model over the optimizer steps of its training.

    Args:
        model: The model; any of its layers may be rebound between two updates.
        decay: average <- decay x average + (1 - decay) x parameter, 0 to 1 (exponential moving average); None: the mean
            of all updates (stochastic weight averaging, Izmailov et al., arXiv 1803.05407). Buffers are not averaged.

    Raises:
        InputError: If the decay is outside of 0 to 1, or layers may have low-rank deltas.
    """

    def __init__(self, model: nn.Module, decay: float | None = 0.999) -> None:
        if decay is not None and not 0 <= decay <= 1:
            raise InputError(f"decay {decay}: a number of 0 to 1, or None for the mean")
        if any(isinstance(module, DeltaLinear) for module in model.modules()):
            raise InputError("an average of weights and one of their low-rank deltas do not add up: average without deltas")
        self._model = model
        self._decay = decay
        self._num_updates = 0
        self._owners = _owners(model)
        self._averages = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}

    @torch.no_grad()
    def update(self) -> None:
        """Take the parameters of this step into the average; call it after every optimizer step."""
        self._averages = self._current()
        self._owners = _owners(self._model)
        share = 1 / (self._num_updates + 1) if self._decay is None else 1 - self._decay
        for name, parameter in self._model.named_parameters():
            self._averages[name].lerp_(parameter, share)
        self._num_updates += 1

    @contextmanager
    def applied(self) -> Iterator[None]:
        """While a block of code runs, the model has the averages as its values. Do not step or rebind meanwhile."""
        averages = self._current()
        parameters = dict(self._model.named_parameters())
        before = {name: parameter.detach().clone() for name, parameter in parameters.items()}
        try:
            with torch.no_grad():
                for name, parameter in parameters.items():
                    parameter.copy_(averages[name])
            yield
        finally:
            with torch.no_grad():
                for name, parameter in parameters.items():
                    parameter.copy_(before[name])

    def state_dict(self) -> dict[str, Any]:
        """Return all that `load_state_dict` needs, each average once."""
        return {"num_updates": self._num_updates, "owners": dict(self._owners), "averages": dict(self._averages)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up a state that `state_dict` returned, for a model with the same names.

        Raises:
            InputError: If the state is of another model.
        """
        if set(state["owners"]) != set(self._owners):
            raise InputError("the averages are of another model: the names of its parameters differ")
        self._num_updates = state["num_updates"]
        self._owners = dict(state["owners"])
        self._averages = {name: average.clone() for name, average in state["averages"].items()}

    def _current(self) -> dict[str, Tensor]:
        """Return the averages by today's names; layers may have been rebound since the last update."""
        taken: set[str] = set()
        averages = {}
        for name, _ in self._model.named_parameters():
            owner = self._owners[name]
            averages[name] = self._averages[owner].clone() if owner in taken else self._averages[owner]
            taken.add(owner)
        return averages


def _owners(model: nn.Module) -> dict[str, str]:
    """Return, for every name of a parameter, the first name of the same parameter."""
    first: dict[int, str] = {}
    return {name: first.setdefault(id(p), name) for name, p in model.named_parameters(remove_duplicate=False)}
