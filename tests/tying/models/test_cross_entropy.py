"""The chunked cross-entropy against the plain one, in float64: loss, gradient, chunks that do not divide, tiny shares."""

import pytest
import torch
import torch.nn.functional as F

from tying.models import cross_entropy as module
from tying.models.cross_entropy import cross_entropy


def inputs(num_rows: int, vocab_size: int, scale: float, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = scale * torch.randn(num_rows, vocab_size, generator=generator, dtype=torch.float64)
    targets = torch.randint(vocab_size, (num_rows,), generator=generator)
    return logits.to(dtype).requires_grad_(), targets


@pytest.mark.parametrize("chunk", [1, 50, 96, 10**6])
@pytest.mark.parametrize("scale", [1.0, 300.0])  # at 300 most targets have a probability that float32 does not hold
@pytest.mark.parametrize("outer", [1.0, 0.25])
def test_loss_and_gradient_are_the_plain_ones(
    monkeypatch: pytest.MonkeyPatch, chunk: int, scale: float, outer: float
) -> None:
    monkeypatch.setattr(module, "_CHUNK", chunk)
    logits, targets = inputs(13, 24, scale, torch.float64)
    plain, ours = F.cross_entropy(logits, targets), cross_entropy(logits, targets)
    torch.testing.assert_close(ours, plain, rtol=1e-12, atol=1e-12)
    expected, found = (torch.autograd.grad(outer * loss, logits)[0] for loss in (plain, ours))
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("scale", [1.0, 300.0])
def test_lower_precisions_compute_in_float32(dtype: torch.dtype, scale: float) -> None:
    logits, targets = inputs(64, 100, scale, dtype)
    loss, exact = cross_entropy(logits, targets), F.cross_entropy(logits.double(), targets)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss.double(), exact, rtol=1e-6, atol=1e-6)
    gradient, expected = torch.autograd.grad(loss, logits)[0], torch.autograd.grad(exact, logits)[0]
    assert gradient.dtype == dtype
    torch.testing.assert_close(gradient, expected, rtol=1e-2 if dtype == torch.bfloat16 else 1e-4, atol=1e-7)


def test_without_gradients_none_is_kept() -> None:
    logits, targets = inputs(8, 10, 1.0, torch.float64)
    with torch.no_grad():
        assert not cross_entropy(logits, targets).requires_grad
    torch.testing.assert_close(cross_entropy(logits.detach(), targets), F.cross_entropy(logits.detach(), targets))


def test_a_second_derivative_is_refused() -> None:
    logits, targets = inputs(4, 5, 1.0, torch.float64)
    (gradient,) = torch.autograd.grad(cross_entropy(logits, targets), logits, create_graph=True)
    with pytest.raises(RuntimeError, match="does not require grad"):
        gradient.sum().backward()
