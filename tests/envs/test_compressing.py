"""tying/Compressing-v0: a trained model, compressed decision by decision."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env as gymnasium_check
from stable_baselines3.common.env_checker import check_env as sb3_check

import agents
import envs  # noqa: F401 (registers)
from envs.compressing import CompressingEnv, QuestionSimulator
from tying import InputError, Pointers
from tying.compression import Sources
from tying.parts import Parts


def loss(sources: Sources) -> float:
    """Return a loss that adds up over layers or halves; donors matter."""
    return 1 + sum(
        0.3 if source is None else 0.1 * abs(source - layer) + 0.01 * source for layer, source in enumerate(sources)
    )


def make(num_decisions: int = 12, **settings: Any) -> CompressingEnv:
    simulator = QuestionSimulator(loss, 4, set_params=10, uninformed_loss=math.log(9))
    return CompressingEnv(simulator, num_decisions=num_decisions, **settings)


def make_halves(num_decisions: int = 12, **settings: Any) -> CompressingEnv:
    simulator = QuestionSimulator(loss, 2, (10, 20), math.log(9), parts="halves")
    return CompressingEnv(simulator, num_decisions=num_decisions, **settings)


@pytest.mark.parametrize("made", [make, make_halves])
@pytest.mark.parametrize("mode", ["cursor", "pair", "joint"])
def test_both_checkers_pass(made: Callable[..., CompressingEnv], mode: str) -> None:
    gymnasium_check(made(action_mode=mode), skip_render_check=True)
    sb3_check(made(action_mode=mode))


@pytest.mark.parametrize("mode", ["cursor", "pair"])
def test_masks_leave_one_action_for_each_pattern_of_halves_in_reach(mode: str) -> None:
    parts = Parts(2, "halves", removing=True)
    for pointers in parts.every():
        for turn in range(1, 5) if mode == "cursor" else [0]:
            env = make_halves(action_mode=mode, initial_pointers=str(pointers))
            cursor = turn or 1
            masks = env.mode.masks(pointers, cursor)
            found = [env.mode.decode(action, pointers, cursor) for action in range(env.action_space.n)]
            layers = [cursor] if turn else range(1, 5)
            reach = {pointers.move(layer, target) for layer in layers for target in range(layer + 1)}
            legal = [after for after, mask in zip(found, masks, strict=True) if mask]
            assert len(legal) == len(set(legal))
            assert set(legal) == {after for after in reach if parts.holds(after)}
            assert all(parts.holds(after) for after in found)


def test_joint_masks_leave_every_pattern_of_halves() -> None:
    env = make_halves(action_mode="joint")
    masks = env.action_masks()
    for pointers in Parts(2, "halves", removing=True).every():
        chosen = np.concatenate([np.arange(layer + 1) == root for layer, root in enumerate(pointers)])
        assert masks[chosen].all()
    assert masks.tolist() == [1, 1, 1, 1, 1, 1, 1, 0, 0, 1, 1, 0, 0, 1, 1]


def test_an_action_that_ties_halves_of_different_kinds_changes_nothing() -> None:
    env = make_halves(action_mode="joint")
    env.reset(seed=0)
    env.step(np.array([0, 1, 1, 3, 4]))
    *_, info = env.step(np.array([0, 1, 2, 2, 3]))
    assert info["pointers"] == [0, 1, 1, 3, 4]
    *_, info = env.step(np.array([0, 0, 2, 1, 4]))  # that layer is removed, and its half joins nothing
    assert info["pointers"] == [0, 0, 2, 0, 4]
    assert info["sources"] == [None, 1, None, 3]


def test_halves_count_by_their_parameters() -> None:
    env = make_halves(action_mode="joint", num_sets=1)
    env.reset(seed=0)
    *_, terminated, _, info = env.step(np.array([0, 1, 1, 3, 4]))
    assert info["param_share"] == 50 / 60
    assert info["num_sets"] == pytest.approx(5 / 3)
    assert not terminated
    *_, terminated, _, info = env.step(np.array([0, 1, 2, 0, 0]))
    assert info["param_share"] == 20 / 60
    assert terminated
    *_, other = (env.reset(seed=0), env.step(np.array([0, 1, 1, 3, 3])))[1]
    assert other["num_sets"] == 1
    assert env.record.block_params == 30
    with pytest.raises(InputError, match="from 1 to 2"):
        make_halves(num_sets=3)


class Weights:
    """The parameters of one virtual layer, which others may point at."""

    def __init__(self, size: int) -> None:
        self.size = size


@pytest.mark.parametrize(
    ("model", "sizes", "num_layers"),
    [
        (QuestionSimulator(lambda s: 1.0, 4, 10, 3.0), (10,), 4),
        (QuestionSimulator(lambda s: 1.0, 2, (10, 20), 3.0, "halves"), (10, 20), 2),
        (QuestionSimulator(lambda s: 1.0, 3, (7, 13), 3.0, "halves"), (7, 13), 3),
        ("minilm-6", (1,), 6),
    ],
)
def test_sets_are_the_weights_that_exist_in_every_pattern(model: Any, sizes: tuple[int, ...], num_layers: int) -> None:
    """By putting weights into places and counting those that are there, each once."""
    env = CompressingEnv(model, num_decisions=10_000, action_mode="joint")
    env.reset(seed=0)
    for pointers in Parts(num_layers, "halves" if len(sizes) > 1 else "block", removing=True).every():
        places = [Weights(0), *(Weights(size) for size in sizes for _ in range(num_layers))]
        for layer, root in enumerate(pointers):
            places[layer] = places[root]
        *_, info = env.step(np.array(pointers))
        assert info["num_sets"] == sum(weights.size for weights in set(places)) / sum(sizes)


def test_agents_decide_over_halves() -> None:
    env = make_halves(20, action_mode="cursor")
    agents.make("dqn", env, seed=0).learn(env, 20)
    env.reset(seed=0)
    for _ in range(5):
        masks = env.action_masks()
        before = env.pointers
        *_, info = env.step(int(np.flatnonzero(masks)[0]))
        assert Parts(2, "halves", removing=True).holds(Pointers(info["pointers"])), before


@pytest.mark.parametrize(
    "name", ["local_search", "additive", "greedy", "evolution", "surrogate", "cross_entropy", "random"]
)
def test_searches_propose_patterns_of_halves_that_there_are(name: str) -> None:
    simulator = QuestionSimulator(loss, 3, (10, 20), math.log(9), parts="halves")
    env = CompressingEnv(simulator, num_decisions=40, action_mode="joint", reward={"name": "improvement"})
    proposed: list[bool] = []
    tried: set[Pointers] = set()

    def note(record: Any, *_: Any) -> None:
        proposed.append(name == "random" or Pointers(record.action) == record.pointers)
        tried.add(record.pointers)

    env.on_decision = note
    agents.make(name, env, seed=0, **({} if name == "random" else {"explore": 1.0})).learn(env, 40)
    assert len(proposed) == 40
    assert all(proposed)
    assert len(tried) > 5


def test_donors_are_asked_for_and_counted() -> None:
    def ask(sources: Sources) -> float:
        asked.append(sources)
        return loss(sources)

    asked: list[Sources] = []
    simulator = QuestionSimulator(ask, 3, 10, 3.0, donors=True)
    env = CompressingEnv(simulator, action_mode="joint")
    env.reset(seed=0)
    *_, info = env.step(np.array([0, 1, 1, 1]))
    every = {str(sources): loss(sources) for sources in map(Sources, ([0, 0, 0], [1, 1, 1], [2, 2, 2]))}
    assert info["sources"] == [1, 1, 1]
    assert info["reward_loss"] == min(every.values()) == every["1 1 1"]
    assert info["queries"] == len(asked) == 3
    *_, info = env.step(np.array([0, 0, 0, 0]))
    assert info["sources"] == [None, None, None]
    assert info["queries"] == len(asked) == 4
    env.reset(seed=0)
    assert simulator.queries == 0


def test_donors_are_of_one_kind() -> None:
    simulator = QuestionSimulator(lambda s: 9.0 - sum(source or 0 for source in s), 2, (10, 20), 3.0, "halves", donors=True)
    env = CompressingEnv(simulator, action_mode="joint")
    env.reset(seed=0)
    *_, info = env.step(np.array([0, 1, 1, 3, 3]))
    assert info["sources"] == [1, 1, 3, 3]
    assert info["queries"] == 4 - 1  # the best of the first group is the first question of the second, with its own first


def test_layer_nought_stands_for_nothing() -> None:
    env = make(action_mode="joint", num_sets=None)
    env.reset(seed=0)
    _, _, _, _, info = env.step(np.array([0, 1, 0, 2, 4]))
    assert info["sources"] == [0, None, None, 3]
    assert info["num_sets"] == 2
    assert info["param_share"] == 0.5
    assert info["reward_loss"] == loss(Sources.parse("0 - - 3"))
    assert env.record.block_params == 20
    assert env.record.independent_block_params == 40


def test_rewards_are_the_fall_of_the_loss_and_of_the_share() -> None:
    env = make(reward={"param_weight": 0.3}, action_mode="joint")
    env.reset(seed=0)
    before, total = math.log(9), 0.0
    for action in ([0, 1, 2, 3, 4], [0, 1, 1, 3, 4], [0, 1, 1, 0, 4]):
        _, reward, _, _, info = env.step(np.array(action))
        total += reward
    assert total == pytest.approx(before - info["reward_loss"] + 0.3 * (1 - info["param_share"]))


def test_an_episode_ends_at_its_budget_of_sets() -> None:
    env = make(num_sets=2)
    env.reset(seed=0)
    ended = []
    for action in (0, 1, 2, 3):  # remove layer 1; join it; keep; remove: three sets are left after two, and two at last
        action = action if env.action_masks()[action] else int(np.flatnonzero(env.action_masks())[0])
        *_, terminated, _, info = env.step(action)
        ended.append((terminated, info["num_sets"]))
        if terminated:
            break
    assert ended[-1] == (True, 2)
    assert all(sets > 2 for over, sets in ended if not over)
    with pytest.raises(InputError, match="after the end"):
        env.step(0)
    env.reset()
    assert env.pointers == Pointers.independent(5)


def env_settings(name: str) -> dict[str, Any]:
    """Return what an agent recommends for `env`."""
    return {key: value for key, value in agents.registry.recommended(name).items() if key.startswith("env.")}


@pytest.mark.parametrize("name", ["dqn", "local_search", "surrogate", "thompson", "maskable_ppo", "random"])
def test_agents_of_every_kind_decide(name: str) -> None:
    env = make(20, num_sets=2, reward={"param_weight": 2.0}, **env_settings(name))
    searches = name in ("local_search", "surrogate", "thompson")
    agent = agents.make(name, env, seed=0, **({"explore": 1.0} if searches else {}))
    seen: list[int] = []
    env.on_decision = lambda record, observation, masks: seen.append(record.pointers.num_unique - 1)
    agent.learn(env, 30)
    assert len(seen) == 30
    assert min(seen) <= 3


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"num_sets": 5}, "from 1 to 4"),
        ({"num_sets": 0}, "from 1 to 4"),
        ({"gradient_statistics": True}, "nothing is trained"),
        ({"nonsense": 1}, "nonsense"),
    ],
)
def test_wrong_settings_are_one_line(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        make(**settings)


def test_a_table_of_training_from_scratch_is_refused() -> None:
    with pytest.raises(InputError, match="trained from scratch"):
        CompressingEnv("shakespeare-6")


def test_wrong_numbers_of_decisions_are_refused() -> None:
    simulator = QuestionSimulator(loss, 4, 10, 1.0)
    with pytest.raises(InputError, match="at least 1"):
        CompressingEnv(simulator, num_decisions=0)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [((10, 1.0, "halves"), "a number for each of attention, feed_forward"), ((10, 1.0, "thirds"), "allowed are|halves")],
)
def test_wrong_parts_are_one_line(arguments: tuple[Any, ...], words: str) -> None:
    with pytest.raises(InputError, match=words):
        QuestionSimulator(loss, 4, *arguments)


def test_patterns_at_the_start_tie_halves_of_one_kind() -> None:
    assert make_halves(initial_pointers="all_tied").initial_pointers == (0, 1, 1, 3, 3)
    with pytest.raises(InputError, match="have no weights to share"):
        make_halves(initial_pointers="0 1 2 1 4")


class OwnMode:
    summary = "another's"

    def __init__(self, num_layers: int) -> None:
        self.space = None


def test_another_persons_mode_is_refused_over_halves() -> None:
    with pytest.raises(InputError, match="OwnMode is not for halves"):
        make_halves(action_mode=f"{__name__}:OwnMode")
