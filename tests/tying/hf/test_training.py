"""All that training does around a tied model: adapters, averages, recomputation, compilation, quantisation."""

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hf_models import build, tokens
from torch import Tensor, nn

import tying.hf
from tying import InputError, Pointers
from tying.training.averaging import Averaged

PATTERNS = ("0 0 2 2", "0 1 2 3", "0 1 1 0", "0 0 0 0")
PEFT_WARNING = "ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"


@pytest.fixture(autouse=True)
def _one_thread(one_thread: None) -> Iterator[None]:
    yield


def loss_of(model: Any, seed: int = 0) -> Tensor:
    batch = tokens(seed)
    return model(input_ids=batch, labels=batch).loss


def train(model: Any, optimizer: torch.optim.Optimizer, steps: int) -> None:
    for step in range(steps):
        optimizer.zero_grad()
        loss_of(model, step).backward()
        optimizer.step()


def gradients(model: Any) -> dict[str, Tensor]:
    model.zero_grad()
    loss_of(model).backward()
    return {name: p.grad.clone() for name, p in model.named_parameters()}


@pytest.mark.filterwarnings(PEFT_WARNING)
def test_adapters_on_a_tied_base_train_rebind_and_merge_through_untied(tmp_path: Path) -> None:
    import peft

    base = build("llama")
    binding = tying.hf.tie(base, PATTERNS[0])
    model = peft.get_peft_model(base, peft.LoraConfig(target_modules=["q_proj", "v_proj"], init_lora_weights=False))
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    held = [id(p) for group in optimizer.param_groups for p in group["params"]]
    reference = tying.hf.untied(model)
    other = torch.optim.AdamW([p for p in reference.parameters() if p.requires_grad], lr=1e-2)
    for pattern in PATTERNS:
        binding.rebind(pattern)
        # The base is frozen: an untied reference only has to take over the weights of the roots, by value.
        with torch.no_grad():
            for name, value in tying.hf.untied(model).named_parameters():
                if "lora" not in name:
                    reference.get_parameter(name).copy_(value)
        train(model, optimizer, 2)
        train(reference, other, 2)
    assert held == [id(p) for group in optimizer.param_groups for p in group["params"]]
    model.eval()
    batch = tokens()
    with torch.no_grad():
        expected = model(input_ids=batch).logits
        torch.testing.assert_close(reference(input_ids=batch).logits, expected)
        merged = tying.hf.untied(model).merge_and_unload()
        torch.testing.assert_close(merged(input_ids=batch).logits, expected, rtol=1e-5, atol=1e-5)
        # Why the way through `untied` is needed: one shared weight would take the adapters of all its layers.
        wrong = copy.deepcopy(model).merge_and_unload()
        assert not torch.allclose(wrong(input_ids=batch).logits, expected, atol=1e-2)
    merged.save_pretrained(tmp_path)
    again = type(merged).from_pretrained(tmp_path)
    assert all(torch.equal(value, merged.state_dict()[name]) for name, value in again.state_dict().items())
    assert str(binding.pointers) == PATTERNS[-1]


def test_the_average_of_a_model_follows_rebinds_and_is_saved_like_it(tmp_path: Path) -> None:
    model = build("llama")
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    binding = tying.hf.tie(model, optimizer=optimizer)
    averaged = Averaged(model, decay=0.5)
    layers = [layer.mlp.up_proj.weight.detach().clone() for layer in model.model.layers]
    for pattern in PATTERNS:
        binding.rebind(pattern)
        layers = [layers[root] for root in Pointers.parse(pattern)]
        for _ in range(2):
            train(model, optimizer, 1)
            averaged.update()
            now = [layer.mlp.up_proj.weight.detach() for layer in model.model.layers]
            layers = [(a + b) / 2 for a, b in zip(layers, now, strict=True)]
    with averaged.applied():
        model.save_pretrained(tmp_path)
    again = tying.hf.from_pretrained(tmp_path)
    for layer, expected in zip(again.model.layers, layers, strict=True):
        torch.testing.assert_close(layer.mlp.up_proj.weight.detach(), expected)
    assert not torch.equal(model.model.layers[0].mlp.up_proj.weight, again.model.layers[0].mlp.up_proj.weight)


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("gradient", ["sum", "mean"])
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_recomputation_gives_the_same_gradients(family: str, gradient: str, reentrant: bool) -> None:
    plain, recomputed = build(family).double().train(), build(family).double().train()
    for model in (plain, recomputed):
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
    bindings = [tying.hf.tie(model, gradient=gradient) for model in (plain, recomputed)]
    recomputed.activation_checkpointing_enable({"use_reentrant": reentrant})
    for pattern in PATTERNS:
        for binding in bindings:
            binding.rebind(pattern)
        expected = gradients(plain)
        for name, gradient_of in gradients(recomputed).items():
            torch.testing.assert_close(gradient_of, expected[name], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("reentrant", [False, True])
def test_root_only_under_recomputation_is_refused(reentrant: bool) -> None:
    model = build("llama").train()
    binding = tying.hf.tie(model, "0 0 2 2", gradient="root_only")
    model.activation_checkpointing_enable({"use_reentrant": reentrant})
    with pytest.raises(InputError, match="gradient 'root_only' would be lost"):
        loss_of(model)
    assert str(binding.pointers) == "0 0 2 2"


@pytest.mark.e2e
@pytest.mark.parametrize(("family", "whole"), [("llama", False), ("bert", False), ("bert", True)])
def test_compiled_models_are_right_under_every_pattern(family: str, whole: bool) -> None:
    from torch._dynamo.testing import CompileCounterWithBackend

    torch._dynamo.reset()
    plain, compiled = build(family), build(family)
    bindings = [tying.hf.tie(model) for model in (plain, compiled)]
    counter = CompileCounterWithBackend("eager" if whole else "aot_eager")
    graphs = []
    if whole:
        compiled.compile(backend=counter)
    else:
        for block in next(iter(tying.hf.find_stacks(compiled).values())).blocks:
            block.compile(backend=counter)
    for pattern in PATTERNS:
        for binding in bindings:
            binding.rebind(pattern)
        expected = gradients(plain)
        for name, value in gradients(compiled).items():
            torch.testing.assert_close(value, expected[name], rtol=1e-4, atol=1e-6)
        graphs.append(counter.frame_count)
    torch._dynamo.reset()
    if whole:
        # Another graph for a new pattern, unless one that was compiled for other patterns fits.
        assert graphs[0] == 1 and 1 < graphs[-1] <= len(PATTERNS)
    else:
        # Blocks that know their index (a decoder's, for its cache) take a graph each, others one for all.
        assert graphs == [{"llama": 4, "bert": 1}[family]] * len(PATTERNS)


@pytest.mark.filterwarnings("ignore:torch.ao.quantization is deprecated:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor:UserWarning")
def test_a_quantised_model_shares_again_after_share_modules() -> None:
    model = build("bert")
    tying.hf.tie(model, "0 0 0 3")
    convert = torch.ao.quantization.quantize_dynamic
    quantised = convert(copy.deepcopy(model), {nn.Linear}, dtype=torch.qint8)
    kind = torch.ao.nn.quantized.dynamic.Linear

    def linears() -> list[nn.Module]:
        stack = quantised.bert.encoder.layer
        return [m for m in {id(m): m for m in stack.modules()}.values() if isinstance(m, kind)]

    per_block = len(linears()) // 4
    batch = tokens()
    with torch.no_grad():
        before = quantised(input_ids=batch).logits
        tying.hf.share_modules(quantised)
        assert torch.equal(quantised(input_ids=batch).logits, before)
        torch.testing.assert_close(before, model(input_ids=batch).logits, atol=0.05, rtol=0.05)
    assert len(linears()) == 2 * per_block
    plain = convert(tying.hf.untied(model), {nn.Linear}, dtype=torch.qint8)
    with torch.no_grad():
        torch.testing.assert_close(plain(input_ids=batch).logits, before)


def test_modules_are_not_shared_for_single_parameters() -> None:
    model = build("bert")
    tying.hf.tie(model, "0 0 0 3", share="attention.self.query.weight")
    with pytest.raises(InputError, match="whole modules are shared by block, attention, feed_forward"):
        tying.hf.share_modules(model)
