import copy
import random

import pytest
import torch
from torch import nn

from tying import InputError, LayerBinding, Pointers
from tying.training.averaging import Averaged

L = 5
PATTERNS = list(Pointers.all(L))


class Stack(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.h = nn.ModuleList(nn.Linear(3, 3) for _ in range(L))
        self.head = nn.Linear(3, 2)


def perturb(model: nn.Module, generator: torch.Generator) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator))


@pytest.mark.parametrize("decay", [0.5, 0.9, None])
def test_the_average_of_every_set_of_weights_follows_random_rebinds(decay: float | None) -> None:
    """Against averages kept per layer by hand, under the rule of rebind: a root takes its old set's average along."""
    generator = torch.Generator().manual_seed(0)
    choose = random.Random(0)
    model = Stack()
    binding = LayerBinding(model.h)
    averaged = Averaged(model, decay)
    by_layer = [layer.weight.detach().clone() for layer in model.h]
    by_hand_head = model.head.bias.detach().clone()
    for update in range(40):
        perturb(model, generator)
        if update % 3 == 0:
            binding.rebind(new := choose.choice(PATTERNS))
            by_layer = [by_layer[root] for root in new]
        perturb(model, generator)
        share = 1 / (update + 1) if decay is None else 1 - decay
        by_layer = [old + share * (layer.weight.detach() - old) for old, layer in zip(by_layer, model.h, strict=True)]
        by_hand_head += share * (model.head.bias.detach() - by_hand_head)
        averaged.update()
        with averaged.applied():
            for layer, expected in zip(model.h, by_layer, strict=True):
                torch.testing.assert_close(layer.weight.detach(), expected)
            torch.testing.assert_close(model.head.bias.detach(), by_hand_head)


def test_applied_gives_the_weights_back_and_works_right_after_a_rebind() -> None:
    generator = torch.Generator().manual_seed(0)
    model = Stack()
    binding = LayerBinding(model.h)
    binding.rebind((0, 0, 2, 2, 2))
    averaged = Averaged(model, 0.5)
    perturb(model, generator)
    averaged.update()
    binding.rebind(range(L))
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(RuntimeError, match="inside"), averaged.applied():
        assert torch.equal(model.h[0].weight, model.h[1].weight)
        assert not torch.equal(model.h[0].weight, before["h.0.weight"])
        raise RuntimeError("inside")
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_stored_average_goes_on_as_if_never_interrupted() -> None:
    generator = torch.Generator().manual_seed(0)
    model = Stack()
    binding = LayerBinding(model.h)
    averaged = Averaged(model, None)
    perturb(model, generator)
    averaged.update()
    binding.rebind((0, 0, 0, 3, 3))
    resumed = Averaged(model, None)
    resumed.load_state_dict(averaged.state_dict())
    for pattern in ((0, 0, 2, 3, 3), (0, 1, 0, 3, 4)):
        binding.rebind(pattern)
        perturb(model, generator)
        averaged.update()
        resumed.update()
    expected = averaged.state_dict()["averages"]
    assert set(expected) == set(resumed.state_dict()["averages"])
    assert all(torch.equal(value, expected[name]) for name, value in resumed.state_dict()["averages"].items())


def test_a_wrong_decay_and_a_state_of_another_model_are_refused() -> None:
    with pytest.raises(InputError, match=r"decay 1\.5"):
        Averaged(Stack(), 1.5)
    with pytest.raises(InputError, match="another model"):
        Averaged(Stack()).load_state_dict(Averaged(nn.Linear(2, 2)).state_dict())
