"""The command line of `experiments.train`: its own flags, and one flag for every setting of a run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.run import cli
from experiments.run.config import Config, flags_of, read_config, resolve
from experiments.run.directory import RunDirectory
from tying.config import build, config, fields_of, flat, nested, setting
from tying.data.corpora import DataConfig
from tying.errors import InputError
from tying.training.device import require_device

# Other names of flags: short ones, and those of other trainers.
SHORTS = {
    **{section: f"{section}.name" for section in ("agent", "model", "reward", "task")},
    **{f"run.{name}": name for name in ("seed", "log_interval", "checkpoint_interval")},
    "lr": "optim.learning_rate",
    "learning-rate": "optim.learning_rate",
    "weight-decay": "optim.weight_decay",
    "steps": "trainer.iterations",
    "iterations": "trainer.iterations",
    "max-iters": "trainer.iterations",
    "max-steps": "trainer.iterations",
    "batch-size": "trainer.batch_size",
    "device": "trainer.device",
    "n-layer": "model.num_layers",
    "n-head": "model.num_heads",
    "n-embd": "model.width",
    "block-size": "model.context",
    "dropout": "model.dropout",
    "param-weight": "reward.param_weight",
}
ANSWERS = {
    "seeds": "one run has --seed; experiments.compare has --seeds",
    "agents": "one run has --agent; experiments.compare has --agents",
    "total-timesteps": "a run's length is --trainer.iterations, a decision is taken every --env.decision-interval of them",
}
_EPILOG = """examples:
  python -m experiments.train --preset tiny
  python -m experiments.train --agent ppo --reward.param-weight 0.3 --seed 1
  python -m experiments.train --agent sequence:3 --data.path input.txt --data.tokenizer char
  python -m experiments.train --agent my_package.my_module:MyAgent
  python -m experiments.train --config runs/first/config.json --seed 2
  python -m experiments.train --resume runs/first
  torchrun --nproc-per-node 2 -m experiments.train
"""


@config
class TrainFlags:
    """Train a Transformer while an agent ties its layers."""

    preset: str | None = setting(Config.__pydantic_fields__["preset"].description, default=None)  # type: ignore[attr-defined]
    config: str | None = setting("JSON file of settings over the preset, such as a run's config.json", default=None)
    resume: str | None = setting("run directory to resume, instead of a new run", default=None)
    out: str | None = setting("the run's own folder; None: a new one under runs/", default=None)
    trust: bool = setting("import the code that --config or --resume names (package.module:NAME)", default=False)


@dataclass(frozen=True)
class Command:
    """A new run (`config`), or a run to resume (`resume`), whose files may name code to import with `trust`."""

    config: Config | None
    resume: Path | None
    out: Path | None
    trust: bool = False


def parse(words: Sequence[str]) -> Command:
    """Read the command line of `experiments.train`; nothing is trained, read or written yet.

    Raises:
        InputError: With one line for every mistake.
        SystemExit: After --help.
    """
    own = cli.read(fields_of(TrainFlags), words).values
    if own.get("resume") is not None:
        _refuse_others(words)
        RunDirectory(Path(own["resume"])).read_config()
        return Command(None, Path(own["resume"]), None, _trusts(own))
    out = Path(own["out"]) if own.get("out") is not None else None
    mistakes: list[str] = []
    made = parse_config(words, mistakes, fields_of(TrainFlags))
    if out is not None:
        _attempt(mistakes, lambda: RunDirectory(out).require_new())
    if mistakes or made is None:
        raise InputError(mistakes)
    return Command(made, None, out)


def parse_config(words: Sequence[str], mistakes: list[str], own: cli.Flags | None = None) -> Config | None:
    """Return the configuration that words mean, or None; mistakes are added to a list.

    Args:
        words: Flags of settings, and `--preset`, `--config` and `--trust`.
        mistakes: One line each.
        own: The flags that are no settings; None for `--preset`, `--config` and `--trust` alone.
    """
    if own is None:
        own = {name: info for name, info in fields_of(TrainFlags).items() if name in ("preset", "config", "trust")}
    names = ("agent.name", "model.name", "task.name")
    first = cli.read({**own, **{n: Config.__pydantic_fields__["preset"] for n in names}}, words, SHORTS).values  # type: ignore[attr-defined]
    path = first.get("config")
    file: dict[str, Any] = (
        _attempt(mistakes, lambda: read_config(Path(path), _trusts(first)), {}) if path is not None else {}
    )
    named = {name: first[name] for name in ("preset", *names) if first.get(name) is not None}
    start = _start({**{k: v for k, v in file.items() if k in ("preset", *names)}, **named})
    flags = {**own, **flags_of(start)}
    if {"-h", "--help"} & set(words):
        defaults = {name.removeprefix("run."): value for name, value in flat(start.resolved()).items()}
        cli.show_help(cli.parser(flags, "experiments.train", TrainFlags.__doc__ or "", defaults, SHORTS, _EPILOG))
    given = cli.read(flags, words, SHORTS)
    if start.agent.name != named.get("agent.name", start.agent.name):  # an unknown agent's flags cannot be checked
        given.rest = [word for word in given.rest if not word.startswith("--agent.")]
    given.refuse_rest(flags, SHORTS, ANSWERS)
    mistakes += given.mistakes
    of_run = {name for name in flags if "." not in name and name not in own}
    chosen = {f"run.{k}" if k in of_run else k: v for k, v in given.values.items() if k not in own or k == "preset"}
    made: Config | None = _attempt(mistakes, lambda: resolve(file, chosen), None)
    _check_machine(made, start, {**file, **chosen}, mistakes)
    return made


def _check_machine(made: Config | None, start: Config, chosen: Mapping[str, Any], mistakes: list[str]) -> None:
    """Check that device, text and model are there; where other settings are wrong, by the choices and the task alone."""
    device = made.trainer.device if made is not None else chosen.get("trainer.device", "auto")
    _attempt(mistakes, lambda: require_device(device))
    own = nested({**start.task.recommended, **chosen})
    data = made.data if made is not None else _attempt(mistakes, lambda: build(DataConfig, own.get("data", {}), "data."))
    task = (
        made.task if made is not None else _attempt(mistakes, lambda: build(type(start.task), own.get("task", {}), "task."))
    )
    if data is not None and task is not None:
        _attempt(mistakes, lambda: task.require_data(data))
    if made is not None:
        _attempt(mistakes, made.model.require)


def _start(named: Mapping[str, Any]) -> Config:
    """Return a configuration of the classes that are named, as far as the names are right."""
    right: dict[str, Any] = {}
    for name, value in named.items():
        try:
            resolve(right | {name: value})
        except InputError:
            continue
        right[name] = value
    return resolve(right)


def _trusts(own: Mapping[str, Any]) -> bool:
    return str(own.get("trust", "false")).lower() == "true"


def _refuse_others(words: Sequence[str]) -> None:
    allowed = ("--resume", "--trust")
    flags = [word for word in words if word.startswith("-") and word.partition("=")[0] not in allowed]
    others = flags or [word for word in words if not word.startswith("-")][1:] if "--resume" in words else flags
    if others:
        raise InputError(f"--resume takes the run's own settings: leave out {' '.join(others)}")


def _attempt(mistakes: list[str], make: Any, fallback: Any = None) -> Any:
    try:
        return make()
    except InputError as error:
        mistakes += [line for line in error.lines if line not in mistakes]
        return fallback
