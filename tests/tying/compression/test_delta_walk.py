"""BlockWalk with low-rank deltas: what it answers is the loss of a model that is tied with deltas, for real."""

import copy
import itertools
from pathlib import Path

import pytest
import torch
from perturbed import make_model, make_task

from tying import LayerBinding, Pointers
from tying.binding.deltas import Deltas
from tying.compression import BlockWalk, Sources
from tying.compression.healing import Healing
from tying.parts import Parts
from tying.tasks.causal_lm import CausalLM
from tying.training.config import BindingConfig, OptimConfig, TrainerConfig

pytestmark = pytest.mark.usefixtures("one_thread")
SHARES = ("attention", "feed_forward")


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> CausalLM:
    return make_task(tmp_path_factory.mktemp("deltas"))


@pytest.mark.parametrize("rank", [1, 4])
def test_every_tying_is_answered_as_if_it_were_done(task: CausalLM, rank: int) -> None:
    model, batches = make_model(task), list(task.evaluation_batches("reward", 4, 1))
    walk, plain = BlockWalk(task, model, batches, delta_rank=rank), BlockWalk(task, model, batches)
    for pointers in Pointers.all(4):
        copied = copy.deepcopy(model).eval()
        binding = LayerBinding(task.blocks(copied), deltas=Deltas(rank))
        binding.rebind(pointers)
        assert walk.loss(Sources(pointers)) == pytest.approx(task.metrics(copied, batches)["loss"], abs=1e-5), pointers
        assert walk.params(Sources(pointers)) == binding.trainable_params
        if pointers.num_unique < 4:
            assert walk.loss(Sources(pointers)) != pytest.approx(plain.loss(Sources(pointers)), abs=1e-3)


@pytest.mark.parametrize("binding", [BindingConfig(delta_rank=2), BindingConfig(delta_rank=2, norms="private")], ids=str)
def test_copies_that_heal_begin_with_the_loss_that_was_asked_for(task: CausalLM, binding: BindingConfig) -> None:
    model = make_model(task).eval()
    walk = BlockWalk(task, model, task.evaluation_batches("reward", 4, 1), "block", binding.norms, delta_rank=2)
    choices = [None, 0, 1, 2, 3]
    for values in itertools.islice(itertools.product(choices, repeat=4), 2, None, 29):
        sources = Sources(values)
        if not sources.kept:
            continue
        healing = Healing(task, model, sources, binding, 0.0)
        trainer = healing.trainer(TrainerConfig(iterations=1, batch_size=4, device="cpu"), OptimConfig(), 0)
        assert trainer.evaluate("reward", 1) == pytest.approx(walk.loss(sources), abs=1e-5), sources
        deltas = [parameter for own in trainer.binding.deltas.live for parameter in own]
        assert walk.delta_params(sources) == sum(parameter.numel() for parameter in deltas)
        held = {
            id(p) for optimizer in trainer.binding.optimizers for group in optimizer.param_groups for p in group["params"]
        }
        assert all(id(parameter) in held for parameter in deltas)


def test_halves_remember_too(task: CausalLM) -> None:
    model, batches = make_model(task), list(task.evaluation_batches("reward", 4, 1))
    walk = BlockWalk(task, model, batches, SHARES, delta_rank=2)
    for pointers in itertools.islice(Parts(4, "halves").every(), 3, None, 23):
        copied = copy.deepcopy(model).eval()
        for part, share in enumerate(SHARES):
            binding = LayerBinding(task.blocks(copied), share=share, deltas=Deltas(2))
            binding.rebind(Pointers.from_labels(pointers[4 * part : 4 * part + 4]))
        assert walk.loss(Sources(pointers)) == pytest.approx(task.metrics(copied, batches)["loss"], abs=1e-5), pointers


def test_without_memory_the_answers_are_the_same(task: CausalLM) -> None:
    model, batches = make_model(task), list(task.evaluation_batches("reward", 4, 1))
    many = [Sources(pointers) for pointers in Pointers.all(4)]
    walk = BlockWalk(task, model, batches, delta_rank=2)
    forgetful = BlockWalk(task, model, batches, memory=0, delta_rank=2)
    assert walk.losses(many) == forgetful.losses(many)
    assert not forgetful._deltas[0]._kept
    assert len(walk._deltas[0]._kept) == 6  # every position with every one before it


def test_questions_leave_the_model_as_it_was(tmp_path: Path) -> None:
    task = make_task(tmp_path)
    model = make_model(task)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    BlockWalk(task, model, task.evaluation_batches("reward", 4, 1), delta_rank=2).loss(Sources.parse("3 - 3 3"))
    assert before.keys() == model.state_dict().keys()
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert {type(module).__name__ for module in model.modules()} >= {"Linear"}
    assert not any("Delta" in type(module).__name__ for module in model.modules())
