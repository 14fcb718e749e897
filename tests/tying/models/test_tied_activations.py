"""Keys and values, and maps, that follow the pointers: positions read those of the root of their matrices."""

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from blocks import adamw, batch, slots, step
from decoders import DECODERS, in_chunks, keys_and_values_by_hand, make_decoder, maps_by_hand
from torch import Tensor

import tying.hf
from tying import LayerBinding, Pointers
from tying.binding.deltas import Deltas
from tying.binding.sharing import part_names
from tying.errors import InputError
from tying.models.base import Model, num_params
from tying.models.config import DecoderConfig
from tying.training.layer_statistics import agreements, inner_products, position_gradients

# The setting, the value of `share` that moves nothing else, the matrix, and the model with a loop over heads.
KINDS: dict[str, tuple[str, str, Callable[[Model, Tensor, Pointers], Tensor]]] = {
    "kv_sharing": ("kv", "attn.kv.weight", keys_and_values_by_hand),
    "attention_sharing": ("map", "attn.qk.weight", maps_by_hand),
}
every_kind = pytest.mark.parametrize("option", KINDS)
every_decoder = pytest.mark.parametrize("name", DECODERS)


def gradients(model: Model, logits: Tensor) -> dict[str, Tensor]:
    """Return the gradient of the loss of logits for every parameter; none may be without."""
    named = dict(model.named_parameters())
    loss = F.cross_entropy(logits.flatten(0, 1), batch()[1].flatten())
    return dict(zip(named, torch.autograd.grad(loss, list(named.values())), strict=True))


def assert_close(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, value in found.items():
        torch.testing.assert_close(value, expected[name], rtol=0, atol=1e-12, msg=name)


def patterns(number: int) -> list[Pointers]:
    """Return patterns at random, each a jump from the one before: joins, unties and promotions at once."""
    return random.Random(0).sample(list(Pointers.all(4)), number)


@every_kind
@every_decoder
def test_untied_it_is_the_plain_model(name: str, option: str) -> None:
    """Bit by bit the model in which each reads its own for good; the plain model, of one matrix, to rounding."""
    plain, own, model = (
        make_decoder(name),
        make_decoder(name, **{option: "0 1 2 3"}),
        make_decoder(name, **{option: "tied"}),
    )
    tokens, _ = batch()
    assert list(model.state_dict()) == list(own.state_dict())
    assert num_params(model) == num_params(plain)
    assert torch.equal(model(tokens), own(tokens))
    found, expected = gradients(model, model(tokens)), gradients(own, own(tokens))
    assert all(torch.equal(found[key], expected[key]) for key in expected)
    matrix, cut = ("kv", 16) if option == "kv_sharing" else ("v", 24 if name == "llama" else 32)
    first = "q" if option == "kv_sharing" else "qk"
    values = plain.state_dict()
    for key in [key for key in values if ".qkv." in key]:
        whole = values.pop(key)
        values[key.replace("qkv", first)], values[key.replace("qkv", matrix)] = whole[:cut], whole[cut:]
    model.load_state_dict(values)
    torch.testing.assert_close(model(tokens), plain(tokens), rtol=0, atol=1e-12)
    found, expected = gradients(model, model(tokens)), gradients(plain, plain(tokens))
    for key in [key for key in expected if ".qkv." in key]:
        whole = expected.pop(key)
        expected[key.replace("qkv", first)], expected[key.replace("qkv", matrix)] = whole[:cut], whole[cut:]
    assert_close(found, expected)


@pytest.mark.parametrize("share", ["alone", "block"])
@every_kind
def test_tied_it_is_the_model_by_hand_along_any_path(option: str, share: str) -> None:
    """Logits and gradients, with training steps between: a position that reads adds to the gradient of its maker."""
    alone, matrix, by_hand = KINDS[option]
    model = make_decoder("llama", **{option: "tied"})
    optimizer = adamw(model)
    binding = LayerBinding(model.h, optimizer, share=alone if share == "alone" else share)
    tokens = batch()[0]
    for seed, pointers in enumerate(patterns(12)):
        expected_params = binding.trainable_params_of(pointers)
        binding.rebind(pointers)
        logits, expected = model(tokens), by_hand(model, tokens, pointers)
        torch.testing.assert_close(logits, expected, rtol=0, atol=1e-12)
        found = gradients(model, logits)
        assert_close(found, gradients(model, expected))
        assert all(float(value.abs().max()) > 0 for value in found.values())
        distinct = {id(p): p.numel() for block in model.h for p in slots(block).values()}
        assert binding.trainable_params == sum(distinct.values()) == expected_params
        assert len({id(slots(block)[matrix]) for block in model.h}) == pointers.num_unique
        held = [id(p) for group in optimizer.param_groups for p in group["params"]]
        assert sorted(held) == sorted(map(id, model.parameters()))
        step(model, optimizer, seed)  # type: ignore[arg-type]


@every_kind
@every_decoder
def test_it_is_the_model_with_these_sources_for_good(name: str, option: str) -> None:
    """Of every kind of decoder: where positions that read have no such matrices, and the others the same values."""
    model = make_decoder(name, **{option: "tied"})
    for share in (KINDS[option][0], "block"):
        with LayerBinding(model.h, share=share) as binding:
            for pointers in patterns(5):
                binding.rebind(pointers)
                fixed = make_decoder(name, **{option: str(pointers)})
                own = model.state_dict()
                fixed.load_state_dict({key: own[key] for key in fixed.state_dict()})
                assert torch.equal(model(batch()[0]), fixed(batch()[0]))
            binding.rebind("0 1 2 3")


@every_kind
@every_decoder
def test_caches_and_recomputation_change_nothing_under_any_pattern(name: str, option: str) -> None:
    tokens = batch()[0]
    model = make_decoder(name, **{option: "tied"})
    config = model.config
    assert isinstance(config, DecoderConfig)
    binding = LayerBinding(model.h)
    for pointers in patterns(6):
        binding.rebind(pointers)
        model.recompute = False
        logits = model.train()(tokens)
        expected = gradients(model, logits)
        model.recompute = True
        again = model(tokens)
        assert torch.equal(again, logits)
        assert_close(gradients(model, again), expected)
        with torch.no_grad():
            for sizes in ((8,), (3, 1, 4)):
                torch.testing.assert_close(in_chunks(model.eval(), tokens, sizes), logits, rtol=0, atol=1e-10)
            cache = model.make_cache()
            assert cache is not None
            model(tokens, cache)
        assert cache.num_bytes == 2 * 8 * config.cache_bytes_per_token(8, pointers)  # of 2 x 8 tokens
        assert config.figures(pointers) == {"cache_bytes_per_token": cache.num_bytes / 32}
        assert config.cache_share(pointers) == cache.num_bytes / (2 * 8 * config.cache_bytes_per_token(8))


@every_kind
def test_gradients_of_positions_are_those_of_the_tied_model(option: str) -> None:
    """A position that reads contributes nothing to the matrices that it does not use, and positions add up to the whole."""
    model = make_decoder("gpt, rotary, qk_norm", **{option: "tied"})
    binding = LayerBinding(model.h, share=KINDS[option][0], gradient="root_only")
    pointers = Pointers.parse("0 0 2 0")
    binding.rebind(pointers)
    found = position_gradients(binding, lambda: model.loss(*batch()))
    assert all(not gradient.any() for layer in (1, 3) for gradient in found[layer])
    assert agreements(inner_products(found), pointers) == (0.0, 0.0, 1.0, 0.0)
    model.loss(*batch()).backward()  # root_only: the root's is all that there is
    whole = [p.grad for p in binding.weights_of(0)]
    binding.close()
    model.zero_grad()
    model.loss(*batch()).backward()
    for own, root_only, parameter in zip(found[0], whole, binding.weights_of(0), strict=True):
        assert own.any() and torch.equal(own, parameter.grad) and torch.equal(root_only, parameter.grad)  # type: ignore[arg-type]


@every_kind
@every_decoder
def test_all_that_makes_what_is_read_moves(name: str, option: str) -> None:
    """The names that the settings know, without a model, are those that `share` finds in a block."""
    model = make_decoder(name, **{option: "tied"})
    assert isinstance(model.config, DecoderConfig)
    names = model.config.makers
    assert set(names) == part_names(model.h[1], KINDS[option][0])
    assert set(LayerBinding(model.h, share=KINDS[option][0]).shared_names) == set(names)
    assert ("attn.k_norm.weight" in names) == ("qk_norm" in name)


@every_kind
@every_decoder
@pytest.mark.parametrize(
    ("options", "words"),
    [({"gradient": "mean"}, "binding.gradient = 'mean'"), ({"deltas": Deltas(2)}, "binding.delta_rank = 2")],
)
def test_options_that_count_every_position_are_refused(name: str, option: str, options: dict[str, Any], words: str) -> None:
    """One position alone uses what it makes; a binding says so by itself, wherever makers follow the pointers."""
    model = make_decoder(name, **{option: "tied"})
    for share in (KINDS[option][0], "attention", "block", "attn.*"):
        with pytest.raises(InputError, match=f"^model.{option} = 'tied' and {words} exclude each other"):
            LayerBinding(model.h, share=share, **options)
    LayerBinding(model.h, share="feed_forward", **options).rebind("0 0 2 2")
    LayerBinding(make_decoder(name, **{option: "0 1 2 3"}).h, **options).rebind("0 0 2 2")


@pytest.mark.parametrize("share", ["kv", "map"])
def test_a_part_that_is_made_together_with_others_is_refused(share: str) -> None:
    model = make_decoder("gpt, rotary, qk_norm")  # its norms alone would move
    with pytest.raises(InputError, match=f"^share '{share}' with norms 'shared' leaves nothing to share; the block has"):
        LayerBinding(model.h, share=share)


@every_kind
def test_there_is_no_untied_copy(option: str) -> None:
    model = make_decoder("llama", **{option: "tied"})
    with pytest.raises(InputError, match=r"^untied: what a position reads depends on the tying"):
        tying.hf.untied(model)
