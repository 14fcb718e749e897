"""torch's global state neither changes a run nor is changed by it: what computes here does so under `isolated()`."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any


@contextmanager
def isolated() -> Iterator[None]:
    """Let a block compute with gradients, in float32 and on the CPU unless it says otherwise; also a decorator.

    Inference mode, no_grad, autocast, default dtype and device, products of float32 that are rounded, and the deterministic
    algorithms (which are other algorithms) of the caller are put aside, and are back afterwards.
    """
    with ExitStack() as stack:
        for change in _changes():
            stack.enter_context(change)
        yield


def _changes() -> Iterator[AbstractContextManager[Any]]:
    import torch  # only now, so that an agent's settings can be read without it

    if torch.is_inference_mode_enabled():
        yield torch.inference_mode(False)
    if not torch.is_grad_enabled():
        yield torch.enable_grad()
    for device in ("cpu", "cuda"):
        if torch.is_autocast_enabled(device):
            yield torch.autocast(device, enabled=False)
    if torch.get_default_dtype() is not torch.float32:
        yield _float32()
    if torch.get_default_device().type != "cpu":
        yield torch.device("cpu")
    if torch.are_deterministic_algorithms_enabled():
        yield _any_algorithm()
    for device in ("cuda", "mkldnn"):
        if getattr(torch.backends, device).matmul.fp32_precision not in ("none", "ieee"):
            yield float32_products("ieee", device)


@contextmanager
def float32_products(precision: str, device: str = "cuda") -> Iterator[None]:
    """Let a block compute matrix products of float32 in a precision.

    Args:
        precision: "ieee": of float32; "tf32": of operands that are rounded to 19 bits.
        device: As in `torch.backends`.
    """
    import torch

    products = getattr(torch.backends, device).matmul
    before = products.fp32_precision
    products.fp32_precision = precision
    try:
        yield
    finally:
        products.fp32_precision = before


@contextmanager
def _float32() -> Iterator[None]:
    import torch

    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextmanager
def _any_algorithm() -> Iterator[None]:
    import torch

    warns = torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(False)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(True, warn_only=warns)
