"""Adaptive computation time: weights, limits, the cost of steps, and what it refuses."""

import copy

import pytest
import torch
from blocks import batch, tiny_gpt
from torch import Tensor

from tying import LayerBinding, Pointers
from tying.errors import InputError
from tying.models.base import num_params
from tying.models.config import GPTConfig
from tying.models.gpt import GPT
from tying.models.parts.halting import Halted, Halting


def tied_gpt(pointers: str = "0 0 0 0 0 0", bias: float | None = None, **shape: object) -> GPT:
    """Return a tied GPT with halting, and weights large enough that tokens differ."""
    model = tiny_gpt(len(pointers.split()), halting="act", **shape)
    assert model.halting is not None
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(10 if parameter.dim() == 2 else 1)
        if bias is not None:
            model.halting.unit.bias.fill_(bias)
    LayerBinding(model.h).rebind(pointers)
    return model


def watched(model: GPT) -> Halted:
    """Return how a pass over the first batch ends."""
    assert model.halting is not None
    with model.halting.watched() as passes:
        model(batch()[0])
    return passes[0]


def by_hand(unit: torch.nn.Linear, states: list[Tensor]) -> tuple[Tensor, float, float]:
    """Return one token's result, N and R by Graves's equations 5 to 9 and 13, from the states of all steps, (C) each."""
    total, result = 0.0, torch.zeros_like(states[0])
    for n, state in enumerate(states, 1):
        p = torch.sigmoid(unit(state)).item()
        if total + p > 0.99 or n == len(states):
            return result + (1 - total) * state, n, 1 - total
        result, total = result + p * state, total + p
    raise AssertionError


@pytest.mark.parametrize("bias", [-2.0, 0.0, 1.0])
@pytest.mark.parametrize("training", [True, False])
def test_every_token_is_as_by_hand(bias: float, training: bool) -> None:
    """The states of a token do not depend on whether others go on: each step is of the token alone here."""
    part = Halting(4).double().train(training)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        part.unit.weight.normal_(std=2, generator=generator)
        part.unit.bias.fill_(bias)
    x = torch.randn(3, 5, 4, dtype=torch.float64, generator=generator)
    result, halted = part(x, [lambda x: torch.sin(2 * x) + 0.1] * 5)
    assert len(set(halted.steps.flatten().tolist())) > 1
    for b in range(3):
        for t in range(5):
            state, states = x[b, t], []
            for _ in range(5):
                state = torch.sin(2 * state) + 0.1
                states.append(state)
            expected, steps, remainder = by_hand(part.unit, states)
            torch.testing.assert_close(result[b, t], expected)
            assert (halted.steps[b, t].item(), halted.remainder[b, t].item()) == pytest.approx((steps, remainder))


@pytest.mark.parametrize("bias", [-20.0, -3.0, 0.0, 1.0, 20.0])
def test_weights_of_a_token_add_up_to_one_also_at_the_limit(bias: float) -> None:
    model = tied_gpt(bias=bias).float()
    halted = watched(model)
    assert halted.weights.dtype == torch.float32
    torch.testing.assert_close(halted.weights.sum(0), torch.ones(2, 8), rtol=0, atol=1e-6)
    assert int(halted.steps.max()) <= 6


@pytest.mark.parametrize("training", [True, False])
def test_the_state_of_a_token_that_has_halted_is_frozen_and_others_go_on(training: bool) -> None:
    model = tied_gpt(bias=-1.0).train(training)
    inputs: list[Tensor] = []
    for block in model.h:
        block.register_forward_pre_hook(lambda module, args: inputs.append(args[0]))
    steps = watched(model).steps
    assert len(set(steps.flatten().tolist())) > 1
    for number in range(1, len(inputs)):
        same = (inputs[number] == inputs[number - 1]).all(dim=-1)
        assert torch.equal(same, steps < number)


def test_a_high_bias_is_one_step_and_a_low_one_is_all_steps_with_the_last_state_alone() -> None:
    for bias, num_layers in ((20.0, 1), (-20.0, 6)):
        model = tied_gpt(bias=bias).eval()
        plain = tiny_gpt(6)
        LayerBinding(plain.h).rebind([0] * 6)
        plain.load_state_dict({k: v for k, v in model.state_dict().items() if not k.startswith("halting")})
        plain.h = plain.h[:num_layers]
        torch.testing.assert_close(model(batch()[0]), plain(batch()[0]), rtol=0, atol=1e-7)
        assert watched(model).steps.unique().tolist() == [num_layers]


def test_steps_that_nobody_takes_are_not_computed_in_evaluation() -> None:
    model = tied_gpt(bias=20.0)
    calls: list[int] = []
    for layer, block in enumerate(model.h):
        block.register_forward_hook(lambda *_, layer=layer: calls.append(layer))
    trained = model(batch()[0])
    assert calls == [0, 1, 2, 3, 4, 5]
    assert torch.equal(model.eval()(batch()[0]), trained)
    assert calls[6:] == [0]


def test_a_group_of_layers_is_one_step() -> None:
    model = tied_gpt("0 1 0 1 0 1", bias=-20.0)
    assert watched(model).steps.unique().tolist() == [3]


def test_the_cost_of_steps_is_added_while_training_and_has_a_gradient() -> None:
    model, free = tied_gpt(bias=-0.5, halting_cost=0.3), tied_gpt(bias=-0.5, halting_cost=0.0)
    loss, plain = model.loss(*batch()), free.loss(*batch())
    halted = watched(model)
    expected = 0.3 * (halted.steps + halted.remainder).mean()
    torch.testing.assert_close(loss - plain, expected)
    assert model.halting is not None and free.halting is not None
    ponder, without = (
        torch.autograd.grad(value, list(made.halting.parameters()))  # type: ignore[union-attr]
        for value, made in ((loss, model), (plain, free))
    )
    assert all(float((a - b).abs().max()) > 1e-3 for a, b in zip(ponder, without, strict=True))
    assert float((ponder[1] - without[1]).sum()) < 0  # a step against it raises the probabilities: fewer steps
    assert torch.equal(model.eval().loss(*batch()), free.eval().loss(*batch()))


def test_gradients_are_those_of_finite_differences() -> None:
    model = tied_gpt(bias=-0.5)
    assert model.halting is not None
    model.loss(*batch()).backward()
    assert all(p.grad is not None and float(p.grad.abs().max()) > 0 for p in model.parameters())
    for parameter in (model.halting.unit.bias, model.halting.unit.weight, model.h[0].mlp.down.weight):  # type: ignore[union-attr]
        assert isinstance(parameter, Tensor) and parameter.grad is not None
        place, h = (0,) * parameter.dim(), 1e-6
        losses = []
        for sign in (1, -1):
            with torch.no_grad():
                parameter[place] += sign * h
                losses.append(model.loss(*batch()).item())
                parameter[place] -= sign * h
        assert parameter.grad[place].item() == pytest.approx((losses[0] - losses[1]) / (2 * h), rel=1e-5, abs=1e-9)


def test_recomputation_and_copies_change_nothing() -> None:
    model = tied_gpt()
    recomputed = copy.deepcopy(model)
    recomputed.recompute = True
    for made in (model, recomputed):
        made.loss(*batch()).backward()
    for a, b in zip(model.parameters(), recomputed.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=0, atol=1e-14)


def test_it_begins_with_a_bias_of_one_and_has_its_parameters_outside_the_blocks() -> None:
    model = tiny_gpt(3, halting="act")
    assert model.halting is not None and model.halting.unit.bias.item() == 1
    assert num_params(model) == num_params(tiny_gpt(3)) + 8 + 1


@pytest.mark.parametrize("pointers", ["0 1 2 3", "0 0 0 3", "0 0 2 2", "0 1 1 0", "0 1 2 0"])
def test_other_patterns_are_refused(pointers: str) -> None:
    with pytest.raises(InputError, match=f"model.halting = 'act': pointers '{pointers}' repeat no group"):
        tied_gpt(pointers)(batch()[0])


def test_patterns_that_repeat_a_group_are_all_cycles() -> None:
    config = GPTConfig(num_layers=6, halting="act")
    accepted = []
    for pointers in Pointers.all(6):
        try:
            config.check_tying(pointers)
        except InputError:
            continue
        accepted.append(str(pointers))
    assert accepted == ["0 0 0 0 0 0", "0 1 0 1 0 1", "0 1 2 0 1 2"]
    GPTConfig(num_layers=1, halting="act").check_tying(Pointers((0,)))


def test_layers_that_share_parts_alone_are_refused() -> None:
    model = tiny_gpt(3, halting="act")
    LayerBinding(model.h, share="attention").rebind("0 0 0")
    with pytest.raises(InputError, match="repeat no group"):
        model(batch()[0])
