"""TyingCallback under transformers.Trainer: schedule, logging, and resuming from Trainer's own checkpoints."""

import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hf_models import build, tokens
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import multiprocessing
from transformers import Trainer, TrainerCallback, TrainingArguments

import tying.hf
from tying import InputError, Pointers
from tying.hf import TyingCallback

STEPS, STOP = 12, 7
SCHEDULE = {0: "0 0 2 2", 3: "0 1 2 2", 5: "0 1 1 3", 9: "0 1 2 3", 11: "0 0 0 3"}
DATA = [{"input_ids": row, "labels": row} for seed in range(24) for row in tokens(seed)]


@pytest.fixture(autouse=True)
def _one_thread(one_thread: None) -> Iterator[None]:
    yield


class Stop(TrainerCallback):
    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == STOP:
            control.should_training_stop = control.should_save = True


def arguments(folder: Path, **options: Any) -> TrainingArguments:
    given: dict[str, Any] = {
        "max_steps": STEPS,
        "per_device_train_batch_size": 4,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": [],
        "learning_rate": 1e-2,
        "weight_decay": 0.1,
        "use_cpu": True,
        "disable_tqdm": True,
        **options,
    }
    return TrainingArguments(str(folder), **given)


def trainer(folder: Path, callback: TyingCallback, *others: TrainerCallback, **options: Any) -> Trainer:
    optimizers = options.pop("optimizers", None)
    model = options.pop("model", None) or build("llama")
    model.config.attention_dropout = 0.1
    made = (optimizers(model), None) if optimizers else (None, None)
    args = arguments(folder, **options)
    return Trainer(model, args, train_dataset=DATA, callbacks=[callback, *others], optimizers=made)


def history(run: Trainer) -> list[tuple[int, float, float]]:
    return [(e["step"], e["loss"], e["grad_norm"]) for e in run.state.log_history if "loss" in e]


OPTIONS: dict[str, dict[str, Any]] = {
    "default": {},
    "accumulation": {"gradient_accumulation_steps": 2},
    "checkpointing": {"activation_checkpointing": True},
    "adafactor": {"optim": "adafactor"},
    "own optimizer": {"optimizers": lambda model: torch.optim.AdamW(model.parameters(), lr=1e-2)},
}


@pytest.mark.parametrize(
    ("name", "gradient"), [*((name, "sum") for name in OPTIONS), ("default", "mean"), ("default", "root_only")]
)
def test_a_resumed_run_equals_the_uninterrupted_one_bit_for_bit(name: str, gradient: str, tmp_path: Path) -> None:
    options = OPTIONS[name]

    def run(folder: str, *others: TrainerCallback, resume: Path | None = None) -> Trainer:
        made = trainer(tmp_path / folder, TyingCallback(schedule=SCHEDULE, gradient=gradient), *others, **options)
        made.train(resume_from_checkpoint=None if resume is None else str(resume))
        return made

    whole = run("whole")
    run("stopped", Stop())
    resumed = run("stopped", resume=tmp_path / "stopped" / f"checkpoint-{STOP}")
    assert [step for step, _, _ in history(whole)] == list(range(1, STEPS + 1))
    assert history(resumed) == history(whole)
    ours, theirs = resumed.model.state_dict(), whole.model.state_dict()
    assert ours.keys() == theirs.keys() and all(torch.equal(value, theirs[name]) for name, value in ours.items())
    assert resumed.model.config.layer_tying["model.layers"]["pointers"] == SCHEDULE[11]


def test_a_sharded_checkpoint_resumes_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save = type(build("llama")).save_pretrained
    monkeypatch.setattr(
        type(build("llama")), "save_pretrained", lambda self, *a, **k: save(self, *a, **{**k, "max_shard_size": "20KB"})
    )
    whole = trainer(tmp_path / "whole", TyingCallback(schedule=SCHEDULE))
    whole.train()
    trainer(tmp_path / "stopped", TyingCallback(schedule=SCHEDULE), Stop()).train()
    assert (tmp_path / "stopped/checkpoint-7/model.safetensors.index.json").exists()
    resumed = trainer(tmp_path / "stopped", TyingCallback(schedule=SCHEDULE))
    resumed.train(resume_from_checkpoint=str(tmp_path / "stopped/checkpoint-7"))
    assert history(resumed) == history(whole)


def test_a_checkpoint_is_a_tied_model(tmp_path: Path) -> None:
    run = trainer(tmp_path, TyingCallback("0 0 2 2"), save_strategy="steps", save_steps=6)
    run.train()
    again = tying.hf.from_pretrained(tmp_path / "checkpoint-12")
    ours, theirs = run.model.state_dict(), again.state_dict()
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())
    assert len(list(again.parameters())) == len(list(run.model.parameters()))


def test_the_best_model_comes_back_with_its_pointers(tmp_path: Path) -> None:
    callback = TyingCallback(schedule={0: "0 0 2 2", 8: "0 1 2 3"})
    options = {"save_strategy": "steps", "save_steps": 4, "eval_strategy": "steps", "eval_steps": 4}
    options |= {"load_best_model_at_end": True, "metric_for_best_model": "loss", "greater_is_better": True}
    args = arguments(tmp_path, **options)
    run = Trainer(build("llama"), args, train_dataset=DATA, eval_dataset=DATA[:4], callbacks=[callback])
    run.train()
    assert run.state.best_global_step == 4, "the highest loss is the best here, and the loss falls"
    assert callback.binding is not None and str(callback.binding.pointers) == "0 0 2 2"
    assert run.evaluate()["eval_loss"] == pytest.approx(run.state.best_metric)


def test_the_tying_equals_rebinding_by_hand(tmp_path: Path) -> None:
    """Against a loop without Trainer: same batches, same optimizer, same schedule."""
    options = {"lr_scheduler_type": "constant", "max_grad_norm": 1e9, "data_seed": 1}
    model = build("llama")
    seen: list[dict[str, torch.Tensor]] = []
    model.register_forward_pre_hook(lambda _, __, batch: seen.append(batch), with_kwargs=True)
    run = trainer(tmp_path, TyingCallback(schedule=SCHEDULE), model=model, **options)
    model.config.attention_dropout = 0.0
    run.train()
    by_hand = build("llama").train()
    decay = [p for p in by_hand.parameters() if p.dim() > 1]
    rest = [p for p in by_hand.parameters() if p.dim() <= 1]
    optimizer = torch.optim.AdamW([{"params": decay, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}], lr=1e-2)
    binding = tying.hf.tie(by_hand, optimizer=optimizer)
    losses = []
    for step, batch in enumerate(seen):
        binding.rebind(SCHEDULE.get(step, binding.pointers))
        optimizer.zero_grad()
        loss = by_hand(input_ids=batch["input_ids"], labels=batch["labels"]).loss
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses == pytest.approx([loss for _, loss, _ in history(run)], rel=1e-5)


def test_a_function_decides_from_the_step_the_pointers_and_the_loss(tmp_path: Path) -> None:
    asked = []

    def decide(step: int, pointers: Pointers, loss: float | None) -> Pointers:
        asked.append((step, str(pointers), loss))
        return pointers.move(step // 4, 0)

    callback = TyingCallback("0 1 2 3", schedule=decide, every=4)
    run = trainer(tmp_path, callback)
    run.train()
    losses = {step: loss for step, loss, _ in history(run)}
    assert [entry[:2] for entry in asked] == [(4, "0 1 2 3"), (8, "0 0 2 3"), (12, "0 0 0 3")]
    assert asked[1][2] == losses[7], "the step's own loss is logged after it"
    assert callback.binding is not None and str(callback.binding.pointers) == "0 0 0 0"


def test_tensorboard_has_the_tags_of_a_run(tmp_path: Path) -> None:
    run = trainer(tmp_path, TyingCallback(schedule={0: "0 0 2 2", 6: "0 1 2 2"}), report_to=["tensorboard"])
    run.train()
    events = EventAccumulator(str(tmp_path / "runs" / "tying")).Reload()
    pointers = {f"tying/pointer/layer_{layer:02d}" for layer in range(4)}
    names = {"tying/num_unique_layers", "tying/trainable_params", "tying/compression_ratio", *pointers}
    assert set(events.Tags()["scalars"]) == names

    def values(tag: str) -> dict[int, float]:
        return {event.step: event.value for event in events.Scalars(tag)}

    assert values("tying/num_unique_layers") == {step: 2 if step < 6 else 3 for step in range(STEPS + 1)}
    block = sum(p.numel() for p in run.model.model.layers[0].parameters())
    untied = sum(p.numel() for p in build("llama").parameters())
    assert values("tying/trainable_params")[5] == untied - 2 * block
    assert values("tying/compression_ratio")[12] == pytest.approx(untied / (untied - block))
    assert values("tying/pointer/layer_01") == {step: 0 if step < 6 else 1 for step in range(STEPS + 1)}


def test_a_second_training_starts_with_the_schedule_again(tmp_path: Path) -> None:
    callback = TyingCallback(schedule={0: "0 0 2 2", 6: "0 1 2 3"})
    run = trainer(tmp_path, callback)
    run.train()
    run.train()
    assert callback.binding is not None and str(callback.binding.pointers) == "0 1 2 3"
    held = {id(p) for group in run.optimizer.param_groups for p in group["params"]}
    assert held == {id(p) for p in run.model.parameters()}


PEFT_WARNING = "ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"


def lora(model: Any) -> Any:
    peft = pytest.importorskip("peft")
    return peft.get_peft_model(model, peft.LoraConfig(target_modules=["q_proj"]))


REFUSED: dict[str, tuple[Callable[[Path], Any], str]] = {
    "nothing": (lambda _: TyingCallback(), "give pointers, a schedule or an agent"),
    "two starts": (lambda _: TyingCallback("0 0 2 2", schedule={0: "0 1 2 3"}), "the start is given twice"),
    "negative step": (lambda _: TyingCallback(schedule={-1: "0 1 2 3"}), "0 or more"),
    "no interval": (lambda _: TyingCallback("0 0 2 2", every=0), "`every` is 1 or more"),
    "wrong pattern": (lambda _: TyingCallback(schedule={4: "0 2 2 2"}), "an earlier one"),
    "wrong length": (lambda p: trainer(p, TyingCallback(schedule={4: "0 0 2"})), "are for 3 layers, the model has 4"),
    "no such stack": (lambda p: trainer(p, TyingCallback("0 0 2 2", stack="text")), "stack 'text'"),
    "adapters": (
        lambda p: trainer(p, TyingCallback(schedule={4: "0 0 2 2"}), model=lora(build("llama"))),
        "with PEFT give one pattern",
    ),
}


@pytest.mark.filterwarnings(PEFT_WARNING)
@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_work_is_refused_before_training(name: str, tmp_path: Path) -> None:
    make, message = REFUSED[name]
    with pytest.raises(InputError, match=message):
        make(tmp_path)


def test_a_callback_added_later_trains_but_does_not_resume(tmp_path: Path) -> None:
    def late(*others: TrainerCallback) -> tuple[Trainer, TyingCallback]:
        callback = TyingCallback(schedule=SCHEDULE)
        run = Trainer(build("llama"), arguments(tmp_path, save_only_model=True), train_dataset=DATA, callbacks=[*others])
        run.add_callback(callback)
        return run, callback

    run, callback = late(Stop())
    run.train()
    assert callback.binding is not None and str(callback.binding.pointers) == "0 1 1 3"
    run, _ = late()
    with pytest.raises(InputError, match="not to add_callback"):
        run.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{STOP}"))


@pytest.mark.filterwarnings(PEFT_WARNING)
def test_adapters_train_on_a_base_of_one_pattern(tmp_path: Path) -> None:
    model = lora(build("llama"))
    callback = TyingCallback("0 0 2 2", share="*.base_layer.weight,mlp.*")
    run = trainer(tmp_path, callback, model=model)
    run.train()
    layers = model.base_model.model.model.layers
    assert layers[1].mlp.up_proj.weight is layers[0].mlp.up_proj.weight
    assert layers[1].self_attn.q_proj.lora_A.default.weight is not layers[0].self_attn.q_proj.lora_A.default.weight


def run_two(rank: int, folder: str, port: int) -> None:
    torch.set_num_threads(1)
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="localhost", MASTER_PORT=str(port))
    run = trainer(Path(folder) / "two", TyingCallback(schedule=SCHEDULE), per_device_train_batch_size=2, ddp_backend="gloo")
    run.model.config.attention_dropout = 0.0
    run.train()
    torch.save((run.model.state_dict(), history(run)), f"{folder}/{rank}.pt")


@pytest.mark.e2e
def test_two_processes_equal_one_with_the_whole_batch(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    multiprocessing.spawn(run_two, args=(str(tmp_path), port), nprocs=2)
    one = trainer(tmp_path / "one", TyingCallback(schedule=SCHEDULE))
    one.model.config.attention_dropout = 0.0
    one.train()
    expected = one.model.state_dict()
    (first, losses), (second, _) = (torch.load(tmp_path / f"{rank}.pt", weights_only=False) for rank in (0, 1))
    assert first.keys() == second.keys() == expected.keys()
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    assert [loss for _, loss, _ in losses] == pytest.approx([loss for _, loss, _ in history(one)], rel=1e-3)
    # Single precision, and the sum of a batch is taken in another order.
    for name, value in first.items():
        torch.testing.assert_close(value, expected[name], rtol=1e-3, atol=1e-3)
