"""Positions inside attention: only distances count, and the published slopes."""

import math

import pytest
import torch

from tying.models.parts.positions import alibi_bias, alibi_slopes, rotary_table, rotate

LIKE = torch.zeros((), dtype=torch.float64)


def test_rotated_products_depend_on_the_distance_alone() -> None:
    generator = torch.Generator().manual_seed(0)
    query, key = (torch.randn(1, 1, 1, 8, generator=generator, dtype=torch.float64).expand(1, 1, 12, 8) for _ in range(2))
    table = rotary_table(12, 8, LIKE)
    products = (rotate(query, table) @ rotate(key, table).transpose(-1, -2))[0, 0]
    for distance in range(-11, 12):
        diagonal = products.diagonal(distance)
        assert torch.allclose(diagonal, diagonal[0].expand_as(diagonal), rtol=0, atol=1e-13)
    assert float(products[:, 0].std()) > 0.1
    assert torch.equal(rotate(query, table)[..., 0, :], query[..., 0, :])


def test_rotations_are_the_products_of_complex_numbers() -> None:
    x = torch.randn(2, 3, 5, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    rates = torch.tensor([10_000.0 ** (-2 * i / 6) for i in range(3)], dtype=torch.float64)
    turned = torch.complex(x[..., :3], x[..., 3:]) * torch.exp(1j * torch.outer(torch.arange(5.0), rates).double())
    expected = torch.cat([turned.real, turned.imag], dim=-1)
    assert torch.allclose(rotate(x, rotary_table(5, 6, LIKE)), expected, rtol=0, atol=1e-6)
    assert rotary_table(5, 6, torch.zeros((), dtype=torch.bfloat16)).dtype == torch.float32
    assert rotate(x.bfloat16(), rotary_table(5, 6, LIKE)).dtype == torch.bfloat16


def test_slopes_are_the_published_ones() -> None:
    assert alibi_slopes(8) == [2.0**-i for i in range(1, 9)]
    assert alibi_slopes(1) == [2.0**-8] and alibi_slopes(2) == [2.0**-4, 2.0**-8]
    assert alibi_slopes(3) == [2.0**-4, 2.0**-8, 2.0**-2]
    assert alibi_slopes(12) == [2.0**-i for i in range(1, 9)] + [2.0**-0.5, 2.0**-1.5, 2.0**-2.5, 2.0**-3.5]


@pytest.mark.parametrize("num_heads", [1, 2, 3, 6])
def test_biases_fall_with_the_distance_and_hide_later_tokens(num_heads: int) -> None:
    bias = alibi_bias(5, num_heads, LIKE)
    for head, slope in enumerate(alibi_slopes(num_heads)):
        for query in range(5):
            expected = [-slope * (query - key) if key <= query else -math.inf for key in range(5)]
            assert bias[head, query].tolist() == expected
