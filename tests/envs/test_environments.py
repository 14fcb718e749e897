"""All environments: checkers, episodes, freezing, seeds, masks, observations by index."""

import json
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env as gymnasium_check
from stable_baselines3.common.env_checker import check_env as sb3_check

import envs
from envs import FormulaTyingEnv, LayerTyingEnv
from envs.formula import distance
from envs.presets import PRESETS
from tying import Pointers
from tying.errors import DivergenceError, InputError
from tying.training.record import StepRecord

IDS = ["tying/LayerTying-v0", "tying/FormulaTying-v0", "tying/TyingBench-v0"]
MODES = ["cursor", "pair", "joint"]


def play(env: gymnasium.Env[Any, Any], seed: int = 0) -> list[tuple[np.ndarray, float, dict[str, Any]]]:
    env.reset(seed=seed)
    env.action_space.seed(seed)
    steps, terminated = [], False
    while not terminated:
        observation, reward, terminated, _, info = env.step(env.action_space.sample())
        steps.append((observation, float(reward), info))
    return steps


@pytest.mark.parametrize("render_mode", ["ansi", "rgb_array"])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("env_id", IDS)
def test_both_checkers_pass(env_id: str, mode: str, render_mode: str) -> None:
    env = gymnasium.make(env_id, action_mode=mode, render_mode=render_mode)
    gymnasium_check(env.unwrapped)
    sb3_check(env.unwrapped)
    assert env.unwrapped.action_masks().dtype == bool  # type: ignore[attr-defined]


@pytest.mark.parametrize("env_id", IDS[:2])
def test_both_checkers_pass_with_everything_on(env_id: str) -> None:
    reward = {"name": "fork", "baseline": 0.9}
    env = gymnasium.make(env_id, freeze_after=0.5, gradient_statistics=True, reward=reward)
    gymnasium_check(env.unwrapped)
    sb3_check(env.unwrapped)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("env_id", IDS)
def test_equal_seeds_give_equal_episodes(env_id: str, mode: str) -> None:
    first, again, other = (play(gymnasium.make(env_id, action_mode=mode), seed) for seed in (3, 3, 4))
    assert [reward for _, reward, _ in first] == [reward for _, reward, _ in again]
    assert [info for *_, info in first] == [info for *_, info in again]
    assert [reward for _, reward, _ in first] != [reward for _, reward, _ in other]


def test_an_episode_is_one_run_of_the_budget() -> None:
    env = LayerTyingEnv(trainer={"iterations": 10}, decision_interval=4)
    steps = play(env)
    assert env.num_decisions == len(steps) == 3
    assert [info["iteration"] for *_, info in steps] == [4, 8, 10]
    assert steps[-1][0][0] == 0


def test_reset_builds_nothing() -> None:
    env = LayerTyingEnv()
    env.reset(seed=0)
    assert env.simulator.trainer is None  # type: ignore[attr-defined]
    env.step(0)
    finished = env.simulator.trainer  # type: ignore[attr-defined]
    env.reset(seed=0)
    assert env.simulator.trainer is finished  # type: ignore[attr-defined]
    env.step(0)
    assert env.simulator.trainer is not finished  # type: ignore[attr-defined]


def test_frozen_pointers_do_not_move_and_masks_say_so() -> None:
    env = FormulaTyingEnv(num_decisions=10, freeze_after=0.5)
    env.reset(seed=0)
    for index in range(10):
        assert env.frozen == (index >= 5)
        assert (env.action_masks().sum() == 1) == (index >= 5)
        before = env.pointers
        action = 0
        _, _, _, _, info = env.step(action)
        assert info["frozen"] == (index >= 5)
        assert index < 5 or env.pointers == before


def test_the_cursor_walks_all_layers_but_the_first() -> None:
    env = FormulaTyingEnv(num_layers=4, num_decisions=7)
    observation, _ = env.reset(seed=0)
    turns = []
    for _ in range(7):
        turns.append(int(np.flatnonzero(observation[7::7])[0]))
        observation, *_ = env.step(3)
    assert turns == [1, 2, 3, 1, 2, 3, 1]


def test_observations_by_index() -> None:
    env = LayerTyingEnv(initial_pointers="0 1 1 0", model={"num_layers": 4})
    observation, _ = env.reset(seed=0)
    np.testing.assert_allclose(observation[:5], [1, 1, 0, 0.5, 0])
    np.testing.assert_allclose(observation[5::7], [0, 1 / 3, 1 / 3, 0])
    np.testing.assert_allclose(observation[6::7], [1, 1, 0, 0])
    np.testing.assert_allclose(observation[7::7], [0, 1, 0, 0])
    np.testing.assert_allclose(observation[8::7], 0)
    next_observation, _, _, _, info = env.step(1)
    assert next_observation[0] == pytest.approx(0.9)
    assert next_observation[1] == pytest.approx(info["reward_loss"] / np.log(256), rel=1e-5)
    assert next_observation[3] == pytest.approx(info["param_share"])
    assert next_observation[8::7].max() == pytest.approx(1.0)
    assert next_observation[9 + 7 * 2] == 1.0
    np.testing.assert_allclose([next_observation[10::7], next_observation[11::7]], 0)
    assert env.observation_space.contains(next_observation)


def test_gradient_statistics_are_observed_when_asked_for() -> None:
    env = LayerTyingEnv(initial_pointers="0 0 0 3", gradient_statistics=True)
    observation, _ = env.reset(seed=0)
    np.testing.assert_allclose([observation[10::7], observation[11::7]], 0)
    next_observation, *_ = env.step(0)
    assert next_observation[10] == 0
    assert next_observation[11 + 7 * 3] == 1
    assert all(0 < abs(next_observation[index]) < 1 for index in (10 + 7, 10 + 7 * 2, 11, 11 + 7, 11 + 7 * 2))
    assert env.observation_space.contains(next_observation)


def test_gradient_statistics_leave_the_run_as_it_is() -> None:
    plain, looked_at = (play(LayerTyingEnv(gradient_statistics=chosen)) for chosen in (False, True))
    assert [info for *_, info in plain] == [info for *_, info in looked_at]


def test_the_formula_tells_where_gradients_agree() -> None:
    env = FormulaTyingEnv(num_layers=5, best="0 0 2 0 2", gradient_statistics=True, action_mode="joint")
    env.reset(seed=0)
    observation, *_ = env.step(np.array([0, 1, 0, 0, 1]))  # 0 1 0 0 1
    assert observation[10::7].tolist() == [0, 1, -1, -1, -1]
    assert observation[11::7].tolist() == [0, -1, -1, 0, -1]
    observation, *_ = env.step(np.array([0, 0, 2, 3, 2]))
    assert observation[11::7].tolist() == [1, 1, 1, 1, 1]
    plain = FormulaTyingEnv(num_layers=5)
    play(plain)
    assert not plain._observe()[10::7].any()


def test_rewards_are_the_sum_of_their_terms() -> None:
    for _, reward, info in play(LayerTyingEnv(reward={"param_weight": 0.5})):
        assert reward == pytest.approx(sum(info["reward_terms"].values()))


def test_actions_outside_the_space_are_refused() -> None:
    env = FormulaTyingEnv()
    env.reset(seed=0)
    with pytest.raises(InputError, match="outside the space"):
        env.step(6)


@pytest.mark.parametrize("env_id", IDS)
def test_a_step_after_the_end_is_refused(env_id: str) -> None:
    env = gymnasium.make(env_id).unwrapped
    play(env)
    with pytest.raises(InputError, match="call reset"):
        env.step(0)


def test_ansi_rendering_shows_the_tying() -> None:
    env = FormulaTyingEnv(initial_pointers="all_tied", render_mode="ansi")
    env.reset(seed=0)
    assert str(env.render()).count("A") == 6
    assert FormulaTyingEnv().render() is None


def test_pictures_show_who_shares_and_since_when() -> None:
    env = FormulaTyingEnv(num_layers=3, num_decisions=4, initial_pointers="0 1 2", render_mode="rgb_array")
    env.reset(seed=0)
    first = env.render()
    assert (first.dtype, first.shape[2]) == (np.uint8, 3)
    middles = [first.shape[0] * (2 * layer + 1) // 6 for layer in range(3)]
    for action in (1, 1, 1, 1):  # layer 1 stays, layer 2 joins it, and both stay so
        env.step(action)
        shown = env.render()
        assert shown.shape == first.shape
    times = [shown.shape[1] * (2 * window + 1) // 8 for window in range(4)]
    colours = shown[np.ix_(middles, times)]  # (layer, window, channel)
    same = (colours[1] == colours[2]).all(axis=-1)
    assert same.tolist() == [False, True, True, True]
    assert not (colours[0] == colours[1]).all(axis=-1).any()
    grey = first[np.ix_(middles, times[1:])].reshape(-1, 3)
    assert len(np.unique(grey, axis=0)) == 1  # nothing is known of what is still to come
    env.reset(seed=0)
    assert np.array_equal(env.render(), first)


def test_a_model_of_one_layer_has_nothing_to_decide() -> None:
    env = FormulaTyingEnv(num_layers=1, best="independent", num_decisions=2)
    assert [info["pointers"] for *_, info in play(env)] == [[0], [0]]


def test_the_formula_knows_its_best_pattern() -> None:
    env = FormulaTyingEnv(num_layers=5, best="0 1 1 0 4")
    losses = {p: env.simulator.loss(p, 0.5) for p in Pointers.all(5)}  # type: ignore[attr-defined]
    assert min(losses, key=lambda p: losses[p]) == env.best
    assert sorted(losses.values())[1] > losses[env.best]
    assert distance(Pointers((0, 0, 0)), Pointers((0, 1, 2))) == 1


def test_noise_is_private_and_seeded() -> None:
    np.random.seed(0)
    first = [r for _, r, _ in play(FormulaTyingEnv(noise=0.1), 1)]
    assert first == [r for _, r, _ in play(FormulaTyingEnv(noise=0.1), 1)]
    assert first != [r for _, r, _ in play(FormulaTyingEnv(noise=0.1), 2)]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"action_mod": "pair"}, r"unknown setting 'action_mod': did you mean 'env\.action_mode'"),
        ({"decision_interval": 0}, r"env\.decision_interval = 0"),
        ({"action_mode": "par"}, r"env\.action_mode = 'par': did you mean 'pair'"),
        ({"reward": {"name": "levl"}}, r"reward\.name = 'levl': did you mean 'level'"),
        ({"model": {"name": "gtp"}}, "unknown model 'gtp': did you mean 'gpt'"),
        ({"trainer": {"iterations": -1, "batch": 3}}, "trainer.iterations = -1"),
        ({"initial_pointers": "0 1"}, "are for 2 layers, the model has 4"),
        ({"preset": "tinny"}, "did you mean 'tiny'"),
        ({"render_mode": "human"}, "allowed are None, 'ansi' and 'rgb_array'"),
    ],
)
def test_wrong_arguments_are_named(overrides: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        LayerTyingEnv(**overrides)


def test_all_wrong_arguments_are_named_together() -> None:
    with pytest.raises(InputError) as caught:
        LayerTyingEnv(action_mod="pair", trainer={"iterations": -1, "bach_size": 3}, freeze_after=2)
    assert len(caught.value.lines) == 4


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_makes_an_environment(name: str) -> None:
    env = LayerTyingEnv(name)
    assert env.num_decisions >= 10
    assert env.observation_space.shape == (5 + 7 * PRESETS[name].model.num_layers,)


def test_ids_are_registered() -> None:
    assert {"LayerTyingEnv", "FormulaTyingEnv", "TableTyingEnv"} <= set(envs.__all__)
    assert all(getattr(envs, name) is not None for name in envs.__all__)
    assert all(env_id in gymnasium.registry for env_id in IDS)


@pytest.mark.parametrize(("share", "first_frozen"), [(0.07, 7), (0.28, 28), (0.55, 55)])
def test_freezing_is_not_late_by_rounding(share: float, first_frozen: int) -> None:
    env = FormulaTyingEnv(num_decisions=100, freeze_after=share)
    frozen = [info["frozen"] for *_, info in play(env)]
    assert frozen.index(True) == first_frozen


@pytest.mark.parametrize("name", ["num_layers", "num_decisions", "gap", "noise"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1, -0.5, True, "3", None, [1]], ids=repr)
def test_numbers_of_the_formula_are_checked(name: str, value: Any) -> None:
    with pytest.raises(InputError, match=f"^{name} = ") as caught:
        FormulaTyingEnv(**{name: value})
    assert len(caught.value.lines) == 1


@pytest.mark.parametrize("values", [{"num_layers": 0}, {"num_decisions": 0}, {"num_layers": 2.0}, {"num_decisions": 1.5}])
def test_counts_of_the_formula_are_whole_and_positive(values: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="expected a whole number of at least 1"):
        FormulaTyingEnv(**values)


def test_wrong_numbers_of_the_formula_are_named_together() -> None:
    with pytest.raises(InputError) as caught:
        FormulaTyingEnv(num_layers=0, num_decisions=True, gap=float("nan"), noise=-1)
    assert [line.partition(" ")[0] for line in caught.value.lines] == ["num_layers", "num_decisions", "gap", "noise"]


# A run that fails.

FAILING: dict[str, Any] = {"model": {"dropout": 0.1}, "optim": {"tied_rate": 0.5}, "initial_pointers": "0 1 1 3"}


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("first_window", [True, False])
@pytest.mark.parametrize("seed", [3, None], ids=["with its seed", "without a seed"])
def test_after_a_failed_window_reset_begins_the_run_anew(
    first_window: bool, seed: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The failed window has tied layers and trained for two iterations; nothing of that may be left."""
    env, fresh = LayerTyingEnv(**FAILING), LayerTyingEnv(**FAILING)
    env.reset(seed=3)
    if not first_window:
        env.step(0)
    loss, calls = env.simulator.task.loss, []  # type: ignore[attr-defined]

    def fail_at_third(*arguments: Any) -> Any:
        calls.append(arguments)
        return loss(*arguments) * (float("nan") if len(calls) == 3 else 1)

    with monkeypatch.context() as patch:
        patch.setattr(env.simulator.task, "loss", fail_at_third)  # type: ignore[attr-defined]
        with pytest.raises(DivergenceError):
            env.step(0)
    assert env.record.decision == (-1 if first_window else 0)
    env.reset(seed=seed)
    fresh.reset(seed=env._run_seed)
    assert first_window is False or env._run_seed == 3
    actions = [1, 2, 0, 3]
    assert [env.step(a)[4] for a in actions] == [fresh.step(a)[4] for a in actions]
    states = [made.simulator.trainer.state_dict() for made in (env, fresh)]  # type: ignore[attr-defined]
    for part in ("model", "optimizer"):
        assert states[0][part].keys() == states[1][part].keys()
        assert all(states[0][part][name].equal(states[1][part][name]) for name in states[0][part])


# Runs that begin after known decisions.


def steered(**settings: Any) -> Any:
    reward = {"baseline": 0.9, "param_target": 0.5, "param_weight": 0.1}
    return FormulaTyingEnv(num_layers=5, num_decisions=12, render_mode="rgb_array", reward=reward, **settings)


@pytest.mark.parametrize("mode", ["cursor", "pair", "joint"])
@pytest.mark.parametrize("start", [0, 1, 7, 11])
def test_a_restored_environment_is_in_the_state_after_its_records(mode: str, start: int) -> None:
    whole, restored = steered(action_mode=mode), steered(action_mode=mode)
    observation, _ = whole.reset(seed=4)
    whole.action_space.seed(2)
    actions = [whole.action_space.sample() for _ in range(12)]
    records = []
    for action in actions[:start]:
        observation, *_ = whole.step(action)
        records.append(StepRecord.from_dict(json.loads(json.dumps(whole.record.to_dict()))))
    restored.restore(records)
    seen = []
    restored.on_decision = lambda record, *_: seen.append(record)
    for options in ({"seed": 4}, {}, {"seed": 4}):  # libraries reset more often than they begin
        found, _ = restored.reset(**options)
        assert np.array_equal(found, observation)
    assert not seen
    for action in actions[start:]:
        assert np.array_equal(whole.action_masks(), restored.action_masks())
        assert (whole.frozen, whole.pointers) == (restored.frozen, restored.pointers)
        expected, answer = whole.step(action), restored.step(action)
        assert np.array_equal(expected[0], answer[0])
        assert expected[1:] == answer[1:]
    assert np.array_equal(whole.render(), restored.render())
    assert [record.decision for record in seen] == list(range(start, 12))
    # The next run is a new one, and the same one.
    assert np.array_equal(whole.reset()[0], restored.reset()[0])
    assert restored.record.decision == -1
    assert whole.np_random.random() == restored.np_random.random()
