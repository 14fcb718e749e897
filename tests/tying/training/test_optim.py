"""The optimizer's groups: what decays, and the learning rate of weights that several layers use."""

import random

import pytest
import torch
from corpus import made_up_task
from torch import Tensor, nn

from tying import Pointers, Trainer
from tying.models.config import GPTConfig
from tying.training import trainer as module
from tying.training.config import BindingConfig, OptimConfig, TrainerConfig
from tying.training.optim import learning_rate

MODEL = GPTConfig(num_layers=4, num_heads=2, width=8, context=8, dropout=0.1)
PATTERNS = [Pointers.parse(text) for text in ("0 1 1 1", "0 1 0 1", "0 0 0 0", "0 1 2 3", "0 0 2 2")]

pytestmark = pytest.mark.usefixtures("one_thread")


def make(tied_rate: float, norms: str = "shared") -> Trainer:
    config = TrainerConfig(iterations=40, batch_size=4, device="cpu")
    optim = OptimConfig(learning_rate=1e-2, warmup_iterations=0, tied_rate=tied_rate)
    return Trainer(made_up_task(MODEL), config, optim, BindingConfig(norms=norms))  # type: ignore[arg-type]


def tensors(trainer: Trainer) -> dict[str, Tensor]:
    """Return all tensors of the state, the moments too, as copies."""
    state = trainer.state_dict()
    return {f"{part}:{name}": value.clone() for part in ("model", "optimizer") for name, value in state[part].items()}


def equal(one: dict[str, Tensor], two: dict[str, Tensor]) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def walk(trainer: Trainer) -> None:
    """Train a little under every pattern."""
    for pointers in PATTERNS:
        trainer.rebind(pointers)
        trainer.train(2)


def num_uses(trainer: Trainer) -> dict[nn.Parameter, int]:
    """Count the layers that use each parameter; one outside the blocks is used once."""
    counts = dict.fromkeys(trainer.model.parameters(), 0)
    for block in trainer.model.h:
        for _, parameter in block.named_parameters(remove_duplicate=False):
            counts[parameter] += 1
    return {parameter: max(1, count) for parameter, count in counts.items()}


def test_without_a_rate_of_their_own_tied_weights_train_as_in_plain_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    plain, other = make(tied_rate=0), make(tied_rate=0.5)
    walk(plain)
    walk(other)
    monkeypatch.setattr(module, "set_rates", lambda *_: None)
    grouped = make(tied_rate=0.5)
    walk(grouped)
    assert len(grouped.optimizer.param_groups) > len(plain.optimizer.param_groups)
    assert equal(tensors(grouped), tensors(plain))
    assert not equal(tensors(other), tensors(plain))


@pytest.mark.parametrize("norms", ["shared", "private"])
@pytest.mark.parametrize("tied_rate", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("pattern", ["0 1 1 1", "0 0 0 0", "0 1 0 3"])
def test_a_step_on_weights_of_n_layers_is_adamws_at_a_lower_rate(pattern: str, tied_rate: float, norms: str) -> None:
    trainer = make(tied_rate, norms)
    trainer.model.double()
    trainer.rebind(Pointers((0, 0, 2, 2)))
    trainer.train(3)  # so that there are moments
    trainer.rebind(Pointers.parse(pattern))
    before = {p: p.detach().clone() for p in trainer.model.parameters()}
    state = {p: {k: v.clone() for k, v in trainer.optimizer.state[p].items()} for p in before}
    uses = num_uses(trainer)
    assert max(uses.values()) > 1
    trainer.train(1)
    config = trainer.optim
    for parameter, value in before.items():
        assert parameter.grad is not None
        rate = learning_rate(config, 3, 40) * uses[parameter] ** -tied_rate
        if parameter.dim() >= 2:
            value = value - rate * config.weight_decay * value
        count = int(state[parameter]["step"]) + 1
        first = config.beta1 * state[parameter]["exp_avg"] + (1 - config.beta1) * parameter.grad
        second = config.beta2 * state[parameter]["exp_avg_sq"] + (1 - config.beta2) * parameter.grad**2
        first, second = first / (1 - config.beta1**count), second / (1 - config.beta2**count)
        torch.testing.assert_close(
            parameter.detach(), value - rate * first / (second.sqrt() + 1e-8), rtol=1e-12, atol=1e-12
        )


def test_private_norms_and_what_is_outside_the_blocks_keep_the_plain_rate() -> None:
    trainer = make(1.0, norms="private")
    trainer.rebind(Pointers((0, 0, 0, 0)))
    rate_of = {p: group["rate"] for group in trainer.optimizer.param_groups for p in group["params"]}
    in_blocks = {p for block in trainer.model.h for p in block.parameters()}
    private = {p for block in trainer.model.h[1:] for p in block.parameters()} - set(trainer.model.h[0].parameters())
    assert private and {rate_of[p] for p in private} == {1.0}
    assert {rate_of[p] for p in trainer.model.parameters() if p not in in_blocks} == {1.0}
    assert {rate_of[p] for p in in_blocks if p.dim() >= 2} == {0.25}


@pytest.mark.parametrize("norms", ["shared", "private"])
def test_groups_hold_every_parameter_once_after_any_rebinds(norms: str) -> None:
    generator = random.Random(0)
    everything = list(Pointers.all(4))
    trainer = make(0.5, norms)
    for number in range(30):
        trainer.rebind(generator.choice(everything))
        if number % 5 == 0:
            trainer.train(1)
        held = [p for group in trainer.optimizer.param_groups for p in group["params"]]
        assert len(held) == len(set(held))
        assert set(held) == set(trainer.model.parameters())
        assert trainer.optimizer.state.keys() <= set(held)
        uses = num_uses(trainer)
        for group in trainer.optimizer.param_groups:
            assert {uses[p] ** -0.5 for p in group["params"]} in (set(), {group["rate"]})
            assert {0.1 if p.dim() >= 2 else 0.0 for p in group["params"]} in (set(), {group["weight_decay"]})
            assert group["betas"] == (0.9, 0.99)


def test_a_saved_state_continues_bit_by_bit() -> None:
    whole, other = make(0.5), make(0.5)
    walk(whole)
    other.rebind(Pointers((0, 1, 0, 3)))
    other.train(3)  # a past of its own must not show
    other.load_state_dict(whole.state_dict())
    for trainer in (whole, other):
        trainer.train(2)
        trainer.rebind(Pointers((0, 1, 1, 3)))
        trainer.train(2)
    assert equal(tensors(other), tensors(whole))


@pytest.mark.parametrize("norms", ["shared", "private"])
def test_the_list_of_parameters_is_the_models_own(norms: str) -> None:
    trainer = make(0.5, norms)
    for pointers in PATTERNS:
        trainer.rebind(pointers)
        assert [id(p) for p in trainer._parameters] == [id(p) for p in trainer.model.parameters()]
