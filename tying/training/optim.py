"""The optimizer and its learning rate."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn

from tying.errors import InputError
from tying.training.config import OptimConfig


def make_optimizer(model: nn.Module, config: OptimConfig) -> torch.optim.AdamW:
    """Return fused AdamW (the fastest of torch's three on CPU and GPU alike) over the model's parameters."""
    groups = _groups(model.parameters(), config, {})
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=(config.beta1, config.beta2), fused=True)


def regroup(
    optimizer: torch.optim.Optimizer, model: nn.Module, config: OptimConfig, num_uses: Mapping[nn.Parameter, int]
) -> None:
    """Sort the model's parameters into groups of equal learning rate, after layers were tied or untied.

    A step on weights that n layers use moves the network n times. AdamW's steps have the same size whatever the
    gradient, so without `tied_rate` a rate that suits untied layers is too high for tied ones.

    Args:
        optimizer: Its groups are replaced; the moments stay.
        model: Its parameters are those that the optimizer holds.
        config: Where `tied_rate` is.
        num_uses: Number of layers that use a parameter; 1 where it is missing.
    """
    common = {k: v for k, v in optimizer.param_groups[0].items() if k not in ("params", "weight_decay", "rate")}
    optimizer.param_groups[:] = [{**common, **group} for group in _groups(model.parameters(), config, num_uses)]


def _groups(
    parameters: Iterable[nn.Parameter], config: OptimConfig, num_uses: Mapping[nn.Parameter, int]
) -> list[dict[str, Any]]:
    """Return param groups; `rate` is what the learning rate is multiplied with."""
    sorted_in: dict[tuple[float, float], list[nn.Parameter]] = {}
    for parameter in parameters:
        decay = config.weight_decay if parameter.dim() >= 2 else 0.0
        sorted_in.setdefault((decay, num_uses.get(parameter, 1) ** -config.tied_rate), []).append(parameter)
    return [{"params": own, "weight_decay": decay, "rate": rate} for (decay, rate), own in sorted_in.items()]


def learning_rate(config: OptimConfig, iteration: int, num_iterations: int) -> float:
    """Return the rate of iteration 0 to num_iterations - 1; a function of its arguments, so resuming needs no state."""
    warmup = min(config.warmup_iterations, num_iterations // 10)
    if iteration < warmup:
        return config.learning_rate * (iteration + 1) / warmup
    done = (iteration - warmup) / max(1, num_iterations - warmup)
    if iteration >= num_iterations:
        raise InputError(f"iteration {iteration} is past the end of the schedule of {num_iterations} iterations")
    low = config.learning_rate * config.final_rate
    return low + (config.learning_rate - low) * 0.5 * (1 + math.cos(math.pi * done))
