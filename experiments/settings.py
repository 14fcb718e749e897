"""The settings of a run: one section for every owner, kept in config.json."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import agents
from agents.base import Agent, NoConfig
from envs.presets import Setup
from tying.config import build, config, setting, to_dict, unknown
from tying.errors import InputError

_SECTIONS = tuple(Setup.__dataclass_fields__)


@config
class RunConfig:
    """What belongs to the run and to none of its parts."""

    seed: int = setting("of initial weights, data order, dropout and agent [0 to 2**32 - 1]", default=0, ge=0, le=2**32 - 1)
    log_interval: int = setting("training figures in TensorBoard are this far apart [iterations, >= 1]", default=10, ge=1)
    checkpoint_interval: int = setting("checkpoints are this far apart [decisions, >= 1]", default=10, ge=1)


def hyperparameters_of(agent: type[Agent]) -> type:
    """Return the configuration class of an agent's hyper-parameters."""
    return getattr(agent, "Config", NoConfig)


@dataclass(frozen=True)
class Settings:
    """All that a run is made from."""

    preset: str
    agent: str
    hyperparameters: dict[str, Any]
    setup: Setup
    run: RunConfig

    def to_dict(self) -> dict[str, Any]:
        """Return what config.json holds."""
        return {
            "preset": self.preset,
            "agent": {"name": self.agent, **self.hyperparameters},
            **to_dict(self.run),
            **to_dict(self.setup),
        }

    def flat(self) -> dict[str, Any]:
        """Return dotted names to values."""

        def walk(values: Mapping[str, Any], prefix: str) -> dict[str, Any]:
            flat: dict[str, Any] = {}
            for name, value in values.items():
                flat |= walk(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {prefix + name: value}
            return flat

        return walk(self.to_dict(), "")


def from_dict(values: Mapping[str, Any], where: str = "") -> Settings:
    """Rebuild settings from what `to_dict` returned; `where` says in complaints which file they come from.

    Raises:
        InputError: If they are not of this version.
    """
    try:
        own = set(RunConfig.__dataclass_fields__)
        if not isinstance(values["agent"], Mapping) or not isinstance(values["agent"].get("name"), str):
            raise InputError(f"agent = {values['agent']!r}: expected an object with a name")
        agent = dict(values["agent"])
        name = agent.pop("name")
        known = {"preset", "agent", *own, *_SECTIONS}
        odd = [unknown(f"setting {key!r}", key, sorted(known)) for key in values if key not in known]
        if odd:
            raise InputError(odd)
        return Settings(
            preset=values["preset"],
            agent=name,
            hyperparameters=to_dict(build(hyperparameters_of(agents.agent_class(name)[0]), agent, "agent.")),
            setup=build(Setup, {section: values[section] for section in _SECTIONS}),
            run=build(RunConfig, {key: values[key] for key in own}),
        )
    except KeyError as error:
        raise InputError(f"{where}{error.args[0]!r} is missing; it was written by another version") from error
    except InputError as error:
        raise InputError([f"{where}{line}" for line in error.lines]) from error


def dump(settings: Settings) -> str:
    """Return settings as indented JSON."""
    return json.dumps(settings.to_dict(), indent=2)
