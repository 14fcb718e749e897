"""What a fixed model makes of batches, computed once for those that are asked again."""

import gc

import pytest
import torch
from torch import Tensor, nn

from tying.tasks.remembered import Remembered


class Counted:
    """A computation that counts."""

    def __init__(self) -> None:
        self.model = nn.Linear(1, 1)
        self.count = 0

    def __call__(self, model: nn.Module, tokens: Tensor) -> Tensor:
        assert model is self.model and not model.training and not torch.is_grad_enabled()
        self.count += 1
        return model(tokens)  # type: ignore[no-any-return]


@pytest.mark.parametrize(("memory", "computed"), [(24, 2), (23, 3), (0, 4)])  # an answer has 12 bytes
def test_answers_are_kept_within_a_bound_of_memory(memory: int, computed: int) -> None:
    counted = Counted()
    answer = Remembered(counted.model, counted, memory)
    batches = [torch.ones(3, 1), torch.zeros(3, 1)]
    for batch in [*batches, *batches]:
        assert torch.equal(answer(batch), counted.model(batch))
    assert counted.count == computed


def test_answers_are_kept_as_long_as_their_tokens() -> None:
    counted = Counted()
    answer = Remembered(counted.model, counted, memory=12)
    first = torch.ones(3, 1)
    answer(first)
    del first
    gc.collect()
    second = torch.zeros(3, 1)  # there is room for it again
    answer(second), answer(second)
    assert counted.count == 2


def test_the_model_follows_the_tokens_to_their_device() -> None:
    counted = Counted()
    assert Remembered(counted.model, counted)(torch.ones(3, 1, device="meta")).device.type == "meta"
    assert counted.model.weight.device.type == "meta"
