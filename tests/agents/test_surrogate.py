"""The surrogate: its posterior against a plain formula, what it can tell apart, and what it does with both."""

import itertools
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from scipy import stats

import agents
import envs  # noqa: F401 (registers the environments)
from agents import surrogate
from agents.base import Transition
from agents.search import neighbours
from envs.formula import distance
from tying import Pointers


def instant(**options: Any) -> gymnasium.Env[Any, Any]:
    return gymnasium.make("tying/FormulaTying-v0", action_mode="joint", **options)


def taught(patterns: list[Pointers], times: Any, levels: Any) -> Any:
    """Return an agent that has seen windows; its process was chosen with all of them."""
    agent: Any = agents.make("surrogate", instant(num_layers=len(patterns[0])))
    agent.begin(patterns[0])
    agent._windows.extend(zip(patterns, times, levels, strict=True))
    return agent


def likeness(one: Pointers, other: Pointers) -> list[float]:
    """Return how alike two patterns are by their shapes, by their ties and by nearness."""

    def unique(pattern: Pointers) -> float:
        return 2 * (len(set(pattern)) - 1) / (len(pattern) - 1) - 1

    def alone(pattern: Pointers) -> list[bool]:
        return [pattern.count(pattern[layer]) == 1 for layer in range(len(pattern))]

    agreement = float(np.mean([1 if a == b else -1 for a, b in zip(alone(one), alone(other), strict=True)]))
    shape, share = (unique(one) * unique(other) + agreement) / 2, distance(one, other)
    return [shape, 1 - 2 * share, float(np.exp(-2 * surrogate._NEARNESS * share))]


def dense(
    candidates: list[Pointers], tried: list[Pointers], times: np.ndarray, levels: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and covariance of the candidates' levels at the last time: condition their joint normal by inverses.

    Weights, noise and degree are those under which the levels are most likely. Their scale is unknown, which makes them a
    Student's t with two degrees of freedom.
    """
    everyone, moments = [*candidates, *tried], np.array([*[times[-1]] * len(candidates), *times])
    parts = np.array([[likeness(one, other) for other in everyone] for one in everyone])
    count, best = len(candidates), (-np.inf, np.empty(0), np.empty(0))
    for weight, noise, degree in itertools.product(surrogate._WEIGHTS, surrogate._NOISES, surrogate._DEGREES):
        prior = parts @ np.array(weight) + surrogate._TREND_VARIANCE * (1 + np.outer(moments, moments)) ** degree
        of_levels = prior[count:, count:] + noise * np.eye(len(tried))
        typical = surrogate._TYPICAL_SCALE**2
        likely = float(stats.multivariate_t(shape=typical * of_levels, df=2).logpdf(levels))
        if likely > best[0]:
            gain = prior[:count, count:] @ np.linalg.inv(of_levels)
            scale = (levels @ np.linalg.inv(of_levels) @ levels + 2 * typical) / (len(tried) + 2)
            best = likely, gain @ levels, scale * (prior[:count, :count] - gain @ prior[count:, :count])
    return best[1:]


# The posterior.


@pytest.mark.parametrize("slope", [0.0, 2.0])
@pytest.mark.parametrize("weights", [surrogate._WEIGHTS, *((one,) for one in surrogate._WEIGHTS)], ids=str)
def test_the_posterior_is_that_of_the_plain_formula(
    weights: tuple[tuple[float, ...], ...], slope: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(surrogate, "_WEIGHTS", weights)
    generator = np.random.default_rng(0)
    candidates = list(Pointers.all(4))
    tried = [candidates[index] for index in generator.integers(0, 15, 9)]
    times = np.linspace(0.1, 0.9, 9)
    levels = np.array([0.05 * pattern.num_unique for pattern in tried]) + slope * times + generator.normal(0, 0.02, 9)
    found_mean, found_covariance = taught(tried, times, levels)._predict(candidates)
    mean, covariance = dense(candidates, tried, times, levels)
    assert found_mean == pytest.approx(mean, rel=1e-5, abs=1e-6)
    assert found_covariance == pytest.approx(covariance, rel=1e-4, abs=1e-7)


def test_shapes_are_told_apart_and_no_layer_is_special() -> None:
    """Which layers share with no other, and how many sets there are; swapping two layers swaps their columns."""
    patterns = list(Pointers.all(5))
    shapes = {tuple(row) for row in surrogate.encode(patterns, 0.0)[:, 1:7].round(9).tolist()}
    assert len(shapes) == len({(tuple(len(g) == 1 for g in map(set_of(p), range(5))), p.num_unique) for p in patterns})
    swapped = [Pointers.from_labels([p[1], p[0], *p[2:]]) for p in patterns]
    ours, theirs = (surrogate.encode(each, 0.0)[:, 1:7] for each in (patterns, swapped))
    assert np.array_equal(ours[:, [0, 2, 1, 3, 4, 5]], theirs)


def set_of(pattern: Pointers) -> Any:
    """Return the function from a layer to the layers that use its weights."""
    return lambda layer: [other for other in range(len(pattern)) if pattern[other] == pattern[layer]]


def test_it_believes_what_it_sees_often() -> None:
    """Pairs tell every pattern apart, so the highest is found whatever the levels are."""
    candidates = list(Pointers.all(4))
    for best in range(15):
        levels = [1.0 if number == best else 0.0 for number in range(15)] * 6
        mean, _ = taught(candidates * 6, np.zeros(90), levels)._predict(candidates)
        assert mean.argmax() == best


def test_what_rises_with_time_is_not_put_down_to_patterns(monkeypatch: pytest.MonkeyPatch) -> None:
    """The better a pattern the earlier it is tried, and every window is better than those before it."""
    candidates = list(Pointers.all(4))
    tried = sorted(candidates * 3, key=lambda pattern: -pattern.num_unique)
    times = np.linspace(0, 1, len(tried))
    levels = 0.1 * np.array([pattern.num_unique for pattern in tried]) + 3 * times
    mean, _ = taught(tried, times, levels)._predict(candidates)
    assert candidates[int(mean.argmax())].num_unique == 4
    monkeypatch.setattr(surrogate, "_DEGREES", (0,))
    mean, _ = taught(tried, times, levels)._predict(candidates)
    assert candidates[int(mean.argmax())].num_unique == 1


def test_draws_scatter_as_the_posterior_says(monkeypatch: pytest.MonkeyPatch) -> None:
    mean, covariance = np.array([0.0, 0.1]), np.array([[0.02, 0.005], [0.005, 0.01]])
    env = instant(num_layers=2)
    agent: Any = agents.make("surrogate", env, explore=1.0)
    monkeypatch.setattr(agent, "_predict", lambda candidates: (mean, covariance.copy()))
    observation, _ = env.reset(seed=0)
    agent.begin_episode(observation)
    drawn = []
    for _ in range(2000):
        agent.learn_from(Transition(observation, None, 0.0, observation, False, None))
        drawn.append(agent.propose(Pointers((0, 1))) == (0, 1))
    assert np.mean(drawn) == pytest.approx(stats.norm.cdf(0.1 / (0.02 + 0.01 - 2 * 0.005) ** 0.5), abs=0.03)


def test_patterns_that_no_feature_tells_apart_can_be_drawn_from(monkeypatch: pytest.MonkeyPatch) -> None:
    """The covariance is singular then, but for rounding: the shape alone sees 33 kinds among 52 patterns."""
    monkeypatch.setattr(surrogate, "_WEIGHTS", ((1.0, 0.0, 0.0),))
    env = instant(num_layers=5, num_decisions=30)
    agent: Any = agents.make("surrogate", env, explore=1.0).learn(env, 30)
    _, covariance = agent._predict(list(Pointers.all(5)))
    assert np.linalg.matrix_rank(covariance) < 52


# The agent.


@pytest.mark.parametrize("num_layers", [1, 2, 5, 9])
def test_it_proposes_and_recommends_patterns(num_layers: int) -> None:
    env = instant(num_layers=num_layers, best="all_tied", num_decisions=25, noise=0.01)
    actions: list[tuple[list[int], Pointers]] = []
    env.unwrapped.on_decision = lambda record, *_: actions.append((record.action, record.pointers))  # type: ignore[attr-defined]
    agent = agents.make("surrogate", env, explore=1.0)
    assert agent.recommend() is None
    recommended: list[Pointers | None] = []
    agent.learn(env, 25, callback=lambda agent: recommended.append(agent.recommend()))
    assert [tuple(action) for action, _ in actions] == [pointers for _, pointers in actions]
    for pattern in recommended:
        assert isinstance(pattern, Pointers) and len(pattern) == num_layers
    if num_layers > 1:
        assert len({pointers for _, pointers in actions}) > 1


def test_of_many_layers_the_candidates_are_those_tried_and_moves_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    env = instant(num_layers=9, best="sequence:3", num_decisions=40, noise=0.01)
    agent: Any = agents.make("surrogate", env, explore=1.0)
    predict, seen = agent._predict, []

    def look(candidates: list[Pointers]) -> Any:
        seen.append((candidates, {pattern for pattern, *_ in agent._windows}))
        return predict(candidates)

    monkeypatch.setattr(agent, "_predict", look)
    agent.learn(env, 40)
    assert 100 < max(len(candidates) for candidates, _ in seen) <= surrogate.MAX_CANDIDATES
    for candidates, known in seen:
        around = known | {neighbour for pattern in known for neighbour in neighbours(pattern)}
        assert known <= set(candidates) <= around  # a pattern that was tried can always be kept
        assert len(set(candidates)) == len(candidates)
    assert seen[-1] != seen[-2]


def test_of_few_layers_all_patterns_are_candidates() -> None:
    agent: Any = agents.make("surrogate", instant())
    assert sorted(agent._candidates()) == sorted(Pointers.all(6))


def test_the_newest_windows_are_the_evidence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(surrogate, "MAX_WINDOWS", 12)
    env = instant(num_layers=3, num_decisions=30)
    seen: list[Pointers] = []
    env.unwrapped.on_decision = lambda record, *_: seen.append(record.pointers)  # type: ignore[attr-defined]
    agent: Any = agents.make("surrogate", env, explore=1.0).learn(env, 30)
    assert [pattern for pattern, *_ in agent._windows] == seen[-12:]


def test_the_process_is_chosen_again_when_windows_have_grown_by_a_fifth(monkeypatch: pytest.MonkeyPatch) -> None:
    env = instant(num_decisions=30)
    agent: Any = agents.make("surrogate", env, explore=1.0)
    processes, chosen = surrogate.processes, []
    monkeypatch.setattr(surrogate, "processes", lambda name: chosen.append(len(agent._windows)) or processes(name))
    agent.learn(env, 30)
    assert chosen == [1, 2, 3, 4, 5, 7, 9, 11, 14, 17, 21, 26]


@pytest.mark.learning
def test_it_finds_good_patterns_of_many_layers_within_eighty_windows() -> None:
    """The gap is large, so that time matters little. Random patterns are 0.5 away on average, the first one 0.58."""
    distances = []
    for seed in range(3):
        env = instant(num_layers=9, best="sandwich", num_decisions=80, gap=100.0)
        found = agents.make("surrogate", env, seed=seed, explore=1.0).learn(env, 80).recommend()
        assert found is not None
        distances.append(distance(found, env.unwrapped.best))  # type: ignore[attr-defined]
    assert np.mean(distances) < 0.2


def test_a_level_is_the_sum_of_all_rewards_up_to_its_window() -> None:
    env = instant(num_decisions=10, noise=0.1)
    records: list[Any] = []
    env.unwrapped.on_decision = lambda record, *_: records.append(record)  # type: ignore[attr-defined]
    agent: Any = agents.make("surrogate", env, explore=1.0).learn(env, 10)
    patterns, times, levels = zip(*agent._windows, strict=True)
    assert list(patterns) == [record.pointers for record in records]
    assert levels == pytest.approx(np.cumsum([record.reward for record in records]))
    assert times == pytest.approx([number / 10 for number in range(1, 11)])


def test_it_draws_rather_than_takes_what_it_would_keep() -> None:
    env = instant(num_layers=5, num_decisions=30, noise=0.05)
    taken: list[Pointers] = []
    env.unwrapped.on_decision = lambda record, *_: taken.append(record.pointers)  # type: ignore[attr-defined]
    kept: list[Any] = []
    agents.make("surrogate", env, explore=1.0).learn(env, 30, callback=lambda agent: kept.append(agent.recommend()))
    assert taken[0] == Pointers.independent(5)
    assert 5 < sum(pattern != best for pattern, best in zip(taken[1:], kept[:-1], strict=True))


def test_it_learns_nothing_once_it_has_explored() -> None:
    env = instant(num_decisions=40, noise=0.05)
    agent: Any = agents.make("surrogate", env, explore=0.5).learn(env, 40)
    assert len(agent._windows) == 20
    observation, _ = env.reset(seed=1)
    assert tuple(agent.predict(observation, deterministic=True)) == agent.recommend()


def test_what_is_saved_recommends_the_same(tmp_path: Path) -> None:
    env = instant(num_decisions=30, noise=0.05)
    agent = agents.make("surrogate", env, seed=4, explore=1.0).learn(env, 30)
    agent.save(tmp_path / "agent")
    loaded = agents.load(tmp_path / "agent", instant())
    assert loaded.recommend() == agent.recommend() != Pointers.independent(6)
    assert isinstance(loaded.recommend(), Pointers)
    assert loaded.config == agent.config
    untaught = agents.make("surrogate", env)
    untaught.save(tmp_path / "untaught")
    assert agents.load(tmp_path / "untaught", env).recommend() is None


@pytest.mark.parametrize("name", ["local_search", "evolution", "surrogate"])
def test_searches_recommend_what_they_hold(name: str) -> None:
    env = instant(num_decisions=60)
    agent = agents.make(name, env, explore=0.5).learn(env, 60)
    assert agent.recommend() == env.unwrapped.pointers  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", ["random", "sequence:3"])
def test_others_do_not_say(name: str) -> None:
    env = instant(num_decisions=10)
    assert agents.make(name, env).learn(env, 10).recommend() is None
