"""Trainers with low-rank deltas: saved states, forks, options, counts."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from corpus import made_up_task

from envs import LayerTyingEnv
from tying import Pointers, Trainer
from tying.errors import InputError
from tying.models.config import GPTConfig
from tying.training import checkpoint
from tying.training.averaging import Averaged
from tying.training.config import BindingConfig, OptimConfig, TrainerConfig

MODEL = GPTConfig(num_layers=4, num_heads=2, width=16, context=16, dropout=0.1)
CHAIN = ["0 0 2 2", "0 1 1 1", "0 1 2 1", "0 0 2 2", "0 1 2 3", "0 0 0 0"]


def trainer(
    rank: int = 3, start: str = "svd", tied_rate: float = 0.0, pointers: Pointers | None = None, **options: Any
) -> Trainer:
    config = TrainerConfig(**{"iterations": 60, "batch_size": 4, "device": "cpu", **options})
    binding = BindingConfig(delta_rank=rank, delta_start=start)  # type: ignore[arg-type]
    optim = OptimConfig(learning_rate=1e-2, tied_rate=tied_rate)
    return Trainer(made_up_task(MODEL), config, optim, binding, seed=0, pointers=pointers)


def losses(made: Trainer, count: int = 3) -> list[float]:
    return [done.loss for done in made.train(count)]


@pytest.mark.parametrize(("start", "tied_rate"), [("svd", 0.0), ("zero", 0.5)])
def test_a_checkpoint_continues_bit_by_bit_over_ties_unties_and_jumps(start: str, tied_rate: float, tmp_path: Path) -> None:
    whole = trainer(start=start, tied_rate=tied_rate)
    for number, text in enumerate(CHAIN):
        whole.rebind(Pointers.parse(text))
        whole.train(2)
        checkpoint.save(whole, tmp_path / str(number))
        other = trainer(start=start, tied_rate=tied_rate, pointers=whole.pointers)
        checkpoint.load(other, tmp_path / str(number))
        ours, theirs = copy.deepcopy(whole.state_dict()), other.state_dict()
        torch.testing.assert_close(theirs, ours, rtol=0, atol=0)
        for made in (whole, other):
            made.rebind(Pointers.parse(CHAIN[number - 1]))
        assert losses(whole) == losses(other)
        torch.testing.assert_close(other.state_dict(), whole.state_dict(), rtol=0, atol=0)


def test_a_fork_leaves_nothing() -> None:
    once, forked = trainer(), trainer()
    for made in (once, forked):
        made.rebind((0, 1, 1, 1))
        made.train(2)
    with forked.undone():
        forked.rebind((0, 0, 2, 2))
        forked.train(2)
    for made in (once, forked):
        made.rebind((0, 1, 1, 3))
    assert losses(once) == losses(forked)


def test_what_is_tied_from_the_start_begins_as_asked_for() -> None:
    """With "zero" as the tied model; with "svd" near the untied one, whose weights are all drawn."""
    pointers = Pointers((0, 0, 0, 0))
    plain = trainer(0, pointers=pointers)
    assert trainer(start="zero", pointers=pointers).evaluate("reward", 2) == plain.evaluate("reward", 2)
    untied, tied = trainer(0), trainer(16, pointers=pointers)
    assert tied.evaluate("reward", 2) == pytest.approx(untied.evaluate("reward", 2), abs=1e-5)
    assert tied.evaluate("reward", 2) != pytest.approx(plain.evaluate("reward", 2), abs=1e-4)


@pytest.mark.parametrize("tied_rate", [0.0, 1.0])
def test_the_optimizer_holds_each_once_and_deltas_learn_at_the_plain_rate(tied_rate: float) -> None:
    made = trainer(tied_rate=tied_rate)
    for text in CHAIN:
        made.rebind(Pointers.parse(text))
        made.train(1)
        held = [p for group in made.optimizer.param_groups for p in group["params"]]
        assert sorted(map(id, held)) == sorted(map(id, made.model.parameters()))
        rates = {id(p): group["rate"] for group in made.optimizer.param_groups for p in group["params"]}
        deltas = [p for own in made.binding.deltas.live for p in own]
        assert len(deltas) == 8 * (4 - made.pointers.num_unique)
        assert {rates[id(p)] for p in deltas} <= {1.0}
        assert all(a is b for a, b in zip(made._parameters, made.model.parameters(), strict=True))


@pytest.mark.parametrize("options", [{"recompute": True}, {"micro_batches": 2}])
def test_options_of_the_trainer_agree(options: dict[str, Any]) -> None:
    made, plain = trainer(**options), trainer()
    for text in CHAIN[:2]:
        for one in (made, plain):
            one.rebind(Pointers.parse(text))
        assert losses(made) == pytest.approx(losses(plain), abs=0 if "recompute" in options else 0.1)


def test_shares_count_the_deltas_that_exist() -> None:
    env = LayerTyingEnv("tiny", **{"model.num_layers": 4, "binding.delta_rank": 3})
    made = trainer()
    d, block = env.training_config.model.width, sum(p.numel() for p in made.binding.weights_of(0))
    assert made.binding.trainable_params_of((0, 0, 2, 2)) == 2 * block + 2 * 16 * 16 * 3  # 16 d r for each, d = 16
    count = env.simulator._counter.trainable_params_of
    whole = count((0, 1, 2, 3))
    assert count((0, 0, 2, 2)) == whole // 2 + 2 * 16 * d * 3
    assert env.simulator.param_share(Pointers((0, 0, 2, 2))) == pytest.approx(0.5 + 2 * 16 * d * 3 / whole)


def test_averages_are_refused() -> None:
    with pytest.raises(InputError, match="average without deltas"):
        Averaged(trainer().model)
