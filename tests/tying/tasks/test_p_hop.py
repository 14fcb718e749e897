"""p-hop induction: answers by brute force, streams, and that a model can learn it."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from tying import Trainer, tasks
from tying.data.corpora import DataConfig
from tying.errors import InputError
from tying.models.config import GPTConfig
from tying.tasks.config import PHopConfig
from tying.tasks.p_hop import IGNORED, PHop, answers
from tying.training.config import OptimConfig, TrainerConfig

SMALL = GPTConfig(num_layers=2, num_heads=2, width=16, context=24)


def task_of(model: GPTConfig = SMALL, **settings: int) -> PHop:
    task = tasks.make(PHopConfig(**settings), model, DataConfig())
    assert isinstance(task, PHop)
    return task


def by_looking_back(tokens: list[int], hops: int) -> list[int]:
    """Return the answers of one sequence, as the definition has them."""
    found = []
    for place in range(len(tokens)):
        for _ in range(hops):
            earlier = [j for j in range(place) if tokens[j] == tokens[place]]
            if not earlier:
                found.append(IGNORED)
                break
            place = earlier[-1] + 1
        else:
            found.append(tokens[place])
    return found


@given(st.integers(1, 6), st.integers(1, 6), st.integers(1, 30), st.integers(1, 4), st.integers(0, 10_000))
def test_answers_are_those_of_looking_back(alphabet: int, hops: int, length: int, rows: int, seed: int) -> None:
    tokens = np.random.default_rng(seed).integers(0, alphabet, (rows, length))
    assert answers(tokens, hops).tolist() == [by_looking_back(row, hops) for row in tokens.tolist()]


def test_a_sequence_by_hand() -> None:
    """Of the last b: the b before it leads to a, the a before that to c, the c before that to b."""
    a, b, c = range(3)
    tokens = np.array([[c, b, a, c, b, a, b]])
    assert [answers(tokens, hops)[0, -1] for hops in (1, 2, 3)] == [a, c, b]
    assert answers(tokens, 1)[0].tolist() == [IGNORED, IGNORED, IGNORED, b, a, c, a]


def test_batches_are_a_function_of_seed_and_index_and_splits_are_streams_of_their_own() -> None:
    task, again = task_of(), task_of()
    tokens, targets = task.batch(3, 5, 8)
    assert torch.equal(tokens, again.batch(3, 5, 8)[0])
    assert targets.tolist() == [by_looking_back(row, 4) for row in tokens.tolist()]
    others = [task.batch(3, 6, 8)[0], task.batch(4, 5, 8)[0]]
    others += [next(task.evaluation_batches(split, 8))[0] for split in ("train", "reward", "test")]
    rows = [tuple(row) for batch in (tokens, *others) for row in batch.tolist()]
    assert len(set(rows)) == len(rows)


def test_a_split_is_evaluated_once_and_the_same_by_every_batch_size() -> None:
    task = task_of(eval_sequences=50)
    parts = list(task.evaluation_batches("test", 8))
    assert [len(tokens) for tokens, _ in parts] == [8] * 6 + [2]
    (whole,) = task.evaluation_batches("test", 50)
    assert torch.equal(torch.cat([tokens for tokens, _ in parts]), whole[0])
    some = list(task.evaluation_batches("test", 8, num_batches=3))
    assert [len(tokens) for tokens, _ in some] == [8, 8, 8]
    assert torch.equal(some[0][0][0], whole[0][0]) and torch.equal(some[-1][0][-1], whole[0][-1])  # spread over all of it
    model = task.build_model(0)
    one, other = task.metrics(model, parts), task.metrics(model, [whole])
    assert one == pytest.approx(other, abs=1e-6)


@torch.no_grad()
def test_loss_and_metrics_count_positions_with_an_answer_alone() -> None:
    task = task_of()
    model = task.build_model(0)
    batch = task.batch(0, 0, 4)
    counted = batch[1] != IGNORED
    assert 0 < task.size(batch) == int(counted.sum()) < batch[1].numel()
    logits = model(batch[0])
    expected = F.cross_entropy(logits[counted], batch[1][counted])
    assert float(task.loss(model, batch)) == pytest.approx(float(expected))
    found = task.metrics(model, [batch])
    assert found["loss"] == pytest.approx(float(expected))
    assert found["accuracy"] == pytest.approx(float((logits.argmax(-1) == batch[1])[counted].float().mean()))
    assert task.uninformed_loss == math.log(4)
    nothing = (batch[0], torch.full_like(batch[1], IGNORED))
    assert float(task.loss(model, nothing)) == 0.0


def test_a_model_learns_one_hop() -> None:
    """Two layers suffice for one hop (Olsson et al. 2022, arXiv 2209.11895): far below the guess at 1.386 nats."""
    task = task_of(GPTConfig(num_layers=2, num_heads=2, width=32, context=16), hops=1)
    optim = OptimConfig(learning_rate=1e-2, warmup_iterations=20)
    trainer = Trainer(task, TrainerConfig(iterations=120, batch_size=32, device="cpu"), optim, seed=0)
    trainer.train(120)
    assert trainer.evaluate("test") < 1.0


def test_a_context_without_answers_is_refused() -> None:
    with pytest.raises(InputError, match=r"model\.context = 2: too short for 4 hops over 9000 letters"):
        task_of(GPTConfig(context=2), alphabet=9000, eval_sequences=4).require()


@pytest.mark.parametrize("name", ["path", "hf"])
def test_a_text_is_refused_since_none_is_read(name: str) -> None:
    with pytest.raises(InputError, match=rf"data\.{name} = 'x'"):
        PHopConfig().require_data(DataConfig(**{name: "x"}))


def test_what_the_data_are_is_told_by_their_digest() -> None:
    facts = [task_of(**settings).facts() for settings in ({}, {"hops": 3}, {"alphabet": 5})]
    assert len({each["corpus_sha256"] for each in facts}) == 3
    assert facts[0]["corpus"] == "p-hop induction (4 hops, 4 letters)"
    assert task_of().facts() == facts[0]
