"""The GPT: shapes, counts by hand, causality, initial weights, generation."""

import pytest
import torch
from blocks import VOCAB, batch, tiny_gpt

from tying.errors import InputError
from tying.models.base import num_params
from tying.models.config import GPTConfig
from tying.models.gpt import GPT


def test_parameters_counted_by_hand() -> None:
    """One block of width 8: two norms 32, qkv 8*24+24, proj 8*8+8, up 8*32+32, down 32*8+8."""
    block = 32 + 216 + 72 + 288 + 264
    assert num_params(tiny_gpt(3)) == VOCAB * 8 + 8 * 8 + 3 * block + 16
    without_bias = 16 + 192 + 64 + 256 + 256
    assert num_params(tiny_gpt(3, bias=False)) == VOCAB * 8 + 8 * 8 + 3 * without_bias + 8


def test_the_published_size_is_that_of_gpt2_xl() -> None:
    """48 blocks of 12 C^2 + 13 C parameters, embeddings and a norm: 1,557,611,200 with GPT-2's vocabulary."""
    width = 1600
    model = GPT(GPTConfig(num_layers=1, num_heads=25, width=width, context=4), 7, 0)
    block = num_params(model.h)
    assert block == 12 * width**2 + 13 * width
    assert num_params(model) - block == (7 + 4) * width + 2 * width
    assert 48 * block + (50257 + 1024) * width + 2 * width == 1_557_611_200


def test_untied_embeddings_have_a_head_of_their_own() -> None:
    assert num_params(tiny_gpt(1, tie_embeddings=False)) - num_params(tiny_gpt(1)) == VOCAB * 8


def test_no_token_sees_a_later_one() -> None:
    model = tiny_gpt(2).eval()
    tokens, _ = batch()
    changed = tokens.clone()
    changed[:, 5] = (changed[:, 5] + 1) % VOCAB
    before, after = model(tokens), model(changed)
    assert torch.equal(before[:, :5], after[:, :5])
    assert not torch.allclose(before[:, 5:], after[:, 5:])


POST: dict[str, object] = {"norm_place": "post"}
# With the parameters that each adds to the plain model of three layers of width 8.
OPTIONS: list[tuple[dict[str, object], int]] = [
    ({"positions": "rotary"}, -64),
    ({"positions": "alibi"}, -64),
    ({"qk_norm": True}, 3 * 8),
    ({"positions": "rotary", "qk_norm": True}, 3 * 8 - 64),
    (POST, -16),
    ({"residual": "looped"}, 0),
    ({**POST, "residual": "admin"}, 3 * 2 * 8 - 16),
    ({**POST, "residual": "deepnet"}, -16),
    ({**POST, "residual": "b2t"}, -16),
    ({"depth_embedding": "sinusoid"}, 0),
    ({"depth_embedding": "learned"}, 3 * 8),
]


@pytest.mark.parametrize(("options", "more"), OPTIONS, ids=str)
def test_options_are_counted_trained_and_causal(options: dict[str, object], more: int) -> None:
    """A table of positions has 8 * 8 parameters, qk_norm 2 * 4 gains per layer, the last norm 2 * 8, a vector 8."""
    model = tiny_gpt(3, **options)
    assert num_params(model) == num_params(tiny_gpt(3)) + more
    model.loss(*batch()).backward()
    assert all(p.grad is not None and float(p.grad.abs().max()) > 0 for p in model.parameters())
    tokens, _ = batch()
    changed = tokens.clone()
    changed[:, 5] = (changed[:, 5] + 1) % VOCAB
    before, after = model(tokens), model(changed)
    assert torch.equal(before[:, :5], after[:, :5])
    assert not torch.allclose(before[:, 5:], after[:, 5:])


def test_options_that_are_off_leave_names_and_logits_as_they_were() -> None:
    off = {"positions": "learned", "qk_norm": False, "residual": "plain", "norm_place": "pre", "depth_embedding": "none"}
    plain, explicit = tiny_gpt(2), tiny_gpt(2, **off, halting="none", halting_cost=1.0)
    block = "ln_1.weight ln_1.bias attn.qkv.weight attn.qkv.bias attn.proj.weight attn.proj.bias ln_2.weight ln_2.bias "
    block += "mlp.up.weight mlp.up.bias mlp.down.weight mlp.down.bias"
    names = [f"h.{layer}.{name}" for layer in range(2) for name in block.split()]
    assert list(plain.state_dict()) == ["wte.weight", "wpe.weight", *names, "ln_f.weight", "ln_f.bias"]
    assert torch.equal(plain(batch()[0]), explicit(batch()[0]))


@pytest.mark.parametrize("positions", ["rotary", "alibi"])
def test_without_a_table_order_is_still_seen_and_places_are_not(positions: str) -> None:
    """Only distances count: one token repeated looks the same everywhere; two tokens exchanged do not."""
    model = tiny_gpt(2, positions=positions)
    same = model(torch.full((1, 8), 3))
    assert torch.allclose(same, same[:, :1].expand_as(same), rtol=0, atol=1e-12)
    first, second = model(torch.tensor([[1, 2, 3]])), model(torch.tensor([[2, 1, 3]]))
    assert not torch.allclose(first[:, -1], second[:, -1])


def test_rotary_positions_need_even_heads() -> None:
    with pytest.raises(InputError, match=r"model\.num_heads = 4: rotary positions .* model\.width = 12 gives 3"):
        GPTConfig(width=12, num_heads=4, positions="rotary")


def test_initial_weights_follow_from_the_seed_and_leave_the_global_generator_alone() -> None:
    state = torch.random.get_rng_state()
    first, again, other = tiny_gpt(2, seed=1), tiny_gpt(2, seed=1), tiny_gpt(2, seed=2)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    assert not torch.equal(first.wte.weight, other.wte.weight)


def test_initial_weights_have_the_spread_of_gpt2() -> None:
    model = GPT(GPTConfig(num_layers=8, num_heads=4, width=64, context=16), 300, 0)
    model.requires_grad_(False)
    assert float(model.h[3].mlp.up.weight.std()) == pytest.approx(0.02, rel=0.05)
    assert float(model.h[3].mlp.down.weight.std()) == pytest.approx(0.02 / 4, rel=0.05)
    assert float(model.h[3].ln_1.weight.min()) == 1
    assert float(model.h[3].attn.qkv.bias.abs().max()) == 0


def test_recomputation_changes_no_gradient() -> None:
    plain, recomputed = tiny_gpt(3, dropout=0.1), tiny_gpt(3, dropout=0.1)
    recomputed.recompute = True
    for model in (plain, recomputed):
        torch.manual_seed(0)
        model.loss(*batch()).backward()
    for a, b in zip(plain.parameters(), recomputed.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=0, atol=1e-14)


def test_generation_is_a_function_of_the_generator_and_goes_past_the_context() -> None:
    model = tiny_gpt(2).eval()
    prompt = torch.zeros(1, 3, dtype=torch.int64)
    texts = [model.generate(prompt, 20, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)]
    assert texts[0].shape == (1, 23)
    assert torch.equal(texts[0], texts[1])
    assert not torch.equal(texts[0], texts[2])


def test_greedy_and_top_1_agree() -> None:
    model = tiny_gpt(2).eval()
    prompt = torch.zeros(1, 3, dtype=torch.int64)
    greedy = model.generate(prompt, 10, torch.Generator(), temperature=0)
    assert torch.equal(greedy, model.generate(prompt, 10, torch.Generator(), top_k=1))


def test_heads_must_divide_the_width() -> None:
    with pytest.raises(InputError, match=r"model\.num_heads = 3: must divide model\.width = 8"):
        GPTConfig(num_heads=3, width=8)
