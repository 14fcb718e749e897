"""BlockWalk over halves: what it answers is the loss of a model whose halves are tied apart, for real."""

import copy
import random
from pathlib import Path
from typing import Any

import pytest
from perturbed import make_model, make_task
from torch import nn

from tests.tying.hf import folders
from tying import InputError, LayerBinding, Pointers
from tying.binding.sharing import shared_names
from tying.compression import BlockWalk, Sources
from tying.parts import Parts
from tying.tasks.base import Task

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.filterwarnings("ignore:.*has no weights for pooler")]
SHARES = ("attention", "feed_forward")
HALVES = Parts(4, "halves")


def tied_for_real(task: Task, model: nn.Module, sources: Sources, norms: str, batches: list[Any]) -> float:
    """Return the loss of a copy whose halves have the values of their sources, are bound by two bindings, and tied."""
    copied = copy.deepcopy(model).eval()
    given, blocks = task.blocks(model), task.blocks(copied)
    count = len(blocks)
    for part, share in enumerate(SHARES):
        own = sources[part * count : (part + 1) * count]
        for name in shared_names(given[0], share, norms):
            for block, source in zip(blocks, own, strict=True):
                parameter = block.get_parameter(name)
                if source is None:
                    parameter.data.zero_()
                else:
                    parameter.data.copy_(given[source - part * count].get_parameter(name))
        if None not in own:
            binding = LayerBinding(blocks, share=share, norms=norms)
            binding.rebind(Pointers.from_labels(own))
            assert binding.pointers.num_unique == len(set(own))
    return task.metrics(copied, batches)["loss"]


@pytest.mark.parametrize("norms", ["shared", "private"])
@pytest.mark.parametrize("kind", ["gpt", "bert"])
def test_mixed_patterns_are_answered_as_if_they_were_tied(kind: str, norms: str, tmp_path: Path) -> None:
    task: Task = make_task(tmp_path)
    if kind == "bert":  # norms stand behind its halves
        task = folders.make_task(folders.make_folder("bert", tmp_path / "bert"), tmp_path / "corpus.txt")
    model = make_model(task)
    batches = list(task.evaluation_batches("reward", 4, 2))
    walk = BlockWalk(task, model, batches, SHARES, norms)
    count = len(task.blocks(model))
    generator = random.Random(0)
    patterns = generator.sample(list(Parts(count, "halves").every()), 12)
    many = [Sources(pattern) for pattern in patterns]
    many += [  # donors that are not the first of their group
        Sources([*generator.choices(range(count), k=count), *generator.choices(range(count, 2 * count), k=count)])
        for _ in range(6)
    ]
    losses = walk.losses(many)
    for sources in many:
        expected = tied_for_real(task, model, sources, norms, batches)
        assert losses[sources] == pytest.approx(expected, abs=1e-6), sources
    assert len({round(loss, 5) for loss in losses.values()}) > 10


def test_a_removed_half_adds_nothing_and_a_removed_layer_is_gone(tmp_path: Path) -> None:
    task = make_task(tmp_path)
    model, batches = make_model(task), list(task.evaluation_batches("reward", 4, 1))
    walk, whole = BlockWalk(task, model, batches, SHARES), BlockWalk(task, model, batches, norms="private")
    for text in ("0 1 2 3 4 5 6 -", "0 - 2 3 4 5 4 7", "- 1 1 3 4 - 6 -"):
        sources = Sources.parse(text)
        assert walk.loss(sources) == pytest.approx(tied_for_real(task, model, sources, "shared", batches), abs=1e-6)
    assert walk.loss(Sources.parse("0 - 2 2 4 - 6 6")) == pytest.approx(whole.loss(Sources.parse("0 - 2 2")), abs=1e-6)


def test_a_walk_over_halves_runs_every_prefix_once(tmp_path: Path) -> None:
    task = make_task(tmp_path)
    walk = BlockWalk(task, make_model(task), task.evaluation_batches("reward", 4, 1), SHARES)
    begun = walk.block_runs
    walk.losses(map(Sources, HALVES.every()))
    assert walk.block_runs - begun == 1 + 4 + 25 + 225 - 4  # Bell numbers squared, without the untied model's
    forgetful = BlockWalk(task, walk.model, [r.batch for r in walk._recorded], SHARES, memory=4 * 4 * 16 * 16 * 4)
    assert forgetful.losses(map(Sources, HALVES.every()))
    assert forgetful.block_runs == 4 + 1 + 4 + 25 + 225 - 1  # the order needs no more memory than that of one path


@pytest.mark.parametrize("in_place", [False, True])
def test_attention_runs_once_for_all_feed_forwards_behind_it(in_place: bool, tmp_path: Path) -> None:
    """Also where somebody writes into its output: then it is run again."""
    task = make_task(tmp_path)
    model = make_model(task)
    walk = BlockWalk(task, model, task.evaluation_batches("reward", 4, 1), SHARES)
    expected = walk.losses(map(Sources, HALVES.every()))
    runs = []
    for block in task.blocks(model):
        block.attn.register_forward_hook(lambda module, args, output: output.mul_(1) if in_place else None)  # type: ignore[union-attr]
        block.attn.qkv.register_forward_hook(lambda *args: runs.append(1))  # type: ignore[union-attr]
    walk._kept.clear()
    walk._last.clear()
    assert walk.losses(map(Sources, HALVES.every())) == expected
    pairs = 1 * 1 + 2 * 1 + 5 * 2 + 15 * 5  # of attention sources up to a position and feed-forward sources before it
    assert len(runs) == (1 + 4 + 25 + 225 if in_place else pairs)


def test_parameters_are_those_of_the_halves_that_exist(tmp_path: Path) -> None:
    task = make_task(tmp_path)
    model = make_model(task)
    walk = BlockWalk(task, model, task.evaluation_batches("reward", 4, 1), SHARES)
    block = task.blocks(model)[0]
    sizes = [sum(block.get_parameter(name).numel() for name in shared_names(block, share, "shared")) for share in SHARES]
    assert walk.part_params == tuple(sizes)
    assert walk.set_params == sum(sizes)
    assert walk.params(Sources.parse("0 0 - 3 4 4 4 4")) == 2 * sizes[0] + sizes[1]
    assert sizes[0] != sizes[1]


def test_sources_of_another_kind_are_refused(tmp_path: Path) -> None:
    task = make_task(tmp_path)
    walk = BlockWalk(task, make_model(task), task.evaluation_batches("reward", 4, 1), SHARES)
    with pytest.raises(InputError, match=r"sources\[1\] = 5: a part of another kind"):
        walk.loss(Sources.parse("0 5 2 3 4 5 6 7"))
    with pytest.raises(InputError, match="4 layers, the model has 8"):
        walk.loss(Sources.parse("0 1 2 3"))
