"""Small models in float64 for tests of tying, and brute-force counts over them."""

import torch
from torch import Tensor, nn

from tying.models.config import GPTConfig
from tying.models.gpt import GPT

VOCAB = 11


def tiny_gpt(num_layers: int = 6, seed: int = 0, **shape: object) -> GPT:
    """Return a GPT of a few thousand parameters in float64."""
    sizes = {"num_layers": num_layers, "num_heads": 2, "width": 8, "context": 8, **shape}
    return GPT(GPTConfig(**sizes), VOCAB, seed).double()  # type: ignore[arg-type]


@torch.no_grad()
def perturb(module: nn.Module, std: float = 0.2) -> None:
    """Add noise to all parameters, so that layers are far from each other."""
    generator = torch.Generator().manual_seed(0)
    for parameter in module.parameters():
        parameter.add_(std * torch.randn(parameter.shape, generator=generator))


def batch(seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return inputs and targets, both (2, 8)."""
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randint(0, VOCAB, (2, 8), generator=generator) for _ in range(2))  # type: ignore[return-value]


def adamw(model: nn.Module, lr: float = 1e-2) -> torch.optim.AdamW:
    """Return AdamW in two param groups, as trainers use it."""
    parameters = list(model.parameters())
    return torch.optim.AdamW(
        [
            {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": 0.1},
            {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
        ],
        lr=lr,
    )


def step(model: GPT, optimizer: torch.optim.Optimizer, seed: int = 0) -> float:
    """Do one training step and return its loss."""
    optimizer.zero_grad(set_to_none=True)
    loss = model.loss(*batch(seed))
    loss.backward()
    optimizer.step()
    return float(loss.detach())


def slots(block: nn.Module) -> dict[str, nn.Parameter]:
    """Return all parameters of a block by name, shared ones under every name."""
    return dict(block.named_parameters(remove_duplicate=False))


def storages(tensors: list[Tensor]) -> set[int]:
    """Return the addresses of the storages of tensors."""
    return {tensor.untyped_storage().data_ptr() for tensor in tensors}
