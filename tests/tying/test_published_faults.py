"""One test for each demonstrated fault of the published code that a trainer of this kind could have.

The published code: github.com/tamirdh/Dynamic-Layer-Tying. Faults are numbered as in the README's table.
"""

from pathlib import Path

import pytest
import torch
from blocks import adamw, batch, slots, step, storages, tiny_gpt
from corpus import made_up_task

from envs import FormulaTyingEnv
from tying import LayerBinding, Pointers, Trainer
from tying.models.config import GPTConfig
from tying.training import checkpoint
from tying.training.config import OptimConfig, TrainerConfig
from tying.training.layer_statistics import training_bytes


def small_trainer(optim: OptimConfig | None = None, precision: str = "fp32") -> Trainer:
    config = TrainerConfig(iterations=20, batch_size=4, device="cpu", precision=precision)  # type: ignore[arg-type]
    return Trainer(made_up_task(GPTConfig(num_layers=3, num_heads=2, width=16, context=16)), config, optim)


def test_fault_01_untying_gives_back_weights_of_its_own() -> None:
    """Published: untying kept the storage aliased, so that the number of distinct weights could only shrink."""
    model = tiny_gpt()
    optimizer = adamw(model)
    binding = LayerBinding(model.h, optimizer)
    generator = torch.Generator().manual_seed(0)
    pointers = Pointers.independent(6)
    for number in range(60):
        layer = 1 + number % 5
        pointers = pointers.move(layer, int(torch.randint(0, layer + 1, (), generator=generator)))
        binding.rebind(pointers)
        step(model, optimizer, number)
        assert len(storages([block.attn.qkv.weight for block in model.h])) == pointers.num_unique
    binding.rebind(Pointers.independent(6))
    step(model, optimizer)
    values = [block.attn.qkv.weight for block in model.h]
    assert all(not torch.equal(values[i], values[j]) for i in range(6) for j in range(i))


def test_fault_02_shared_weights_are_updated_once_per_step() -> None:
    """Published: each alias had its own AdamW state and moved the one storage again."""
    model = tiny_gpt(4)
    optimizer = adamw(model)
    binding = LayerBinding(model.h, optimizer)
    binding.rebind((0, 1, 2, 3))
    binding.rebind((0, 0, 0, 0))
    alone = torch.nn.Parameter(model.h[0].mlp.up.weight.detach().clone())
    by_hand = torch.optim.AdamW([alone], lr=1e-2, weight_decay=0.1)
    for number in range(3):
        step(model, optimizer, number)
        alone.grad = model.h[0].mlp.up.weight.grad.clone()
        by_hand.step()
        torch.testing.assert_close(model.h[3].mlp.up.weight, alone, rtol=0, atol=1e-14)


def test_fault_03_parameters_are_counted_as_they_exist() -> None:
    """Published: six trainable layers were claimed where one storage existed."""
    model = tiny_gpt()
    binding = LayerBinding(model.h)
    for pointers in Pointers.all(6):
        binding.rebind(pointers)
        exist = {p.untyped_storage().data_ptr(): p.untyped_storage().nbytes() // 8 for p in model.h.parameters()}
        assert binding.trainable_params == sum(exist.values())


def test_fault_04_every_tied_position_gives_weight_gradient() -> None:
    """Published: only the source's own position did, with cosine 0.83 to the true gradient."""
    model = tiny_gpt(4)
    LayerBinding(model.h).rebind((0, 0, 0, 0))
    model.loss(*batch()).backward()
    found = model.h[0].mlp.up.weight.grad
    weight = model.h[0].mlp.up.weight
    direction = torch.randn(weight.shape, dtype=weight.dtype, generator=torch.Generator().manual_seed(1))
    losses = []
    for sign in (1, -1):
        with torch.no_grad():
            weight += sign * 1e-5 * direction
            losses.append(float(model.loss(*batch())))
            weight -= sign * 1e-5 * direction
    assert float((found * direction).sum()) == pytest.approx((losses[0] - losses[1]) / 2e-5, rel=1e-6)


def test_fault_05_all_tied_at_the_start_trains_the_shared_block() -> None:
    """Published: the shared block was frozen until the first sweep over the layers was over."""
    model = tiny_gpt(4)
    optimizer = adamw(model)
    LayerBinding(model.h, optimizer).rebind((0, 0, 0, 0))
    before = {name: p.detach().clone() for name, p in slots(model.h[3]).items()}
    step(model, optimizer)
    moved = [name for name, p in slots(model.h[3]).items() if not torch.equal(p, before[name])]
    assert set(moved) == set(before)


def test_fault_06_dependents_of_a_layer_that_is_tied_again_are_not_orphaned() -> None:
    """Published: they stayed on frozen weights that nothing trained."""
    model = tiny_gpt(4)
    optimizer = adamw(model)
    binding = LayerBinding(model.h, optimizer)
    pointers = Pointers((0, 1, 1, 1))
    binding.rebind(pointers)
    kept = slots(model.h[1])["attn.qkv.weight"]
    binding.rebind(pointers.move(1, 0))
    assert binding.pointers == (0, 0, 2, 2)
    assert slots(model.h[2])["attn.qkv.weight"] is slots(model.h[3])["attn.qkv.weight"] is kept
    before = kept.detach().clone()
    step(model, optimizer)
    assert not torch.equal(kept, before)


def test_fault_07_the_reward_tells_patterns_apart_at_high_perplexity() -> None:
    """Published: the reward was the constant -10 until perplexity fell below 10."""
    rewards = {}
    for name in ("improvement", "level", "paper"):
        for action in (0, 1):
            env = FormulaTyingEnv(num_decisions=200, reward={"name": name})
            env.reset(seed=0)
            rewards[name, action] = env.step(action)[1]
    assert rewards["paper", 0] == rewards["paper", 1] == -10
    assert rewards["improvement", 0] != rewards["improvement", 1]
    assert rewards["level", 0] != rewards["level", 1]


def test_fault_08_optimizer_state_follows_the_tying() -> None:
    """Published: moments were never freed on a tie, and stale on an untie."""
    model = tiny_gpt(4)
    optimizer = adamw(model)
    binding = LayerBinding(model.h, optimizer)
    step(model, optimizer)
    untied = training_bytes(model.parameters(), optimizer)
    block = sum(p.numel() for p in model.h[0].parameters())
    binding.rebind((0, 0, 0, 0))
    assert untied - training_bytes(model.parameters(), optimizer) == 3 * block * 4 * 8
    step(model, optimizer)
    binding.rebind((0, 1, 0, 0))
    for copied, source in zip(binding.weights_of(1), binding.weights_of(0), strict=True):
        for key, value in optimizer.state[source].items():
            assert torch.equal(optimizer.state[copied][key], value)
            assert optimizer.state[copied][key] is not value


def test_fault_12_the_tying_is_in_the_checkpoint(tmp_path: Path) -> None:
    """Published: a saved model came back with the all-zero state and frozen layers."""
    saved, loaded = small_trainer(), small_trainer()
    saved.rebind((0, 1, 0))
    saved.train(3)
    checkpoint.save(saved, tmp_path / "checkpoint")
    checkpoint.load(loaded, tmp_path / "checkpoint")
    assert loaded.pointers == (0, 1, 0)
    assert slots(loaded.model.h[2])["mlp.up.weight"] is slots(loaded.model.h[0])["mlp.up.weight"]
    assert all(parameter.requires_grad for parameter in loaded.model.parameters())
    assert [done.loss for done in loaded.train(3)] == [done.loss for done in saved.train(3)]


def test_fault_14_small_steps_move_norm_gains() -> None:
    """Published: weights kept in bf16 without a master copy could not move gains at a learning rate of 1e-4."""
    trainer = small_trainer(OptimConfig(learning_rate=1e-4, warmup_iterations=0), precision="bf16")
    before = trainer.model.ln_f.weight.detach().clone()  # type: ignore[union-attr, operator]
    trainer.train(1)
    assert not torch.equal(trainer.model.ln_f.weight, before)  # type: ignore[arg-type]


def test_fault_15_evaluation_builds_no_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    """Published: the reward's forward pass recorded a graph that nobody used."""
    trainer = small_trainer()
    losses: list[torch.Tensor] = []
    loss = trainer.model.loss
    monkeypatch.setattr(trainer.model, "loss", lambda *sides: losses.append(loss(*sides)) or losses[-1])
    trainer.evaluate("reward", 2)
    assert len(losses) == 2
    assert all(found.grad_fn is None for found in losses)
