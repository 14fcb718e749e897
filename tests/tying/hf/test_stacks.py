import pytest
import torch
from hf_models import FAMILIES, build
from torch import nn

import tying.hf
from tying import InputError
from tying.binding import bindings_of

SEVERAL = {
    **{family: {"encoder", "decoder"} for family in ("t5", "mt5", "bart", "marian", "whisper")},
    "swin": {"stage0", "stage1"},
    "clip": {"text", "vision"},
}


@pytest.mark.parametrize("family", FAMILIES)
def test_the_stacks_of_every_family_are_found(family: str) -> None:
    model = build(family)
    stacks = tying.hf.find_stacks(model)
    for path, blocks in stacks.values():
        assert model.get_submodule(path) is blocks
        assert len(blocks) == (2 if path == "encoder.layers.0.blocks" else 4)
    assert set(stacks) == SEVERAL[family] if family in SEVERAL else len(stacks) == 1


def test_a_list_inside_a_block_is_no_stack_and_a_bare_list_is_named_after_itself() -> None:
    model = build("qwen2_moe")
    assert list(tying.hf.find_stacks(model.model)) == ["layers"]
    block = nn.TransformerEncoderLayer(8, 2, 16)
    block.inner = nn.ModuleList(nn.LayerNorm(8) for _ in range(3))
    stacks = tying.hf.find_stacks(nn.TransformerEncoder(block, 2, enable_nested_tensor=False))
    assert [stack.path for stack in stacks.values()] == ["layers"]


def test_a_model_with_several_stacks_needs_a_name() -> None:
    model = build("t5")
    before = {name: id(p) for name, p in model.named_parameters(remove_duplicate=False)}
    with pytest.raises(InputError, match="has 2 stacks of blocks: name one with stack=, of encoder, decoder"):
        tying.hf.tie(model, "0 0 2 2")
    with pytest.raises(InputError, match="stack 'text': T5ForConditionalGeneration has encoder, decoder"):
        tying.hf.tie(model, "0 0 2 2", stack="text")
    assert {name: id(p) for name, p in model.named_parameters(remove_duplicate=False)} == before
    tying.hf.tie(model, "0 0 2 2", stack="decoder.block")
    assert model.decoder.block[1].layer[0].SelfAttention.q.weight is model.decoder.block[0].layer[0].SelfAttention.q.weight
    assert (
        model.encoder.block[1].layer[0].SelfAttention.q.weight is not model.encoder.block[0].layer[0].SelfAttention.q.weight
    )


@pytest.mark.parametrize("model", [nn.Sequential(nn.Linear(2, 2)), nn.ModuleList([nn.LayerNorm(2)])], ids=["none", "one"])
def test_a_model_without_a_stack_is_refused(model: nn.Module) -> None:
    with pytest.raises(InputError, match="has no list of two or more equal blocks"):
        tying.hf.tie(model, "0 0")


def test_one_module_that_runs_for_every_layer_is_no_stack() -> None:
    block = nn.TransformerEncoderLayer(8, 2, 16)
    assert tying.hf.find_stacks(nn.ModuleList([block] * 4)) == {}


def test_a_wrong_pattern_leaves_the_model_as_it_was() -> None:
    model = build("llama")
    before = {name: (id(p), torch.clone(p)) for name, p in model.named_parameters(remove_duplicate=False)}
    config = model.config.to_dict()
    for pattern in ("0 0 2", "0 2 2 3"):
        with pytest.raises(InputError):
            tying.hf.tie(model, pattern, gradient="root_only")
    assert model.config.to_dict() == config and bindings_of(model.model.layers) == []
    after = dict(model.named_parameters(remove_duplicate=False))
    assert before.keys() == after.keys()
    assert all(id(after[name]) == key and torch.equal(after[name], value) for name, (key, value) in before.items())
