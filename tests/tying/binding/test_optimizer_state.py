"""Param groups and state: copies go home, the order is the model's, and a state loads by position."""

import copy
import gc
import io
import random
import weakref
from typing import Any

import pytest
import torch
from blocks import adamw, batch, slots, step, tiny_gpt
from families import FAMILIES
from torch import nn

from tying import LayerBinding, Pointers
from tying.errors import InputError

# Every pattern several times, in an order with promotions.
PATTERNS = random.Random(0).sample([*Pointers.all(4)] * 4, 60)
CHAIN = ["0 0 2 3", "0 1 2 3", "0 0 0 0", "0 1 1 1", "0 0 2 2", "0 1 2 0", "0 1 2 3", "0 1 1 3"]


def groups_of(optimizer: torch.optim.Optimizer, model: nn.Module) -> list[list[str]]:
    """Return the names of the parameters in every group, in the group's order."""
    names = {id(p): name for name, p in model.named_parameters()}
    return [[names[id(p)] for p in group["params"]] for group in optimizer.param_groups]


def layer_wise(model: nn.Module) -> torch.optim.AdamW:
    """Return AdamW with a learning rate for every layer and two groups in each."""
    groups: list[dict[str, Any]] = [
        {"params": [p for p in block.parameters() if (p.dim() >= 2) == matrices], "lr": 1e-3 * (layer + 1)}
        for layer, block in enumerate(model.h)  # type: ignore[arg-type]
        for matrices in (True, False)
    ]
    return torch.optim.AdamW([*groups, {"params": [model.wte.weight, *model.ln_f.parameters()]}], lr=1e-4)  # type: ignore[union-attr]


def test_layers_keep_their_own_groups() -> None:
    """With a learning rate per layer, weights train at the rate of their root's layer, also after a promotion."""
    model = tiny_gpt(4)
    optimizer = layer_wise(model)
    binding = LayerBinding(model.h, optimizer)
    for pointers in PATTERNS:
        binding.rebind(pointers)
        for number, names in enumerate(groups_of(optimizer, model)[:-1]):
            layer, matrices = divmod(number, 2)
            own = [f"h.{layer}.{n}" for n, p in model.h[layer].named_parameters() if (p.dim() >= 2) == (matrices == 0)]
            assert names == (own if layer in pointers.roots else [])


def test_the_order_of_every_group_is_the_models_after_every_rebind() -> None:
    model = tiny_gpt(4)
    optimizer = adamw(model)
    binding = LayerBinding(model.h, optimizer, share="attn.*,ln_2.*")
    for text in CHAIN * 2:
        binding.rebind(text)
        matrices = [n for n, p in model.named_parameters() if p.dim() >= 2]
        others = [n for n, p in model.named_parameters() if p.dim() < 2]
        assert groups_of(optimizer, model) == [matrices, others]
        step(model, optimizer)


def test_an_order_that_is_not_the_models_is_kept() -> None:
    model = tiny_gpt(3)
    named = list(model.named_parameters())[::-1]
    optimizer = torch.optim.SGD([p for _, p in named], lr=0.1)
    binding = LayerBinding(model.h, optimizer)
    binding.rebind("0 0 0")
    binding.rebind("0 1 2")
    assert groups_of(optimizer, model) == [[name for name, _ in named]]


@pytest.mark.parametrize("tied_first", [False, True])
def test_names_in_param_groups_follow(tied_first: bool) -> None:
    model = tiny_gpt(4)
    if tied_first:
        LayerBinding(model.h).rebind("0 0 2 2")
    optimizer = torch.optim.AdamW(model.named_parameters(), lr=1e-2)
    binding = LayerBinding(model.h, optimizer)
    for text in CHAIN:
        binding.rebind(text)
        assert optimizer.param_groups[0]["param_names"] == [name for name, _ in model.named_parameters()]
        assert groups_of(optimizer, model) == [[name for name, _ in model.named_parameters()]]


def test_a_model_that_is_tied_already_gets_the_models_order_when_it_is_untied() -> None:
    """Private norms stand between the shared parameters; missing layers go where the model has them."""
    model = tiny_gpt(4)
    LayerBinding(model.h, norms="private").rebind("0 0 0 3")
    optimizer = adamw(model)
    binding = LayerBinding(model.h, optimizer, norms="private")
    assert binding.pointers == (0, 0, 0, 3)
    for text in CHAIN:
        binding.rebind(text)
        matrices = [n for n, p in model.named_parameters() if p.dim() >= 2]
        assert groups_of(optimizer, model)[0] == matrices


def encoder() -> tuple[nn.Module, Any, Any]:
    torch.manual_seed(0)
    blocks = nn.ModuleList(nn.TransformerEncoderLayer(16, 2, 32, 0.0, batch_first=True) for _ in range(4)).double()
    inputs = torch.randn(3, 5, 16, dtype=torch.float64)

    def loss(model: nn.Module) -> torch.Tensor:
        hidden = inputs
        for block in model.children():
            hidden = block(hidden)
        return hidden.sin().square().mean()

    return blocks, blocks, loss


def llama() -> tuple[nn.Module, Any, Any]:
    family = FAMILIES["llama"]()
    return family.model, family.model.model.layers, family.loss  # type: ignore[union-attr]


@pytest.mark.parametrize("make", [encoder, llama])
@pytest.mark.parametrize("through_a_file", [False, True])
def test_resuming_by_position_equals_the_uninterrupted_run(make: Any, through_a_file: bool) -> None:
    """A new model, tied alike, loads model and optimizer state as torch does, and goes on bit by bit."""

    def train(model: nn.Module, loss: Any, optimizer: torch.optim.Optimizer) -> list[float]:
        losses = []
        for _ in range(3):
            optimizer.zero_grad()
            value = loss(model)
            value.backward()
            optimizer.step()
            losses.append(float(value.detach()))
        return losses

    model, blocks, loss = make()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    binding = LayerBinding(blocks, optimizer)
    for text in ("0 0 2 3", "0 1 2 3", "0 1 1 1", "0 0 2 2", "0 1 2 2"):
        binding.rebind(text)
        train(model, loss, optimizer)
    state: Any = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
    state = copy.deepcopy(state)
    if through_a_file:
        file = io.BytesIO()
        torch.save(state, file)
        file.seek(0)
        state = torch.load(file)

    model2, blocks2, loss2 = make()
    optimizer2 = torch.optim.AdamW(model2.parameters(), lr=1e-2)
    binding2 = LayerBinding(blocks2, optimizer2)
    binding2.rebind("0 1 2 2")
    model2.load_state_dict(state["model"])
    optimizer2.load_state_dict(state["optimizer"])
    assert train(model2, loss2, optimizer2) == train(model, loss, optimizer)
    for text in ("0 1 2 3", "0 0 2 2"):
        binding.rebind(text)
        binding2.rebind(text)
        assert train(model2, loss2, optimizer2) == train(model, loss, optimizer)


def test_several_optimizers_hold_their_own_parameters_of_every_layer() -> None:
    model = tiny_gpt(4)
    matrices = [p for p in model.h.parameters() if p.dim() == 2]
    others = [p for p in model.parameters() if all(p is not q for q in matrices)]
    muon, rest = torch.optim.Muon(matrices, lr=1e-2), torch.optim.AdamW(others, lr=1e-2)
    binding = LayerBinding(model.h, [muon, rest])
    assert binding.optimizers == [muon, rest]
    assert binding.optimizer is muon
    for text in CHAIN:
        binding.rebind(text)
        block = {id(p) for p in model.h.parameters()}
        assert [id(p) for p in muon.param_groups[0]["params"]] == [id(p) for p in model.h.parameters() if p.dim() == 2]
        assert {id(p) for p in rest.param_groups[0]["params"]} == {id(p) for p in model.parameters()} - {
            id(p) for p in model.h.parameters() if p.dim() == 2
        }
        assert block
        for optimizer in (muon, rest):
            optimizer.zero_grad()
        model.loss(*batch()).backward()
        for optimizer in (muon, rest):
            optimizer.step()
            assert {id(p) for p in optimizer.state} == {id(p) for p in optimizer.param_groups[0]["params"]}


def test_an_optimizer_that_is_made_later_is_attached() -> None:
    model = tiny_gpt(4)
    binding = LayerBinding(model.h)
    binding.rebind("0 0 2 2")
    optimizer = adamw(model)
    assert binding.optimizer is None
    binding.attach(optimizer)
    step(model, optimizer)
    binding.rebind("0 1 2 3")
    step(model, optimizer)
    assert groups_of(optimizer, model)[0] == [n for n, p in model.named_parameters() if p.dim() >= 2]
    with pytest.raises(InputError, match="attached already"):
        binding.attach(optimizer)


def test_weights_move_between_optimizers_with_their_layer_and_start_there_without_state() -> None:
    model = tiny_gpt(3)
    lower = torch.optim.AdamW([*model.h[0].parameters(), *model.h[1].parameters()], lr=1e-2)
    upper = torch.optim.SGD(model.h[2].parameters(), lr=1e-2)
    binding = LayerBinding(model.h, [lower, upper])
    binding.rebind("0 1 1")
    step(model, lower)
    weights = binding.weights_of(1)
    binding.rebind("0 0 2")
    assert binding.weights_of(2) == weights
    assert upper.param_groups[0]["params"] == list(weights)
    assert not any(p in lower.state for p in weights)
    assert lower.param_groups[0]["params"] == list(binding.weights_of(0))


def test_groups_that_somebody_else_sorts_anew_are_read_again() -> None:
    model = tiny_gpt(3)
    optimizer = adamw(model)
    binding = LayerBinding(model.h, optimizer)
    for text in ("0 0 0", "0 1 1", "0 1 2", "0 0 2", "0 1 0"):
        binding.rebind(text)
        everything = list(model.parameters())
        optimizer.param_groups[:] = [
            {**optimizer.param_groups[0], "params": [p for p in everything if (p.dim() >= 2) == matrices]}
            for matrices in (False, True)
        ]
        step(model, optimizer)
    held = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert sorted(held) == sorted(id(p) for p in model.parameters())


def test_tied_layers_keep_their_homes_when_somebody_adds_a_group() -> None:
    """Layer 2 has a group of its own, frozen layer 1 has none; both are tied while the groups change."""
    model = tiny_gpt(4)
    model.h[1].requires_grad_(False)
    optimizer = torch.optim.AdamW([{"params": list(model.h[layer].parameters())} for layer in (0, 2, 3)])
    binding = LayerBinding(model.h, optimizer)
    binding.rebind("0 0 0 3")
    optimizer.add_param_group({"params": list(model.wte.parameters())})
    binding.rebind("0 0 0 0")
    binding.rebind("0 1 2 3")
    names = [[name for name, _ in model.named_parameters() if name.startswith(f"h.{layer}.")] for layer in (0, 2, 3)]
    assert groups_of(optimizer, model) == [*names, ["wte.weight"]]


def test_a_layer_that_is_frozen_stays_frozen_when_it_owns_weights() -> None:
    """requires_grad belongs to the layer: weights train if the layer that is their root trains."""
    model = tiny_gpt(4)
    model.h[1].requires_grad_(False)
    model.h[3].attn.requires_grad_(False)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    binding = LayerBinding(model.h, optimizer)
    own = [[p.requires_grad for p in block.parameters()] for block in model.h]
    for pointers in PATTERNS:
        counted = binding.trainable_params_of(pointers)
        binding.rebind(pointers)
        for root in pointers.roots:
            assert [p.requires_grad for p in binding.weights_of(root)] == own[root]
        assert binding.trainable_params == counted
        held = [id(p) for p in optimizer.param_groups[0]["params"]]
        assert held == [id(p) for p in model.parameters() if p.requires_grad]
        before = {n: p.detach().clone() for n, p in model.named_parameters()}
        step(model, optimizer)
        for name, parameter in model.named_parameters():
            assert torch.equal(parameter, before[name]) == (not parameter.requires_grad)
        assert {id(p) for p in optimizer.state} <= set(held)


def test_freezing_tied_weights_freezes_all_their_layers() -> None:
    model = tiny_gpt(4)
    optimizer = adamw(model)
    binding = LayerBinding(model.h, optimizer)
    binding.rebind("0 1 1 3")
    model.h[2].requires_grad_(False)
    independent = Pointers.independent(4)
    one = sum(p.numel() for p in model.h[0].parameters())
    assert binding.trainable_params_of(independent) == 2 * one
    binding.rebind("0 1 0 3")
    binding.rebind(independent)
    assert [next(block.parameters()).requires_grad for block in model.h] == [True, False, False, True]
    assert binding.trainable_params == 2 * one


def test_a_frozen_layer_that_joins_weights_unfrozen_before_stays_frozen_itself() -> None:
    model = tiny_gpt(3)
    model.h[:2].requires_grad_(False)
    binding = LayerBinding(model.h, adamw(model))
    model.h[0].requires_grad_(True)
    binding.rebind("0 0 2")
    binding.rebind("0 1 2")
    assert [next(block.parameters()).requires_grad for block in model.h] == [True, False, True]


def test_two_bindings_with_pointers_of_their_own_share_an_optimizer() -> None:
    model = tiny_gpt(4)
    optimizer = adamw(model)
    attention = LayerBinding(model.h, optimizer, share="attention")
    feed_forward = LayerBinding(model.h, optimizer, share="feed_forward")
    for text, other in zip(CHAIN, CHAIN[::-1], strict=True):
        attention.rebind(text)
        step(model, optimizer)
        feed_forward.rebind(other)
        step(model, optimizer)
        assert groups_of(optimizer, model)[0] == [n for n, p in model.named_parameters() if p.dim() >= 2]
        assert len(optimizer.state) == len(list(model.parameters()))
        for binding in (attention, feed_forward):
            assert binding.trainable_params == binding.trainable_params_of(binding.pointers)


def test_a_second_binding_keeps_nothing_alive_that_the_first_freed() -> None:
    model = tiny_gpt(3)
    optimizer = adamw(model)
    attention = LayerBinding(model.h, optimizer, share="attention")
    feed_forward = LayerBinding(model.h, optimizer, share="feed_forward")
    step(model, optimizer)
    freed = [weakref.ref(p) for p in feed_forward.weights_of(2)]
    feed_forward.rebind("0 1 0")
    gc.collect()
    assert all(ref() is None for ref in freed)
    attention.rebind("0 0 2")
    step(model, optimizer)


def test_copies_have_the_attributes_that_people_put_on_parameters() -> None:
    model = tiny_gpt(2)
    for parameter in model.parameters():
        parameter.no_weight_decay = parameter.dim() < 2  # type: ignore[attr-defined]
    binding = LayerBinding(model.h)
    binding.rebind("0 0")
    binding.rebind("0 1")
    for parameter in slots(model.h[1]).values():
        assert parameter.no_weight_decay == (parameter.dim() < 2)  # type: ignore[attr-defined]


def untied(untie_moments: str) -> tuple[Any, torch.optim.AdamW]:
    """Return a model and its optimizer that trained as 0 0 2 2, right after layer 1 got weights of its own."""
    model = tiny_gpt(4)
    optimizer = adamw(model)
    binding = LayerBinding(model.h, optimizer, untie_moments=untie_moments)
    binding.rebind("0 0 2 2")
    for seed in range(3):
        step(model, optimizer, seed)
    binding.rebind("0 1 2 2")
    return model, optimizer


def test_copies_start_with_moments_equal_to_their_sources_or_with_none() -> None:
    for untie_moments in ("copy", "zero"):
        model, optimizer = untied(untie_moments)
        for source, copied in zip(model.h[0].parameters(), model.h[1].parameters(), strict=True):
            assert torch.equal(source, copied)
            assert optimizer.state[source]["step"] == 3
            assert (copied in optimizer.state) == (untie_moments == "copy")
            for key in optimizer.state[source] if untie_moments == "copy" else ():
                assert torch.equal(optimizer.state[copied][key], optimizer.state[source][key])


def test_with_zero_moments_the_copy_alone_steps_as_a_new_parameter_does() -> None:
    """Everything else steps, bit by bit, as with copied moments; the copy as in an optimizer that has just been made."""
    (model, optimizer), (twin, other), (third, _) = untied("zero"), untied("copy"), untied("copy")
    assert step(model, optimizer, 3) == step(twin, other, 3) == step(third, adamw(third), 3)
    found, copying, new = (dict(made.named_parameters()) for made in (model, twin, third))
    for name in found:
        expected = new if name.startswith("h.1.") else copying
        assert torch.equal(found[name], expected[name]), name
        assert not torch.equal(new[name], copying[name])


def test_an_unknown_kind_of_moments_is_refused() -> None:
    with pytest.raises(InputError, match="untie_moments 'none': allowed are copy, zero"):
        LayerBinding(tiny_gpt(2).h, untie_moments="none")


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_copies_made_where_no_gradients_are_formed_can_train(mode: Any) -> None:
    model = tiny_gpt(3)
    optimizer = adamw(model)
    binding = LayerBinding(model.h, optimizer)
    step(model, optimizer)
    with mode():
        binding.rebind("0 0 0")
        binding.rebind("0 1 2")
    twin = tiny_gpt(3)
    other = adamw(twin)
    second = LayerBinding(twin.h, other)
    step(twin, other)
    second.rebind("0 0 0")
    second.rebind("0 1 2")
    assert step(model, optimizer, 1) == step(twin, other, 1)
    assert step(model, optimizer, 2) == step(twin, other, 2)
