"""The trainer: determinism, private randomness, schedules, micro-batches, options, failures."""

import contextlib
import copy
import gc
import itertools
import math
import shutil
import tempfile

import pytest
import torch
from corpus import made_up_task

from tying import Pointers, Trainer
from tying.errors import DivergenceError, InputError
from tying.models.config import GPTConfig
from tying.training.config import BindingConfig, OptimConfig, TrainerConfig
from tying.training.layer_statistics import gradient_norms, similarities
from tying.training.optim import learning_rate

MODEL = GPTConfig(num_layers=3, num_heads=2, width=16, context=16)
DROPOUT = GPTConfig(num_layers=3, num_heads=2, width=16, context=16, dropout=0.2)


def trainer(model: GPTConfig = MODEL, seed: int = 0, optim: OptimConfig | None = None, **options: object) -> Trainer:
    config = TrainerConfig(**{"iterations": 60, "batch_size": 4, "device": "cpu", **options})  # type: ignore[arg-type]
    return Trainer(made_up_task(model), config, optim or OptimConfig(learning_rate=1e-2), seed=seed)


def losses(made: Trainer, count: int = 10) -> list[float]:
    return [done.loss for done in made.train(count)]


def test_training_learns() -> None:
    made = trainer()
    before = made.evaluate("test")
    made.train(60)
    assert before == pytest.approx(math.log(16), abs=0.1)
    assert made.evaluate("test") < 0.8 * before


def test_equal_seeds_give_equal_runs_and_other_seeds_other_runs() -> None:
    assert losses(trainer(DROPOUT)) == losses(trainer(DROPOUT))
    assert losses(trainer(DROPOUT)) != losses(trainer(DROPOUT, seed=1))


def test_the_run_does_not_depend_on_the_global_generators_nor_move_them() -> None:
    torch.manual_seed(1)
    first = losses(trainer(DROPOUT))
    torch.manual_seed(2)
    state = torch.random.get_rng_state()
    assert losses(trainer(DROPOUT)) == first
    assert torch.equal(torch.random.get_rng_state(), state)


def test_a_trainer_on_the_cpu_leaves_other_devices_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch.manual_seed reseeds CUDA's generators, or queues that for their first use; so does fork_rng without devices."""
    touched: list[str] = []

    class Spy:
        def __getattr__(self, name: str) -> object:
            touched.append(name)
            return lambda *_: None

    for name in ("manual_seed", "manual_seed_all", "seed", "seed_all", "set_rng_state", "get_rng_state", "_lazy_call"):
        monkeypatch.setattr(torch.cuda, name, lambda *_, name=name, **__: touched.append(name))
    monkeypatch.setattr(torch.cuda, "default_generators", (Spy(), Spy()))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    made = trainer(DROPOUT)
    made.rebind((0, 1, 1))
    made.train(2)
    made.evaluate("reward", 1)
    with made.undone():
        made.train(1)
    assert touched == []


def test_a_fork_of_a_large_state_holds_no_copy_of_it_and_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tying.training.trainer._SMALL", 1)
    once, forked = trainer(DROPOUT), trainer(DROPOUT)
    for made in (once, forked):
        made.rebind((0, 1, 1))
        made.train(2)
    before = tensor_bytes()
    with forked.undone():
        assert tensor_bytes() <= before
        forked.rebind((0, 0, 2))
        forked.train(2)
    torch.testing.assert_close(forked.state_dict(), once.state_dict(), rtol=0, atol=0)
    assert losses(once) == losses(forked)


def tensor_bytes() -> int:
    """Return the bytes of all plain tensors that there are, each memory once."""
    gc.collect()
    found = [thing for thing in gc.get_objects() if type(thing) in (torch.Tensor, torch.nn.Parameter)]
    storages = [t.untyped_storage() for t in found if t.layout is torch.strided and t.device.type == "cpu"]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def test_a_fork_that_finds_no_room_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    made = trainer()
    made.train(1)
    before = copy.deepcopy(made.state_dict())
    monkeypatch.setattr(tempfile, "tempdir", "/nowhere")
    with made.undone():  # a small state needs no file
        made.train(1)
    monkeypatch.setattr("tying.training.trainer._SMALL", 1)
    with pytest.raises(FileNotFoundError), made.undone():
        raise AssertionError
    torch.testing.assert_close(made.state_dict(), before, rtol=0, atol=0)


def test_windows_make_no_difference() -> None:
    whole, parts = trainer(DROPOUT), trainer(DROPOUT)
    once = losses(whole, 12)
    several = losses(parts, 5)
    parts.evaluate("reward", 1)
    several += losses(parts, 7)
    assert once == several


def test_tying_changes_no_initial_weights_of_roots() -> None:
    free, tied = trainer(), trainer()
    tied.rebind((0, 1, 1))
    of_free = dict(free.model.named_parameters())
    for name, parameter in tied.model.named_parameters():
        assert torch.equal(parameter, of_free[name])


def test_a_saved_state_continues_bit_by_bit() -> None:
    whole = trainer(DROPOUT)
    whole.train(5)
    whole.rebind((0, 1, 1))
    whole.train(5)
    other = trainer(DROPOUT)
    other.load_state_dict(whole.state_dict())
    assert other.pointers == whole.pointers
    whole.rebind((0, 1, 2))
    other.rebind((0, 1, 2))
    assert losses(whole) == losses(other)
    for (name, a), (_, b) in zip(whole.model.named_parameters(), other.model.named_parameters(), strict=True):
        assert torch.equal(a, b), name


def test_a_state_of_another_model_is_refused() -> None:
    small = trainer(GPTConfig(num_layers=3, num_heads=2, width=8, context=16))
    with pytest.raises(InputError, match=r"'wte\.weight' is \(16, 8\), not \(16, 16\)"):
        trainer().load_state_dict(small.state_dict())
    with pytest.raises(InputError, match="names differ"):
        trainer().load_state_dict({**trainer().state_dict(), "pointers": [0, 0, 0]})


def test_micro_batches_add_up_to_the_batch() -> None:
    for a, b in zip(losses(trainer()), losses(trainer(micro_batches=4)), strict=True):
        assert a == pytest.approx(b, abs=1e-4)


def test_evaluation_uses_no_dropout_and_changes_nothing() -> None:
    made = trainer(DROPOUT)
    made.train(3)
    before = {name: p.detach().clone() for name, p in made.model.named_parameters()}
    assert made.evaluate("reward", 2) == made.evaluate("reward", 2)
    assert made.evaluate("test") == made.evaluate("test")
    assert all(torch.equal(p, before[name]) for name, p in made.model.named_parameters())


def test_evaluation_of_a_whole_split_is_the_mean_over_all_tokens() -> None:
    made = trainer()
    tokens = torch.from_numpy(made.task.data.splits["test"].astype("int64"))
    total = 0.0
    with torch.no_grad():
        for start in range(0, len(tokens) - 1, 16):
            part = tokens[start : start + 17]
            total += float(made.model.loss(part[None, :-1], part[None, 1:])) * (len(part) - 1)
    assert made.evaluate("test") == pytest.approx(total / (len(tokens) - 1), abs=1e-6)


def test_non_finite_gradients_stop_before_the_step() -> None:
    made = trainer()
    made.train(2)
    with torch.no_grad():
        made.model.ln_f.weight[0] = math.nan
    before = {name: p.detach().clone() for name, p in made.model.named_parameters()}
    with pytest.raises(DivergenceError, match="iteration 2: loss nan"):
        made.train(1)
    assert made.iteration == 2
    assert all(torch.equal(p, before[name]) for name, p in made.model.named_parameters() if name != "ln_f.weight")


def test_the_learning_rate_warms_up_and_falls_to_its_end() -> None:
    config = OptimConfig(learning_rate=1.0, final_rate=0.1, warmup_iterations=10)
    rates = [learning_rate(config, i, 200) for i in range(200)]
    assert rates[:10] == pytest.approx([0.1 * (i + 1) for i in range(10)])
    assert max(rates) == rates[10] == 1.0
    assert all(a >= b for a, b in itertools.pairwise(rates[10:]))
    assert rates[-1] == pytest.approx(0.1, abs=1e-3)
    with pytest.raises(InputError):
        learning_rate(config, 201, 200)


def test_warm_up_is_at_most_a_tenth_of_the_run() -> None:
    config = OptimConfig(learning_rate=1.0, warmup_iterations=100)
    assert learning_rate(config, 1, 20) == 1.0


def test_clipping_bounds_the_step_and_zero_turns_it_off() -> None:
    clipped, free = (trainer(optim=OptimConfig(clip_norm=norm)) for norm in (1e-3, 0.0))
    for made in (clipped, free):
        made.train(1)
    norms = [torch.nn.utils.get_total_norm([p.grad for p in t.model.parameters()]) for t in (clipped, free)]
    assert float(norms[0]) == pytest.approx(1e-3, rel=1e-3)
    assert float(norms[1]) > 1e-2


def test_bf16_and_fp32_agree_roughly() -> None:
    for a, b in zip(losses(trainer(), 5), losses(trainer(precision="bf16"), 5), strict=True):
        assert a == pytest.approx(b, abs=0.05)


@pytest.mark.parametrize("model", [MODEL, DROPOUT], ids=["without dropout", "with"])
def test_recomputation_in_bf16_computes_the_same_bits(model: GPTConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of attention in bf16, since attention in float32 does not reach what is computed again."""
    monkeypatch.setattr("tying.training.trainer.Float32Attention", contextlib.nullcontext)
    plain = trainer(model, precision="bf16")
    expected = losses(plain)
    monkeypatch.undo()
    recomputing = trainer(model, precision="bf16", recompute=True)
    assert losses(recomputing) == expected
    torch.testing.assert_close(recomputing.state_dict(), plain.state_dict(), rtol=0, atol=0)


def test_weights_stay_float32_in_bf16() -> None:
    made = trainer(precision="bf16")
    made.train(2)
    assert {p.dtype for p in made.model.parameters()} == {torch.float32}
    assert {v.dtype for s in made.optimizer.state.values() for v in s.values()} == {torch.float32}


def test_a_device_that_is_not_there_is_refused() -> None:
    missing = "mps" if not torch.backends.mps.is_available() else "cuda"
    with pytest.raises(InputError, match="this machine does not have it"):
        trainer(device=missing)


def test_a_corpus_shorter_than_a_sequence_is_refused() -> None:
    with pytest.raises(InputError, match=r"too short for model\.context = 500"):
        trainer(GPTConfig(num_layers=1, num_heads=1, width=8, context=500))


def test_statistics_know_tied_layers() -> None:
    made = trainer()
    made.rebind((0, 0, 2))
    made.train(1)
    norms, cosines = gradient_norms(made.binding), similarities(made.binding)
    assert norms[0] == norms[1] != norms[2]
    assert cosines[:2] == (0.0, 1.0)
    assert -1 <= cosines[2] < 0.5


def test_the_binding_follows_its_settings() -> None:
    config = TrainerConfig(iterations=10, batch_size=4, device="cpu")
    made = Trainer(made_up_task(MODEL), config, binding=BindingConfig(share="attention", gradient="mean"))
    made.rebind((0, 0, 0))
    made.train(2)
    assert made.model.h[2].attn.qkv.weight is made.model.h[0].attn.qkv.weight
    assert made.model.h[2].mlp.up.weight is not made.model.h[0].mlp.up.weight


def test_products_of_19_bits_are_for_cuda_alone() -> None:
    with pytest.raises(InputError, match=r"trainer\.precision = 'tf32': cpu has none; allowed are fp32 and bf16"):
        trainer(precision="tf32")


@pytest.mark.filterwarnings("ignore:.torch.jit.script:DeprecationWarning")  # the compiler uses it itself
@pytest.mark.skipif(
    not (shutil.which("g++") or shutil.which("clang++")), reason="torch's CPU compiler needs a C++ compiler"
)
@pytest.mark.parametrize(("gradient", "num_graphs"), [("sum", 2), ("mean", 2), ("root_only", 4)])
def test_compiled_blocks_agree_and_are_compiled_once(gradient: str, num_graphs: int) -> None:
    """One graph to train and one to evaluate serve all layers and patterns; "root_only" has them for tied layers too."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    compiled, plain = (
        Trainer(
            made_up_task(MODEL),
            TrainerConfig(iterations=60, batch_size=4, device="cpu", compile=compile),
            binding=BindingConfig(gradient=gradient),  # type: ignore[arg-type]
        )
        for compile in (True, False)
    )
    for pointers in [*Pointers.all(3), *Pointers.all(3)]:
        for made in (compiled, plain):
            made.rebind(pointers)
        assert losses(compiled, 2) == pytest.approx(losses(plain, 2), abs=1e-5)
        assert compiled.evaluate("reward", 2) == pytest.approx(plain.evaluate("reward", 2), abs=1e-5)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == num_graphs + 1  # one shows that there is a compiler
