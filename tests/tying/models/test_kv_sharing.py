"""Keys and values that later positions read: by hand, gradients, counts, checkpoints, tying, refusals."""

from collections.abc import Callable

import pytest
import torch
from blocks import VOCAB, adamw, batch, step
from decoders import DECODERS, SHARINGS, check_gradient, check_recomputation, keys_and_values_by_hand, make_decoder

from tying import LayerBinding, Pointers
from tying.errors import InputError
from tying.models import activation_sharing
from tying.models.base import num_params
from tying.models.config import GPTConfig, LlamaConfig

# Patterns.


@pytest.mark.parametrize(
    ("text", "num_layers", "expected"),
    [
        ("cla:2", 5, "0 0 2 2 4"),
        ("cla:3", 6, "0 0 0 3 3 3"),
        ("cla:1", 3, "0 1 2"),
        ("trailing:2", 6, "0 1 2 3 3 3"),
        ("trailing:3", 4, "0 0 0 0"),
        ("trailing:9", 3, "0 0 0"),
        ("cla:9", 3, "0 0 0"),
        ("yoco", 6, "0 1 2 3 3 3"),
        ("yoco", 5, "0 1 2 2 2"),
        ("yoco", 1, "0"),
        ("0 0 2 0", 4, "0 0 2 0"),
    ],
)
def test_patterns_of_the_literature(text: str, num_layers: int, expected: str) -> None:
    assert str(activation_sharing.sources(text, num_layers)) == expected


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("cla:0", "'cla:0': allowed are none, cla:N and trailing:N with N from 1 on, yoco, pointers"),
        ("cla", "'cla': allowed are "),
        ("trailing:-1", "'trailing:-1': allowed are "),
        ("yoco:2", "'yoco:2': allowed are "),
        ("sandwich", "'sandwich': allowed are "),
        ("0 0 1 1", r"pointers\[2\] = 1, but layer 1 owns no weights"),
        ("0 0", "pointers '0 0' are for 2 layers, the model has 4"),
    ],
)
@pytest.mark.parametrize("option", ["kv_sharing", "attention_sharing"])
@pytest.mark.parametrize("config", [GPTConfig, LlamaConfig])
def test_patterns_that_do_not_fit_are_refused(config: Callable[..., object], option: str, text: str, line: str) -> None:
    with pytest.raises(InputError, match=rf"^model\.{option}: {line}"):
        config(num_layers=4, **{option: text})


# Values and gradients.


@pytest.mark.parametrize("text", SHARINGS)
def test_a_position_reads_what_its_source_made(text: str) -> None:
    model, tokens = make_decoder("llama", kv_sharing=text), batch()[0]
    expected = keys_and_values_by_hand(model, tokens, model.config.kv_sources)
    torch.testing.assert_close(model(tokens), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", DECODERS)
def test_positions_that_all_have_their_own_are_the_plain_model(name: str) -> None:
    plain, separate = make_decoder(name), make_decoder(name, kv_sharing="0 1 2 3")
    values = plain.state_dict()
    for key in [key for key in values if ".qkv." in key]:
        whole = values.pop(key)
        values[key.replace("qkv", "q")], values[key.replace("qkv", "kv")] = whole[:16], whole[16:]
    separate.load_state_dict(values)
    assert num_params(plain) == num_params(separate)
    torch.testing.assert_close(separate(batch()[0]), plain(batch()[0]), rtol=0, atol=1e-12)


@pytest.mark.parametrize("recompute", [False, True])
def test_the_gradient_of_a_source_is_that_of_all_who_read_it(recompute: bool) -> None:
    model = make_decoder("llama", kv_sharing="0 0 2 0").train()
    model.recompute = recompute
    assert sum(".kv." in key for key, _ in model.named_parameters()) == 2
    check_gradient(model, "h.0.attn.kv.weight", [(0, 0), (3, 5), (9, 15), (15, 2)])


@pytest.mark.parametrize("text", ["cla:2", "trailing:2", "0 1 0 1"])
@pytest.mark.parametrize("name", DECODERS)
def test_recomputation_changes_no_gradient(name: str, text: str) -> None:
    check_recomputation(name, kv_sharing=text, dropout=0.1)


# Counts.


@pytest.mark.parametrize("text", SHARINGS)
@pytest.mark.parametrize("name", DECODERS)
def test_consumers_lack_the_matrices_of_keys_and_values(name: str, text: str) -> None:
    plain, sharing = make_decoder(name), make_decoder(name, kv_sharing=text)
    consumers = 4 - sharing.config.kv_sources.num_unique
    width = 2 * (8 if name == "llama" else 16)  # of keys and values together
    biases, norms = width * (name in ("gpt", "gpt, rotary, qk_norm")), 8 * ("qk_norm" in name)
    assert num_params(plain) - num_params(sharing) == consumers * (16 * width + biases + norms)


def test_the_cache_has_the_published_sizes() -> None:
    """Brandon et al. 2024: 20 layers, one head of 128, 16 bit."""
    sizes = {"num_layers": 20, "num_heads": 4, "num_kv_heads": 1, "width": 512}
    assert LlamaConfig(**sizes).cache_bytes_per_token(2) == 10_240
    assert LlamaConfig(**sizes, kv_sharing="cla:2").cache_bytes_per_token(2) == 5_120
    all_tied = Pointers((0,) * 20)
    assert LlamaConfig(**sizes).figures(all_tied) == {}
    assert LlamaConfig(**sizes, kv_sharing="cla:2").figures(all_tied) == {"cache_bytes_per_token": 10_240}
    assert LlamaConfig(**sizes, kv_sharing="tied").figures(all_tied) == {"cache_bytes_per_token": 1_024}
    half = Pointers(layer - layer % 2 for layer in range(20))
    assert LlamaConfig(**sizes, kv_sharing="tied").cache_bytes_per_token(2, half) == 5_120
    assert LlamaConfig(**sizes, kv_sharing="tied").cache_share(half) == 0.5
    assert LlamaConfig(**sizes, attention_sharing="tied").cache_share(half) == 0.75  # of the keys; all have values


@pytest.mark.parametrize("text", ["none", *SHARINGS])
@pytest.mark.parametrize("name", DECODERS)
def test_the_cache_has_the_size_that_is_said(name: str, text: str) -> None:
    model = make_decoder(name, kv_sharing=text)
    cache = model.make_cache()
    model(batch()[0], cache)
    assert cache.num_bytes == 2 * 8 * model.config.cache_bytes_per_token(8)


# Tying.


def test_keys_and_values_stay_with_their_position_when_layers_are_tied() -> None:
    """All else follows the pointers; each parameter is counted and held by the optimizer once, and keeps its moments."""
    model = make_decoder("gpt", kv_sharing="cla:2").train()
    optimizer = adamw(model)
    binding = LayerBinding(model.h, optimizer)
    assert binding.private_names == (("attn.kv.weight", "attn.kv.bias"), ()) * 2
    own = dict(model.h[2].attn.kv.named_parameters())
    step(model, optimizer)
    moments = {name: optimizer.state[p]["exp_avg"].clone() for name, p in own.items()}
    for pointers in ("0 0 0 0", "0 1 1 3", "0 1 2 3", "0 0 2 2"):
        expected = binding.trainable_params_of(Pointers.parse(pointers))
        binding.rebind(pointers)
        distinct = {id(p): p.numel() for block in model.h for p in block.parameters()}
        assert expected == binding.trainable_params == sum(distinct.values())
        held = [id(p) for group in optimizer.param_groups for p in group["params"]]
        assert sorted(held) == sorted({id(p) for p in model.parameters()})
        assert dict(model.h[2].attn.kv.named_parameters()) == own
        assert all(torch.equal(optimizer.state[p]["exp_avg"], moments[name]) for name, p in own.items())
    step(model, optimizer)
    assert all(p.grad is not None and float(p.grad.abs().max()) > 0 for p in model.parameters())


def test_off_it_is_not_there() -> None:
    """Names and logits are those of a model without the option; with it, the other weights are those of the same seed."""
    plain, explicit = make_decoder("gpt"), make_decoder("gpt", kv_sharing="none")
    assert list(plain.state_dict()) == list(explicit.state_dict())
    assert torch.equal(plain(batch()[0]), explicit(batch()[0]))
    assert not any(".q." in name or ".kv." in name for name in plain.state_dict())
    assert VOCAB == len(plain.wte.weight)
