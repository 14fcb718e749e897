"""TyingCallback with an agent: what it is shown and rewarded for, and resuming it."""

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hf_models import build, tokens
from transformers import Trainer, TrainerCallback, TrainingArguments

import agents
from agents.base import Agent, Transition
from agents.local_search import LocalSearchAgent
from tying import InputError, Pointers
from tying.hf import TyingCallback
from tying.interface import ObservationView

DATA = [{"input_ids": row, "labels": row} for seed in range(24) for row in tokens(seed)]
STEPS, EVERY = 16, 2


@pytest.fixture(autouse=True)
def _one_thread(one_thread: None) -> Iterator[None]:
    yield


class Stop(TrainerCallback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == self.step:
            control.should_training_stop = control.should_save = True


def trainer(folder: Path, callback: TyingCallback, *others: TrainerCallback, **options: Any) -> Trainer:
    given: dict[str, Any] = {
        "max_steps": STEPS,
        "per_device_train_batch_size": 4,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": [],
        "learning_rate": 1e-2,
        "use_cpu": True,
        "disable_tqdm": True,
        **options,
    }
    model = build("llama")
    model.config.attention_dropout = 0.1
    args = TrainingArguments(str(folder), **given)
    return Trainer(model, args, train_dataset=DATA, eval_dataset=DATA[:4], callbacks=[callback, *others])


def history(run: Trainer) -> list[tuple[int, float, float]]:
    return [(e["step"], e["loss"], e["grad_norm"]) for e in run.state.log_history if "loss" in e]


def decisions(run: Trainer) -> list[dict[str, Any]]:
    return [e["tying"] for e in run.state.log_history if "tying" in e]


def surrogate(**settings: Any) -> TyingCallback:
    return TyingCallback(agent="surrogate", every=EVERY, seed=3, settings={"agent.explore": 0.9, **settings})


class Script(Agent):
    """Plays a list of patterns and keeps what it is shown."""

    patterns = ("0 0 2 2", "0 1 1 3", "0 0 0 0", "0 1 2 3")
    steps: list[Transition]

    @classmethod
    def recommended(cls, config: Any) -> dict[str, Any]:
        return {"env.action_mode": "joint", "trainer.compile": True}

    def begin_episode(self, observation: np.ndarray) -> None:
        self.steps, self.first = [], observation

    def predict(self, observation: np.ndarray, action_masks: Any = None, deterministic: bool = False) -> Any:
        return np.array(Pointers.parse(self.patterns[len(self.steps) % 4]))

    def learn_from(self, step: Transition) -> None:
        self.steps.append(step)


@pytest.mark.parametrize("evaluates", [False, True])
def test_an_agent_is_rewarded_for_the_losses_that_trainer_logs_and_for_parameters(evaluates: bool, tmp_path: Path) -> None:
    callback = TyingCallback(agent=Script, every=4, settings={"reward.param_weight": 0.7})
    options = {"eval_strategy": "steps", "eval_steps": 4} if evaluates else {}
    run = trainer(tmp_path, callback, **options)
    run.train()
    key = "eval_loss" if evaluates else "loss"
    logged = {e["step"]: e[key] for e in run.state.log_history if key in e}
    windows = [range(first, first + 4) for first in (1, 5, 9, 13)]
    losses = [np.log(99), *(np.mean([logged[step] for step in w if step in logged]) for w in windows)]
    shares = [1.0, 0.5, 0.75, 0.25, 1.0]
    expected = [losses[i] - losses[i + 1] - 0.7 * (shares[i + 1] - shares[i]) for i in range(4)]
    steps = callback.agent.steps
    assert [step.reward for step in steps] == pytest.approx(expected)
    assert [step.terminated for step in steps] == [False, False, False, True]
    views = [ObservationView(o) for o in (callback.agent.first, *(step.next_observation for step in steps))]
    assert [str(view.pointers) for view in views] == ["0 1 2 3", *Script.patterns]
    assert [view.scalar("remaining") for view in views] == [1.0, 0.75, 0.5, 0.25, 0.0]
    assert [e["reward"] for e in decisions(run)] == pytest.approx(expected)
    assert str(callback.binding.pointers) == Script.patterns[-1]


def test_a_pattern_holds_for_the_steps_of_its_window(tmp_path: Path) -> None:
    seen: list[str] = []

    class Look(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            seen.append(str(callback.binding.pointers))

    callback = TyingCallback(agent=Script, every=4)
    trainer(tmp_path, callback, Look(), max_steps=10).train()
    assert seen == [Script.patterns[0]] * 4 + [Script.patterns[1]] * 4 + [Script.patterns[2]] * 2


@pytest.mark.parametrize("stop", [5, 8], ids=["inside a window", "between two"])
@pytest.mark.parametrize("name", ["surrogate", "dqn"])
def test_a_resumed_run_equals_the_uninterrupted_one_bit_for_bit(name: str, stop: int, tmp_path: Path) -> None:
    def callback() -> TyingCallback:
        settings = {"agent.explore": 0.9} if name == "surrogate" else {}
        return TyingCallback(agent=name, every=EVERY, seed=3, settings=settings)

    whole = trainer(tmp_path / "whole", callback())
    whole.train()
    stopped = trainer(tmp_path / "stopped", callback(), Stop(stop))
    stopped.train()
    resumed = trainer(tmp_path / "stopped", callback())
    resumed.train(resume_from_checkpoint=str(tmp_path / "stopped" / f"checkpoint-{stop}"))
    assert history(resumed) == history(whole)
    assert decisions(resumed) == decisions(whole)
    assert len({d["pointers"] for d in decisions(whole)}) > 2
    for a, b in zip(whole.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_another_agent_cannot_resume(tmp_path: Path) -> None:
    trainer(tmp_path, surrogate(), Stop(8)).train()
    other = trainer(tmp_path, TyingCallback(agent="0 0 0 0", every=EVERY))
    with pytest.raises(InputError, match=r"cannot resume: .* the agent chose '0 0 0 0' at step 0"):
        other.train(resume_from_checkpoint=True)


def test_the_agent_draws_from_generators_of_its_own(tmp_path: Path) -> None:
    class Drawing(Script):
        def predict(self, observation: np.ndarray, action_masks: Any = None, deterministic: bool = False) -> Any:
            torch.rand(1), np.random.rand(), random.random()
            return super().predict(observation)

    runs = [trainer(tmp_path, TyingCallback(agent=agent, every=4)) for agent in (Script, Drawing)]
    for run in runs:
        run.train()
    assert history(runs[0]) == history(runs[1])


def test_agents_are_taken_as_names_classes_functions_and_objects(tmp_path: Path) -> None:
    env = agents.make_env("local_search", preset="tiny")
    settings = {"env.action_mode": "joint", "reward.name": "improvement"}
    for agent in ("local_search", LocalSearchAgent, lambda env: LocalSearchAgent(env, 5), LocalSearchAgent(env)):
        callback = TyingCallback(agent=agent, every=8, settings=settings)
        run = trainer(tmp_path, callback)
        run.train()
        assert isinstance(callback.agent, LocalSearchAgent)
        assert len(decisions(run)) == 2


def fails(tmp_path: Path, make: Callable[[], TyingCallback], **options: Any) -> str:
    with pytest.raises(InputError) as caught:
        trainer(tmp_path, make(), **options).train()
    (line,) = caught.value.lines
    return line


def test_mistakes_are_one_line(tmp_path: Path) -> None:
    assert "multiple of logging_steps (now 3" in fails(tmp_path, surrogate, logging_steps=3)
    assert "did you mean 'surrogate'" in fails(tmp_path, lambda: TyingCallback(agent="surogate", every=2))
    assert "a schedule and an agent" in fails(tmp_path, lambda: TyingCallback(agent="dqn", schedule={0: "0 0 0 0"}))
    assert "agent.explore" in fails(tmp_path, lambda: surrogate(**{"agent.explore": 7}))
    assert "twice, which cannot be done here" in fails(tmp_path, lambda: surrogate(**{"reward.name": "fork"}))
    assert "belong to an agent that is named" in fails(
        tmp_path, lambda: TyingCallback(agent=Script, settings={"agent.explore": 0.5})
    )
    assert "it lacks learn" in fails(tmp_path, lambda: TyingCallback(agent=lambda env: 3))
    other = Script(agents.make_env("dqn"))
    assert "was made for actions Discrete(4)" in fails(tmp_path, lambda: TyingCallback(agent=other))


def test_an_agents_failure_ends_the_run(tmp_path: Path) -> None:
    class Broken(Script):
        def learn_from(self, step: Transition) -> None:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        trainer(tmp_path, TyingCallback(agent=Broken, every=4)).train()
    short = TyingCallback(agent=lambda env: type("Short", (), {"learn": lambda self, env, n: None})(), every=4)
    with pytest.raises(InputError, match="took 0 of 4 decisions"):
        trainer(tmp_path, short).train()
