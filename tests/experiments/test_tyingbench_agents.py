"""The benchmark of agents: the pattern that an agent would keep after every query, by hand."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pytest
from gymnasium import spaces

from agents import registry
from agents.base import Agent
from experiments.run.intervals import student_interval
from experiments.study.workers import WorkerConfig
from experiments.tyingbench import agents, goals, regret
from tests.envs.tables import FACTS, make_rows
from tying import Pointers
from tying.errors import InputError
from tying.tyingbench import TyingBench

A, B, C, D, E = Pointers.all(3)  # 0 0 0, 0 0 2, 0 1 0, 0 1 1, 0 1 2
LOSSES = {A: 2.5, B: 2.1, C: 2.3, D: 2.0, E: 2.2}


class Scripted(Agent):
    """Sets one pattern after another; says what it would keep, or nothing."""

    action_spaces = (spaces.MultiDiscrete,)
    script: ClassVar[Sequence[Pointers]] = ()
    sayings: ClassVar[Sequence[Pointers | None]] = ()
    decided = 0

    @classmethod
    def recommended(cls, config: Any) -> dict[str, Any]:
        return {"env.action_mode": "joint"}

    def predict(self, observation: np.ndarray, action_masks: np.ndarray | None = None, deterministic: bool = False) -> Any:
        self.decided += 1
        return np.array(self.script[self.decided - 1])

    def recommend(self) -> Pointers | None:
        return self.sayings[self.decided - 1] if self.sayings else None


class Stranger:
    """Somebody else's agent: no more than an agent must have."""

    def __init__(self, env: Any, seed: int = 0) -> None:
        self.seed = seed

    def predict(self, observation: np.ndarray, action_masks: Any = None, deterministic: bool = False) -> int:
        return 0

    def learn(self, env: Any, decisions: int, callback: Any = None) -> "Stranger":
        env.reset(seed=self.seed)
        for _ in range(decisions):
            env.step(0)
            if callback is not None and callback(self) is False:
                break
        return self

    def save(self, folder: Any) -> None: ...

    def load(self, folder: Any) -> None: ...


@functools.cache
def quiet() -> TyingBench:
    """Return a table without noise: every seed has the same losses, and the two splits have the same ones."""
    rows = make_rows(loss=lambda pattern, *_: LOSSES[pattern])
    return TyingBench([replace(row, reward_loss=row.test_loss) for row in rows], FACTS)


@functools.cache
def noisy() -> TyingBench:
    return TyingBench(make_rows(), FACTS)


def trial(
    bench: TyingBench, flags: str = "", queries: int = 4, param_weight: float = 0.0, seed: int = 0, budget: float = 1.0
) -> list[float]:
    (variant,) = agents.variants([f"{__name__}:Scripted {flags}"], bench)
    return list(agents.trial(variant, goals.weighted(bench, param_weight, budget), seed, queries))


def play(monkeypatch: pytest.MonkeyPatch, script: Sequence[Pointers], sayings: Sequence[Pointers | None] = ()) -> None:
    """Give the agent its script."""
    monkeypatch.setattr(Scripted, "script", script)
    monkeypatch.setattr(Scripted, "sayings", sayings)


def regrets(*patterns: Pointers) -> Any:
    """Return how far patterns are above the best, D, as a share of the worst, A."""
    return pytest.approx([(LOSSES[pattern] - 2.0) / 0.5 for pattern in patterns])


# A trial.


def test_the_best_that_was_tried_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    play(monkeypatch, [A, C, A, D, E])
    assert trial(quiet(), queries=5) == regrets(A, C, C, D, D)


def test_what_an_agent_says_is_kept_whatever_was_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    play(monkeypatch, [A, C, A, D], [E, None, D, A])
    assert trial(quiet()) == regrets(E, C, D, A)


def test_the_share_of_parameters_is_added_with_its_weight(monkeypatch: pytest.MonkeyPatch) -> None:
    """At 0.6 all tied costs 2.5 + 0.2, and untied 2.2 + 0.6."""
    play(monkeypatch, [E, A])
    weighted = {pattern: loss + 0.6 * pattern.num_unique / 3 for pattern, loss in LOSSES.items()}
    low, high = min(weighted.values()), max(weighted.values())
    assert trial(quiet(), queries=2, param_weight=0.6) == pytest.approx(
        [(weighted[p] - low) / (high - low) for p in (E, A)]
    )


@pytest.mark.parametrize(("seed", "budget"), [(0, 1.0), (7, 1.0), (7, 0.25)])
def test_the_best_mean_of_the_answers_is_kept(monkeypatch: pytest.MonkeyPatch, seed: int, budget: float) -> None:
    """The agent sees reward losses of single seeds; it is judged by test losses over all of them."""
    script = [B, E, D, E, B, D, C, E, B, D]
    play(monkeypatch, script)
    drawn = np.random.default_rng(seed).choice(noisy().seeds, len(script))
    answers: dict[Pointers, list[float]] = {}
    expected = []
    for pattern, row in zip(script, drawn, strict=True):
        answers.setdefault(pattern, []).append(noisy().query(pattern, budget, int(row))["reward_loss"])
        kept = min(answers, key=lambda p: sum(answers[p]) / len(answers[p]))
        expected.append(noisy().normalised_regret(kept, 0.0, budget))
    assert trial(noisy(), queries=10, seed=seed, budget=budget) == pytest.approx(expected)


def test_equal_seeds_are_equal_trials(monkeypatch: pytest.MonkeyPatch) -> None:
    (variant,) = agents.variants(["random --env.action-mode joint"], noisy())
    first, again, other = (agents.trial(variant, goals.weighted(noisy(), 0.1), seed, 12).tolist() for seed in (1, 1, 2))
    assert first == again != other


def test_a_fork_costs_two_queries_and_what_was_kept_holds_in_between(monkeypatch: pytest.MonkeyPatch) -> None:
    play(monkeypatch, [C, C, A, D, E])
    # Two queries for E to C, before which the beginning, E, is kept; one for staying; two each for A and D.
    assert trial(quiet(), "--reward.name fork", queries=7) == regrets(E, C, C, C, C, C, D)


def test_a_fork_that_does_not_fit_any_more_is_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    play(monkeypatch, [C, D, B])
    assert trial(quiet(), "--reward.name fork", queries=3) == regrets(E, C, C)


def test_no_more_is_decided_than_was_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    play(monkeypatch, [C, D, B, A])

    def predict(self: Scripted, *_: Any, **__: Any) -> np.ndarray:
        asked.append(self.decided)
        self.decided += 1
        return np.array(self.script[self.decided - 1])

    monkeypatch.setattr(Scripted, "predict", predict)
    trial(quiet(), "--reward.name fork", queries=4)
    assert asked == [0, 1]


def test_the_beginning_is_kept_until_the_first_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    play(monkeypatch, [D, D])
    assert trial(quiet(), "--reward.name fork --env.initial-pointers all_tied", queries=2) == regrets(A, D)


def test_an_agent_need_not_say_what_it_would_keep() -> None:
    (variant,) = agents.variants([f"{__name__}:Stranger"], quiet())
    assert len(agents.trial(variant, goals.weighted(quiet(), 0.0), 0, 3)) == 3


@pytest.mark.parametrize(("name", "pattern"), [("sandwich", E), ("0 1 1", D), ("cycle:2", C), ("tie_after:50:all_tied", E)])
def test_a_fixed_strategy_can_be_judged_too(name: str, pattern: Pointers) -> None:
    (variant,) = agents.variants([name], quiet())
    assert agents.trial(variant, goals.weighted(quiet(), 0.0), 0, 4).tolist() == regrets(*[pattern] * 4)


# Budgets of sets of weights.


def sliced(losses: Callable[[Pointers, int], float], num_slices: int = 5) -> TyingBench:
    """Return a table of three layers whose two splits have the same losses."""
    rows = make_rows(num_seeds=num_slices, budgets=(1.0,), loss=lambda pattern, seed, _: losses(pattern, seed))
    return TyingBench([replace(row, reward_loss=row.test_loss) for row in rows], FACTS)


def contrary() -> TyingBench:
    """Return a table in which slices 2 and 3 see D as the best of two sets, and all others see B."""
    return sliced(lambda pattern, seed: LOSSES[pattern] + (0.5 if pattern == D and seed not in (2, 3) else 0.0))


@pytest.mark.parametrize("rotation", range(5))
def test_slices_that_are_asked_do_not_judge(rotation: int) -> None:
    bench = contrary()
    goal = goals.within(bench, 2, rotation)
    asked = {rotation, (rotation + 1) % 5}
    assert set(goal.table.seeds) == asked
    others = [slice_ for slice_ in range(5) if slice_ not in asked]
    means = {p: np.mean([bench.query(p, seed=s)["test_loss"] for s in others]) for p in (A, B, C, D)}
    best, worst = min(means.values()), max(means.values())
    assert goal.regrets == pytest.approx({p: (mean - best) / (worst - best) for p, mean in means.items()} | {E: 1.0})


def test_the_best_of_what_was_asked_within_the_budget_is_kept_whatever_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    play(monkeypatch, [E, A, E, C, D, E], [E, E, E, E, A, E])
    goal = goals.within(quiet(), 2)
    (variant,) = agents.variants([f"{__name__}:Scripted"], quiet())
    expected = [1.0, *regrets(A, A, C, D, D).expected]
    assert agents.trial(variant, goal, 0, 6).tolist() == pytest.approx(expected)


def test_a_set_above_the_budget_costs_as_much_as_a_model_that_knows_nothing() -> None:
    for sets in (1, 2):
        goal = goals.within(quiet(), sets)
        (variant,) = agents.variants(["random --env.action-mode joint"], quiet())
        env = agents.make_env(variant, goal.table, 5, goal.reward, answers=goal.answers)
        env.reset(seed=0)
        total = 0.0
        for pattern in (E, B, A, E, B):
            total += float(env.step(np.array(pattern))[1])
            excess = max(0, pattern.num_unique - sets)
            least = quiet().uninformed_loss  # the return telescopes: the start is untied, and knows nothing
            assert total == pytest.approx(least - LOSSES[pattern] - (excess - (3 - sets)) * least)


def test_a_set_above_the_budget_costs_more_than_the_worst_loss_within_it() -> None:
    """Where tied models are worse than one that knows nothing."""
    bench = sliced(lambda pattern, _: {E: 0.1, D: 40.0}.get(pattern, 50.0))
    assert bench.uninformed_loss < 10
    goal = goals.within(bench, 2)
    objectives = {p: goal.objective(goal.table.query(p)["reward_loss"], goal.table.query(p)["param_share"]) for p in LOSSES}
    assert max(objectives, key=objectives.__getitem__) == E
    assert min(objectives, key=objectives.__getitem__) == D


def test_the_best_of_many_by_the_slices_that_are_asked_is_judged_on_the_others() -> None:
    found = goals.after_asking(contrary(), 2, [B, D])
    # Rotations 1, 2 and 3 see a slice on which D is the best: alone, it is the best of both only for 2.
    assert found.tolist() == pytest.approx([0.0, 0.0, goals.within(contrary(), 2, 2).regrets[D], 0.0, 0.0])
    assert found[2] > 0


@pytest.mark.parametrize(
    ("sets", "slices", "message"), [(0, 5, "allowed are 1 to 2"), (3, 5, "allowed are 1 to 2"), (2, 1, "at least 2")]
)
def test_budgets_that_cannot_be_judged_are_one_line(sets: int, slices: int, message: str) -> None:
    bench = sliced(lambda pattern, _: LOSSES[pattern], slices)
    with pytest.raises(InputError, match=f"--sets {sets}: .*{message}") as caught:
        goals.within(bench, sets)
    assert len(caught.value.lines) == 1


# Incumbents, tables, variants.


def test_the_incumbent_is_the_first_of_equals() -> None:
    tried = {B: [2.0], A: [1.0, 3.0], C: [2.5]}
    assert agents.incumbent(tried) == B
    tried[C].append(1.0)
    assert agents.incumbent(tried) == C


def test_figures_are_means_with_students_interval() -> None:
    values = np.array([[0.5, 0.0], [0.1, 0.0], [0.3, 0.01]])
    table = regret.table({("mine", 0.1): values})
    assert table[["agent", "param_weight", "queries", "trials"]].to_numpy().tolist() == [
        ["mine", 0.1, 1, 3],
        ["mine", 0.1, 2, 3],
    ]
    assert table["regret"].tolist() == pytest.approx([0.3, 0.01 / 3])
    low, high = student_interval(values[:, 0])
    assert (table["low"][0], table["high"][0]) == pytest.approx((max(0.0, low), high))
    assert table["low"][1] == 0  # a regret is not below 0


def test_two_trials_have_no_interval() -> None:
    table = regret.table({("mine", 0.1): np.array([[0.5], [0.1]])})
    assert table[["low", "high"]].isna().all(axis=None)
    assert regret.readable(table).to_numpy().tolist() == [["0.1", "mine", "0.3000"]]


def test_a_table_to_read_has_a_row_for_every_weight_and_agent() -> None:
    found = {(agent, weight): np.full((3, 12), weight) for weight in (0.3, 0.0) for agent in ("one", "two")}
    shown = regret.readable(regret.table(found))
    assert list(shown.columns) == ["weight", "agent", "10 queries", "12 queries"]
    assert shown[["weight", "agent"]].to_numpy().tolist() == [["0.3", "one"], ["0.3", "two"], ["0", "one"], ["0", "two"]]
    assert shown["12 queries"][0] == "0.3000 [0.3000, 0.3000]"


def flags(**values: Any) -> agents.AgentsFlags:
    return agents.AgentsFlags(**{"trials": 7, "jobs": 2, "queries": 2, **values})


def test_trials_are_put_together_by_their_seeds(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(batch: agents.TrialBatch) -> tuple[agents.TrialBatch, np.ndarray]:
        return batch, np.array([[seed, batch.aim] for seed in batch.seeds])

    def backwards(function: Callable[[Any], Any], items: Sequence[Any], config: WorkerConfig) -> Any:
        return map(function, reversed(items))

    monkeypatch.setattr(agents, "_run", run)
    monkeypatch.setattr(agents.workers, "run_all", backwards)
    settings = flags(param_weights=[0.5, 0.0, 0.5])
    found = agents.run_trials(["random", "independent"], settings, agents.Console(quiet=True))
    assert list(found) == [("random", 0.5), ("independent", 0.5), ("random", 0.0), ("independent", 0.0)]
    for (_, weight), values in found.items():
        assert values.tolist() == [[seed, weight] for seed in range(7)]


@pytest.mark.e2e
def test_processes_find_the_same_as_this_one() -> None:
    settings = flags(trials=4, queries=5, param_weights=[0.1], agents=["random"])
    one, two = (
        agents.run_trials(["random", "surrogate"], replace(settings, jobs=jobs), agents.Console(quiet=True))
        for jobs in (1, 2)
    )
    assert one.keys() == two.keys()
    assert all(np.array_equal(one[key], two[key]) for key in one)


def test_the_picture_has_a_panel_for_every_weight_and_a_line_for_every_agent() -> None:
    rows = [
        {"agent": agent, "param_weight": weight, "queries": query, "regret": 0.1 / query, "low": 0.0, "high": 0.3}
        for agent in ("one", "two")
        for weight in (0.0, 0.1, 0.3)
        for query in range(1, 5)
    ]
    figure = regret.picture(pd.DataFrame(rows))
    figure.canvas.draw()
    assert [axes.get_title() for axes in figure.axes] == ["param_weight 0", "param_weight 0.1", "param_weight 0.3"]
    assert [len(axes.lines) for axes in figure.axes] == [2, 2, 2]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["one", "two"]


def test_without_names_all_agents_take_part_that_can() -> None:
    variants = {variant.label: variant for variant in agents.variants(agents.default_texts(), noisy())}
    assert {variant.config.agent.name for variant in variants.values()} == {*registry.AGENTS} - {"gradient_similarity"}
    assert {"random --env.action-mode joint", "random"} <= variants.keys()
    for label, variant in variants.items():
        assert variant.config.hyperparameters.get("explore", 1) == 1, label
        assert variant.config.env.freeze_after == 1, label


@pytest.mark.parametrize(
    ("text", "share"),
    [
        ("surrogate", 1.0),
        ("surrogate --agent.explore 0.25", 0.25),
        ("thompson", 1.0),
        ("thompson --agent.explore=0.5", 0.5),
    ],
)
def test_agents_explore_to_the_end_unless_they_are_told_otherwise(text: str, share: float) -> None:
    (variant,) = agents.variants([text], noisy())
    assert variant.label == text
    assert variant.config.hyperparameters["explore"] == share


def test_a_share_in_a_file_of_settings_holds_too(tmp_path: Path) -> None:
    path = tmp_path / "settings.json"
    path.write_text('{"agent.explore": 0.25}')
    (variant,) = agents.variants([f"surrogate --config {path}"], noisy())
    assert variant.config.hyperparameters["explore"] == 0.25


def test_a_search_explores_with_every_query() -> None:
    (variant,) = agents.variants(["surrogate"], quiet())
    env = agents.make_env(variant, quiet(), 40, {})
    agent = agents.make_agent(variant, env, 0)
    proposals: list[Pointers] = []
    propose = agent.propose  # type: ignore[attr-defined]
    agent.propose = lambda pointers: proposals.append(propose(pointers)) or proposals[-1]  # type: ignore[attr-defined]
    agent.learn(env, 40)
    assert len(proposals) == 40


def test_mistakes_in_texts_are_told_together() -> None:
    with pytest.raises(InputError) as caught:
        agents.variants(["nobody", "random --env.freez 1", "dqn --seed 3"], noisy())
    assert len(caught.value.lines) == 3
