"""Decoding with a cache of keys and values: the same logits and tokens as without, for fewer computed tokens."""

import itertools

import pytest
import torch
from blocks import batch
from decoders import DECODERS, OPTIONS, in_chunks, make_decoder

from tying import LayerBinding, Pointers
from tying.models.base import Model
from tying.models.parts.cache import Cache

# With other paths around attention.
PATHS: list[dict[str, str]] = [
    {"residual": "looped", "depth_embedding": "sinusoid", "kv_sharing": "cla:2"},
    {"norm_place": "post", "residual": "admin", "depth_embedding": "learned", "attention_sharing": "cla:2"},
    {"norm_place": "post", "residual": "b2t"},
]


@pytest.mark.parametrize(
    ("name", "options"), [*itertools.product(DECODERS, OPTIONS), *(("gpt", options) for options in PATHS)], ids=str
)
def test_logits_are_those_of_the_whole_text(name: str, options: dict[str, str]) -> None:
    model = make_decoder(name, **options)
    LayerBinding(model.h).rebind("0 0 2 0")
    tokens, _ = batch()
    with torch.no_grad():
        whole = model(tokens)
        assert float(whole.std()) > 0.1
        for sizes in ((8,), (3, 1, 1, 1, 1, 1), (1, 4, 3)):
            torch.testing.assert_close(in_chunks(model, tokens, sizes), whole, rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", DECODERS)
def test_logits_in_float32(name: str) -> None:
    model = make_decoder(name).float()
    tokens, _ = batch()
    with torch.no_grad():
        torch.testing.assert_close(in_chunks(model, tokens, (3, 1, 4)), model(tokens), rtol=0, atol=1e-5)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize(
    ("name", "options"),
    [*((name, {}) for name in DECODERS), ("llama", {"kv_sharing": "cla:2"}), ("llama", {"attention_sharing": "cla:2"})],
)
def test_tokens_are_those_of_decoding_without_a_cache(
    name: str, options: dict[str, str], temperature: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The prompt has 3 tokens, the context 8, the text 23: the window slides."""
    model = make_decoder(name, **options)
    LayerBinding(model.h).rebind("0 1 1 0")
    prompt = torch.tensor([[3, 1, 4]])
    lengths: list[int] = []
    model.h[0].register_forward_pre_hook(lambda _, args: lengths.append(args[0].shape[1]))

    def text(seed: int) -> torch.Tensor:
        return model.generate(prompt, 20, torch.Generator().manual_seed(seed), temperature)

    cached = [text(seed) for seed in (0, 1)]
    assert lengths[:20] == [3, 1, 1, 1, 1, 1] + [8] * 14
    assert temperature == 0 or not torch.equal(*cached)
    lengths.clear()
    if not options:
        monkeypatch.setattr(type(model), "make_cache", Model.make_cache)
        assert [text(seed).tolist() for seed in (0, 1)] == [found.tolist() for found in cached]
        assert lengths[:20] == [3, 4, 5, 6, 7] + [8] * 15
        return
    for seed, found in enumerate(cached):  # token by token, each from the whole window
        generator = torch.Generator().manual_seed(seed)
        for end in range(3, 23):
            window = found[:, max(0, end - 8) : end]
            assert model.generate(window, 1, generator, temperature)[0, -1] == found[0, end]


def test_every_position_has_an_entry_of_its_own_though_layers_are_tied() -> None:
    model = make_decoder("gpt")
    LayerBinding(model.h).rebind("0 0 0 0")
    cache, tokens = model.make_cache(), batch()[0]
    assert isinstance(cache, Cache) and (cache.num_tokens, cache.num_bytes) == (0, 0)
    model(tokens, cache)
    assert cache.num_tokens == 8
    assert cache.num_bytes == 2 * 8 * 4 * 2 * 16 * 8  # batch, tokens, layers, keys and values, width, bytes
    keys = [cache.before(position)[0] for position in range(4)]
    assert not any(torch.allclose(keys[0], other) for other in keys[1:])


def test_consumers_add_nothing_to_the_cache() -> None:
    cache = Cache(Pointers((0, 0, 2, 2)))
    first, second = (torch.zeros(1, 1, 3, 2),) * 2, (torch.ones(1, 1, 3, 2),) * 2
    for position, entry in enumerate((first, first, second, second)):
        cache.keep(position, entry)
    assert cache.num_bytes == 2 * 2 * first[0].nbytes
    assert cache.before(1) is first and cache.before(3) is second
