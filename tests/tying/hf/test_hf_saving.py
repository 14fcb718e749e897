"""What a tied model saves, and what comes back: with this library the tied model, without it an error."""

import copy
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from hf_models import CAUSAL, FAMILIES, SEQUENCES, build, tokens
from safetensors import safe_open
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

import tying.hf
from tests.conftest import PATIENCE_S
from tying import InputError, LayerBinding

# Loads every folder that is named on its command line, in every way that people have, without this library.
PLAIN = """
import sys, transformers
class Block:
    def find_spec(self, name, path=None, target=None):
        assert name.partition(".")[0] != "tying"
sys.meta_path.insert(0, Block())
for line in sys.stdin:
    folder, name = line.split()
    for cls in (transformers.AutoModel, getattr(transformers, name)):
        try:
            cls.from_pretrained(folder)
        except Exception as error:
            assert "tying.hf.from_pretrained" in str(error), (name, error)
        else:
            print(name, cls.__name__, "loaded")
"""


def stored(folder: Path) -> dict[str, Tensor]:
    found = {}
    for path in folder.glob("*.safetensors"):
        with safe_open(path, "pt") as file:
            found |= {name: file.get_tensor(name) for name in file.keys()}
    return found


def assert_same(left: nn.Module, right: nn.Module) -> None:
    """Check that two models have equal values, bit for bit, and share in the same places."""
    ours, theirs = left.state_dict(), right.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())
    assert [n for n, _ in left.named_parameters()] == [n for n, _ in right.named_parameters()]


def outputs(family: str, model: Any) -> Tensor:
    if family in CAUSAL or family in SEQUENCES:
        return model.generate(tokens(), max_new_tokens=5, do_sample=False)
    if family == "whisper":
        return model(input_features=torch.ones(1, 8, 16), decoder_input_ids=tokens()[:1]).logits
    if family == "wav2vec2":
        return model(torch.sin(torch.arange(400.0))[None]).last_hidden_state
    if family == "clip":
        return model(input_ids=tokens(), pixel_values=torch.ones(1, 3, 16, 16)).logits_per_image
    if hasattr(model.config, "image_size"):
        size = model.config.image_size
        return model(pixel_values=torch.ones(1, 3, size, size)).last_hidden_state
    return model(input_ids=tokens()).logits


def tied(family: str) -> tuple[Any, list[LayerBinding]]:
    """Return a model of which every stack is tied, each by another pattern."""
    model = build(family)
    bindings = []
    for number, (name, stack) in enumerate(tying.hf.find_stacks(model).items()):
        pattern = "0 0" if len(stack.blocks) == 2 else ("0 0 2 2", "0 1 1 0")[number]
        bindings.append(tying.hf.tie(model, pattern, stack=name))
    return model, bindings


@pytest.mark.parametrize("family", FAMILIES)
def test_a_tied_model_of_every_family_comes_back_tied(family: str, tmp_path: Path) -> None:
    model, bindings = tied(family)
    model.save_pretrained(tmp_path / "whole")
    model.save_pretrained(tmp_path / "sharded", max_shard_size="20KB")
    assert (tmp_path / "sharded" / "model.safetensors.index.json").exists()
    again = tying.hf.from_pretrained(tmp_path / "whole")
    assert_same(model, again)
    assert_same(model, tying.hf.from_pretrained(tmp_path / "sharded"))
    with torch.no_grad():
        torch.testing.assert_close(outputs(family, model), outputs(family, again))
    again.save_pretrained(tmp_path / "again")
    first, second = stored(tmp_path / "whole"), stored(tmp_path / "again")
    assert first.keys() == second.keys()
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    assert type(again) is type(model)
    # Each set of weights once: as many values as the model has parameters, buffers and pointers.
    left_out = model._keys_to_ignore_on_save or ()
    parameters = sum(p.numel() for name, p in model.named_parameters() if name not in left_out)
    expected = parameters + sum(b.numel() for b in _saved_buffers(model))
    pointers = sum(binding.num_layers for binding in bindings)
    assert sum(value.numel() for value in first.values()) == expected + pointers


def _saved_buffers(model: nn.Module) -> list[Tensor]:
    names = dict(model.named_parameters(remove_duplicate=False))
    return [value for name, value in model.state_dict().items() if name not in names and not name.endswith(".pointers")]


@pytest.mark.e2e
def test_loading_without_this_library_is_an_error_in_every_family(tmp_path: Path) -> None:
    lines = []
    for family in FAMILIES:
        model, _ = tied(family)
        for name, size in (("whole", "1GB"), ("sharded", "20KB"))[: 2 if family == "llama" else 1]:
            model.save_pretrained(tmp_path / family / name, max_shard_size=size)
            lines.append(f"{tmp_path / family / name} {type(model).__name__}")
    given = {**os.environ, "PYTHONPATH": "", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", PLAIN]
    done = subprocess.run(
        command, input="\n".join(lines), cwd=tmp_path, env=given, capture_output=True, text=True, timeout=PATIENCE_S
    )
    assert (done.returncode, done.stdout) == (0, ""), done.stderr


def test_untied_layers_are_saved_as_an_ordinary_model(tmp_path: Path) -> None:
    model = build("llama")
    binding = tying.hf.tie(model, "0 0 2 2")
    binding.rebind("0 1 2 3")
    model.save_pretrained(tmp_path)
    plain = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert_same(model, plain)
    assert_same(model, tying.hf.from_pretrained(tmp_path))


def test_what_is_saved_follows_every_rebind(tmp_path: Path) -> None:
    model = build("gpt2")
    binding = tying.hf.tie(model)
    for number, pattern in enumerate(("0 0 0 0", "0 1 1 3", "0 1 2 3", "0 1 0 1")):
        binding.rebind(pattern)
        assert model.config.layer_tying["transformer.h"]["pointers"] == pattern
        model.save_pretrained(tmp_path / str(number))
        assert_same(model, tying.hf.from_pretrained(tmp_path / str(number)))


@pytest.mark.parametrize("share", ["attention", "feed_forward", "self_attn.q_proj.*,mlp.*"])
@pytest.mark.parametrize("norms", ["shared", "private"])
def test_the_options_are_saved_and_taken_up_again(share: str, norms: str, tmp_path: Path) -> None:
    model = build("llama")
    binding = tying.hf.tie(model, "0 0 2 2", share=share, norms=norms, gradient="mean")
    model.save_pretrained(tmp_path)
    again = tying.hf.from_pretrained(tmp_path)
    assert_same(model, again)
    bound = tying.hf.tie(again, optimizer=torch.optim.SGD(again.parameters()))
    assert (bound.share, bound.norms, bound.gradient) == (share, norms, "mean")
    assert (bound.pointers, bound.shared_names) == (binding.pointers, binding.shared_names)


def test_a_model_of_another_class_takes_the_tied_layers(tmp_path: Path) -> None:
    model, _ = tied("bert")
    model.save_pretrained(tmp_path / "head")
    torch.manual_seed(0)
    classifier = tying.hf.from_pretrained(tmp_path / "head", AutoModelForSequenceClassification, num_labels=3)
    assert classifier.classifier.out_features == 3
    bare = tying.hf.from_pretrained(tmp_path / "head", transformers.BertModel)
    for found in (classifier.bert, bare):
        ours, theirs = found.encoder.layer.state_dict(), model.bert.encoder.layer.state_dict()
        assert all(torch.equal(value, theirs[name]) for name, value in ours.items())
        assert found.encoder.layer[1].output.dense.weight is found.encoder.layer[0].output.dense.weight
    bare.save_pretrained(tmp_path / "bare")
    assert_same(bare, tying.hf.from_pretrained(tmp_path / "bare"))


def test_dtype_and_other_options_are_passed_on(tmp_path: Path) -> None:
    model, _ = tied("llama")
    model.save_pretrained(tmp_path)
    again = tying.hf.from_pretrained(tmp_path, dtype=torch.bfloat16, attn_implementation="eager")
    assert {p.dtype for p in again.parameters()} == {torch.bfloat16}
    assert again.config._attn_implementation == "eager"
    assert again.model.layers[1].mlp.up_proj.weight is again.model.layers[0].mlp.up_proj.weight


def test_copies_and_pickles_of_a_tied_model_save_right(tmp_path: Path) -> None:
    model, _ = tied("llama")
    for number, twin in enumerate((copy.deepcopy(model), pickle.loads(pickle.dumps(model)))):
        with torch.no_grad():
            twin.model.norm.weight.fill_(number)
        twin.save_pretrained(tmp_path / str(number))
        assert_same(twin, tying.hf.from_pretrained(tmp_path / str(number)))
        assert not torch.equal(model.model.norm.weight, twin.model.norm.weight)


def test_a_state_dict_carries_the_pointers() -> None:
    """Every way to resume that loads a state dict restores the tying with the values, and the optimizer's parameters."""
    model, _ = tied("llama")
    other = build("llama", seed=1)
    optimizer = torch.optim.AdamW(other.parameters())
    binding = tying.hf.tie(other, "0 1 1 1", optimizer=optimizer)
    other.load_state_dict(model.state_dict())
    assert str(binding.pointers) == "0 0 2 2"
    assert_same(model, other)
    assert [id(p) for group in optimizer.param_groups for p in group["params"]] == [id(p) for p in other.parameters()]
    untied = build("llama", seed=2)
    other.load_state_dict(untied.state_dict())
    assert str(binding.pointers) == "0 1 2 3"
    assert_same(untied, other)


def test_a_state_without_the_tied_layers_names_is_whole(tmp_path: Path) -> None:
    """As Trainer loads a checkpoint: the file has each set of weights once."""
    model, _ = tied("llama")
    model.save_pretrained(tmp_path)
    other = build("llama", seed=1)
    binding = tying.hf.tie(other)
    result = other.load_state_dict(stored(tmp_path), strict=True)
    assert not result.missing_keys and not result.unexpected_keys
    assert str(binding.pointers) == "0 0 2 2"
    assert_same(model, other)


def test_a_model_that_was_loaded_goes_to_other_pointers_without_a_binding(tmp_path: Path) -> None:
    model, (binding,) = tied("llama")
    model.save_pretrained(tmp_path / "first")
    loaded = tying.hf.from_pretrained(tmp_path / "first")
    binding.rebind("0 1 1 3")
    loaded.load_state_dict(model.state_dict())
    assert_same(model, loaded)
    loaded.save_pretrained(tmp_path / "second")
    assert_same(model, tying.hf.from_pretrained(tmp_path / "second"))


def test_a_fresh_model_with_the_configuration_of_a_tied_one_is_loaded_as_it_is(tmp_path: Path) -> None:
    model, _ = tied("llama")
    fresh = type(model)(copy.deepcopy(model.config))
    fresh.save_pretrained(tmp_path)
    assert_same(fresh, tying.hf.from_pretrained(tmp_path))
    assert len(list(fresh.parameters())) > len(list(model.parameters()))


def test_a_weights_file_of_another_name_is_loaded_as_transformers_does(tmp_path: Path) -> None:
    model = build("llama")
    model.save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "other.safetensors")
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "transformers_weights": "other.safetensors"}))
    assert_same(model, tying.hf.from_pretrained(tmp_path))


def test_missing_weights_are_an_error(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    model, _ = tied("llama")
    model.save_pretrained(tmp_path)
    kept = {name: value for name, value in stored(tmp_path).items() if "layers.2.mlp.up_proj" not in name}
    save_file(kept, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"no weights for model\.layers\.2\.mlp\.up_proj\.weight"):
        tying.hf.from_pretrained(tmp_path)


def test_another_architecture_is_refused(tmp_path: Path) -> None:
    model, _ = tied("llama")
    model.save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    content = json.loads(path.read_text())
    content["layer_tying"] = {"transformer.h": content["layer_tying"]["model.layers"]}
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"LlamaForCausalLM has no stack 'transformer\.h'"):
        tying.hf.from_pretrained(tmp_path)


def test_uploading_while_saving_is_refused_with_the_way_out(tmp_path: Path) -> None:
    model, _ = tied("llama")
    with pytest.raises(InputError, match=r"model\.push_to_hub"):
        model.save_pretrained(tmp_path / "out", push_to_hub=True)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("gradient", ["sum", "mean", "root_only"])
@pytest.mark.parametrize("family", ["llama", "bert", "t5", "mixtral"])
def test_untied_gives_an_ordinary_copy(family: str, gradient: str, tmp_path: Path) -> None:
    model = build(family)
    bindings = [
        tying.hf.tie(model, "0 0 2 2", stack=name, gradient=gradient, optimizer=torch.optim.SGD(model.parameters()))
        for name in tying.hf.find_stacks(model)
    ]
    before = copy.deepcopy(model.state_dict())
    plain = tying.hf.untied(model)
    with torch.no_grad():
        torch.testing.assert_close(outputs(family, model), outputs(family, plain))
    assert len(list(plain.parameters())) == len(list(build(family).parameters()))
    plain.save_pretrained(tmp_path)
    assert "layer_tying" not in json.loads((tmp_path / "config.json").read_text())
    assert_same(plain, type(model).from_pretrained(tmp_path))
    with torch.no_grad():
        for parameter in plain.parameters():
            parameter.zero_()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(str(binding.pointers) == "0 0 2 2" for binding in bindings)
    bindings[0].rebind("0 1 1 3")
