"""What every position contributes to the gradient: against models that are not tied, and without a trace."""

import copy
import itertools
from typing import Any

import pytest
import torch
from blocks import adamw, batch, slots, step, tiny_gpt
from corpus import made_up_task

from tying import LayerBinding, Pointers, Trainer
from tying.models.config import GPTConfig
from tying.models.gpt import GPT
from tying.training.config import BindingConfig, TrainerConfig
from tying.training.layer_statistics import (
    agreements,
    gradient_similarities,
    inner_products,
    position_gradients,
    similarities,
)

OPTIONS = [
    {"gradient": "sum"},
    {"gradient": "mean"},
    {"gradient": "root_only"},
    {"share": "attention"},
    {"share": "feed_forward", "norms": "private", "gradient": "root_only"},
]


def positions(model: GPT, binding: LayerBinding) -> list[dict[str, torch.Tensor]]:
    """Return per layer the gradient of its position, by parameter."""
    found = position_gradients(binding, lambda: model.loss(*batch()))
    return [dict(zip(binding.shared_names, gradients, strict=True)) for gradients in found]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_positions_of_a_group_add_up_to_its_gradient(options: dict[str, Any]) -> None:
    model = tiny_gpt(4)
    binding = LayerBinding(model.h, **options)
    for pointers in Pointers.all(4):
        binding.rebind(pointers)
        found = positions(model, binding)
        model.zero_grad()
        model.loss(*batch()).backward()
        for group in pointers.groups:
            divisor = len(group) if options.get("gradient") == "mean" else 1
            counted = group[:1] if options.get("gradient") == "root_only" else group
            for name in binding.shared_names:
                total = torch.stack([found[layer][name] for layer in counted]).sum(0) / divisor
                torch.testing.assert_close(slots(model.h[group[0]])[name].grad, total, rtol=0, atol=1e-10)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_nothing_is_left_of_a_look(options: dict[str, Any]) -> None:
    model = tiny_gpt(4)
    optimizer = adamw(model)
    binding = LayerBinding(model.h, optimizer, **options)
    binding.rebind((0, 0, 2, 0))
    step(model, optimizer)
    objects = [slots(block) for block in model.h]
    gradients = {id(p): (p.grad, p.grad.clone()) for p in model.parameters() if p.grad is not None}
    moments = copy.deepcopy(optimizer.state_dict())
    generator = torch.random.get_rng_state()
    positions(model, binding)
    with pytest.raises(ZeroDivisionError):
        position_gradients(binding, lambda: torch.tensor(1 / 0))
    assert binding.pointers == (0, 0, 2, 0)
    assert all(
        slots(block)[name] is p for block, before in zip(model.h, objects, strict=True) for name, p in before.items()
    )
    assert all(p.grad is None or p.grad is gradients[id(p)][0] for p in model.parameters())
    assert all(now is None or torch.equal(now, values) for now, values in gradients.values())
    torch.testing.assert_close(optimizer.state_dict(), moments, rtol=0, atol=0)
    assert torch.equal(torch.random.get_rng_state(), generator)


@pytest.mark.parametrize("gradient", ["sum", "mean", "root_only"])
@pytest.mark.parametrize("recompute", [False, True])
def test_training_continues_bit_by_bit(gradient: str, recompute: bool) -> None:
    model = GPTConfig(num_layers=3, num_heads=2, width=16, context=16, dropout=0.2)
    config = TrainerConfig(iterations=60, batch_size=4, device="cpu", recompute=recompute)
    task, binding = made_up_task(model), BindingConfig(gradient=gradient)  # type: ignore[arg-type]
    plain, looked_at = (Trainer(task, config, binding=binding) for _ in range(2))
    for pointers in ((0, 0, 0), (0, 1, 0), (0, 1, 1)):
        for made in (plain, looked_at):
            made.rebind(pointers)
        assert [done.loss for done in plain.train(3)] == [done.loss for done in looked_at.train(3)]
        position_gradients(looked_at.binding, lambda: looked_at.sample_loss(2))
    weights = plain.state_dict()["model"]
    assert all(weights[name].equal(values) for name, values in looked_at.state_dict()["model"].items())


def cosine(left: torch.Tensor, right: torch.Tensor) -> float:
    return float(torch.cosine_similarity(left, right, dim=0))


def test_cosines_are_those_of_the_whole_gradients() -> None:
    model = tiny_gpt(4)
    binding = LayerBinding(model.h)
    binding.rebind((0, 0, 2, 0))
    found = position_gradients(binding, lambda: model.loss(*batch()))
    flat = [torch.cat([part.flatten() for part in parts]) for parts in found]
    products = inner_products(found)
    assert gradient_similarities(products) == pytest.approx(
        [0.0, cosine(flat[1], flat[0]), cosine(flat[2], flat[1]), cosine(flat[3], flat[2])]
    )
    assert agreements(products, binding.pointers) == pytest.approx(
        [cosine(flat[0], flat[1] + flat[3]), cosine(flat[1], flat[0] + flat[3]), 1.0, cosine(flat[3], flat[0] + flat[1])]
    )


def test_gradients_without_direction_have_cosine_0() -> None:
    for value in (0.0, float("nan"), float("inf")):
        products = inner_products([[torch.full((2,), value)], [torch.ones(2)]])
        assert gradient_similarities(products) == (0.0, 0.0)
        assert agreements(products, Pointers((0, 0))) == (0.0, 0.0)


def test_weights_that_do_not_train_count_for_nothing() -> None:
    model = tiny_gpt(2)
    for block in model.h:
        block.requires_grad_(False)
    found = position_gradients(LayerBinding(model.h), lambda: model.loss(*batch()))
    assert found == [[], []]
    assert gradient_similarities(inner_products(found)) == (0.0, 0.0)


@pytest.mark.parametrize("width", [16, 160])  # of 160, matrices are cut into pieces
@pytest.mark.parametrize("pointers", ["0 1 2 3", "0 1 1 0"])
def test_similarities_are_cosines_of_whole_layers_bit_by_bit(width: int, pointers: str) -> None:
    model = GPT(GPTConfig(num_layers=4, num_heads=2, width=width, context=16), 16, seed=0)
    binding = LayerBinding(model.h)
    binding.rebind(pointers)
    rows = [torch.cat([p.detach().flatten() for p in block.parameters() if p.dim() >= 2]) for block in model.h]
    expected = [float(torch.cosine_similarity(here, before, dim=0)) for before, here in itertools.pairwise(rows)]
    tied = [here == before for before, here in itertools.pairwise(binding.pointers)]
    assert similarities(binding) == (0.0, *(1.0 if same else cosine for same, cosine in zip(tied, expected, strict=True)))


def test_layers_without_matrices_are_not_similar() -> None:
    blocks = torch.nn.ModuleList(torch.nn.LayerNorm(4) for _ in range(3))
    binding = LayerBinding(blocks)
    binding.rebind("0 0 2")
    assert similarities(binding) == (0.0, 1.0, 0.0)
