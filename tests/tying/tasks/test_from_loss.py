"""FromLoss: a task made of a model, its loss and its batches."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tying.errors import InputError
from tying.tasks.from_loss import FromLoss

SPLITS = ("train", "reward", "test")


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.ModuleDict({"blocks": nn.ModuleList(nn.Linear(4, 4) for _ in range(3))})
        self.head = nn.Linear(4, 7)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.inner["blocks"]:  # type: ignore[union-attr]
            x = x + block(x)
        return self.head(x)


def loss(model: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
    return F.cross_entropy(model(batch[0]), batch[1])


def batches(*sizes: int) -> list[tuple[Tensor, ...]]:
    return [(torch.full((size, 4), float(number)), torch.zeros(size).long()) for number, size in enumerate(sizes)]


def make(**others: Any) -> FromLoss:
    torch.manual_seed(0)
    return FromLoss(Model(), loss, {**dict.fromkeys(SPLITS, batches(2, 3, 4, 5, 6)), **others}, "inner.blocks")


def test_batches_are_those_that_were_given() -> None:
    task = make()
    numbers = [int(task.batch(3, index, 8)[0][0, 0]) for index in range(7)]
    assert numbers == [3, 4, 0, 1, 2, 3, 4]
    spread = [int(batch[0][0, 0]) for batch in task.evaluation_batches("test", 8, 2)]
    assert spread == [0, 2]
    assert [task.size(batch) for batch in task.evaluation_batches("test", 8)] == [2, 3, 4, 5, 6]
    assert len(list(task.evaluation_batches("test", 8, 9))) == 5


def test_a_model_that_knows_nothing_guesses_uniformly() -> None:
    task = make()
    assert task.uninformed_loss == pytest.approx(math.log(7))
    assert all(bool(parameter.any()) for parameter in task.build_model(0).parameters())


def test_blocks_are_removed_from_copies() -> None:
    task = make()
    model = task.build_model(0)
    first, _, last = task.blocks(model)
    task.remove_blocks(model, {1})
    assert list(task.blocks(model)) == [first, last]
    assert task.num_layers == len(task.blocks(task.build_model(0))) == 3


def test_facts_tell_other_batches_apart() -> None:
    other = batches(2, 3, 4, 5, 6)
    other[1][0][0, 0] += 1e-3
    same = make().facts()
    assert make().facts() == same
    assert make(test=other).facts() != same != make(train=batches(2, 3, 4)).facts()


@pytest.mark.parametrize("wrong", [[], [torch.zeros(3)], [()], [(1, 2)], None], ids=str)
def test_other_batches_are_refused_in_one_line(wrong: Any) -> None:
    make().require()
    with pytest.raises(InputError, match=r"^batches\['reward'\]: expected a sequence of batches, each a tuple of tensors$"):
        make(reward=wrong).require()


def test_a_path_without_blocks_is_refused() -> None:
    with pytest.raises(InputError, match="Model has no ModuleList of blocks at 'head'"):
        FromLoss(Model(), loss, {}, "head")
