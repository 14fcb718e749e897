"""How attention learns where tokens are, without a table of positions.

Shapes: B batch, H heads, T tokens, D features per head.
"""

import math

import torch
from torch import Tensor


def rotary_table(tokens: int, head_size: int, like: Tensor, base: float = 10_000.0, start: int = 0) -> Tensor:
    """Return the cosines and sines of rotary positions (Su et al. 2021, arXiv 2104.09864, equation 34).

    Args:
        tokens: T.
        head_size: D, even.
        like: A tensor of the device and precision wanted; float32 at least.
        base: Pair i of D/2 turns by base**(-2i/D) radians per token.
        start: The first of the tokens that are wanted.

    Returns:
        (2, T - start, D/2).
    """
    device, dtype = like.device, torch.promote_types(like.dtype, torch.float32)
    rates = base ** (-torch.arange(0, head_size, 2, device=device, dtype=dtype) / head_size)
    angles = torch.outer(torch.arange(start, tokens, device=device, dtype=dtype), rates)
    return torch.stack([angles.cos(), angles.sin()])


def rotate(x: Tensor, table: Tensor) -> Tensor:
    """Turn queries or keys by their positions: (B, H, T, D) -> (B, H, T, D).

    Feature i is paired with feature i + D/2, as in transformers' Llama. The product of a query and a key that are turned so
    depends on the distance of their positions alone.

    Args:
        x: Queries or keys.
        table: From `rotary_table`.
    """
    cosines, sines = table
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cosines - second * sines, second * cosines + first * sines], dim=-1).to(x.dtype)


def alibi_slopes(num_heads: int) -> list[float]:
    """Return the slope of each head (Press et al. 2022, arXiv 2108.12409): 2**(-8i/H) for i = 1 to H.

    That is for H a power of two. Other numbers of heads take every second slope of twice the power below, as the paper's
    code does.
    """
    power = 2 ** int(math.log2(num_heads))
    slopes = [2.0 ** (-8 * i / power) for i in range(1, power + 1)]
    between = [2.0 ** (-4 * i / power) for i in range(1, 2 * power + 1, 2)]
    return slopes + between[: num_heads - power]


def alibi_bias(tokens: int, num_heads: int, like: Tensor, start: int = 0) -> Tensor:
    """Return what is added to the scores of causal attention: -slope x distance, and -inf for later tokens.

    Args:
        tokens: T.
        num_heads: H.
        like: A tensor of the device and precision wanted.
        start: The first of the tokens whose queries are wanted.

    Returns:
        (H, T - start, T), queries before keys.
    """
    place = torch.arange(tokens, device=like.device, dtype=like.dtype)
    distance = place[start:, None] - place
    slopes = torch.tensor(alibi_slopes(num_heads), device=like.device, dtype=like.dtype)
    return torch.where(distance < 0, -math.inf, -slopes[:, None, None] * distance)
