"""Parts of other people, each by "package.module:name": model, task, preset, action mode, reward, strategy."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from strangers import MODEL, TASK

from envs import FormulaTyingEnv, LayerTyingEnv, TableTyingEnv
from envs.reward import REWARDS, RewardConfig, kind, reward
from tying import Pointers
from tying.errors import InputError
from tying.training.record import StepRecord

Write = Callable[[str, str], str]
SHORT: dict[str, Any] = {"trainer": {"iterations": 8, "batch_size": 4}, "decision_interval": 4}


def play(env: Any, *actions: Any) -> list[dict[str, Any]]:
    env.reset(seed=0)
    return [env.step(action)[4] for action in actions]


def test_a_model(write_module: Write) -> None:
    write_module("mixers", MODEL)
    env = LayerTyingEnv(model={"name": "mixers:Mixer", "num_layers": 3, "width": 5}, **SHORT)
    infos = play(env, 0, 0)
    assert infos[-1]["pointers"] == [0, 0, 0]
    assert env.simulator.trainer.model.h[2].in_features == 5  # type: ignore[attr-defined]
    with pytest.raises(InputError, match=r"unknown setting 'model\.widht': did you mean 'model\.width'"):
        LayerTyingEnv(model={"name": "mixers:Mixer", "widht": 5})
    with pytest.raises(InputError, match=r"unknown setting 'model\.num_heads'"):  # a field of the GPT, whose place it takes
        LayerTyingEnv(model={"name": "mixers:Mixer", "num_heads": 5})


def test_a_task(write_module: Write) -> None:
    """The environment, its share of parameters and its observations need no text and no vocabulary."""
    write_module("regressions", TASK)
    env = LayerTyingEnv(task={"name": "regressions:Regression", "scale": 0.5}, **SHORT)
    observation, _ = env.reset(seed=0)
    assert observation[3] == 1
    infos = play(env, 0, 2)
    assert infos[-1]["param_share"] == 0.75
    assert np.isfinite([info["reward_loss"] for info in infos]).all()
    assert env.record.previous_loss == infos[0]["reward_loss"]


@pytest.mark.parametrize("section", ["model", "task"])
def test_a_model_or_task_that_is_none_is_one_line(section: str) -> None:
    with pytest.raises(InputError, match="nowhere:Thing' cannot be imported: ModuleNotFoundError") as caught:
        LayerTyingEnv(**{section: {"name": "nowhere:Thing"}})
    assert len(caught.value.lines) == 1


def test_a_preset(write_module: Write) -> None:
    write_module(
        "settings",
        "from envs.presets import PRESETS\nfrom tying.config import override\n"
        "MINE = override(PRESETS['tiny'], {'model.num_layers': 3, 'trainer.iterations': 12})\n",
    )
    env = LayerTyingEnv("settings:MINE")
    assert (env.simulator.num_layers, env.num_decisions) == (3, 3)


ACTIONS = '''
import numpy as np
from gymnasium import spaces
from tying import Pointers


class Switch:
    """All tied or all apart."""

    summary = "all or nothing"

    def __init__(self, num_layers):
        self.space = spaces.Discrete(2)

    def decode(self, action, pointers, cursor):
        return Pointers.independent(len(pointers)) if action else Pointers([0] * len(pointers))

    def masks(self, pointers, cursor):
        return np.ones(2, dtype=bool)

    def unchanged(self, pointers, cursor):
        return np.array([pointers.num_unique == 1, pointers.num_unique > 1])

    def layer(self, action, cursor):
        return None
'''


def test_an_action_mode(write_module: Write) -> None:
    write_module("switches", ACTIONS)
    env = FormulaTyingEnv(num_layers=4, num_decisions=3, action_mode="switches:Switch", freeze_after=0.5)
    assert env.action_space == spaces.Discrete(2)
    infos = play(env, 0, 1, 0)
    assert [info["pointers"] for info in infos] == [[0, 0, 0, 0], [0, 1, 2, 3], [0, 1, 2, 3]]
    with pytest.raises(InputError, match="action mode 'switches:Switsh' cannot be imported"):
        FormulaTyingEnv(action_mode="switches:Switsh")


REWARD = '''
def gain(config, record):
    """What the change gained, in hundredths."""
    return {"gain": 100 * (record.fork_loss - record.reward_loss), "params": -config.param_weight * record.param_share}

gain.needs_fork = True
gain.telescopes = True

def plain(config, record):
    return {"loss": -record.reward_loss}
'''


def test_a_reward(write_module: Write) -> None:
    write_module("rewards", REWARD)
    settings = {"param_weight": 0.5}
    envs = [
        FormulaTyingEnv(num_layers=4, num_decisions=2, reward={"name": name, **settings})
        for name in ("fork", "rewards:gain")
    ]
    (theirs,), (ours,) = (play(env, 0) for env in reversed(envs))
    assert theirs["reward_terms"]["gain"] == pytest.approx(100 * ours["reward_terms"]["fork"]) != 0
    assert theirs["reward_terms"]["params"] == pytest.approx(-0.5 * 0.75)
    assert (kind("rewards:gain").needs_fork, kind("rewards:gain").telescopes) == (True, True)
    assert (kind("rewards:plain").needs_fork, kind("rewards:plain").telescopes) == (False, False)
    assert RewardConfig(name="rewards:plain").name == "rewards:plain"


def test_a_registered_reward(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("envs.reward.REWARDS", registered := {**REWARDS})

    @reward(telescopes=True)
    def halved(config: RewardConfig, record: StepRecord) -> dict[str, float]:
        """Half of the improvement."""
        return {"half": (record.previous_loss - record.reward_loss) / 2}

    assert registered.keys() - REWARDS.keys() == {"halved"}
    (info,) = play(FormulaTyingEnv(num_decisions=1, reward={"name": "halved"}), 0)
    assert list(info["reward_terms"]) == ["half"]
    assert kind("halved").telescopes


def test_which_rewards_telescope() -> None:
    assert {name for name, found in REWARDS.items() if found.telescopes} == {"improvement", "fork"}
    assert {name for name, found in REWARDS.items() if found.needs_fork} == {"fork"}


def test_a_strategy(write_module: Write) -> None:
    write_module("patterns", "def halves(num_layers, first=2):\n    return [i >= first for i in range(num_layers)]\n")
    env = TableTyingEnv(initial_pointers="patterns:halves:4")
    assert env.pointers == Pointers((0, 0, 0, 0, 4, 4))
    assert FormulaTyingEnv(num_layers=4, best="patterns:halves").best == (0, 0, 2, 2)
    with pytest.raises(InputError, match="cannot be imported"):
        LayerTyingEnv(initial_pointers="patterns:quarters")


@pytest.mark.parametrize(
    ("keyword", "value", "said"),
    [
        ("preset", "json:dumps", "preset 'json:dumps' is a function"),
        ("model", {"name": "json:dumps"}, "model 'json:dumps' is no model"),
        ("task", {"name": "json:dumps"}, "task 'json:dumps' is no task"),
        ("reward", {"name": "json:dumps"}, "reward 'json:dumps' is no function of (RewardConfig, StepRecord)"),
    ],
)
def test_an_object_of_another_kind_is_one_line(keyword: str, value: object, said: str) -> None:
    with pytest.raises(InputError) as caught:
        LayerTyingEnv(**{keyword: value})
    (line,) = caught.value.lines
    assert line.startswith(said)
