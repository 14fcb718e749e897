"""Depth embeddings: the published signal, of the size of its block's input."""

import math

import pytest
import torch
from blocks import batch, tiny_gpt

from tying import LayerBinding
from tying.models.base import num_params
from tying.models.parts.depth import DepthEmbedding


def test_the_sinusoid_is_that_of_the_universal_transformer() -> None:
    part = DepthEmbedding("sinusoid", 4, 6, std=0.5)
    part.start()
    angles = [5 / 10_000 ** (2 * j / 6) for j in range(3)]
    expected = [f(angle) * math.sqrt(0.5) for angle in angles for f in (math.sin, math.cos)]
    assert part.vector[0].tolist() == pytest.approx(expected)
    x = torch.randn(2, 3, 6, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(part(x), x + torch.tensor(expected))


@pytest.mark.parametrize(("place", "later"), [("pre", 0.02), ("post", 1.0)])
def test_it_is_as_large_as_what_it_is_added_to(place: str, later: float) -> None:
    model = tiny_gpt(3, width=64, norm_place=place, depth_embedding="sinusoid")
    sizes = [block.depth.vector.square().mean().sqrt().item() for block in model.h]  # type: ignore[union-attr]
    assert sizes == pytest.approx([0.02, later, later], rel=1e-6)


@pytest.mark.parametrize(("kind", "count"), [("sinusoid", 0), ("learned", 5 * 8)])
def test_tied_layers_are_told_apart_and_counted(kind: str, count: int) -> None:
    model, plain = (tiny_gpt(5, depth_embedding=name) for name in (kind, "none"))
    assert num_params(model) - num_params(plain) == count
    binding = LayerBinding(model.h)
    binding.rebind([0] * 5)
    block = sum(p.numel() for p in plain.h[0].parameters())
    assert binding.trainable_params == block + count == binding.trainable_params_of([0] * 5)
    x = torch.randn(2, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    outputs = [layer(x) for layer in model.h]
    assert not any(torch.allclose(outputs[0], other) for other in outputs[1:])
    model.loss(*batch()).backward()
    assert all(p.grad is not None and float(p.grad.abs().max()) > 0 for p in model.parameters())
