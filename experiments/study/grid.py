"""A grid of runs: variants x seeds, each an ordinary run directory, trained in parallel processes.

A grid's folder:

    comparison.json     the variants and seeds last asked for
    runs/<variant>__s<seed>/    ordinary run directories
    logs/<variant>__s<seed>.log    the output of each run

Rerunning skips finished runs, resumes interrupted ones and tries failed ones again. Several calls, on machines that share
the folder, can do a part of the runs each (`--shard`).
"""

import re
import shlex
import time
import traceback
from collections.abc import Sequence
from contextlib import redirect_stderr, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rich.console import Console

from agents import agent_class
from agents.fixed import FixedAgent
from envs import actions
from experiments.run.cli import Failed, Incomplete
from experiments.run.command_line import parse_config
from experiments.run.config import Config, load_config
from experiments.run.console import make_console
from experiments.run.directory import RunDirectory
from experiments.study import workers
from experiments.study.workers import StudyConfig
from tying import schema
from tying.config import build, override
from tying.errors import InputError
from tying.files import read_json, write_json
from tying.models.config import BlocksConfig
from tying.pointers import Pointers
from tying.registry import foreign_names
from tying.strategies import make_schedule

FORMAT = 2
_PLAN = schema.shape(format=Literal[2], variants=dict[str, str])
# Flags of `experiments.train` that a grid sets itself, run by run.
_SET_HERE = {
    "--agent": "a variant begins with its agent's name",
    "--agent.name": "a variant begins with its agent's name",
    "--out": "every run has its place in the comparison's folder",
    "--resume": "a comparison is resumed by the same command",
    "--seed": "a comparison has --seeds",
    "--run.seed": "a comparison has --seeds",
}


# Sections that decide how an untied model trains.
_TRAINING = ("task", "model", "data", "trainer", "optim")

# A variant that is no agent: conventional training of a model with fewer layers.
_SHALLOW = "shallow"


@dataclass(frozen=True)
class Variant:
    """One line of a comparison: an agent, with settings of its own; or `shallow:K`, an untied model of K layers.

    The second has the parameters of a pattern with K sets of weights, and less compute: what tying has to beat.

    Attributes:
        label: The text that named it: an agent's name and flags ("dqn --reward.name fork").
        config: The settings of its runs, at any seed.
        words: The call of `experiments.train` for the same run.
    """

    label: str
    config: Config
    words: tuple[str, ...]

    @classmethod
    def parse(cls, text: str, common: Sequence[str]) -> "Variant":
        """Return the variant that a text means.

        Args:
            text: An agent's name or `shallow:K`, and behind it flags of `experiments.train` that hold for it alone.
            common: Flags that hold for all variants; those of the variant stand above them.

        Raises:
            InputError: With one line for every mistake.
        """
        name, dashes, own = text.strip().partition(" --")
        try:
            given = (*common, *shlex.split(dashes.strip() + own))
        except ValueError as error:
            raise InputError(f"variant {text!r}: {str(error).lower()}") from error
        flags = dict.fromkeys(word.partition("=")[0] for word in given)
        lines = [f"{flag} is for single runs: {_SET_HERE[flag]}" for flag in flags if flag in _SET_HERE]
        words = (*given, "--agent", name.strip())
        if name.partition(":")[0] == _SHALLOW and not lines:
            words = (*given, *_shallow(name.strip(), given))
        config = parse_config(words, lines) if not lines else None
        if lines or config is None:
            raise InputError(lines)
        return cls(" ".join(text.split()), config, words)


def variant_of(pattern: Pointers) -> str:
    """Return the text of the variant that trains a pattern from scratch."""
    if pattern.ranks:  # no action of a fixed strategy says them
        return f"independent --env.initial-pointers '{pattern}' --env.freeze-after 0"
    return str(pattern) if pattern.num_unique < len(pattern) else "independent"


def shallow_rivals(model: BlocksConfig, num_unique: int) -> list[str]:
    """Return the variant with the parameters of a pattern of so many sets and fewer layers, if the model can have them."""
    if _is_pretrained(model) or num_unique == model.num_layers:
        return []
    try:
        override(model, {"num_layers": num_unique})
    except InputError:  # a setting is written for all of its layers, as pointers of model.kv_sharing are
        return []
    return [f"{_SHALLOW}:{num_unique}"]


def with_shallow_rivals(variants: Sequence[Variant], common: Sequence[str]) -> list[Variant]:
    """Return the variants, and behind them the rival in layers of each whose pattern is known beforehand.

    A rival has the flags of its variant. None is added where an untied model of its depth is there that is trained alike.

    Args:
        variants: From `parse_variants`.
        common: The flags that they were parsed with.

    Raises:
        InputError: If the pattern of a variant is for another number of layers.
    """
    found = list(variants)
    for variant in variants:
        pattern, (_, dashes, own) = _final_pattern(variant.config), variant.label.partition(" --")
        for name in shallow_rivals(variant.config.model, pattern.num_unique) if pattern else []:
            with suppress(InputError):  # untied, a model may exclude one of the flags, as adaptive halting does
                rival = Variant.parse(name + dashes + own, common)
                found += [] if any(_trains_as(rival.config, other.config) for other in found) else [rival]
    return found


def _final_pattern(config: Config) -> Pointers | None:
    """Return the pattern that a run ends with, or None where its agent decides that."""
    num_layers = config.model.num_layers
    if not config.env.freeze_after:
        return actions.start(config.env.initial_pointers, None, num_layers, config.binding.delta_rank, moves=False)
    if not issubclass(agent_class(config.agent.name)[0], FixedAgent):
        return None
    return make_schedule(config.hyperparameters["strategy"], num_layers).stages[-1][1]


def _trains_as(shallow: Config, other: Config) -> bool:
    """Return whether another run trains the untied model of a shallow one, whoever decides."""
    pattern = _final_pattern(other)
    untied = pattern is not None and pattern.num_unique == shallow.model.num_layers
    return untied and all(getattr(shallow, name) == getattr(other, name) for name in _TRAINING)


def _is_pretrained(model: BlocksConfig) -> bool:
    return getattr(model, "pretrained", None) is not None


def _shallow(name: str, given: Sequence[str]) -> tuple[str, ...]:
    """Return the flags of `shallow:K`, which stand above those given.

    Raises:
        InputError: If K is no number of layers below the model's own, or the model is a pretrained one.
    """
    lines: list[str] = []
    deep = parse_config((*given, "--agent", "independent"), lines)
    if deep is None or lines:
        raise InputError(lines)
    text, most = name.partition(":")[2], deep.model.num_layers - 1
    if text not in map(str, range(1, most + 1)):
        raise InputError(
            f"variant {name!r}: expected {_SHALLOW}:K with K from 1 to {most}, fewer layers than the model has"
        )
    if _is_pretrained(deep.model):
        raise InputError(f"variant {name!r}: a pretrained model comes with all of its layers")
    # Pointers at the start may be written for as many layers as the model has.
    return ("--model.num-layers", text, "--env.initial-pointers", "independent", "--agent", "independent")


@dataclass(frozen=True)
class RunSpec:
    """One run of a grid."""

    label: str
    config: Config
    words: tuple[str, ...]
    directory: RunDirectory
    log: Path

    @property
    def title(self) -> str:
        """The run in words."""
        return f"{self.label}, seed {self.config.run.seed}"


@dataclass(frozen=True)
class Result:
    """The end of a run: `failure` is None for a finished one, otherwise the reason in one line."""

    folder: str
    seconds: float
    failure: str | None


def parse_variants(texts: Sequence[str], common: Sequence[str]) -> list[Variant]:
    """Return the variants of a comparison.

    Raises:
        InputError: With one line for every mistake, each reported once.
    """
    variants: dict[str, Variant] = {}
    lines: dict[str, None] = {}
    for text in texts:
        try:
            variant = Variant.parse(text, common)
        except InputError as error:
            lines |= dict.fromkeys(error.lines)
            continue
        if variant.label in variants:
            lines[f"variant {variant.label!r} is named twice"] = None
        variants[variant.label] = variant
    if lines:
        raise InputError(list(lines))
    return list(variants.values())


def plan(folder: Path, variants: Sequence[Variant], seeds: Sequence[int]) -> list[RunSpec]:
    """Return the runs of a grid, one seed after another, so that an unfinished grid can be looked at fairly.

    Raises:
        InputError: If a run in the folder was made with other settings, or two variants would have one folder.
    """
    specs = []
    lines = []
    labels: dict[str, str] = {}
    for variant in variants:
        taken = labels.setdefault(_slug(variant.label), variant.label)
        if taken != variant.label:
            raise InputError(
                f"variants {taken!r} and {variant.label!r} would have one folder: compare them apart, with --out"
            )
    for seed in seeds:
        for variant in variants:
            name = f"{_slug(variant.label)}__s{seed}"
            directory, log = RunDirectory(folder / "runs" / name), folder / "logs" / f"{name}.log"
            words = (*variant.words, "--seed", str(seed), "--out", str(directory.path))
            spec = RunSpec(variant.label, variant.config.with_seed(seed), words, directory, log)
            if directory.config_file.is_file():
                difference = load_config(directory.config_file, _named(directory, spec.config)).difference(spec.config)
                lines += [f"{directory.path}: made with other settings ({difference})"] if difference else []
            specs.append(spec)
    if lines:
        raise InputError([*lines, f"{folder} holds another comparison: name a new folder with --out"])
    return specs


def _named(directory: RunDirectory, config: Config) -> bool:
    """Return whether the command itself names whatever a run's file would import."""
    return set(foreign_names(read_json(directory.config_file))) <= set(foreign_names(config.to_json()))


def _slug(label: str) -> str:
    return re.sub(r"[^\w.]+", "-", label).strip("-")


def write_plan(folder: Path, variants: Sequence[Variant], seeds: Sequence[int], command: Sequence[str]) -> None:
    """Write comparison.json; earlier variants in the same folder stay.

    Raises:
        InputError: If the file in the folder is damaged.
    """
    path = folder / "comparison.json"
    known: dict[str, str] = {}
    if path.is_file():
        known = schema.read(path, _PLAN, "remove it, or name a new folder with --out")["variants"]
    known |= {variant.label: shlex.join(variant.words) for variant in variants}
    write_json(path, {"format": FORMAT, "command": shlex.join(command), "seeds": list(seeds), "variants": known})


def run_all(specs: Sequence[RunSpec], config: StudyConfig, console: Console) -> list[str]:
    """Train the runs of this part that are not finished, and return a line for each that failed.

    Raises:
        InputError: If finished runs of one corpus were made from different texts, or of one tokenizer file from others.
        Incomplete: If runs of other parts are not finished.
        Failed: If that is so and runs of this part failed.
    """
    own = config.own(specs)
    unfinished = _unfinished(own)
    if len(unfinished) < len(own):
        console.print(f"{len(own) - len(unfinished)} of {len(own)} runs are finished already")
    titles = {str(spec.directory.path): spec.title for spec in specs}
    failures = []
    plain = [(spec.config.to_json(), str(spec.directory.path), spec.words, str(spec.log)) for spec in unfinished]
    with workers.Countdown(console, len(unfinished), "runs") as countdown:
        try:
            for result in workers.run_all(_run, plain, config):
                line = _line(result)
                failures += [f"{titles[result.folder]}: {result.failure}"] if result.failure is not None else []
                console.print(f"{countdown.advance()}  {titles[result.folder]}: {line}", soft_wrap=True)
        except Failed as lost:
            failures += lost.lines
    _require_same_inputs(specs)
    others = len(_unfinished(specs)) - len(_unfinished(own))
    if others:
        line = f"no report yet: {others} of {len(specs)} runs are other shards'; the same command without --shard does all"
        raise Failed([*failures, line]) if failures else Incomplete([line])
    return failures


def _unfinished(specs: Sequence[RunSpec]) -> list[RunSpec]:
    return [spec for spec in specs if not spec.directory.finished]


def _require_same_inputs(specs: Sequence[RunSpec]) -> None:
    """Check that runs with the same data settings were trained on the same text, tokens and other inputs."""
    seen: dict[Any, tuple[str, str]] = {}
    for spec in (spec for spec in specs if spec.directory.finished):
        summary = spec.directory.read_summary()
        for name in (key.removesuffix("_sha256") for key in summary if key.endswith("_sha256")):
            digest = summary[f"{name}_sha256"]
            known, title = seen.setdefault((spec.config.data, name, summary.get(name)), (digest, spec.title))
            if known != digest:
                raise InputError(
                    f"{spec.directory.path}: trained with another {name} than {title} (it has changed in between): "
                    "name a new folder with --out"
                )


def _line(result: Result) -> str:
    if result.failure is not None:
        return f"FAILED: {result.failure}"
    summary = RunDirectory(Path(result.folder)).read_summary()
    pattern = " ".join(map(str, summary["pointers"]))
    return f"test loss {summary['test_loss']:.4f}, tying {pattern}, {result.seconds:.0f} s"


def _run(plain: tuple[dict[str, Any], str, tuple[str, ...], str]) -> Result:
    """Do one run in a worker process; whatever goes wrong with it becomes its result."""
    import torch

    from experiments.run.job import Job, resume

    values, folder, words, log_path = plain
    torch.set_num_threads(1)
    start = time.monotonic()
    directory, path = RunDirectory(Path(folder)), Path(log_path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as log, redirect_stderr(log):
        console = make_console(file=log, width=200)
        try:
            if directory.config_file.is_file():
                resume(directory, console, trust=True)  # its settings are those that this command named
            else:
                config = build(Config, {**values["resolved"], "chosen": values["chosen"]})
                Job.new(config, directory.path, words).run(console)
        except Exception as error:  # another person's agent can raise anything, and the other runs must continue
            log.write(traceback.format_exc())
            reason = (str(error).splitlines() or [""])[0]
            return Result(folder, time.monotonic() - start, f"{type(error).__name__}: {reason} (see {path})")
    return Result(folder, time.monotonic() - start, None)
