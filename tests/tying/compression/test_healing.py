"""Healing: the copy begins as it was asked for, and trains towards the original."""

import pytest
import torch
from perturbed import make_model, make_task

from tying import InputError
from tying.compression import Sources
from tying.compression.healing import Healing
from tying.tasks.causal_lm import CausalLM
from tying.training.config import BindingConfig, OptimConfig, TrainerConfig

pytestmark = pytest.mark.usefixtures("one_thread")
CONFIG = TrainerConfig(iterations=12, batch_size=4, device="cpu")
OPTIM = OptimConfig(learning_rate=1e-3)


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> CausalLM:
    return make_task(tmp_path_factory.mktemp("healing"))


def healing_of(task: CausalLM, text: str, weight: float = 1.0) -> Healing:
    return Healing(task, make_model(task).eval(), Sources.parse(text), BindingConfig(), weight)


def distance(own: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    return (own - wanted).square().mean() / wanted.square().mean()


def test_the_original_is_not_touched(task: CausalLM) -> None:
    healing = healing_of(task, "0 0 - 3")
    before = {name: value.clone() for name, value in healing.original.state_dict().items()}
    trainer = healing.trainer(CONFIG, OPTIM, 0)
    trainer.train(3)
    assert all(torch.equal(before[name], value) for name, value in healing.original.state_dict().items())
    assert all(parameter.grad is None for parameter in healing.original.parameters())
    assert not healing.original.training


def test_the_loss_of_the_original_itself_has_no_distance(task: CausalLM) -> None:
    healing = healing_of(task, "0 1 2 3")
    batch = task.batch(0, 0, 4)
    with torch.no_grad():
        assert float(healing.loss(healing.original, batch)) == float(task.loss(healing.original, batch))


def test_the_distance_is_to_what_the_next_kept_layer_got(task: CausalLM) -> None:
    healing = healing_of(task, "0 - - 3")
    original, batch = healing.original, task.batch(0, 0, 4)
    inputs: dict[int, torch.Tensor] = {}
    for layer, block in enumerate(task.blocks(original)):
        block.register_forward_pre_hook(lambda _, args, layer=layer: inputs.setdefault(layer, args[0].detach()))
    original(batch[0])
    student = healing.build_model(0).eval()
    with torch.no_grad():
        own = student.h[0](inputs[0])  # type: ignore[index]
        last = student.h[1](own)  # type: ignore[index]
        wanted = original.h[3](inputs[3])  # type: ignore[index]
        parts = [distance(own, inputs[3]), distance(last, wanted)]
        expected = task.loss(student, batch) + sum(parts) / 2
        assert float(healing.loss(student, batch)) == pytest.approx(float(expected), rel=1e-6)


def test_without_the_distance_it_is_training_from_these_weights(task: CausalLM) -> None:
    healing = healing_of(task, "0 1 2 3", weight=0.0)
    trainer = healing.trainer(CONFIG, OPTIM, 0)
    losses = [iteration.loss for iteration in trainer.train(3)]

    class FromModel(CausalLM):
        def build_model(self, seed: int | None) -> torch.nn.Module:
            return make_model(task)

    from tying import Trainer

    plain = Trainer(FromModel(task.config, task.model_config, task.data_config), CONFIG, OPTIM, seed=0)
    assert losses == [iteration.loss for iteration in plain.train(3)]


def test_healing_lowers_the_distance(task: CausalLM) -> None:
    healing = healing_of(task, "0 1 - 3")
    trainer = healing.trainer(CONFIG, OPTIM, 0)
    batch = task.batch(1, 0, 16)
    with torch.no_grad():
        before = float(healing.loss(trainer.model, batch))
    trainer.train(12)
    with torch.no_grad():
        assert float(healing.loss(trainer.model, batch)) < before


def test_a_model_keeps_a_layer(task: CausalLM) -> None:
    with pytest.raises(InputError, match="at least one layer"):
        healing_of(task, "- - - -")
