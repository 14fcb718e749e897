"""Our models and those of transformers: the same weights give the same logits, both ways, tied and untied."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

import tying.hf
from tying import InputError, LayerBinding
from tying.hf.export import tying_of
from tying.models.base import BlockModel, num_params
from tying.models.bert import Bert
from tying.models.config import BertConfig, GPTConfig, LlamaConfig, ViTConfig
from tying.models.gpt import GPT
from tying.models.llama import Llama
from tying.models.vit import ImageSize, ViT

VOCAB = 23
SIZES: dict[str, Any] = {"num_layers": 3, "num_heads": 4, "width": 16, "context": 12}
MODELS: dict[str, tuple[Any, Any, Any]] = {
    "GPT2LMHeadModel": (GPT, GPTConfig(**SIZES), VOCAB),
    "GPT2LMHeadModel, head": (GPT, GPTConfig(**SIZES, tie_embeddings=False), VOCAB),
    "LlamaForCausalLM": (Llama, LlamaConfig(**SIZES, num_kv_heads=2, hidden=40, rotary_base=500.0, norm_eps=1e-5), VOCAB),
    "LlamaForCausalLM, head": (Llama, LlamaConfig(**SIZES, num_kv_heads=1, tie_embeddings=False), VOCAB),
    "BertForMaskedLM": (Bert, BertConfig(**SIZES, token_types=2), (VOCAB, 0)),
    "BertForSequenceClassification": (Bert, BertConfig(**SIZES, token_types=2), (VOCAB, 5)),
    "AlbertForMaskedLM": (Bert, BertConfig(**SIZES, token_types=2, embedding_size=6), (VOCAB, 0)),
    "ViTForImageClassification": (ViT, ViTConfig(num_layers=3, num_heads=4, width=16, patch=2), ImageSize(3, 4, 6, 5)),
    "AlbertForSequenceClassification": (Bert, BertConfig(**SIZES, token_types=2, embedding_size=6), (VOCAB, 3)),
}


def perturbed(kind: Any, config: Any, size: Any) -> BlockModel:
    """Return a model whose every parameter is off its initial value, so that equal ones hide nothing."""
    model: BlockModel = kind(config, size, 0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return model.eval()


def tokens() -> Tensor:
    return torch.randint(0, VOCAB, (2, 9), generator=torch.Generator().manual_seed(0))


def inputs(model: BlockModel) -> Tensor:
    """Return what a model takes: pictures or tokens."""
    return torch.rand(2, 3, 4, 6, generator=torch.Generator().manual_seed(0)) if isinstance(model, ViT) else tokens()


@pytest.mark.parametrize("pointers", [(0, 1, 2), (0, 1, 0)], ids=str)
@pytest.mark.parametrize("name", MODELS)
def test_the_same_weights_give_the_same_logits_there_and_back(name: str, pointers: tuple[int, ...], tmp_path: Path) -> None:
    model = perturbed(*MODELS[name])
    LayerBinding(model.h).rebind(pointers)
    theirs = tying.hf.to_transformers(model)
    assert type(theirs).__name__ == name.partition(",")[0]
    with torch.no_grad():
        expected = model(inputs(model))
        assert float(expected.std()) > 0.1
        torch.testing.assert_close(theirs(inputs(model)).logits, expected, rtol=0, atol=1e-5)
        theirs.save_pretrained(tmp_path)
        loaded = tying.hf.from_pretrained(tmp_path, type(theirs)).eval()
        torch.testing.assert_close(loaded(inputs(model)).logits, expected, rtol=0, atol=1e-5)
        back = tying.hf.from_transformers(loaded)
        assert torch.equal(back(inputs(model)), expected)
    assert type(back) is type(model) and back.config == model.config.__class__(**_resolved(model.config))
    assert num_params(back) == num_params(model)
    unused = sum(p.numel() for n, p in theirs.named_parameters() if n.startswith(("bert.pooler", "albert.pooler")))
    assert num_params(theirs) == num_params(model) + (
        unused if "head.pooler.weight" not in dict(model.named_parameters()) else 0
    )


def _resolved(config: Any) -> dict[str, Any]:
    """Return the fields of a configuration; 0 for a feed-forward width is written out in transformers."""
    fields = dict(vars(config))
    return {**fields, "hidden": config.feed_forward_width} if isinstance(config, LlamaConfig) else fields


@pytest.mark.parametrize("mask_from", [9, 4])
@pytest.mark.parametrize("name", ["BertForSequenceClassification", "AlbertForSequenceClassification"])
def test_padding_is_not_seen_on_either_side(name: str, mask_from: int) -> None:
    model = perturbed(*MODELS[name])
    mask = (torch.arange(9) < mask_from).long().expand(2, 9)
    other = tokens()
    other[:, mask_from:] = (other[:, mask_from:] + 1) % VOCAB
    with torch.no_grad():
        theirs = tying.hf.to_transformers(model)(input_ids=tokens(), attention_mask=mask).logits
        torch.testing.assert_close(theirs, model(tokens(), mask), rtol=0, atol=1e-5)
        torch.testing.assert_close(model(other, mask), model(tokens(), mask), rtol=0, atol=1e-6)


@pytest.mark.parametrize(("share", "norms"), [("attention", "shared"), ("feed_forward", "shared"), ("block", "private")])
@pytest.mark.parametrize(
    "name",
    ["GPT2LMHeadModel", "LlamaForCausalLM", "BertForMaskedLM", "AlbertForMaskedLM", "ViTForImageClassification"],
)
def test_a_part_that_is_shared_is_shared_there(name: str, share: str, norms: str) -> None:
    model = perturbed(*MODELS[name])
    binding = LayerBinding(model.h, share=share, norms=norms)
    binding.rebind((0, 0, 2))
    theirs = tying.hf.to_transformers(model)
    with torch.no_grad():
        torch.testing.assert_close(theirs(inputs(model)).logits, model(inputs(model)), rtol=0, atol=1e-5)
    back = tying.hf.from_transformers(theirs)
    found = tying_of(back)
    assert found is not None and (str(found.pointers), found.norms) == ("0 0 2", norms)
    assert num_params(back) == num_params(model)


def test_what_ours_lacks_is_zero_there() -> None:
    for model in (
        perturbed(GPT, GPTConfig(**SIZES, bias=False), VOCAB),
        perturbed(Bert, BertConfig(**SIZES), (VOCAB, 0)),
    ):
        with torch.no_grad():
            logits = tying.hf.to_transformers(model)(input_ids=tokens()).logits
            torch.testing.assert_close(logits, model(tokens()), rtol=0, atol=1e-5)


class StrangeConfig(ViTConfig):
    """Of a model of another person."""


def test_what_would_compute_something_else_is_refused() -> None:
    refused: list[tuple[dict[str, Any], str]] = [
        ({"positions": "rotary"}, "model.positions"),
        ({"qk_norm": True}, "model.qk_norm"),
        ({"norm_place": "post"}, "model.norm_place = 'post'"),
        ({"residual": "looped"}, "model.residual"),
        ({"depth_embedding": "learned"}, "model.depth_embedding"),
        ({"halting": "act"}, "model.halting"),
        ({"kv_sharing": "0 1 2"}, "model.kv_sharing"),
        ({"attention_sharing": "0 1 2"}, "model.attention_sharing"),
        ({"kv_sharing": "tied"}, "model.kv_sharing"),
    ]
    for options, word in refused:
        with pytest.raises(InputError, match=f"GPT2LMHeadModel: would compute something else, because of {word}"):
            tying.hf.to_transformers(GPT(GPTConfig(**SIZES, **options), VOCAB, 0))
    for option in ("kv_sharing", "attention_sharing"):
        with pytest.raises(InputError, match=f"LlamaForCausalLM: would compute something else, because of model.{option}"):
            tying.hf.to_transformers(Llama(LlamaConfig(**SIZES, **{option: "cla:2"}), VOCAB, 0))
    with pytest.raises(InputError, match="norm_place = 'pre'"):
        tying.hf.to_transformers(Bert(BertConfig(**SIZES, norm_place="pre"), (VOCAB, 0), 0))
    with pytest.raises(InputError, match=r"^BERT: would compute something else, because of model\.residual"):
        tying.hf.to_transformers(Bert(BertConfig(**SIZES, residual="b2t"), (VOCAB, 0), 0))
    with pytest.raises(InputError, match=r"model\.pooling = 'mean'"):
        tying.hf.to_transformers(ViT(ViTConfig(num_layers=2, pooling="mean"), ImageSize(1, 4, 4, 2), 0))
    with pytest.raises(InputError, match="ViT: only gpt, llama, bert and vit"):
        tying.hf.to_transformers(ViT(StrangeConfig(num_layers=2), ImageSize(1, 4, 4, 2), 0))
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    for options, word in [
        ({}, "layer_norm_eps = 1e-12 (ours is 1e-05)"),
        ({"patch_size": 15, "layer_norm_eps": 1e-5}, "image_size = 224, which patches do not fill"),
    ]:
        vit = transformers.ViTForImageClassification(transformers.ViTConfig(**sizes, **options))
        with pytest.raises(InputError, match=re.escape(f"vit: would compute something else, because of {word}")):
            tying.hf.from_transformers(vit)
    with pytest.raises(InputError, match="because of a missing classifier"):
        tying.hf.from_transformers(transformers.ViTModel(transformers.ViTConfig(**sizes, layer_norm_eps=1e-5)))
    gpt2 = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(n_embd=8, n_layer=2, n_head=2, vocab_size=9, bos_token_id=0, eos_token_id=0)
    )
    with pytest.raises(InputError, match="activation_function = 'gelu_new'"):
        tying.hf.from_transformers(gpt2)
    model = GPT(GPTConfig(**SIZES), VOCAB, 0)
    LayerBinding(model.h, share="attn.qkv.*").rebind((0, 0, 0))
    with pytest.raises(InputError, match="patterns of names"):
        tying.hf.to_transformers(model)
