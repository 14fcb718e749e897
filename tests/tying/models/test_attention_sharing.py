"""Maps of attention that later positions read: by hand, gradients, counts, checkpoints, tying, refusals."""

from typing import Any

import pytest
import torch
from blocks import adamw, batch, step
from decoders import DECODERS, check_gradient, check_recomputation, make_decoder, maps_by_hand
from torch import Tensor

from tying import LayerBinding, Pointers
from tying.errors import InputError
from tying.models.base import num_params
from tying.models.config import GPTConfig, LlamaConfig

PATTERNS = ("cla:2", "trailing:2", "0 1 0 1", "0 1 2 3")


@pytest.mark.parametrize("text", PATTERNS)
def test_a_position_reads_the_map_of_its_source(text: str) -> None:
    model, tokens = make_decoder("llama", attention_sharing=text), batch()[0]
    expected = maps_by_hand(model, tokens, model.config.map_sources)
    torch.testing.assert_close(model(tokens), expected, rtol=0, atol=1e-12)


def test_the_map_is_the_same_tensor() -> None:
    model = make_decoder("gpt, alibi, no bias", attention_sharing="0 1 0 1")
    maps: list[Tensor] = []
    for block in model.h:
        block.attn.register_forward_pre_hook(lambda _, args: maps.append(args[3][0]))
    model(batch()[0])
    assert maps[2] is maps[0] and maps[3] is maps[1] is not maps[0]
    assert maps[0].shape == (2, 2, 8, 8)
    torch.testing.assert_close(maps[0].sum(-1), torch.ones(2, 2, 8, dtype=torch.float64))


@pytest.mark.parametrize("name", DECODERS)
def test_positions_that_all_make_their_own_are_the_plain_model(name: str) -> None:
    plain, separate = make_decoder(name), make_decoder(name, attention_sharing="0 1 2 3")
    values = plain.state_dict()
    rows = 24 if name == "llama" else 32  # of queries and keys
    for key in [key for key in values if ".qkv." in key]:
        whole = values.pop(key)
        values[key.replace("qkv", "qk")], values[key.replace("qkv", "v")] = whole[:rows], whole[rows:]
    separate.load_state_dict(values)
    assert num_params(plain) == num_params(separate)
    torch.testing.assert_close(separate(batch()[0]), plain(batch()[0]), rtol=0, atol=1e-12)


@pytest.mark.parametrize("recompute", [False, True])
def test_the_gradient_of_a_map_is_that_of_all_who_read_it(recompute: bool) -> None:
    model = make_decoder("llama", attention_sharing="0 0 2 0").train()
    model.recompute = recompute
    check_gradient(model, "h.0.attn.qk.weight", [(0, 0), (9, 15), (17, 5), (23, 2)])


@pytest.mark.parametrize("name", DECODERS)
def test_recomputation_changes_no_gradient(name: str) -> None:
    check_recomputation(name, attention_sharing="0 1 0 1")


@pytest.mark.parametrize("text", PATTERNS)
@pytest.mark.parametrize("name", DECODERS)
def test_consumers_lack_the_matrices_of_queries_and_keys(name: str, text: str) -> None:
    plain, sharing = make_decoder(name), make_decoder(name, attention_sharing=text)
    sources = sharing.config.map_sources.num_unique
    width = 16 + (8 if name == "llama" else 16)  # of queries and keys together
    biases, norms = width * (name in ("gpt", "gpt, rotary, qk_norm")), 16 * ("qk_norm" in name)
    assert num_params(plain) - num_params(sharing) == (4 - sources) * (16 * width + biases + norms)
    cache = sharing.make_cache()
    sharing(batch()[0], cache)  # of 2 x 8 tokens in float64: keys of the sources, values of all
    assert cache.num_bytes == 2 * 8 * sharing.config.cache_bytes_per_token(8) == 2 * 8 * 8 * (sources + 4) * (width - 16)


def test_queries_and_keys_stay_with_their_position_when_layers_are_tied() -> None:
    model = make_decoder("llama", attention_sharing="cla:2").train()
    optimizer = adamw(model)
    binding = LayerBinding(model.h, optimizer)
    assert binding.private_names == (("attn.qk.weight",), ()) * 2
    for pointers in ("0 0 0 0", "0 1 1 3", "0 0 2 2"):
        expected = binding.trainable_params_of(Pointers.parse(pointers))
        binding.rebind(pointers)
        step(model, optimizer)
        assert expected == sum({id(p): p.numel() for block in model.h for p in block.parameters()}.values())
        held = [id(p) for group in optimizer.param_groups for p in group["params"]]
        assert sorted(held) == sorted({id(p) for p in model.parameters()})
        assert all(p.grad is not None and float(p.grad.abs().max()) > 0 for p in model.parameters())


@pytest.mark.parametrize("config", [GPTConfig, LlamaConfig])
@pytest.mark.parametrize(
    ("other", "line"),
    [
        ({"kv_sharing": "yoco"}, r"and model\.kv_sharing = 'yoco' exclude each other"),
        ({"dropout": 0.1}, r"and model\.dropout = 0\.1 exclude each other"),
    ],
)
def test_options_that_exclude_each_other_are_refused(config: Any, other: dict[str, Any], line: str) -> None:
    with pytest.raises(InputError, match=rf"^model\.attention_sharing = 'cla:2' {line}"):
        config(attention_sharing="cla:2", **other)
