"""Divergence: the KL divergence from an original, by brute force, in questions and in healing."""

from pathlib import Path

import pytest
import torch
from perturbed import make_model, make_task

from tying import InputError
from tying.compression import BlockWalk, Sources
from tying.compression.divergence import Divergence
from tying.compression.healing import Healing
from tying.tasks.causal_lm import CausalLM
from tying.tasks.config import PHopConfig
from tying.tasks.p_hop import PHop
from tying.training.config import BindingConfig, OptimConfig, TrainerConfig

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> CausalLM:
    return make_task(tmp_path_factory.mktemp("divergence"))


def by_hand(task: CausalLM, model: torch.nn.Module, sources: Sources, batches: list) -> float:
    """Return the mean over tokens of the sum over the vocabulary of p (log p - log q)."""
    copied = Healing(task, model, sources, BindingConfig(), 0.0).build_model(0).eval()
    found = []
    with torch.no_grad():
        for tokens, _ in batches:
            p, q = (m(tokens).double().softmax(-1) for m in (model, copied))
            found += (p * (p.log() - q.log())).sum(-1).flatten().tolist()
    return sum(found) / len(found)


def test_the_original_has_none(task: CausalLM) -> None:
    model = make_model(task).eval()
    walk = BlockWalk(Divergence(task, model), model, task.evaluation_batches("reward", 4, 2))
    assert walk.original == walk.loss(Sources.original(4)) == 0.0


@pytest.mark.parametrize("text", ["0 0 2 3", "0 - 2 2", "3 3 3 3", "- - - 1"])
def test_questions_are_answered_with_the_sum_over_the_vocabulary(task: CausalLM, text: str) -> None:
    model, batches = make_model(task).double().eval(), list(task.evaluation_batches("reward", 4, 2))
    walk = BlockWalk(Divergence(task, model), model, batches)
    expected = by_hand(task, model, Sources.parse(text), batches)
    assert expected > 1e-3
    assert walk.loss(Sources.parse(text)) == pytest.approx(expected, rel=1e-10)


def test_healing_lowers_it(task: CausalLM) -> None:
    model = make_model(task).eval()
    divergence = Divergence(task, model)
    sources = Sources.parse("0 0 2 -")
    walk = BlockWalk(divergence, model, task.evaluation_batches("reward", 4, 2))
    healing = Healing(divergence, model, sources, BindingConfig(), 1.0)
    trainer = healing.trainer(TrainerConfig(iterations=12, batch_size=4, device="cpu"), OptimConfig(learning_rate=1e-3), 0)
    before = trainer.evaluate("reward", 2)
    assert before == pytest.approx(walk.loss(sources), abs=1e-6)
    trainer.train(12)
    assert 0 < trainer.evaluate("reward", 2) < before


def test_other_tasks_are_refused_in_one_line(tmp_path: Path) -> None:
    task = PHop(PHopConfig(), make_task(tmp_path).model_config, make_task(tmp_path).data_config)
    with pytest.raises(InputError, match="--objective kl: it is for causal language models"):
        Divergence(task, torch.nn.Linear(1, 1))
