"""Every family binds, trains tied exactly, and means the same by `share` and `norms`."""

import copy
import random
from typing import NamedTuple

import pytest
import torch
from families import FAMILIES, LAYERS, Family
from torch import nn

from tying import LayerBinding, Pointers
from tying.binding import unroll
from tying.binding.sharing import norm_names, shared_names, trainable_params
from tying.errors import InputError

# Parts of these run in float32 whatever the model's dtype (routers, rotary tables): relative error of a gradient.
SINGLE_PRECISION = {"mixtral": 2e-5, "deepseek_v3": 2e-5}


class Parts(NamedTuple):
    """Modules of a block, read from the family's code by hand.

    Attributes:
        attention: Of attention; the parameters under them, residual norms left out.
        feed_forward: Of the feed-forward part.
        norms: Every norm.
        private: Parameters that not all blocks have, with the layers that have them.
    """

    attention: str = ""
    feed_forward: str = ""
    norms: str = ""
    private: dict[str, tuple[int, ...]] = {}  # noqa: RUF012


_DECODER = Parts("self_attn", "mlp", "input_layernorm post_attention_layernorm")
_BERT = Parts(
    "attention.self attention.output.dense",
    "intermediate.dense output.dense",
    "attention.output.LayerNorm output.LayerNorm",
)
_VIT = Parts("attention", "mlp", "layernorm_before layernorm_after")
_BART = "self_attn_layer_norm final_layer_norm"
_CROSS = "self_attn_layer_norm encoder_attn_layer_norm final_layer_norm"
_T5_BIAS = {"layer.0.SelfAttention.relative_attention_bias": (0,)}

PARTS = {
    "gpt2": Parts("attn", "mlp", "ln_1 ln_2"),
    "llama": _DECODER,
    "qwen2": _DECODER,
    "qwen3": _DECODER._replace(norms=f"{_DECODER.norms} self_attn.q_norm self_attn.k_norm"),
    "mistral": _DECODER,
    "gemma2": _DECODER._replace(norms=f"{_DECODER.norms} pre_feedforward_layernorm post_feedforward_layernorm"),
    "phi3": _DECODER,
    "olmo2": Parts(
        "self_attn", "mlp", "post_attention_layernorm post_feedforward_layernorm self_attn.q_norm self_attn.k_norm"
    ),
    "mixtral": _DECODER,
    "gpt_neox": Parts("attention", "mlp", _DECODER.norms),
    "opt": Parts("self_attn", "fc1 fc2", _BART),
    "bloom": Parts("self_attention", "mlp", _DECODER.norms),
    "falcon": Parts("self_attention", "mlp", "ln_attn ln_mlp"),
    "mamba": Parts("", "", "norm"),
    "rwkv": Parts("attention", "feed_forward", "ln1 ln2", {"pre_ln": (0,)}),
    "deepseek_v3": Parts(
        "self_attn",
        "",
        f"{_DECODER.norms} self_attn.q_a_layernorm self_attn.kv_a_layernorm",
        {
            "mlp.gate_proj mlp.up_proj mlp.down_proj": (0,),
            "mlp.experts mlp.gate mlp.shared_experts": (1, 2, 3),
        },
    ),
    "jamba": Parts("", "feed_forward", "input_layernorm pre_ff_layernorm", {"mamba": (0, 2), "self_attn": (1, 3)}),
    "bert": _BERT,
    "roberta": _BERT,
    "electra": _BERT,
    "deberta-v2": _BERT,
    "distilbert": Parts("attention", "ffn", "sa_layer_norm output_layer_norm"),
    "albert": Parts(
        "albert_layers.0.attention.query albert_layers.0.attention.key albert_layers.0.attention.value "
        "albert_layers.0.attention.dense",
        "albert_layers.0.ffn albert_layers.0.ffn_output",
        "albert_layers.0.attention.LayerNorm albert_layers.0.full_layer_layer_norm",
    ),
    "modernbert": Parts("attn", "mlp", "mlp_norm", {"attn_norm": (1, 2, 3)}),
    "t5 encoder": Parts(
        "layer.0.SelfAttention", "layer.1.DenseReluDense", "layer.0.layer_norm layer.1.layer_norm", _T5_BIAS
    ),
    "t5 decoder": Parts(
        "layer.0.SelfAttention layer.1.EncDecAttention",
        "layer.2.DenseReluDense",
        "layer.0.layer_norm layer.1.layer_norm layer.2.layer_norm",
        _T5_BIAS,
    ),
    "bart encoder": Parts("self_attn", "fc1 fc2", _BART),
    "bart decoder": Parts("self_attn encoder_attn", "fc1 fc2", _CROSS),
    "whisper encoder": Parts("self_attn", "fc1 fc2", _BART),
    "whisper decoder": Parts("self_attn encoder_attn", "fc1 fc2", _CROSS),
    "vit": _VIT,
    "deit": _VIT,
    "beit": _VIT,
    "dinov2": Parts("attention", "mlp", "norm1 norm2"),
    "swin stage 0": _VIT,
    "swin stage 1": _VIT,
    "wav2vec2": Parts("attention", "feed_forward", "layer_norm final_layer_norm"),
    "clip text": Parts("self_attn", "mlp", "layer_norm1 layer_norm2"),
    "clip vision": Parts("self_attn", "mlp", "layer_norm1 layer_norm2"),
    "nn.TransformerEncoderLayer": Parts("self_attn", "linear1 linear2", "norm1 norm2"),
    "nn.TransformerDecoderLayer": Parts("self_attn multihead_attn", "linear1 linear2", "norm1 norm2 norm3"),
    "x-transformers attention": Parts("1", "", "0.0"),
    "x-transformers feed-forward": Parts("", "1", "0.0"),
}
PARTS |= {"mt5 encoder": PARTS["t5 encoder"], "mt5 decoder": PARTS["t5 decoder"]}

every_family = pytest.mark.parametrize("name", FAMILIES)


def under(names: tuple[str, ...], modules: str) -> set[str]:
    """Return the names that stand under one of the modules."""
    return {name for name in names if any(name.startswith(f"{module}.") for module in modules.split())}


def test_the_table_names_every_family() -> None:
    assert set(PARTS) == set(FAMILIES)


@every_family
def test_share_and_norms_mean_the_same_in_every_family(name: str) -> None:
    family, parts = FAMILIES[name](), PARTS[name]
    with LayerBinding(family.blocks, model=family.model) as binding:
        common = binding.shared_names
        for layer, own in enumerate(binding.private_names):
            everything = tuple(n for n, _ in family.blocks[layer].named_parameters())
            wanted = " ".join(modules for modules, layers in parts.private.items() if layer in layers)
            assert set(own) == under(everything, wanted) == set(everything) - set(common)
    norms = under(common, parts.norms)
    assert norms
    for share in ("attention", "feed_forward"):
        wanted = under(common, getattr(parts, share))
        if wanted:
            assert set(LayerBinding(family.blocks, share=share).shared_names) == wanted
            private = LayerBinding(family.blocks, share=share, norms="private").shared_names
            assert set(private) == wanted - norms
        else:
            with pytest.raises(InputError):
                LayerBinding(family.blocks, share=share)
    assert set(LayerBinding(family.blocks, norms="private").shared_names) == set(common) - norms


def reference_gradients(family: Family, twin: Family) -> tuple[torch.Tensor, list[dict[str, torch.Tensor]]]:
    """Return the loss of an untied model with the same values, and the gradient of every parameter of every layer."""
    with torch.no_grad():
        for name, parameter in family.model.named_parameters(remove_duplicate=False):
            twin.model.get_parameter(name).copy_(parameter)
    twin.model.zero_grad()
    loss = twin.loss(twin.model)
    loss.backward()
    return loss, [
        {n: p.grad if p.grad is not None else torch.zeros_like(p) for n, p in block.named_parameters()}
        for block in twin.blocks
    ]


@every_family
def test_loss_and_gradients_are_those_of_an_untied_model_summed_by_hand(name: str) -> None:
    family = FAMILIES[name]()
    # Blocks and model are copied together, so that the twin's blocks are the twin's.
    twin = Family(*copy.deepcopy((family.model, family.blocks)), family.loss)
    optimizer = torch.optim.AdamW(family.model.parameters(), lr=1e-2)
    binding = LayerBinding(family.blocks, optimizer, model=family.model)
    chance = random.Random(name)
    patterns = list(Pointers.all(len(family.blocks)))
    for _ in range(3):
        pointers = chance.choice(patterns)
        binding.rebind(pointers)
        assert binding.trainable_params == binding.trainable_params_of(pointers)
        expected, gradients = reference_gradients(family, twin)
        optimizer.zero_grad()
        loss = family.loss(family.model)
        loss.backward()
        scale = max(float(g.abs().max()) for own in gradients for g in own.values())
        tolerance = SINGLE_PRECISION.get(name, 1e-12)
        torch.testing.assert_close(loss, expected, rtol=tolerance, atol=0)
        for layer, block in enumerate(family.blocks):
            for parameter_name, parameter in block.named_parameters():
                group = [i for i, root in enumerate(pointers) if root == pointers[layer]]
                users = group if parameter_name in binding.shared_names else [layer]
                total = sum(gradients[user][parameter_name] for user in users)
                found = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
                torch.testing.assert_close(found, total, rtol=0, atol=tolerance * max(scale, 1e-3))
        optimizer.step()
        held = [id(p) for g in optimizer.param_groups for p in g["params"]]
        assert held == [id(p) for p in family.model.parameters()]


def test_swin_stages_of_different_width_are_refused() -> None:
    with pytest.raises(InputError, match=r"blocks differ: shape of .* in block 2, .* in block 0"):
        LayerBinding([*FAMILIES["swin stage 0"]().blocks, *FAMILIES["swin stage 1"]().blocks])


def test_blocks_with_only_norms_in_common_are_refused() -> None:
    attention, feed_forward = (FAMILIES[f"x-transformers {part}"]().blocks for part in ("attention", "feed-forward"))
    with pytest.raises(InputError, match=r"only norms in common \(0\.0\.gamma\)"):
        LayerBinding([attention[0], feed_forward[0]])


def test_albert_as_published_is_one_module_and_can_be_unrolled() -> None:
    layer = FAMILIES["albert"]().blocks[0]
    with pytest.raises(InputError, match=r"layers 0 and 1 are one module .*unroll"):
        LayerBinding([layer] * LAYERS)
    blocks = unroll([layer] * LAYERS)
    binding = LayerBinding(blocks)
    assert binding.pointers == (0,) * LAYERS
    binding.rebind("0 1 2 3")
    assert len({id(p) for p in blocks.parameters()}) == LAYERS * len(list(layer.parameters()))


class PlainBlock(nn.Module):
    """A block with no part that says what it is."""

    def __init__(self) -> None:
        super().__init__()
        self.in_proj, self.out_proj = nn.Linear(4, 8), nn.Linear(8, 4)


def test_a_block_that_does_not_tell_its_parts_is_refused_with_its_names() -> None:
    with pytest.raises(InputError, match=r"leaves nothing to share; the block has in_proj\.weight"):
        shared_names(PlainBlock(), "feed_forward", "shared")


def test_a_block_that_is_named_after_a_norm_is_no_norm() -> None:
    class PreNormBlock(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.mlp, self.gain = nn.LayerNorm(4), nn.Linear(4, 4), nn.Parameter(torch.ones(4))

    assert norm_names(PreNormBlock()) == {"norm.weight", "norm.bias"}
    assert norm_names(nn.Sequential(PreNormBlock())) == {"0.norm.weight", "0.norm.bias"}


def test_counts_of_equal_blocks_need_one_block_alone() -> None:
    family = FAMILIES["llama"]()
    for share in ("block", "attention"):
        with LayerBinding(family.blocks, share=share) as binding:
            for pointers in Pointers.all(LAYERS):
                count = trainable_params(family.blocks[0], binding.shared_names, pointers)
                assert binding.trainable_params_of(pointers) == count


class Marked(nn.Module):
    """A module whose parameters belong to a position."""

    per_position = True

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.ModuleList([nn.Linear(2, 2)])
        self.own = nn.Parameter(torch.zeros(2))


def test_what_belongs_to_a_position_follows_under_no_choice() -> None:
    blocks = [nn.ModuleDict({"attn": nn.Linear(2, 2), "mlp": nn.Linear(2, 2), "place": Marked()}) for _ in range(3)]
    rest = ("attn.weight", "attn.bias", "mlp.weight", "mlp.bias")
    assert shared_names(blocks[0], "block", "shared") == rest
    assert shared_names(blocks[0], "*", "private") == rest
    assert shared_names(blocks[0], "attention", "shared") == rest[:2]
    with pytest.raises(InputError, match="leaves nothing to share"):
        shared_names(blocks[0], "place.*", "shared")
    binding = LayerBinding(blocks)
    binding.rebind("0 0 0")
    assert binding.private_names == (("place.own", "place.inner.0.weight", "place.inner.0.bias"),) * 3
    assert binding.trainable_params == trainable_params(blocks[0], rest, binding.pointers) == 12 + 3 * 8
