"""The surrogate: its posterior against a plain formula, what it can tell apart, and what it does with it."""

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
from agents.search import neighbours
from agents.surrogate import Kernel, Posterior
from envs.formula import distance
from tying import Pointers


def instant(**options: Any) -> gymnasium.Env[Any, Any]:
    return gymnasium.make("tying/FormulaTying-v0", action_mode="joint", **options)


def alike(features: str, one: Pointers, other: Pointers) -> list[tuple[float, float]]:
    """Return (weight, likeness) of every part of the kernel, for every set of weights that there is to choose from."""

    def rule(pattern: Pointers) -> tuple[float, float]:
        return (1 if pattern.count(0) == 1 else -1), 2 * (len(set(pattern)) - 1) / (len(pattern) - 1) - 1

    pairs = list(itertools.combinations(range(len(one)), 2))
    share = sum((one[i] == one[j]) != (other[i] == other[j]) for i, j in pairs) / len(pairs)
    parts = np.dot(rule(one), rule(other)) / 2, 1 - 2 * share, np.exp(-2 * surrogate._NEARNESS * share)
    return [float(np.dot(weights, parts)) for weights in Kernel(len(one), features)._weights]  # type: ignore[misc]


def dense(
    features: str, candidates: list[Pointers], tried: list[Pointers], levels: np.ndarray, trends: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and covariance of the posterior: condition the joint normal of candidates and levels, by inverses.

    Weights, noise and trend are those under which the levels are most likely. Their scale is unknown, which makes them a
    Student's t with two degrees of freedom.
    """
    everyone = [*candidates, *tried]
    priors = np.array([[alike(features, one, other) for other in everyone] for one in everyone])  # (., ., weights)
    count, best = len(candidates), (-np.inf, np.empty(0), np.empty(0))
    for number, noise, degree in itertools.product(range(priors.shape[2]), surrogate._NOISES, {0, trends.shape[1] - 1}):
        prior = priors[:, :, number]
        of_levels = prior[count:, count:] + noise * np.eye(len(tried))
        of_levels += surrogate._COMMON * sum(np.outer(column, column) for column in trends.T[: degree + 1])
        usual = surrogate._USUAL**2
        likely = float(stats.multivariate_t(shape=usual * of_levels, df=2).logpdf(levels))
        if likely > best[0]:
            gain = prior[:count, count:] @ np.linalg.inv(of_levels)
            scale = (levels @ np.linalg.inv(of_levels) @ levels + 2 * usual) / (len(tried) + 2)
            best = likely, gain @ levels, scale * (prior[:count, :count] - gain @ prior[count:, :count])
    return best[1:]


# The posterior.


@pytest.mark.parametrize("degree", [0, 1, 2])
@pytest.mark.parametrize("features", ["rule", "pairs"])
def test_the_posterior_is_that_of_the_plain_formula(features: str, degree: int) -> None:
    generator = np.random.default_rng(degree)
    candidates = list(Pointers.all(4))
    tried = [candidates[index] for index in generator.integers(0, 15, 9)]
    times = np.linspace(0.1, 0.9, 9)
    levels = np.array([0.05 * pattern.num_unique for pattern in tried]) + 2 * times + generator.normal(0, 0.02, 9)
    trends = times[:, None] ** np.arange(degree + 1)
    found = Kernel(4, features).posterior(candidates, tried, levels, trends)
    mean, covariance = dense(features, candidates, tried, levels, trends)
    assert found.mean == pytest.approx(mean, rel=1e-5, abs=1e-7)
    assert found.covariance == pytest.approx(covariance, rel=1e-4, abs=1e-9)
    assert found.best == candidates[int(mean.argmax())]


def test_the_rule_cannot_tell_apart_what_is_equal_in_its_two_variables() -> None:
    candidates = list(Pointers.all(5))
    generator = np.random.default_rng(0)
    tried = [candidates[index] for index in generator.integers(0, 52, 20)]
    levels = generator.normal(size=20)
    kinds = [(0 in pattern[1:], pattern.num_unique) for pattern in candidates]
    for features in ("rule", "pairs"):
        posterior = Kernel(5, features).posterior(candidates, tried, levels, np.ones((20, 1)))
        values: dict[tuple[bool, int], set[float]] = {}
        for kind, value in zip(kinds, posterior.mean, strict=True):
            values.setdefault(kind, set()).add(round(float(value), 9))
        assert len(values) == 8
        assert (max(map(len, values.values())) == 1) == (features == "rule")


def test_it_believes_what_it_sees_often() -> None:
    """Pairs tell every pattern apart, so that whatever the levels are, the highest is found."""
    candidates = list(Pointers.all(4))
    for best in range(15):
        levels = np.array([1.0 if number == best else 0.0 for number in range(15)] * 8)
        posterior = Kernel(4, "pairs").posterior(candidates, candidates * 8, levels, np.ones((120, 1)))
        assert posterior.best == candidates[best]


def test_what_rises_with_time_is_not_put_down_to_patterns() -> None:
    """The better a pattern the earlier it is tried, and every window is better than those before it."""
    candidates = list(Pointers.all(4))
    tried = sorted(candidates * 3, key=lambda pattern: -pattern.num_unique)
    times = np.linspace(0, 1, len(tried))
    levels = 0.1 * np.array([pattern.num_unique for pattern in tried]) + 3 * times
    trends = times[:, None] ** np.arange(3)
    assert Kernel(4, "rule").posterior(candidates, tried, levels, trends).best.num_unique == 4
    assert Kernel(4, "rule").posterior(candidates, tried, levels, trends[:, :1]).best.num_unique == 1


def test_draws_scatter_as_the_covariance_says() -> None:
    candidates = list(Pointers.all(2))
    posterior = Posterior(candidates, np.array([0.0, 0.1]), np.array([[0.02, 0.005], [0.005, 0.01]]))
    generator = np.random.default_rng(0)
    share = np.mean([posterior.draw(generator) == candidates[1] for _ in range(2000)])
    assert share == pytest.approx(stats.norm.cdf(0.1 / (0.02 + 0.01 - 2 * 0.005) ** 0.5), abs=0.03)


def test_patterns_that_are_one_and_the_same_can_be_drawn_from() -> None:
    """The covariance is singular then, but for rounding."""
    candidates = [Pointers((0, 1, 1))] * 5
    posterior = Kernel(3, "pairs").posterior(candidates, candidates, np.zeros(5), np.ones((5, 1)))
    assert posterior.draw(np.random.default_rng(0)) == candidates[0]


# The agent.


@pytest.mark.parametrize("features", ["rule", "pairs"])
@pytest.mark.parametrize("num_layers", [1, 2, 5, 9])
def test_it_proposes_and_recommends_patterns(num_layers: int, features: str) -> None:
    env = instant(num_layers=num_layers, best="all_tied", num_decisions=25, noise=0.01)
    actions: list[tuple[list[int], Pointers]] = []
    env.unwrapped.on_decision = lambda decision, *_: actions.append((decision.action, decision.pointers))  # type: ignore[attr-defined]
    agent = agents.make("surrogate", env, explore=1.0, features=features)
    assert agent.recommend() is None
    recommended: list[Pointers | None] = []
    agent.learn(env, 25, callback=lambda agent: recommended.append(agent.recommend()))
    assert [tuple(action) for action, _ in actions] == [pointers for _, pointers in actions]
    for pattern in recommended:
        assert isinstance(pattern, Pointers) and len(pattern) == num_layers
    if num_layers > 1:
        assert len({pointers for _, pointers in actions}) > 1


def test_of_many_layers_a_sample_around_what_was_tried_is_looked_at() -> None:
    env = instant(num_layers=9, best="sequence:3", num_decisions=40, noise=0.01)
    agent: Any = agents.make("surrogate", env, explore=1.0)
    seen: list[list[Pointers]] = []
    tried: list[set[Pointers]] = []

    def look(agent: Any) -> None:
        seen.append(agent._posterior.candidates)
        tried.append(set(agent._tried))

    agent.learn(env, 40, callback=look)
    assert max(map(len, seen)) == surrogate._SAMPLED < sum(1 for _ in Pointers.all(9))
    for candidates, known in zip(seen, tried, strict=True):
        around = known | {neighbour for pattern in known for neighbour in neighbours(pattern)}
        assert known <= set(candidates) <= around  # what was tried can always be kept
        assert len(set(candidates)) == len(candidates)
    assert seen[-1] != seen[-2]


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


def test_a_level_is_the_sum_of_all_pays_up_to_its_window() -> None:
    env = instant(num_decisions=10, noise=0.1)
    decisions: list[Any] = []
    env.unwrapped.on_decision = lambda decision, *_: decisions.append(decision)  # type: ignore[attr-defined]
    agent: Any = agents.make("surrogate", env, explore=1.0).learn(env, 10)
    assert agent._tried == [decision.pointers for decision in decisions]
    assert agent._levels == pytest.approx(np.cumsum([decision.reward for decision in decisions]).tolist())
    assert agent._times == pytest.approx([number / 10 for number in range(1, 11)])


def test_it_remembers_the_newest_hundred_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    posterior = Kernel.posterior

    def counted(self: Kernel, candidates: Any, tried: Any, levels: np.ndarray, trends: np.ndarray) -> Posterior:
        assert len(tried) == len(levels) == len(trends)
        seen.append(len(tried))
        return posterior(self, candidates, tried, levels, trends)

    monkeypatch.setattr(Kernel, "posterior", counted)
    env = instant(num_layers=3, num_decisions=130)
    agent: Any = agents.make("surrogate", env, explore=1.0).learn(env, 130)
    assert seen == [*range(1, 101), *[100] * 30]
    assert agent._times[0] == pytest.approx(31 / 130)


def test_it_draws_rather_than_takes_what_it_would_keep() -> None:
    env = instant(num_layers=5, num_decisions=30, noise=0.05)
    taken: list[Pointers] = []
    env.unwrapped.on_decision = lambda decision, *_: taken.append(decision.pointers)  # type: ignore[attr-defined]
    kept: list[Any] = []
    agents.make("surrogate", env, explore=1.0).learn(env, 30, callback=lambda agent: kept.append(agent.recommend()))
    assert taken[0] == Pointers.independent(5)
    assert 5 < sum(pattern != best for pattern, best in zip(taken[1:], kept[:-1], strict=True))


def test_it_learns_nothing_once_it_has_explored() -> None:
    env = instant(num_decisions=40, noise=0.05)
    agent: Any = agents.make("surrogate", env, explore=0.5).learn(env, 40)
    assert len(agent._tried) == 20
    observation, _ = env.reset(seed=1)
    assert tuple(agent.predict(observation, deterministic=True)) == agent.recommend()


def test_what_is_saved_recommends_the_same(tmp_path: Path) -> None:
    env = instant(num_decisions=30, noise=0.05)
    agent = agents.make("surrogate", env, seed=4, explore=1.0, features="rule").learn(env, 30)
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
