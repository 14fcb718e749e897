"""Every registered agent on the instant environment: the contract, saving, masks, refusals."""

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch

import agents
import envs  # noqa: F401 (registers the environments)
from agents.base import Agent, Transition, masks_of
from agents.replay import Replay
from tying import Pointers, strategies
from tying.errors import InputError

OWN_LEARNERS = ["paper", "double_dqn"]
VALUE_LEARNERS = ["dqn", "qrdqn"]
POLICY_LEARNERS = ["ppo", "maskable_ppo", "recurrent_ppo", "a2c"]
LEARNERS = [*VALUE_LEARNERS, *POLICY_LEARNERS]
FIXED = [
    "independent",
    "all_tied",
    "sequence:3",
    "cycle:2",
    "cycle_rev:3",
    "sandwich",
    "private_first",
    "middle_cycle:4",
    "immediate_repeat",
]
FIXED += [
    "immediate_repeat",
    "front_loaded:3,2,1",
    "share_then_unshare:50",
    "tie_after:50:sandwich",
    "untie_after:50:cycle:2",
    "0 1 1 3 3 5",
    "1-2-2-3-3-4",
    "a-b-b-c-c-d",
]
MODES = {
    **{name: ["cursor", "pair"] for name in VALUE_LEARNERS},
    "paper": ["cursor"],
    "double_dqn": ["cursor", "pair"],
    "local_search": ["joint"],
    "evolution": ["joint"],
    "surrogate": ["joint"],
    "cross_entropy": ["joint"],
    "additive": ["joint"],
    "greedy": ["joint"],
    "thompson": ["pair", "cursor"],
    "ucb": ["cursor", "pair"],
    "gradient_similarity": ["cursor"],
    **{name: ["cursor", "pair", "joint"] for name in [*POLICY_LEARNERS, "random"]},
}
MODES |= {name: ["joint"] for name in FIXED}
CASES = [(name, mode) for name, modes in MODES.items() for mode in modes]


def instant(mode: str = "cursor", **options: Any) -> gymnasium.Env[Any, Any]:
    return gymnasium.make("tying/FormulaTying-v0", action_mode=mode, gradient_statistics=True, **options)


def decisions_of(name: str, mode: str, seed: int, count: int = 45, **hyperparameters: Any) -> list[Pointers]:
    env = instant(mode)
    seen: list[Pointers] = []
    env.unwrapped.on_decision = lambda decision, *_: seen.append(decision.pointers)  # type: ignore[attr-defined]
    agents.make(name, env, seed=seed, **hyperparameters).learn(env, count)
    return seen


def test_every_name_is_tested() -> None:
    patterns = {"0 1 1 3 3 5", "1-2-2-3-3-4", "a-b-b-c-c-d"}
    assert {name.partition(":")[0] for name in MODES} - patterns == set(agents.registry.prefixes())
    assert set(agents.names()) <= set(MODES)


@pytest.mark.parametrize(("name", "mode"), CASES)
def test_it_decides_as_often_as_asked_and_the_same_for_equal_seeds(name: str, mode: str) -> None:
    first = decisions_of(name, mode, seed=1)
    assert len(first) == 45
    assert first == decisions_of(name, mode, seed=1)


@pytest.mark.parametrize("name", [*LEARNERS, *OWN_LEARNERS, "random"])
def test_other_seeds_decide_otherwise(name: str) -> None:
    assert decisions_of(name, "cursor", seed=1) != decisions_of(name, "cursor", seed=2)


@pytest.mark.parametrize(("name", "mode"), CASES)
def test_predictions_are_in_the_space_and_diagnostics_are_finite(name: str, mode: str) -> None:
    env = instant(mode)
    agent = agents.make(name, env, seed=0)
    observation, _ = env.reset(seed=0)
    masks = masks_of(env)
    assert masks is not None
    for deterministic in (False, True):
        assert env.action_space.contains(agent.predict(observation, masks, deterministic))
    for value in agent.diagnostics(observation, masks).values():
        assert np.isfinite(value).all()


@pytest.mark.parametrize(("name", "mode"), CASES)
def test_what_is_saved_decides_like_what_was_learned(name: str, mode: str, tmp_path: Path) -> None:
    env = instant(mode)
    agent = agents.make(name, env, seed=3).learn(env, 40)
    agent.save(tmp_path / "agent")
    loaded = agents.load(tmp_path / "agent", instant(mode))
    observation, _ = env.reset(seed=5)
    agent.begin_episode(observation)
    loaded.begin_episode(observation)
    for _ in range(10):
        action = agent.predict(observation, masks_of(env), deterministic=True)
        if name != "random":
            assert np.array_equal(action, loaded.predict(observation, masks_of(env), deterministic=True))
        observation, *_ = env.step(action)
    assert loaded.config == agent.config


@pytest.mark.parametrize("name", ["random", "maskable_ppo", "thompson", "ucb"])
def test_masked_agents_take_legal_actions_only(name: str) -> None:
    env = instant("pair")
    agent = agents.make(name, env, seed=0)
    illegal = []

    def check(decision: Any, _: np.ndarray, masks: np.ndarray) -> None:
        if not masks[decision.action]:
            illegal.append(decision)

    env.unwrapped.on_decision = check  # type: ignore[attr-defined]
    agent.learn(env, 60)
    assert not illegal


@pytest.mark.parametrize("name", FIXED)
def test_fixed_strategies_hold_from_the_first_window_on(name: str) -> None:
    patterns = set(decisions_of(name, "joint", seed=0, count=20))
    assert len(patterns) == (2 if name.partition(":")[0] in strategies.schedule_names() else 1)


def test_diagnostics_draw_no_random_numbers() -> None:
    """Looking at an agent must not change what it does."""
    for name in [*LEARNERS, *OWN_LEARNERS, "random"]:
        env = instant()
        agent = agents.make(name, env, seed=1)
        seen: list[Pointers] = []

        def look(decision: Any, observation: np.ndarray, masks: np.ndarray, agent: Agent = agent) -> None:
            agent.diagnostics(observation, masks)
            agent.metrics()
            seen.append(decision.pointers)  # noqa: B023 (called within this turn of the loop)

        env.unwrapped.on_decision = look  # type: ignore[attr-defined]
        agent.learn(env, 45)
        assert seen == decisions_of(name, "cursor", seed=1)


def test_a_callback_can_stop() -> None:
    for name in ["dqn", "random"]:
        env = instant()
        calls: list[Agent] = []
        agents.make(name, env, seed=0).learn(env, 30, callback=lambda agent: calls.append(agent) or len(calls) < 7)  # noqa: B023
        assert len(calls) == 7


def test_hyperparameters_are_set_and_checked() -> None:
    agent = agents.make("dqn", instant(), learning_rate=0.5)
    assert agent.config.learning_rate == 0.5
    with pytest.raises(InputError, match=r"unknown setting 'agent\.learning_rat': did you mean 'agent\.learning_rate'"):
        agents.make("dqn", instant(), learning_rat=0.5)
    with pytest.raises(InputError, match=r"agent\.gamma = 2"):
        agents.make("dqn", instant(), gamma=2)


@pytest.mark.parametrize(
    ("name", "mode", "message"),
    [
        ("paper", "pair", "it needs env.action_mode cursor"),
        ("dqm", "cursor", "did you mean 'dqn'"),
        ("no_such_module:Agent", "cursor", "cannot be imported: ModuleNotFoundError"),
        ("agents.base:Nothing", "cursor", "cannot be imported: AttributeError"),
        ("agents.base:NoConfig", "cursor", "it lacks predict, learn, save, load"),
        ("sequence:9", "joint", "sequence:9 needs 1 to 6 unique layers"),
    ],
)
def test_agents_that_do_not_fit_are_refused(name: str, mode: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        agents.make(name, instant(mode))


@pytest.mark.parametrize(
    ("name", "mode"), [("dqn", "joint"), ("sequence:3", "cursor"), ("sequence:3", "pair"), ("paper", "pair")]
)
def test_a_refusal_names_the_agents_that_decide_there(name: str, mode: str) -> None:
    decide = [other for other in agents.registry.AGENTS if mode in MODES[other]]
    decide += ["fixed strategies"] if mode == "joint" else []
    with pytest.raises(InputError) as caught:
        agents.make(name, instant(mode))
    (line,) = caught.value.lines
    assert f"; agents that fit: {', '.join(decide)}; or set another env.action_mode" in line


def test_metrics_carry_what_the_library_logs() -> None:
    env = instant()
    for name, tag in [
        ("dqn", "train/loss"),
        ("qrdqn", "train/loss"),
        ("ppo", "train/value_loss"),
        ("recurrent_ppo", "train/value_loss"),
        ("a2c", "train/value_loss"),
        ("paper", "train/loss"),
        ("double_dqn", "train/loss"),
    ]:
        agent = agents.make(name, env, seed=0).learn(env, 45)
        assert tag in agent.metrics()
        assert agent.metrics() == {}


@pytest.mark.parametrize("name", ["ppo", "maskable_ppo", "recurrent_ppo"])
def test_no_mini_batch_is_left_with_one_decision(name: str) -> None:
    assert len(decisions_of(name, "cursor", seed=0, n_steps=9, batch_size=8)) == 45


def test_the_published_agent_is_as_published() -> None:
    """Linear(L, 128), ReLU, Linear(128, L(L+1)/2); epsilon x 0.95 per sweep; the target reads the decided layer's slice."""
    env = instant(initial_pointers="all_tied")
    agent: Any = agents.make("paper", env, seed=0, epsilon=0.0, epsilon_min=0.0)
    network = agent.network.network
    assert [tuple(p.shape) for p in network.parameters()] == [(128, 6), (128,), (21, 128), (21,)]
    pointers = torch.zeros(6)
    observation, _ = env.reset(seed=0)
    action = agent.predict(observation, masks_of(env))
    assert action == int(network(pointers)[1:3].argmax())  # layer 1 reads two outputs from number 1 on
    next_observation, reward, *_ = env.step(action)
    after = torch.tensor([0.0, *([1.0] if action else [0.0]), 0, 0, 0, 0])
    error = reward + 0.99 * network(after)[1:3].max() - network(pointers)[1 + action]
    agent.learn_from(Transition(observation, action, float(reward), next_observation, True, None))
    assert agent.metrics()["train/loss"] == pytest.approx(float(error.detach()) ** 2, rel=1e-5)

    explorer: Any = agents.make("paper", env, seed=0)
    shares = []
    for _ in range(15):
        shares.append(explorer.epsilon)
        explorer.learn_from(Transition(observation, action, 0.0, next_observation, False, None))
    assert shares == pytest.approx([1.0] * 5 + [0.95] * 5 + [0.95**2] * 5)


def test_saved_learners_continue_where_they_were(tmp_path: Path) -> None:
    """Network, optimizer, generator, epsilon, ...: the loaded one decides and learns like the one that was saved."""
    for name in OWN_LEARNERS:
        agent = agents.make(name, instant(noise=0.1), seed=3).learn(instant(noise=0.1), 40)
        agent.save(tmp_path / name)
        decided = []
        for other in (agent, agents.load(tmp_path / name, instant())):
            env = instant(noise=0.1)
            seen: list[Pointers] = []
            env.unwrapped.on_decision = lambda decision, *_, seen=seen: seen.append(decision.pointers)  # type: ignore[attr-defined]
            other.learn(env, 40)
            decided.append(seen)
        assert decided[0] == decided[1]


def test_masks_of_what_follows_bound_the_double_dqns_target() -> None:
    """An action that is illegal afterwards is not bootstrapped from, however well the network speaks of it."""
    env = instant()
    agent: Any = agents.make("double_dqn", env, seed=0, gamma=0.5, learning_starts=10_000).learn(env, 12)
    learner = agent.learner
    batch = learner.replay.sample(64, learner.generator)
    before = learner._targets(batch, median=0.0, spread=1.0)
    with torch.no_grad():
        learner.network[-1].bias[3] += 1000
        learner.target[-1].bias[3] += 1000
    raised = learner._targets(batch, median=0.0, spread=1.0) > before + 100
    assert torch.equal(raised, batch.next_masks[:, 3] & (batch.discount > 0))
    assert raised.any() and not raised.all()


def test_steps_and_ends_bound_the_double_dqns_returns() -> None:
    env = instant(num_decisions=5)
    agent: Any = agents.make("double_dqn", env, seed=0, gamma=0.5, n_steps=3).learn(env, 5)
    replay, rewards = agent.learner.replay, np.array(agent.learner.rewards)
    assert len(replay) == 5
    assert replay.columns["discount"][:5].tolist() == [0.125, 0.125, 0.0, 0.0, 0.0]
    expected = [sum(0.5**k * reward for k, reward in enumerate(rewards[i : i + 3])) for i in range(5)]
    assert replay.columns["reward"][:5].tolist() == pytest.approx(expected, rel=1e-5)


def test_transitions_of_large_errors_are_replayed_more_often() -> None:
    replay = Replay(capacity=4, observation_size=1, num_actions=2, exponent=1.0)
    values = {"observation": [0.0], "reward": 0.0, "reward_weight": 1.0, "discount": 0.0, "next_observation": [0.0]}
    for action in range(6):  # the newest four are kept
        replay.add(action=action, next_masks=[True, True], **values)
    assert sorted(replay.columns["action"].tolist()) == [2, 3, 4, 5]
    replay.set_priority(torch.arange(4), torch.tensor([0.1, 0.1, 0.1, 2.7]))
    batch = replay.sample(4000, torch.Generator().manual_seed(0))
    assert float((batch.index == 3).float().mean()) == pytest.approx(0.9, abs=0.02)
    assert float(batch.weight[batch.index == 3].max()) == pytest.approx((0.101 / 2.701) ** 0.5, rel=1e-3)


def test_own_learners_leave_the_global_generators_alone() -> None:
    before = torch.get_rng_state(), np.random.get_state()[1].copy()  # type: ignore[index,union-attr]
    for name in OWN_LEARNERS:
        agents.make(name, instant(), seed=1).learn(instant(), 40)
    assert torch.equal(before[0], torch.get_rng_state())
    assert np.array_equal(before[1], np.random.get_state()[1])  # type: ignore[index]


def test_another_environment_gets_the_agents_seed() -> None:
    seeds = []
    for _ in range(2):
        agent = agents.make("dqn", instant(), seed=7)
        other = instant(noise=0.1)
        agent.learn(other, 5)
        seeds.append(other.unwrapped._run_seed)  # type: ignore[attr-defined]
    assert seeds == [7, 7]


def test_a_recurrent_policy_remembers_the_run_so_far_and_forgets_at_the_next() -> None:
    env = instant()
    agent: Any = agents.make("recurrent_ppo", env, seed=0)
    observation, _ = env.reset(seed=0)
    next_observation, *_ = env.step(1)

    def memory(*observations: np.ndarray, new: bool) -> np.ndarray:
        if new:
            agent.begin_episode(observations[0])
        for shown in observations:
            agent.predict(shown, deterministic=True)
        return np.concatenate(agent._memory)

    once = memory(observation, next_observation, new=True)
    assert not np.array_equal(memory(next_observation, new=False), once)  # remembers
    assert np.array_equal(memory(observation, next_observation, new=True), once)  # forgets


def test_a_recurrent_policys_diagnostics_are_of_what_it_does() -> None:
    """While it learns it is asked about the memory that it chose with: the probability is the one that it stored."""
    env = instant()
    agent: Any = agents.make("recurrent_ppo", env, seed=0, n_steps=64)
    seen: list[float] = []

    def look(decision: Any, observation: np.ndarray, masks: np.ndarray) -> None:
        seen.append(agent.diagnostics(observation, masks)["probability"][decision.action])

    env.unwrapped.on_decision = look  # type: ignore[attr-defined]
    agent.learn(env, 45)
    stored = np.exp(agent.model.rollout_buffer.log_probs[:44, 0])
    assert seen[:44] == pytest.approx(stored.tolist(), rel=1e-4)


@pytest.mark.parametrize("name", ["dqn", "qrdqn"])
def test_value_learners_rest_while_pointers_stand_still(name: str) -> None:
    counts = []
    for share in (0.5, 1.0, 0.5):
        env = instant(num_decisions=40, env={"freeze_after": share})
        agent = agents.make(name, env, seed=0, learning_starts=8)
        agent.learn(env, 40)
        counts.append(agent.model._n_updates)  # type: ignore[attr-defined]
    agent.learn(env, 10)  # a second run, whose pointers move again
    steps = agent.gradient_steps  # type: ignore[attr-defined]
    assert counts == [12 * steps, 31 * steps, 12 * steps]  # none after the last decision
    assert agent.model._n_updates == 21 * steps  # type: ignore[attr-defined]
