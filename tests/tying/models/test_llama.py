"""The Llama: counts by hand, causality, and that its positions are distances. Its logits: tests/tying/hf/test_export.py."""

from typing import Any

import pytest
import torch
from blocks import VOCAB, batch

from tying.errors import InputError
from tying.models.base import num_params
from tying.models.config import LlamaConfig
from tying.models.llama import Llama


def tiny_llama(**shape: Any) -> Llama:
    sizes = {"num_layers": 2, "num_heads": 4, "num_kv_heads": 2, "width": 16, "context": 8, **shape}
    return Llama(LlamaConfig(**sizes), VOCAB, 0).double()


def test_parameters_counted_by_hand() -> None:
    """A block of width 16, 2 of 4 heads for keys and values, 48 inside: two norms, qkv 16 * 32, proj, three matrices."""
    block = 2 * 16 + 16 * 32 + 16 * 16 + 3 * 16 * 48
    assert num_params(tiny_llama()) == VOCAB * 16 + 2 * block + 16
    assert num_params(tiny_llama(num_kv_heads=4)) - num_params(tiny_llama()) == 2 * 16 * 16
    assert num_params(tiny_llama(tie_embeddings=False)) - num_params(tiny_llama()) == VOCAB * 16
    assert LlamaConfig(width=4096, num_heads=32).feed_forward_width == 10_928  # 8/3 of the width, 10,922.7


def test_no_token_sees_a_later_one_and_every_parameter_learns() -> None:
    model = tiny_llama()
    tokens, targets = batch()
    changed = tokens.clone()
    changed[:, 5] = (changed[:, 5] + 1) % VOCAB
    before, after = model(tokens), model(changed)
    assert torch.equal(before[:, :5], after[:, :5])
    assert not torch.allclose(before[:, 5:], after[:, 5:])
    model.loss(tokens, targets).backward()
    assert all(p.grad is not None and float(p.grad.abs().max()) > 0 for p in model.parameters())


def test_only_distances_count() -> None:
    logits = tiny_llama()(torch.full((1, 8), 3))
    assert torch.allclose(logits, logits[:, :1].expand_as(logits), rtol=0, atol=1e-12)


def test_recomputation_changes_no_gradient() -> None:
    plain, recomputed = tiny_llama(), tiny_llama()
    recomputed.recompute = True
    for model in (plain, recomputed):
        model.loss(*batch()).backward()
    for a, b in zip(plain.parameters(), recomputed.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=0, atol=1e-14)


@pytest.mark.parametrize(
    ("shape", "line"),
    [
        ({"num_kv_heads": 3}, r"model\.num_kv_heads = 3: must divide model\.num_heads = 4"),
        ({"num_heads": 5}, r"model\.num_heads = 5: must divide model\.width = 16"),
        ({"num_heads": 16, "num_kv_heads": 1}, r"rotary positions need an even number .* model\.width = 16 gives 1"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(shape: dict[str, Any], line: str) -> None:
    with pytest.raises(InputError, match=line):
        tiny_llama(**shape)
