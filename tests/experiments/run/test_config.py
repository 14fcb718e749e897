"""Configuration: which choice wins, what is stored as chosen, and mistakes in files."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.extra.paper import PaperAgent
from experiments.run.config import Config, load_config, resolve
from tests.experiments.runs import config_of, mistake, mistakes
from tying.config import flat, nested, override
from tying.errors import InputError

Write = Callable[[Any], Path]


@pytest.fixture
def file(tmp_path: Path) -> Write:
    """Write a --config file."""

    def write(values: Any) -> Path:
        path = tmp_path / "given.json"
        path.write_text(json.dumps(values.to_json() if isinstance(values, Config) else values))
        return path

    return write


def same_settings(one: Config, other: Config) -> bool:
    return one.resolved() == other.resolved()


# Preset < recommended < file < flags.


def test_each_layer_of_choices_stands_above_the_one_before(file: Write) -> None:
    path = file({"preset": "mini", "env": {"freeze_after": 0.25}, "model.width": 32, "run": {"seed": 5}})
    agent, width = ("--agent", "independent"), "--model.width=16"
    calls = [
        ("--preset", "mini"),
        ("--preset", "mini", *agent),
        ("--config", path, *agent),
        ("--config", path, *agent, width),
    ]
    made = [config_of(*call) for call in calls]
    assert [(c.env.action_mode, c.env.freeze_after, c.model.width) for c in made] == [
        ("cursor", 0.2, 64),
        ("joint", 1.0, 64),
        ("joint", 0.25, 32),
        ("joint", 0.25, 16),
    ]
    assert (made[-1].preset, made[-1].trainer.iterations, made[-1].run.seed) == ("mini", 480, 5)
    assert config_of().preset == "small"


def test_agents_recommend_settings_of_any_section() -> None:
    found = config_of("--agent", "paper")
    assert (found.reward.name, found.env.decision_interval, found.binding.gradient) == ("paper", 4, "sum")
    above = config_of("--agent", "paper", "--reward", "level", "--binding.gradient", "mean")
    assert (above.reward.name, above.binding.gradient) == ("level", "mean")


def test_recommendations_follow_the_agents_hyperparameters(file: Write) -> None:
    path = file({"agent": {"name": "paper", "reference_semantics": True}})
    assert config_of("--config", path).binding.gradient == "root_only"
    assert config_of("--agent", "paper", "--agent.reference-semantics").binding.gradient == "root_only"
    assert config_of("--config", path, "--agent.no-reference-semantics").binding.gradient == "sum"
    assert config_of("--config", path, "--binding.gradient", "mean").binding.gradient == "mean"


def test_a_recommendation_that_does_not_exist_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PaperAgent, "recommended", classmethod(lambda cls, config: {"env.action_mod": "cursor"}))
    assert "did you mean 'env.action_mode'?" in mistake("--agent", "paper")


# What is stored.


def test_only_the_choices_of_a_person_are_stored_as_chosen(file: Write) -> None:
    path = file({"preset": "tiny", "model": {"width": 16}})
    found = config_of("--config", path, "--agent", "paper", "--lr", "1e-3", "--seed", "7")
    assert found.chosen == {
        "preset": "tiny",
        "agent.name": "paper",
        "model.width": 16,
        "optim.learning_rate": 0.001,
        "run.seed": 7,
    }
    assert found.to_json()["resolved"]["reward"]["name"] == "paper"  # recommended: resolved to, and not chosen
    assert config_of().chosen == {}


@pytest.mark.parametrize(
    "flags",
    [
        "--agent dqn --agent.gamma 0.25 --seed 7",
        "--preset tiny --agent sequence:2 --env.initial-pointers 0,1,1,3",
        "--no-model.bias --reward level --reward.param-target None",
        "--preset shakespeare-char --agent ppo --binding.norms private --data.path docs/method.md",
        "--agent paper --agent.reference-semantics",
    ],
)
def test_a_saved_configuration_means_itself(file: Write, flags: str) -> None:
    first = config_of(*(word.replace(",", " ") for word in flags.split()))
    path = file(first)
    assert load_config(path) == first
    again = config_of("--config", path)
    assert same_settings(again, first)
    assert again.chosen == {"preset": first.preset, **first.chosen}  # the preset in force, were it the default or not


def test_another_agent_brings_its_own_recommendations_to_a_saved_configuration(file: Write) -> None:
    path = file(config_of("--preset", "tiny", "--agent", "paper", "--agent.width", "32", "--model.width", "16"))
    found = config_of("--config", path, "--agent", "local_search")
    assert same_settings(found, config_of("--preset", "tiny", "--agent", "local_search", "--model.width", "16"))
    assert found.reward.name != "paper"
    assert not any(name.startswith("agent.") and name != "agent.name" for name in found.chosen)


def test_the_preset_in_force_is_the_one_recorded(file: Write) -> None:
    path = file(config_of("--preset", "tiny", "--model.dropout", "0.1"))
    found = config_of("--config", path, "--preset", "mini")
    assert same_settings(found, config_of("--preset", "mini", "--model.dropout", "0.1"))
    assert (found.preset, found.chosen["preset"]) == ("mini", "mini")
    assert config_of("--config", file(config_of()), "--seed", "3").preset == "small"


def test_a_seed_is_a_choice() -> None:
    found = config_of("--preset", "tiny").with_seed(9)
    assert same_settings(found, config_of("--preset", "tiny", "--seed", "9"))
    assert found.chosen == {"preset": "tiny", "run.seed": 9}


def test_resolve_takes_what_the_command_line_takes() -> None:
    assert resolve({"preset": "tiny"}, {"agent.name": "paper", "model.width": 16}) == config_of(
        "--preset", "tiny", "--agent", "paper", "--model.width", "16"
    )
    with pytest.raises(InputError) as caught:
        resolve({"preset": "tinny", "agent.name": "dqm", "agent.gamma": 3, "model.width": "wide", "env.freeze_after": 2})
    assert len(caught.value.lines) == 4  # hyper-parameters of an unknown agent cannot be checked


# One `override` for nested and dotted settings.


def test_override_takes_settings_by_section_by_dotted_name_or_both() -> None:
    base = resolve({"preset": "tiny"})
    wanted = override(base, {"model.width": 16, "reward.param_weight": 0.7})
    assert (wanted.model.width, wanted.reward.param_weight, wanted.model.num_layers) == (16, 0.7, 4)
    assert override(base, {"model": {"width": 16}, "reward": {"param_weight": 0.7}}) == wanted
    assert override(base, {"model": {"width": 16}, "reward.param_weight": 0.7}) == wanted
    assert override(base, {"model.width": 64}, {"model": {"width": 16}}, {"reward.param_weight": 0.7}) == wanted
    assert override(base) == base


def test_override_changes_nothing_in_place_and_names_every_mistake() -> None:
    base = resolve({"preset": "tiny"})
    before = base.resolved()
    with pytest.raises(InputError) as caught:
        override(base, {"model.widht": 16, "reward": {"param_weight": -1}, "sed": 3})
    assert len(caught.value.lines) == 3
    for part in ("did you mean 'model.width'?", "reward.param_weight = -1", "'sed'"):
        assert sum(part in line for line in caught.value.lines) == 1, part
    assert base.resolved() == before


def test_a_section_of_another_name_begins_with_its_own_defaults() -> None:
    base = override(resolve({"preset": "tiny", "agent.name": "dqn"}), {"agent.gamma": 0.1})
    other = override(base, {"agent.name": "double_dqn"})
    assert other.agent == resolve({"agent.name": "double_dqn"}).agent


names = st.sampled_from(["a", "b", "c_d", "a_b"])
leaves = st.sampled_from([None, True, 3, 0.5, "x.y", "", [1, 2]])


@given(st.dictionaries(names, st.one_of(leaves, st.dictionaries(names, leaves, min_size=1, max_size=3)), max_size=4))
def test_flat_is_the_inverse_of_nested(values: dict[str, Any]) -> None:
    assert nested(flat(values)) == values
    assert all("." not in name or name.count(".") == 1 for name in flat(values))


def test_of_two_names_for_one_setting_the_later_wins() -> None:
    assert nested({"a": {"b": 1, "c": 2}, "a.b": 3}) == {"a": {"b": 3, "c": 2}}
    assert nested({"a.b": 3, "a": {"b": 1}}) == {"a": {"b": 1}}


# Mistakes in files.


@pytest.mark.parametrize(
    ("values", "part"),
    [
        ({"sed": 3}, "'sed': did you mean 'run.seed'?"),
        ({"model": {"widht": 3}}, "did you mean 'model.width'?"),
        ({"model": 3}, "model = 3"),
        ({"model": {"name": ["gpt"]}}, "model.name = ['gpt']: expected a text"),
        ({"agent": 3}, "agent = 3"),
        ({"agent": {"name": 3}}, "agent.name = 3: expected a text"),
        ({"preset": 3}, "preset = 3: expected a text"),
        ({"agent": {"name": "dqn", "n_steps": 8}}, "agent.n_steps"),
        ({"chosen": {"run.seed": 3}}, "unknown setting 'chosen.run.seed'"),
        ({"format": 99}, "written by format 99, this version reads format 2"),
        ({"format": 2, "chosen": {}}, "'resolved' is missing or damaged"),
        ({"format": 2, "resolved": {"preset": "tiny"}, "chosen": []}, "'chosen' is missing or damaged"),
        ({"format": 2, "resolved": {"preset": 3}, "chosen": {}}, "preset = 3: expected a text"),
        ([], "expected a JSON object of settings"),
    ],
    ids=str,
)
def test_a_mistake_in_a_file_is_one_line(file: Write, values: Any, part: str) -> None:
    assert part in mistake("--config", file(values))


@pytest.mark.parametrize("content", [None, "", "{", "\xff"])
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "given.json"
    if content is not None:
        path.write_bytes(content.encode("latin-1"))
    assert str(path) in mistake("--config", path)


def test_mistakes_of_the_file_and_of_the_flags_are_told_together(file: Write) -> None:
    found = mistakes("--config", file({"model": {"widht": 3}}), "--sed", "3", "--env.freeze-after", "2")
    assert len(found) == 3
    for part in ("model.widht", "--sed", "env.freeze_after"):
        assert sum(part in line for line in found) == 1, part


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        ("--model.residual admin", "model.norm_place = 'pre': model.residual = 'admin' needs 'post'"),
        (
            "--model.residual looped --model.norm-place post",
            "model.norm_place = 'post': model.residual = 'looped' needs 'pre'",
        ),
        ("--model.halting act --agent dqn", "model.halting = 'act': pointers must not move: "),
        (
            "--model.halting act --agent sequence:3",
            "model.halting = 'act': pointers '0 0 2 2 4 4' repeat no group of layers",
        ),
        (
            "--model.halting act --agent untie_after:50:all_tied",
            "model.halting = 'act': pointers '0 1 2 3 4 5' repeat no group",
        ),
        ("--model.halting act --env.freeze-after 0", "model.halting = 'act': pointers '0 1 1 1 1 1' repeat no group"),
        (
            "--model.halting act --agent all_tied --binding.share attention",
            "binding.share = 'attention' ties parts of layers",
        ),
        ("--model.halting act --model.kv-sharing cla:2", "'act' and model.kv_sharing = 'cla:2' exclude each other"),
        ("--model.halting act --model.attention-sharing yoco", "and model.attention_sharing = 'yoco' exclude each other"),
        ("--model.halting act --model.kv-sharing tied", "'act' and model.kv_sharing = 'tied' exclude each other"),
        (
            "--model.kv-sharing tied --binding.share feed_forward",
            "model.kv_sharing = 'tied': binding.share = 'feed_forward' leaves attn.kv.weight, attn.k_norm.weight with each",
        ),
        (
            "--model.kv-sharing tied --model.bias --binding.share attn.kv.weight,mlp.*",
            "binding.share = 'attn.kv.weight,mlp.*' leaves attn.kv.bias, attn.k_norm.weight with each layer",
        ),
        ("--model.kv-sharing tied --binding.share map", "model.kv_sharing = 'tied': binding.share = 'map' leaves "),
        ("--binding.share kv", "binding.share = 'kv': with model.kv_sharing = 'none' not every layer has matrices"),
        ("--binding.share kv --model.kv-sharing cla:2", "binding.share = 'kv': with model.kv_sharing = 'cla:2' not every"),
        ("--binding.share map", "binding.share = 'map': with model.attention_sharing = 'none' not every layer"),
        (
            "--model.attention-sharing tied --model.qk-norm --binding.norms private",
            "model.attention_sharing = 'tied' and binding.norms = 'private' exclude each other",
        ),
        (
            "--model.kv-sharing tied --binding.gradient mean",
            "model.kv_sharing = 'tied' and binding.gradient = 'mean' exclude each other",
        ),
        (
            "--model llama --model.kv-sharing tied --binding.delta-rank 2",
            "model.kv_sharing = 'tied' and binding.delta_rank = 2 exclude each other",
        ),
        ("--reward.cache-weight 0.5", "reward.cache_weight = 0.5: pointers move no cache here, as they do with"),
        ("--reward.cache-weight 0.5 --model.kv-sharing cla:2", "reward.cache_weight = 0.5: pointers move no cache here"),
        ("--reward.cache-weight 0.5 --task masked_lm", "reward.cache_weight = 0.5: pointers move no cache here"),
        ("--model.halting act --task p_hop", "model.halting = 'act': its cost is no part of the loss of task 'p_hop'"),
    ],
)
def test_options_of_a_model_that_exclude_others_are_refused_at_once(flags: str, line: str) -> None:
    assert line in mistake("--preset", "mini", *flags.split())


def test_tokens_halt_where_pointers_do_not_move() -> None:
    refusal = mistake("--preset", "mini", "--model.halting", "act", "--agent", "ppo")
    named = refusal.rpartition(", or ")[2]
    assert named.split()[::2] == ["--env.freeze-after", "--env.initial-pointers"]
    for flags in ("--agent all_tied", "--agent cycle:3", f"--agent ppo {named}"):
        assert config_of("--preset", "mini", "--model.halting", "act", *flags.split()).model.halting == "act"
