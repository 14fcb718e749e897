"""Rules that look at the model, against definitions computed one by one."""

import copy
import itertools

import numpy as np
import pytest
import torch
from corpus import made_up_task

from tying.compression import Sources
from tying.compression.informed import (
    greedy_merging,
    greedy_removal,
    least_change,
    merged,
    rules,
    similar_outputs,
    similar_weights,
)
from tying.compression.search import Questions
from tying.compression.walk import BlockWalk
from tying.models.config import GPTConfig

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def ask() -> Questions:
    """Questions to five layers, of which the last is the second with a little noise."""
    task = made_up_task(GPTConfig(num_layers=5, num_heads=2, width=16, context=8))
    model = task.build_model(0)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
        model.h[4].load_state_dict(copy.deepcopy(model.h[1].state_dict()))
        for parameter in model.h[4].parameters():
            parameter.add_(0.01 * torch.randn(parameter.shape, generator=generator))
    return Questions(BlockWalk(task, model, task.evaluation_batches("reward", 4, 2)))


def test_layers_of_like_weights_are_merged_first(ask: Questions) -> None:
    similarity = similar_weights(ask.walk)
    first, second = (ask.walk.model.h[layer] for layer in (1, 4))
    pairs = [(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True) if a.dim() >= 2]
    assert similarity[1, 4] == pytest.approx(
        np.mean([float(torch.cosine_similarity(a.detach().flatten(), b.detach().flatten(), 0)) for a, b in pairs])
    )
    assert similarity == pytest.approx(similarity.T) and np.diag(similarity) == pytest.approx(1)
    assert merged(similarity, 4) == Sources.parse("0 1 2 3 1")


def test_outputs_are_compared_token_by_token(ask: Questions) -> None:
    outputs: list[list[torch.Tensor]] = [[] for _ in range(5)]
    for layer, block in enumerate(ask.walk.model.h):
        block.register_forward_hook(lambda _, __, output, layer=layer: outputs[layer].append(output.flatten(0, 1)))
    task = ask.walk.task
    with torch.no_grad():
        for batch in task.evaluation_batches("reward", 4, 2):
            task.loss(ask.walk.model, batch)
    joined = [torch.cat(parts) for parts in outputs]
    similarity = similar_outputs(ask.walk)
    for i, j in itertools.product(range(5), repeat=2):
        assert similarity[i, j] == pytest.approx(
            float(torch.cosine_similarity(joined[i], joined[j], dim=1).mean()), abs=1e-5
        )


def test_similarity_of_groups_is_the_mean_of_their_pairs() -> None:
    similarity = np.array([[1, 0.9, 0.1, 0.2], [0.9, 1, 0.8, 0.2], [0.1, 0.8, 1, 0.5], [0.2, 0.2, 0.5, 1]])
    assert merged(similarity, 3) == Sources.parse("0 0 2 3")
    # 0 and 1 are together: with 2 they have (0.1 + 0.8) / 2, less than 2 and 3 have.
    assert merged(similarity, 2) == Sources.parse("0 0 2 2")
    assert merged(similarity, 1) == Sources.parse("0 0 0 0")


def test_the_layers_that_change_their_input_least_are_removed(ask: Questions) -> None:
    with torch.no_grad():
        ask.walk.model.h[2].attn.proj.weight.mul_(1e-3)
        ask.walk.model.h[2].mlp.down.weight.mul_(1e-3)
    quiet = BlockWalk(ask.walk.task, ask.walk.model, [r.batch for r in ask.walk._recorded])
    assert least_change(quiet, 4) == Sources.parse("0 1 - 3 4")


def test_greedy_rules_take_the_best_step_each_time(ask: Questions) -> None:
    merges = [
        Sources(i if layer in (i, j) else layer for layer in range(5)) for i, j in itertools.combinations(range(5), 2)
    ]
    assert greedy_merging(ask, 4) == min(merges, key=ask)
    count = len(ask.asked)
    assert greedy_merging(ask, 3).num_sets == 3
    assert len(ask.asked) == count + 4 * 3 // 2  # the first ten are known
    removals = [Sources(None if layer == i else layer for layer in range(5)) for i in range(5)]
    assert greedy_removal(ask, 4) == min(removals, key=ask)
    assert greedy_removal(ask, 2).num_sets == 2 == len(greedy_removal(ask, 2).kept)


def test_every_rule_has_its_number_of_sets(ask: Questions) -> None:
    for num_sets, removing in itertools.product(range(1, 5), (False, True)):
        found = rules(ask, num_sets, removing)
        assert all(sources.num_sets == num_sets for sources in found.values())
        assert any(None in sources for sources in found.values()) == removing
