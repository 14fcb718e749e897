"""Config: all settings of a run, as one frozen value, and the way from what a person chose to it.

Later layers win: the preset, what the task and the agent recommend, a --config file, the flags. Only the last two are
stored as chosen, so that another agent's recommendations take effect when a file is used again.
"""

import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import Field, SerializeAsAny

import agents
from agents.base import Agent, NoConfig
from agents.fixed import FixedAgent
from envs.config import TrainingConfig
from envs.presets import PRESETS, preset
from envs.reward import kind
from tying import registry, tasks
from tying.config import build, by_name, config, fields_of, flat, nested, override, setting, to_dict
from tying.errors import InputError
from tying.files import read_json
from tying.pointers import FORMS
from tying.strategies import make_schedule

T = TypeVar("T")
FORMAT = 2
DEFAULT_PRESET = "small"
DEFAULT_AGENT = "dqn"
_NAMES = ("preset", "agent.name")  # which decide what the other settings are


@config
class RunConfig:
    """Settings that belong to the run and to none of its parts."""

    seed: int = setting("of initial weights, data order, dropout and agent [0 to 2**32 - 1]", default=0, ge=0, le=2**32 - 1)
    log_interval: int = setting("training figures in TensorBoard are this far apart [iterations, >= 1]", default=10, ge=1)
    checkpoint_interval: int = setting("checkpoints are this far apart [decisions, >= 1]", default=10, ge=1)


@config
class AgentConfig:
    """The agent's name; its hyper-parameters are fields of a class made for it."""

    name: str = setting(
        f"who decides: {', '.join(agents.names())}, {FORMS}, or package.module:Class",
        default=DEFAULT_AGENT,
    )


@functools.cache
def agent_config(name: str) -> type[AgentConfig]:
    """Return the section `agent` of an agent: its name and its hyper-parameters.

    Raises:
        InputError: If there is no such agent.
    """
    cls, fixed = agents.agent_class(name)
    own = getattr(cls, "Config", NoConfig)
    infos = {**fields_of(own), **fields_of(AgentConfig)}
    members = {field: setting(infos[field].description, default=value) for field, value in {"name": name, **fixed}.items()}
    members |= {"__annotations__": dict.fromkeys(members, str), "__doc__": own.__doc__}
    return config(type("AgentSettings", (own, AgentConfig), members))


@config
class Config(TrainingConfig):
    """The settings of a run."""

    preset: str = setting(f"settings to start from: {', '.join(PRESETS)}, or package.module:NAME", default=DEFAULT_PRESET)
    agent: Annotated[SerializeAsAny[AgentConfig], by_name("agent", AgentConfig, agent_config)] = setting(
        "the agent and its hyper-parameters", default=AgentConfig()
    )
    run: RunConfig = setting("seed and intervals", default=RunConfig())
    chosen: dict[str, Any] = Field(default_factory=dict, description="dotted names to values that a person chose")

    @property
    def hyperparameters(self) -> dict[str, Any]:
        """The agent's hyper-parameters."""
        return {name: value for name, value in to_dict(self.agent).items() if name != "name"}

    @property
    def needs_trust(self) -> bool:
        """Whether its file would import code that is not this project's."""
        return bool(registry.foreign_names(_importing(self.resolved())))

    def resolved(self) -> dict[str, Any]:
        """Return all settings by section, JSON-ready, without what was chosen."""
        return {name: value for name, value in to_dict(self).items() if name != "chosen"}

    def to_json(self) -> dict[str, Any]:
        """Return the content of config.json."""
        return {"format": FORMAT, "chosen": self.chosen, "resolved": self.resolved()}

    def with_seed(self, seed: int) -> "Config":
        """Return the same settings with another seed, chosen by a person."""
        return override(self, {"run.seed": seed, "chosen": {**self.chosen, "run.seed": seed}})

    def difference(self, other: "Config") -> str:
        """Return the first setting that differs, with both values; empty where none does."""
        mine, theirs = flat(self.resolved()), flat(other.resolved())
        names = [name for name in {**mine, **theirs} if mine.get(name) != theirs.get(name)]
        if not names:
            return ""
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        return f"{names[0]} = {mine.get(names[0])!r}, now {theirs.get(names[0])!r}{more}"


def resolve(*choices: Mapping[str, Any]) -> Config:
    """Return the configuration that a person's choices lead to.

    Args:
        choices: Dotted names to values; later ones win.

    Raises:
        InputError: With one line for every mistake.
    """
    chosen = _merged(choices)
    lines = [f"{name} = {chosen[name]!r}: expected a text" for name in _NAMES if not isinstance(chosen.get(name, ""), str)]
    lines += [f"unknown setting {name!r}: see --help" for name in chosen if name.partition(".")[0] == "chosen"]
    if lines:
        raise InputError(lines)
    base = _attempt(lines, lambda: preset(chosen.get("preset", DEFAULT_PRESET)), PRESETS[DEFAULT_PRESET])
    section = _attempt(lines, lambda: agent_config(chosen.get("agent.name", DEFAULT_AGENT)), None)
    if section is None:  # without its class, an unknown agent's hyper-parameters cannot be checked
        section = agent_config(DEFAULT_AGENT)
        given = {name: value for name, value in chosen.items() if not name.startswith("agent.")}
    else:
        given = dict(chosen)
    recommended = _recommended(section, given)
    sections = {name: getattr(base, name) for name in TrainingConfig.__pydantic_fields__}  # type: ignore[attr-defined]
    start = Config(**sections, agent=section(), preset=chosen.get("preset", DEFAULT_PRESET))
    try:
        made = override(start, tasks.recommended(given, base.task, base.model), recommended, given)
    except InputError as error:
        raise InputError([*lines, *error.lines]) from error
    lines += _conflicts(made)
    if lines:
        raise InputError(lines)
    values = flat(made.resolved())
    return override(made, {"chosen": {name: values[name] for name in chosen if name in values}})


def _merged(choices: tuple[Mapping[str, Any], ...]) -> dict[str, Any]:
    """Lay choices over each other; a section whose name changes loses its earlier settings, which were of another class."""
    merged: dict[str, Any] = {}
    for choice in choices:
        for section in ("agent", "model", "task"):
            name = f"{section}.name"
            if name in choice and choice[name] != merged.get(name, choice[name]):
                merged = {key: value for key, value in merged.items() if not key.startswith(f"{section}.")}
        merged |= choice
    return merged


def _attempt(lines: list[str], make: Any, fallback: Any) -> Any:
    try:
        return make()
    except InputError as error:
        lines.extend(error.lines)
        return fallback


def _recommended(section: type[AgentConfig], chosen: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return what the agent recommends with the hyper-parameters chosen; mistakes in them are reported elsewhere."""
    name = section().name
    cls, fixed = agents.agent_class(name)
    own: Any = getattr(cls, "Config", NoConfig)
    given = {key.removeprefix("agent."): value for key, value in chosen.items() if key.startswith("agent.")}
    given.pop("name", None)
    try:
        hyperparameters = build(own, {**fixed, **given})
    except InputError:
        hyperparameters = own(**fixed)
    recommended: Mapping[str, Any] = getattr(cls, "recommended", Agent.recommended)(hyperparameters)
    return recommended


def _conflicts(made: Config) -> list[str]:
    """Return a line for every pair of settings that exclude each other."""
    lines = []
    cls = agents.agent_class(made.agent.name)[0]
    if getattr(cls, "needs_telescoping", False) and not kind(made.reward.name).telescopes:
        lines.append(
            f"reward.name = {made.reward.name!r}: agent {made.agent.name!r} adds rewards up, which ranks patterns only "
            "under rewards of changes: improvement, fork"
        )
    try:
        _check_moves(made, cls)
    except InputError as error:
        lines += error.lines
    return lines


def _check_moves(made: Config, cls: type) -> None:
    """Check that the model can run with every tying that the agent may choose.

    Raises:
        InputError: If it cannot.
    """
    if not made.env.freeze_after:  # the environment's settings have been checked
        return
    try:
        made.model.check_tying(None, made.binding.share)
    except InputError:
        if not issubclass(cls, FixedAgent):
            raise
        schedule = make_schedule(made.hyperparameters["strategy"], made.model.num_layers)
        for _, pointers in schedule.stages:
            made.model.check_tying(pointers, made.binding.share)


def read_config(path: Path, trust: bool = False) -> dict[str, Any]:
    """Return the choices in a JSON file: a run's config.json, or settings by section or dotted name.

    Args:
        path: The file.
        trust: Whether code may be imported that the file names.

    Raises:
        InputError: If it is missing or damaged, of another format, or names code and is not trusted.
    """
    values = read_json(path)
    if not isinstance(values, dict):
        raise InputError(f"--config {path}: expected a JSON object of settings")
    registry.require_trusted(path, values, trust)
    if "format" not in values:
        return flat(nested(values))
    preset_name = _saved(path, values, "resolved").get("preset", DEFAULT_PRESET)
    return {"preset": preset_name, **_saved(path, values, "chosen")}


def load_config(path: Path, trust: bool = False) -> Config:
    """Return the configuration that a run was made from, as it resolved then.

    Args:
        path: A run's config.json.
        trust: Whether code may be imported that the file names.

    Raises:
        InputError: If the file is missing or damaged, of another format, or names code and is not trusted.
    """
    return _load(path, Config, trust)


def load_training_config(path: Path, trust: bool = False) -> TrainingConfig:
    """Return the sections of a run's environment alone; no agent is imported for them. See `load_config`."""
    return _load(path, TrainingConfig, trust)


def _load(path: Path, cls: type[T], trust: bool) -> T:
    values = read_json(path)
    saved = {**_saved(path, values, "resolved"), "chosen": _saved(path, values, "chosen")}
    wrong = saved.keys() ^ Config.__pydantic_fields__.keys()  # type: ignore[attr-defined]
    if wrong:
        raise InputError(f"{path}: damaged, or of another version ({', '.join(sorted(wrong))})")
    sections = {name: saved[name] for name in cls.__pydantic_fields__}  # type: ignore[attr-defined]
    registry.require_trusted(path, _importing(sections), trust)
    try:
        return build(cls, sections)
    except InputError as error:
        raise InputError([f"{path}: {line}" for line in error.lines]) from error


def _importing(sections: Mapping[str, Any]) -> dict[str, Any]:
    """Return the sections that can name code; a run's preset is only shown, and what was chosen stands in the others."""
    return {name: values for name, values in sections.items() if name not in ("preset", "chosen")}


def _saved(path: Path, values: Any, part: str) -> dict[str, Any]:
    found = values.get("format") if isinstance(values, dict) else None
    if found != FORMAT:
        raise InputError(f"{path}: written by format {found}, this version reads format {FORMAT}")
    if not isinstance(values.get(part), dict):
        raise InputError(f"{path}: {part!r} is missing or damaged")
    return dict(values[part])


def dump(made: Config) -> str:
    """Return a configuration as indented JSON."""
    return json.dumps(made.to_json(), indent=2)


def flags_of(made: Config) -> dict[str, Any]:
    """Return the flags of a configuration: dotted names to fields, those of `run` without its name."""
    return {name.removeprefix("run."): info for name, info in fields_of(made).items() if name not in ("preset", "chosen")}
