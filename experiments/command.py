"""The command line of `train`, generated from the settings.

Later sources win: the preset, what the agent works best with, a --config file, the flags.
"""

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model
from pydantic_settings import BaseSettings, CliUnknownArgs, SettingsConfigDict
from pydantic_settings.exceptions import SettingsError

import agents
from agents.base import Agent
from envs.presets import PRESETS, Setup, preset
from experiments import cli
from experiments.settings import RunConfig, Settings, from_dict, hyperparameters_of
from tying import models
from tying.config import build, complaints, known_fields, to_dict, unknown
from tying.errors import InputError
from tying.files import read_json
from tying.records import FORMAT

T = TypeVar("T")

_DEFAULT_PRESET = "small"
_DEFAULT_AGENT = "dqn"
# `--agent dqn` is short for `--agent.name dqn`.
_NAMED = ("agent", "model", "reward")
# Flags that say what to do, and are no settings of the run.
_ORDERS = ("config", "resume", "out")


@dataclass(frozen=True)
class Command:
    """What a person asked for: new settings (`resume` is None), or an old run to go on with (`settings` is None)."""

    settings: Settings | None
    resume: Path | None
    out: Path | None


def parse(arguments: Sequence[str]) -> Command:
    """Read the command line of `train`.

    Raises:
        InputError: With one line for every mistake.
    """
    arguments = _spell_out(arguments)
    early, rest = _peek(arguments)
    if early["resume"] is not None:
        others = [a for a in arguments if a.startswith("-") and a.partition("=")[0] != "--resume"]
        if others:
            raise InputError(f"--resume goes on with the run's own settings: leave out {' '.join(others)}")
        if rest:
            raise InputError(f"--resume goes on with one run: leave out {' '.join(rest)}")
        return Command(None, Path(early["resume"]), None)
    mistakes = _Mistakes()
    start = _Start(early, arguments, mistakes)
    plain = _read_flags(start, arguments, rest, mistakes)
    if mistakes.lines:
        raise InputError(mistakes.lines)
    settings = from_dict({name: value for name, value in plain.items() if name not in _ORDERS})
    return Command(settings, None, Path(early["out"]) if early["out"] is not None else None)


class _Mistakes:
    """Gathers complaints, so that a person sees all of them at once."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def attempt(self, make: Callable[[], T], fallback: T) -> T:
        try:
            return make()
        except InputError as error:
            self.lines.extend(error.lines)
            return fallback


class _Start:
    """What the flags change: the preset, the agent's wishes and the file, laid over each other."""

    def __init__(self, early: Mapping[str, str | None], arguments: Sequence[str], mistakes: _Mistakes) -> None:
        path = early["config"]
        nothing: dict[str, Any] = {}
        given = mistakes.attempt(lambda: _read_config_file(Path(path)), nothing) if path is not None else nothing
        preset_name = early["preset"] or given.get("preset", _DEFAULT_PRESET)
        agent_name = early["agent.name"] or _name_in(given, "agent") or _DEFAULT_AGENT
        self.setup: Setup = mistakes.attempt(lambda: preset(preset_name), PRESETS[_DEFAULT_PRESET])
        model_name = early["model.name"] or _name_in(given, "model") or self.setup.model.name
        if model_name != self.setup.model.name:
            model = mistakes.attempt(lambda: models.config_class(model_name)(), self.setup.model)
            self.setup = replace(self.setup, model=model)
        nobody: tuple[type[Agent] | None, dict[str, Any]] = (None, {})
        self.agent, fixed = mistakes.attempt(lambda: agents.agent_class(agent_name), nobody)
        if (_name_in(given, "agent") or agent_name) != agent_name:
            given = {**given, "agent": {}}  # hyper-parameters of one agent say nothing of another
        wishes = _wishes(self.agent, {**fixed, **given.get("agent", {})}, arguments)
        wishes = _merge(wishes, {"agent": fixed})
        names = {"preset": preset_name, "agent": {"name": agent_name}}
        self.values = _merge(_merge(to_dict(self.setup), wishes), _merge(given, names))


def _wishes(agent: type[Agent] | None, given: Mapping[str, Any], arguments: Sequence[str]) -> dict[str, Any]:
    """Return the settings that an agent with these hyper-parameters works best with, by section.

    Args:
        agent: Its class; None when it is unknown.
        given: Its hyper-parameters so far, below the flags.
        arguments: The command line.
    """
    wishes: dict[str, Any] = {}
    if agent is not None and hasattr(agent, "wishes"):
        for name, value in agent.wishes(_hyperparameters(agent, given, arguments)).items():
            section, _, field = name.rpartition(".")
            wishes = _merge(wishes, {section: {field: value}} if section else {field: value})
    return wishes


def _hyperparameters(agent: type[Agent], given: Mapping[str, Any], arguments: Sequence[str]) -> Any:
    """Return an agent's configuration, read ahead of all other flags; what is wrong with it is said when they are read."""
    config_class = hyperparameters_of(agent)
    section = _agent_section(agent)
    fields: dict[str, Any] = {"agent": (section, Field(section()))}
    ahead = create_model("AgentAlone", __base__=_Base, **fields)
    below: dict[str, Any] = {"agent": given}
    try:
        parsed = ahead(_cli_parse_args=[a for a in arguments if a not in ("-h", "--help")], **below)
        values = parsed.model_dump(mode="json")["agent"]
        return build(config_class, {name: value for name, value in values.items() if name != "name"})
    except (SettingsError, ValidationError, InputError):
        return config_class()


def _name_in(given: Mapping[str, Any], section: str) -> str | None:
    """Return a section's name, as far as the file gives one; what is wrong with it is said when it is checked."""
    values = given.get(section)
    name = values.get("name") if isinstance(values, Mapping) else None
    return name if isinstance(name, str) else None


def _spell_out(arguments: Sequence[str]) -> list[str]:
    """Write short forms in full: `--agent X` as `--agent.name X`, `--model.no-bias` as `--no-model.bias`."""
    spelled = []
    for argument in arguments:
        flag, equals, value = argument.partition("=")
        if flag.removeprefix("--") in _NAMED:
            argument = f"{flag}.name{equals}{value}"
        elif flag.startswith("--") and ".no-" in flag:
            argument = f"--no-{flag.removeprefix('--').replace('.no-', '.', 1)}"
        spelled.append(argument)
    return spelled


def _peek(arguments: Sequence[str]) -> tuple[dict[str, str | None], list[str]]:
    """Read the flags that decide which other flags there are; return them and what is left."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    for name in ("preset", "agent.name", "model.name", *_ORDERS):
        parser.add_argument(f"--{name}")
    try:
        found, rest = parser.parse_known_args(arguments)
    except argparse.ArgumentError as error:
        raise InputError(str(error)) from error
    return vars(found), rest


def _read_config_file(path: Path) -> dict[str, Any]:
    values = read_json(path)
    if not isinstance(values, dict):
        raise InputError(f"--config {path}: not a JSON object")
    if values.pop("format", FORMAT) != FORMAT:
        raise InputError(f"--config {path}: written by another format, this version reads format {FORMAT}")
    for name in _NAMED:
        if isinstance(values.get(name), str):
            values[name] = {"name": values[name]}
    if not isinstance(values.get("agent", {}), dict) or not isinstance(values.get("agent", {}).get("name", ""), str):
        raise InputError(f"--config {path}: agent is neither a name nor an object with a name")
    if not isinstance(values.get("preset", ""), str):
        raise InputError(f"--config {path}: preset is not a name")
    return values


def _merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for name, value in above.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(name), Mapping)
        merged[name] = _merge(merged[name], value) if both else value
    return merged


def _read_flags(start: _Start, arguments: Sequence[str], rest: Sequence[str], mistakes: _Mistakes) -> dict[str, Any]:
    """Return the settings with the flags applied; what is wrong with them goes to `mistakes`."""
    cls = _settings_class(start.setup, start.agent)
    fields = [name for name in known_fields(cls) if name != "unknown"]
    strange = _unknown_flags(rest, [name.replace("_", "-") for name in fields])
    # Without its class, an unknown agent's hyper-parameters cannot be judged.
    mistakes.lines += [line for flag, line in strange if start.agent is not None or not flag.startswith("--agent.")]
    try:
        parsed = cls(_cli_parse_args=list(arguments), **start.values)
    except SettingsError as error:
        mistakes.lines.append(str(error).removeprefix("error parsing CLI: "))
    except ValidationError as error:
        mistakes.lines += complaints(error, fields)
    else:
        plain = parsed.model_dump(mode="json")
        stray = plain.pop("unknown")
        if stray and not strange:
            mistakes.lines.append(f"unexpected argument {stray[0]!r}: every setting is a --flag; see --help")
        return plain
    return {}


def _unknown_flags(rest: Sequence[str], known: Sequence[str]) -> list[tuple[str, str]]:
    """Return (flag, complaint) for every flag that is not known."""
    flags = {"--help", *(f"--{name}" for name in known), *(f"--no-{name}" for name in known)}
    given = [a.partition("=")[0] for a in rest if a.startswith("--")]
    return [(flag, unknown(f"flag {flag}", flag, sorted(flags))) for flag in given if flag not in flags]


def _settings_class(setup: Setup, agent: type[Agent] | None) -> type[BaseSettings]:
    """Return the class that the flags are generated from, with the preset's values as its defaults."""
    section = _agent_section(agent)
    path = str | None
    fields: dict[str, Any] = {
        "preset": (str, Field(_DEFAULT_PRESET, description=f"settings to start from: {', '.join(PRESETS)}")),
        "config": (path, Field(None, description="JSON file of settings over the preset, such as a run's config.json")),
        "resume": (path, Field(None, description="run directory to go on with, instead of a new run")),
        "out": (path, Field(None, description="the run's own folder; None for a new one under runs/")),
        **{name: (field.annotation, field) for name, field in RunConfig.__pydantic_fields__.items()},  # type: ignore[attr-defined]
        "agent": (section, Field(section(), description="the agent; its hyper-parameters depend on --agent")),
    }
    for name, field in Setup.__pydantic_fields__.items():  # type: ignore[attr-defined]
        present = getattr(setup, name)
        fields[name] = (type(present), Field(present, description=field.description))
    return create_model("TrainSettings", __base__=_Base, **fields)


def _agent_section(agent: type[Agent] | None) -> type[BaseModel]:
    """Return the class of the section `agent`: its name, and its hyper-parameters where it is known."""
    own = getattr(hyperparameters_of(agent), "__pydantic_fields__", {}) if agent is not None else {}
    who = f"(or just --agent) who decides: {', '.join(agents.names())}, pointers as in '0 1 1 3', or package.module:Class"
    fields: dict[str, Any] = {
        "name": (str, Field(_DEFAULT_AGENT, description=who)),
        **{name: (field.annotation, field) for name, field in own.items()},
    }
    extra: Literal["forbid", "ignore"] = "forbid" if agent is not None else "ignore"
    return create_model("AgentSettings", __config__=ConfigDict(extra=extra), **fields)


class _Base(BaseSettings):
    """Train a Transformer while an agent ties its layers."""

    model_config = SettingsConfigDict(**cli.script_config("train"), cli_ignore_unknown_args=True)
    unknown: CliUnknownArgs

    @classmethod
    def settings_customise_sources(cls, settings_cls: Any, init_settings: Any, *_: Any, **__: Any) -> tuple[Any, ...]:
        """Read the flags and the given values; never the process environment."""
        return (init_settings,)
