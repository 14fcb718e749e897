"""BlockWalk: what it answers is the loss of a model that is tied, cut and evaluated for real."""

import copy
import dataclasses
import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from perturbed import make_model, make_task
from torch import Tensor, nn

from tying import InputError, LayerBinding, Pointers
from tying.compression import BlockWalk, Sources
from tying.compression.healing import Healing
from tying.tasks.base import Task
from tying.tasks.causal_lm import CausalLM
from tying.training.config import BindingConfig, TrainerConfig

pytestmark = pytest.mark.usefixtures("one_thread")

BINDINGS = [
    BindingConfig(),
    BindingConfig(norms="private"),
    BindingConfig(share="attention"),
    BindingConfig(share="feed_forward", delta_rank=2),
]


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> CausalLM:
    return make_task(tmp_path_factory.mktemp("walk"))


def real_loss(task: Task, model: nn.Module, sources: Sources, binding: BindingConfig, batches: list) -> float:
    healing = Healing(task, model, sources, binding, 0.0)
    trainer = healing.trainer(TrainerConfig(iterations=1, device="cpu"), None, 0)
    trainer.model.eval()
    assert trainer.pointers == sources.pointers
    return task.metrics(trainer.model, batches)["loss"]


def test_every_tying_is_answered_as_if_it_were_done(task: CausalLM) -> None:
    model, batches = make_model(task), list(task.evaluation_batches("reward", 4, 2))
    walk = BlockWalk(task, model, batches)
    for pointers in Pointers.all(4):
        copied = copy.deepcopy(model).eval()
        LayerBinding(task.blocks(copied)).rebind(pointers)
        assert walk.loss(Sources(pointers)) == pytest.approx(task.metrics(copied, batches)["loss"], abs=1e-6)


@pytest.mark.parametrize(
    ("num_layers", "binding"), [(4, BINDINGS[0]), *((3, binding) for binding in BINDINGS[1:])], ids=str
)
def test_every_pattern_is_answered_as_if_it_were_done(tmp_path: Path, num_layers: int, binding: BindingConfig) -> None:
    """With all donors and removals: 625 patterns of four layers, 64 of three."""
    task = make_task(tmp_path, num_layers)
    model, batches = make_model(task), list(task.evaluation_batches("reward", 4, 1))
    walk = BlockWalk(task, model, batches, binding.share, binding.norms, delta_rank=binding.delta_rank)
    for values in itertools.product([None, *range(num_layers)], repeat=num_layers):
        sources = Sources(values)
        if sources.kept:
            expected = real_loss(task, model, sources, binding, batches)
            assert walk.loss(sources) == pytest.approx(expected, abs=1e-6), sources


@pytest.mark.parametrize("binding", BINDINGS, ids=str)
def test_parameters_are_counted_as_the_copy_has_them(task: CausalLM, binding: BindingConfig) -> None:
    model = make_model(task)
    walk = BlockWalk(
        task, model, task.evaluation_batches("reward", 4, 1), binding.share, binding.norms, delta_rank=binding.delta_rank
    )
    for text in ("0 1 2 3", "0 0 2 2", "3 - 3 0", "- - 1 -"):
        healing = Healing(task, model, Sources.parse(text), binding, 0.0)
        trainer = healing.trainer(TrainerConfig(iterations=1, device="cpu"), None, 0)
        assert walk.block_params(Sources.parse(text)) == trainer.binding.trainable_params, text
    assert walk.block_params(Sources([None] * 4)) == 0


def test_a_model_without_layers_is_answered_too(task: CausalLM) -> None:
    model, batches = make_model(task), list(task.evaluation_batches("reward", 4, 1))
    empty = copy.deepcopy(model)
    empty.h = nn.ModuleList()  # type: ignore[assignment]
    assert BlockWalk(task, model, batches).loss(Sources([None] * 4)) == pytest.approx(task.metrics(empty, batches)["loss"])


def test_questions_leave_the_model_as_it_was(task: CausalLM) -> None:
    model = make_model(task).train()
    model.h[1].eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    BlockWalk(task, model, task.evaluation_batches("reward", 4, 1)).loss(Sources.parse("3 - 3 0"))
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert [block.training for block in task.blocks(model)] == [True, False, True, True]
    assert all("forward" not in vars(block) and not block._forward_hooks for block in task.blocks(model))
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())


def test_a_walk_runs_every_prefix_once(tmp_path: Path) -> None:
    task = make_task(tmp_path, num_layers=6)
    walk = BlockWalk(task, make_model(task), task.evaluation_batches("reward", 4, 1))
    begun = walk.block_runs  # of the untied model, which is asked at once
    assert begun == 6
    walk.losses(map(Sources, Pointers.all(6)))
    assert walk.block_runs == 1 + 2 + 5 + 15 + 52 + 203  # the prefixes: as many as there are tyings of 1 to 6 layers


def test_without_memory_the_answers_are_the_same(task: CausalLM) -> None:
    model, batches = make_model(task), list(task.evaluation_batches("reward", 4, 2))
    many = list(map(Sources, Pointers.all(4)))
    walk, forgetful = BlockWalk(task, model, batches), BlockWalk(task, model, batches, memory=0)
    assert walk.losses(many) == forgetful.losses(many)
    assert forgetful.block_runs == 2 * 4 * (1 + len(many))
    assert not forgetful._kept


class Twice(nn.Module):
    """Runs its first block once more at the end."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.inner = model
        self.h = model.h

    def loss(self, tokens: Tensor, targets: Tensor) -> Tensor:
        self.h[0](torch.zeros(1, 1, 16))
        return self.inner.loss(tokens, targets)  # type: ignore[operator]


class Skips(nn.Module):
    """Adds what goes into its first block to what comes out of its last."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.inner = model
        self.h = model.h

    def loss(self, tokens: Tensor, targets: Tensor) -> Tensor:
        kept: list[Tensor] = []
        inner: nn.Module = self.inner
        first = self.h[0].register_forward_pre_hook(lambda block, args: kept.append(args[0]))
        second = self.h[2].register_forward_pre_hook(lambda block, args: (args[0] + kept[0],))
        try:
            return inner.loss(tokens, targets)  # type: ignore[operator]
        finally:
            first.remove()
            second.remove()


@pytest.mark.parametrize(("kind", "words"), [(Twice, "not run once each"), (Skips, "more than a chain")])
def test_a_model_that_is_no_chain_of_blocks_is_refused(task: CausalLM, kind: type, words: str) -> None:
    with pytest.raises(InputError, match=words):
        BlockWalk(task, kind(make_model(task)), task.evaluation_batches("reward", 4, 1))


@pytest.mark.parametrize("option", ["kv_sharing", "attention_sharing"])
@pytest.mark.parametrize(
    ("text", "words"), [("cla:2", r"of other blocks \(.*model\.{}"), ("tied", "^model.{} = 'tied': a block")]
)
def test_blocks_that_read_what_others_made_are_refused(tmp_path: Path, option: str, text: str, words: str) -> None:
    """Keys and values of a recorded run would be those of the original, whatever the pattern."""
    plain = make_task(tmp_path)
    sharing = dataclasses.replace(plain.model_config, **{option: text})
    task = CausalLM(plain.config, sharing, plain.data_config)
    with pytest.raises(InputError, match=words.format(option)):
        BlockWalk(task, make_model(task), plain.evaluation_batches("reward", 4, 1))


@pytest.mark.parametrize(
    "options",
    [
        {"residual": "looped"},
        {"residual": "deepnet", "norm_place": "post"},
        {"depth_embedding": "sinusoid"},
        {"halting": "act"},
    ],
    ids=str,
)
def test_a_model_whose_blocks_depend_on_the_others_is_refused(task: CausalLM, options: dict[str, Any]) -> None:
    model = make_model(task)
    model.config = dataclasses.replace(model.config, **options)
    with pytest.raises(InputError, match=f"^model.{next(iter(options))} = .*: a block depends on the others"):
        BlockWalk(task, model, task.evaluation_batches("reward", 4, 1))


def test_sources_of_another_length_are_refused(task: CausalLM) -> None:
    walk = BlockWalk(task, make_model(task), task.evaluation_batches("reward", 4, 1))
    with pytest.raises(InputError, match="3 layers, the model has 4"):
        walk.loss(Sources.parse("0 1 2"))
