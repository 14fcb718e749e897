"""LayerBinding: identity, gradients, the optimizer and the counts, over all partitions and long random chains."""

import copy
import gc
import weakref
from typing import Any

import pytest
import torch
from blocks import adamw, batch, slots, step, storages, tiny_gpt
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from tying import LayerBinding, Pointers
from tying.errors import InputError
from tying.models.gpt import GPT
from tying.training.layer_statistics import training_bytes

PARTITIONS = list(Pointers.all(6))
CHAINS = st.lists(st.sampled_from(PARTITIONS), min_size=1, max_size=30)


def assert_obeys(model: GPT, pointers: Pointers) -> None:
    """Check that layers share Parameter objects exactly as told, and storage with nobody else."""
    for i, block in enumerate(model.h):
        for j in range(i):
            other = slots(model.h[j])
            for name, parameter in slots(block).items():
                tied = pointers[i] == pointers[j]
                assert (parameter is other[name]) == tied
                assert (parameter.data_ptr() == other[name].data_ptr()) == tied
    unique = list(model.h.parameters())
    per_layer = len(slots(model.h[0]))
    assert len(unique) == len(storages(unique)) == per_layer * pointers.num_unique


def assert_optimizer_holds(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Check that the optimizer holds each live parameter exactly once, and state for nothing else."""
    held = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert sorted(held) == sorted(id(p) for p in model.parameters())
    assert {id(p) for p in optimizer.state} <= set(held)


def test_identity_in_every_partition() -> None:
    model = tiny_gpt()
    binding = LayerBinding(model.h)
    for pointers in PARTITIONS:
        binding.rebind(pointers)
        assert binding.pointers == pointers
        assert_obeys(model, pointers)


@settings(max_examples=40, deadline=None)
@given(CHAINS)
def test_identity_and_optimizer_along_random_chains(chain: list[Pointers]) -> None:
    model = tiny_gpt()
    optimizer = adamw(model)
    binding = LayerBinding(model.h, optimizer)
    for number, pointers in enumerate(chain):
        binding.rebind(pointers)
        assert_obeys(model, pointers)
        assert_optimizer_holds(model, optimizer)
        if number % 5 == 0:
            step(model, optimizer, number)
            assert len(optimizer.state) == len(list(model.parameters()))


@settings(max_examples=60, deadline=None)
@given(CHAINS)
def test_every_root_keeps_the_values_it_was_using(chain: list[Pointers]) -> None:
    model = tiny_gpt()
    optimizer = adamw(model)
    binding = LayerBinding(model.h, optimizer)
    step(model, optimizer)
    for pointers in chain:
        before = [{n: p.detach().clone() for n, p in slots(block).items()} for block in model.h]
        moments = [{n: optimizer.state[p]["exp_avg"].clone() for n, p in slots(block).items()} for block in model.h]
        objects = [slots(block) for block in model.h]
        binding.rebind(pointers)
        keepers = set()
        for root in pointers.roots:
            first = id(objects[root]["attn.qkv.weight"]) not in keepers
            keepers.add(id(objects[root]["attn.qkv.weight"]))
            for name, parameter in slots(model.h[root]).items():
                assert torch.equal(parameter, before[root][name])
                assert torch.equal(optimizer.state[parameter]["exp_avg"], moments[root][name])
                assert (parameter is objects[root][name]) == first


def gradients_of(model: GPT) -> list[dict[str, torch.Tensor]]:
    """Return the gradient at every layer's every slot."""
    model.zero_grad()
    model.loss(*batch()).backward()
    return [{name: p.grad.clone() for name, p in slots(block).items() if p.grad is not None} for block in model.h]


def untied_twin(model: GPT) -> GPT:
    """Return a model with the same values in every layer, none of them shared."""
    twin = tiny_gpt(len(model.h))
    with torch.no_grad():
        for name, parameter in model.named_parameters(remove_duplicate=False):
            twin.get_parameter(name).copy_(parameter)
    return twin


@pytest.mark.parametrize("gradient", ["sum", "mean", "root_only"])
def test_tied_gradients_against_the_untied_model_in_every_partition(gradient: str) -> None:
    model = tiny_gpt()
    binding = LayerBinding(model.h, gradient=gradient)
    for pointers in PARTITIONS:
        binding.rebind(pointers)
        tied, positions = gradients_of(model), gradients_of(untied_twin(model))
        for group in pointers.groups:
            for name, found in tied[group[0]].items():
                total = torch.stack([positions[layer][name] for layer in group]).sum(0)
                expected = {"sum": total, "mean": total / len(group), "root_only": positions[group[0]][name]}[gradient]
                torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("recompute", [False, True])
def test_root_only_holds_under_recomputation_and_restores_parameters_after_an_error(recompute: bool) -> None:
    model = tiny_gpt(3)
    model.recompute = recompute
    LayerBinding(model.h, gradient="root_only").rebind((0, 0, 0))
    expected = gradients_of(untied_twin(model))[0]
    for name, found in gradients_of(model)[0].items():
        torch.testing.assert_close(found, expected[name], rtol=0, atol=1e-10)
    with pytest.raises(RuntimeError):
        model.h[1](torch.zeros(1, 2, 3, dtype=torch.float64))
    assert slots(model.h[1])["mlp.up.weight"] is slots(model.h[0])["mlp.up.weight"]


def test_micro_batches_add_up_the_same_in_mean_mode() -> None:
    model = tiny_gpt(3)
    LayerBinding(model.h, gradient="mean").rebind((0, 0, 0))
    tokens, targets = batch()
    model.loss(tokens, targets).backward()
    whole = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    for part in range(2):
        (model.loss(tokens[part : part + 1], targets[part : part + 1]) / 2).backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, whole[name], rtol=0, atol=1e-12)


class Allocations(TorchDispatchMode):
    """Collects the operations that make a new storage."""

    def __init__(self) -> None:
        super().__init__()
        self.made: list[torch.Tensor] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if not any(isinstance(a, torch.Tensor) and a.data_ptr() == result.data_ptr() for a in args):
            self.made.append(result)
        return result


def test_a_tie_allocates_nothing_and_an_untie_the_copy_alone() -> None:
    model = tiny_gpt(4)
    optimizer = adamw(model)
    binding = LayerBinding(model.h, optimizer)
    step(model, optimizer)
    with Allocations() as tie:
        binding.rebind((0, 1, 1, 1))
    assert tie.made == []
    with Allocations() as untie:
        binding.rebind((0, 1, 2, 2))
    copied = binding.weights_of(2)
    sizes = sorted(tensor.numel() for tensor in untie.made)
    assert sizes == sorted(size for p in copied for size in (p.numel(), p.numel(), p.numel(), 1))


def test_the_loss_is_unchanged_by_untying() -> None:
    model = tiny_gpt()
    optimizer = adamw(model)
    binding = LayerBinding(model.h, optimizer)
    for pointers in PARTITIONS:
        binding.rebind(pointers)
        step(model, optimizer)
        tied = model.loss(*batch(1)).detach()
        binding.rebind(Pointers.independent(6))
        assert torch.equal(model.loss(*batch(1)).detach(), tied)


def test_after_an_untie_the_next_step_is_that_of_an_untied_model_with_equal_moments() -> None:
    """An untied copy moves by its own gradient from the shared moments: checked against an AdamW set up by hand."""
    model = tiny_gpt(4)
    optimizer = adamw(model)
    binding = LayerBinding(model.h, optimizer)
    binding.rebind((0, 1, 1, 1))
    for number in range(3):
        step(model, optimizer, number)
    twin = untied_twin(model)
    by_hand = adamw(twin)
    for name, parameter in model.named_parameters(remove_duplicate=False):
        by_hand.state[twin.get_parameter(name)] = copy.deepcopy(optimizer.state[parameter])
    binding.rebind(Pointers.independent(4))
    step(model, optimizer, 7)
    step(twin, by_hand, 7)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter, twin.get_parameter(name), rtol=0, atol=1e-14)


def test_a_step_after_a_tie_moves_what_is_used_and_nothing_else() -> None:
    model = tiny_gpt(4)
    optimizer = adamw(model)
    binding = LayerBinding(model.h, optimizer)
    step(model, optimizer)
    orphan = slots(model.h[2])["attn.qkv.weight"]
    value = orphan.detach().clone()
    binding.rebind((0, 1, 1, 3))
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    step(model, optimizer)
    assert torch.equal(orphan, value)
    assert all(not torch.equal(p, before[name]) for name, p in model.named_parameters() if p.grad.abs().max() > 0)


def test_freed_weights_leave_memory_with_their_moments() -> None:
    model = tiny_gpt(4)
    optimizer = adamw(model)
    binding = LayerBinding(model.h, optimizer)
    step(model, optimizer)
    weights = [weakref.ref(p) for p in binding.weights_of(3)]
    moments = [weakref.ref(optimizer.state[p]["exp_avg"]) for p in binding.weights_of(3)]
    binding.rebind((0, 1, 2, 0))
    gc.collect()
    assert all(ref() is None for ref in (*weights, *moments))


def test_bytes_of_training_equal_the_count_by_hand_in_every_partition() -> None:
    model = tiny_gpt()
    optimizer = adamw(model)
    binding = LayerBinding(model.h, optimizer)
    block = sum(p.numel() for p in model.h[0].parameters())
    rest = sum(p.numel() for p in model.parameters()) - 6 * block
    for pointers in PARTITIONS:
        binding.rebind(pointers)
        step(model, optimizer)
        live = rest + block * pointers.num_unique
        # float64: 8 bytes each for parameter, gradient and two moments.
        assert training_bytes(model.parameters(), optimizer) == 4 * 8 * live
        assert binding.trainable_params == binding.trainable_params_of(pointers) == block * pointers.num_unique


@pytest.mark.parametrize(
    ("share", "norms", "expected"),
    [
        ("block", "private", {"attn", "mlp"}),
        ("attention", "shared", {"attn"}),
        ("feed_forward", "shared", {"mlp"}),
        ("attn.*,ln_1.*", "shared", {"attn", "ln_1"}),
    ],
)
def test_parts_that_do_not_follow_stay_with_their_layer(share: str, norms: str, expected: set[str]) -> None:
    model = tiny_gpt(4)
    optimizer = adamw(model)
    binding = LayerBinding(model.h, optimizer, share=share, norms=norms)
    assert {name.partition(".")[0] for name in binding.shared_names} == expected
    for pointers in Pointers.all(4):
        binding.rebind(pointers)
        assert_optimizer_holds(model, optimizer)
        for i in range(4):
            for j in range(i):
                theirs = slots(model.h[j])
                for name, parameter in slots(model.h[i]).items():
                    follows = name.partition(".")[0] in expected
                    assert (parameter is theirs[name]) == (follows and pointers[i] == pointers[j])
        assert binding.trainable_params == binding.trainable_params_of(pointers)
        assert binding.trainable_params == sum(p.numel() for p in model.h.parameters())


def test_blocks_of_another_library() -> None:
    """Hugging Face's GPT-2 is bound through its own ModuleList, and trains tied."""
    from transformers import GPT2Config, GPT2LMHeadModel

    model = GPT2LMHeadModel(GPT2Config(n_layer=4, n_embd=16, n_head=2, vocab_size=13, n_positions=8))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    binding = LayerBinding(model.transformer.h, optimizer)
    binding.rebind((0, 1, 1, 0))
    tokens = torch.arange(8)[None]
    first = model(tokens, labels=tokens).loss
    first.backward()
    optimizer.step()
    assert model(tokens, labels=tokens).loss < first
    assert_optimizer_holds(model, optimizer)
    assert slots(model.transformer.h[2])["attn.c_attn.weight"] is slots(model.transformer.h[1])["attn.c_attn.weight"]
    binding.close()
    attention = LayerBinding(model.transformer.h, optimizer, share="attention")
    assert {name.partition(".")[0] for name in attention.shared_names} == {"attn"}


def test_blocks_that_are_tied_already_are_taken_as_they_are() -> None:
    model = tiny_gpt(4)
    LayerBinding(model.h).rebind((0, 1, 1, 0))
    assert LayerBinding(model.h).pointers == (0, 1, 1, 0)


def test_blocks_that_share_only_a_part_are_refused() -> None:
    model = tiny_gpt(3)
    model.h[2].attn.qkv.weight = model.h[1].attn.qkv.weight
    with pytest.raises(InputError, match=r"blocks 1 and 2 share 'attn\.qkv\.weight' but not all"):
        LayerBinding(model.h)


@pytest.mark.parametrize(
    ("blocks", "message"),
    [
        ([nn.Linear(2, 2), nn.Linear(2, 3)], r"shape of 'weight' is \(3, 2\) in block 1, \(2, 2\) in block 0"),
        ([nn.Linear(2, 2), nn.Embedding(2, 2), nn.ReLU()], "blocks differ, no chosen parameter is in all of them"),
        ([nn.LayerNorm(2), nn.LSTM(2, 2)], "blocks differ, no chosen parameter"),
        ([nn.Linear(2, 2), nn.Linear(2, 2).double()], "dtype of 'weight'"),
        ([], "at least one layer"),
    ],
)
def test_blocks_that_differ_are_refused_with_the_first_difference(blocks: list[nn.Module], message: str) -> None:
    with pytest.raises(InputError, match=message):
        LayerBinding(nn.ModuleList(blocks))


@pytest.mark.parametrize(
    "options",
    [{"gradient": "max"}, {"share": "nothing.*"}, {"norms": "some"}, {"share": "ln_*", "norms": "private"}],
)
def test_unknown_options_are_refused(options: dict[str, str]) -> None:
    with pytest.raises(InputError):
        LayerBinding(tiny_gpt(2).h, **options)  # type: ignore[arg-type]


def test_pointers_of_another_length_are_refused_and_change_nothing() -> None:
    model = tiny_gpt(3)
    binding = LayerBinding(model.h)
    binding.rebind((0, 1, 1))
    with pytest.raises(InputError, match="are for 4 layers, the model has 3"):
        binding.rebind((0, 0, 0, 0))
    assert_obeys(model, Pointers((0, 1, 1)))


def test_an_optimizer_without_state_gets_none() -> None:
    model = tiny_gpt(3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    binding = LayerBinding(model.h, optimizer)
    binding.rebind((0, 0, 0))
    binding.rebind((0, 1, 2))
    assert_optimizer_holds(model, optimizer)
    assert not optimizer.state


def test_compiled_blocks_are_not_recompiled_when_pointers_move() -> None:
    model = tiny_gpt()
    optimizer = adamw(model)
    binding = LayerBinding(model.h, optimizer)
    torch._dynamo.reset()
    with torch._dynamo.config.patch(error_on_recompile=True):
        for block in model.h:
            block.forward = torch.compile(block.forward, backend="aot_eager")  # type: ignore[method-assign]
        reference = tiny_gpt()
        other = adamw(reference)
        twin = LayerBinding(reference.h, other)
        for number, pointers in enumerate(PARTITIONS[::20]):
            binding.rebind(pointers)
            twin.rebind(pointers)
            assert step(model, optimizer, number) == pytest.approx(step(reference, other, number), abs=1e-12)
