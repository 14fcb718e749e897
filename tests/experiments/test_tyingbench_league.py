"""The league: what an agent would keep after every query, by hand."""

import functools
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pytest
from gymnasium import spaces

import agents
from agents import registry
from agents.base import Agent
from envs.tyingbench import TyingBench
from experiments.results import student_interval
from experiments.tyingbench import arena, league
from tests.envs.tables import FACTS, make_rows
from tying import Pointers
from tying.errors import InputError

A, B, C, D, E = Pointers.all(3)  # 0 0 0, 0 0 2, 0 1 0, 0 1 1, 0 1 2
LOSSES = {A: 2.5, B: 2.1, C: 2.3, D: 2.0, E: 2.2}


class Scripted(Agent):
    """Sets one pattern after another; says what it would keep, or nothing."""

    action_spaces = (spaces.MultiDiscrete,)
    script: ClassVar[Sequence[Pointers]] = ()
    sayings: ClassVar[Sequence[Pointers | None]] = ()
    decided = 0

    @classmethod
    def wishes(cls, config: Any) -> dict[str, Any]:
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
    return TyingBench([type(row)(**{**vars(row), "reward_loss": row.test_loss}) for row in rows], FACTS)


@functools.cache
def noisy() -> TyingBench:
    return TyingBench(make_rows(), FACTS)


def trial(
    bench: TyingBench, flags: str = "", queries: int = 4, param_weight: float = 0.0, seed: int = 0, budget: float = 1.0
) -> list[float]:
    (entry,) = arena.entries([f"{__name__}:Scripted {flags}"], bench)
    errand = league.Errand(entry, param_weight, (seed,), queries, budget, "unused")
    found: list[float] = league.trial(errand, bench, seed).tolist()
    return found


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


def test_the_judge_adds_the_price_of_parameters(monkeypatch: pytest.MonkeyPatch) -> None:
    """At 0.6 all tied costs 2.5 + 0.2, and untied 2.2 + 0.6."""
    play(monkeypatch, [E, A])
    priced = {pattern: loss + 0.6 * pattern.num_unique / 3 for pattern, loss in LOSSES.items()}
    low, high = min(priced.values()), max(priced.values())
    assert trial(quiet(), queries=2, param_weight=0.6) == pytest.approx([(priced[p] - low) / (high - low) for p in (E, A)])


@pytest.mark.parametrize(("seed", "budget"), [(0, 1.0), (7, 1.0), (7, 0.25)])
def test_the_judge_keeps_the_best_mean_of_what_it_saw(monkeypatch: pytest.MonkeyPatch, seed: int, budget: float) -> None:
    """It sees reward losses of single seeds; it is judged by test losses over all of them."""
    script = [B, E, D, E, B, D, C, E, B, D]
    play(monkeypatch, script)
    drawn = np.random.default_rng(seed).choice(noisy().seeds, len(script))
    pays: dict[Pointers, list[float]] = {}
    expected = []
    for pattern, row in zip(script, drawn, strict=True):
        pays.setdefault(pattern, []).append(noisy().query(pattern, budget, int(row))["reward_loss"])
        kept = min(pays, key=lambda p: sum(pays[p]) / len(pays[p]))
        expected.append(noisy().normalised_regret(kept, 0.0, budget))
    assert trial(noisy(), queries=10, seed=seed, budget=budget) == pytest.approx(expected)


def test_equal_seeds_are_equal_trials(monkeypatch: pytest.MonkeyPatch) -> None:
    (entry,) = arena.entries(["random --env.action-mode joint"], noisy())
    errand = league.Errand(entry, 0.1, (), 12, 1.0, "unused")
    first, again, other = (league.trial(errand, noisy(), seed).tolist() for seed in (1, 1, 2))
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
    (entry,) = arena.entries([f"{__name__}:Stranger"], quiet())
    errand = league.Errand(entry, 0.0, (0,), 3, 1.0, "unused")
    assert len(league.trial(errand, quiet(), 0)) == 3


@pytest.mark.parametrize(("name", "pattern"), [("sandwich", E), ("0 1 1", D), ("cycle:2", C), ("tie_after:50:all_tied", E)])
def test_a_fixed_strategy_can_be_judged_too(name: str, pattern: Pointers) -> None:
    (entry,) = arena.entries([name], quiet())
    errand = league.Errand(entry, 0.0, (0,), 4, 1.0, "unused")
    assert league.trial(errand, quiet(), 0).tolist() == regrets(*[pattern] * 4)


# Judges, tables, entries.


def test_a_judge_prefers_the_first_of_equals() -> None:
    judge = league.Judge()
    for pattern, pay in [(B, 2.0), (A, 1.0), (A, 3.0), (C, 2.5)]:
        judge.see(pattern, pay)
    assert judge.best == B
    judge.see(C, 1.0)
    assert judge.best == C


def test_figures_are_means_with_students_interval() -> None:
    values = np.array([[0.5, 0.0], [0.1, 0.0], [0.3, 0.01]])
    table = league._table({("mine", 0.1): values})
    assert table[["agent", "param_weight", "queries", "trials"]].to_numpy().tolist() == [
        ["mine", 0.1, 1, 3],
        ["mine", 0.1, 2, 3],
    ]
    assert table["regret"].tolist() == pytest.approx([0.3, 0.01 / 3])
    low, high = student_interval(values[:, 0])
    assert (table["low"][0], table["high"][0]) == pytest.approx((max(0.0, low), high))
    assert table["low"][1] == 0  # a regret is not below nothing


def test_trials_are_put_together_by_their_seeds(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(errand: league.Errand) -> tuple[league.Errand, np.ndarray]:
        return errand, np.array([[seed, errand.param_weight] for seed in errand.seeds])

    monkeypatch.setattr(league, "_run", run)
    monkeypatch.setattr(league.workers, "carry_out", lambda function, items, *_: map(function, reversed(items)))
    settings = league.LeagueSettings(trials=7, jobs=2, queries=2, param_weights=[0.5, 0.0], _cli_parse_args=[])
    entries = arena.entries(["random", "independent"], noisy())
    found = league._carry_out(entries, settings, league.Console(quiet=True))
    assert list(found) == [("random", 0.5), ("independent", 0.5), ("random", 0.0), ("independent", 0.0)]
    for (_, weight), values in found.items():
        assert values.tolist() == [[seed, weight] for seed in range(7)]


def test_the_picture_has_a_panel_for_every_price_and_a_line_for_every_agent() -> None:
    rows = [
        {"agent": agent, "param_weight": price, "queries": query, "regret": 0.1 / query, "low": 0.0, "high": 0.3}
        for agent in ("one", "two")
        for price in (0.0, 0.1, 0.3)
        for query in range(1, 5)
    ]
    figure = league.picture(pd.DataFrame(rows))
    figure.canvas.draw()
    assert [axes.get_title() for axes in figure.axes] == ["param_weight 0", "param_weight 0.1", "param_weight 0.3"]
    assert [len(axes.lines) for axes in figure.axes] == [2, 2, 2]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["one", "two"]


def test_without_names_all_agents_take_part_that_can() -> None:
    texts = league.default_entries()
    entries = {entry.label: entry for entry in arena.entries(texts, noisy())}
    assert {entry.settings.agent for entry in entries.values()} == {
        name for name in agents.names() if not registry.is_fixed(name)
    }
    assert {"random --env.action-mode joint", "random"} <= entries.keys()
    for label, entry in entries.items():
        assert entry.settings.hyperparameters.get("explore", 1) == 1, label
        assert entry.settings.setup.env.freeze_after == 1, label
    blind = [label for label, entry in entries.items() if arena.blind(entry)]
    assert [label.partition(" ")[0] for label in blind] == ["gradient_similarity"]
    settings = league.LeagueSettings(_cli_parse_args=[])
    taking_part, left_out = league._entries(settings, noisy())
    assert {entry.label for entry in taking_part} == entries.keys() - set(blind)
    assert len(left_out) == 1 and left_out[0].startswith("gradient_similarity")


def test_named_agents_that_need_gradients_are_refused() -> None:
    settings = league.LeagueSettings(agents=["random", "gradient_similarity"], _cli_parse_args=[])
    with pytest.raises(InputError, match="'gradient_similarity' decides by gradients, and a table has none") as caught:
        league._entries(settings, noisy())
    assert len(caught.value.lines) == 1
