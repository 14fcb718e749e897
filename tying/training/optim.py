"""The optimizer and its learning rate."""

import math
from collections import Counter
from collections.abc import Sequence

import torch
from torch import nn

from tying.errors import InputError
from tying.pointers import Pointers
from tying.training.config import OptimConfig


def make_optimizer(
    model: nn.Module, config: OptimConfig, layers: Sequence[Sequence[nn.Parameter]] = ()
) -> torch.optim.AdamW:
    """Return fused AdamW (the fastest of torch's three on CPU and GPU alike) over the model's parameters.

    Args:
        model: Untied, where there are `layers`.
        config: Rates and decay.
        layers: The parameters of each layer whose rate `set_rates` follows; they stand in groups of their layer.
    """
    layer_of = {parameter: layer for layer, own in enumerate(layers) for parameter in own}
    sorted_in: dict[tuple[float, int | None], list[nn.Parameter]] = {}
    for parameter in model.parameters():
        decay = config.weight_decay if parameter.dim() >= 2 else 0.0
        sorted_in.setdefault((decay, layer_of.get(parameter)), []).append(parameter)
    groups = [
        {"params": own, "weight_decay": decay, "layer": layer, "rate": 1.0} for (decay, layer), own in sorted_in.items()
    ]
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=(config.beta1, config.beta2), fused=True)


def set_rates(optimizer: torch.optim.Optimizer, pointers: Pointers, tied_rate: float) -> None:
    """Divide the learning rate of weights that n layers use by n to the power `tied_rate`; call it after a rebind.

    A step on weights that n layers use moves the network n times. AdamW's steps have the same size whatever the
    gradient, so without `tied_rate` a rate that suits untied layers is too high for tied ones.

    Args:
        optimizer: Of `make_optimizer` with `layers`; a binding keeps the weights of a root in the groups of its layer.
        pointers: The tying in force.
        tied_rate: See above.
    """
    rates = {root: num_uses**-tied_rate for root, num_uses in Counter(pointers).items()}
    for group in optimizer.param_groups:
        group["rate"] = rates.get(group["layer"], 1.0)  # groups of layers that own no weights are empty


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
