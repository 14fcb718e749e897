"""Job: one run from its configuration to its final files, new or resumed."""

import re
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

import agents
from agents.base import Agent, is_resumable
from envs.ranks import LeadingSimulator
from envs.training import LayerTyingEnv, ResumedSimulator, TrainingSimulator
from experiments.run import cli, snapshot
from experiments.run.config import Config, dump, load_config
from experiments.run.directory import Line, RunDirectory
from experiments.run.display import Display
from experiments.run.provenance import differences, inputs, made_by
from experiments.run.recorder import KEPT_CHECKPOINTS, Recorder
from experiments.run.summary import write_final
from experiments.run.tensorboard import TensorBoardLogger
from tying.errors import InputError
from tying.files import require_room, warn_once
from tying.pointers import Pointers
from tying.training.ranks import ALONE, Ranks


@dataclass
class Job:
    """A run that is about to be trained.

    Attributes:
        directory: Its folder.
        config: Its settings.
        words: The call of `experiments.train` for the same run; empty for a resumed one.
        lines: The decisions that its record holds already; empty for a new run.
        start: Decisions of them that the agent is not shown again: those before its newest snapshot.
        resumed: Whether the folder was there before.
        numbered: Whether the folder is of the next number, should another process take it first.
        simulator: The training behind the environment.
        env: The environment over it.
        agent: The agent.
    """

    directory: RunDirectory
    config: Config
    words: Sequence[str]
    lines: Sequence[Line]
    start: int
    resumed: bool
    numbered: bool
    simulator: TrainingSimulator
    env: LayerTyingEnv
    agent: Agent

    @classmethod
    def new(cls, config: Config, out: Path | None, words: Sequence[str], ranks: Ranks = ALONE) -> "Job":
        """Return the job of a new run, that the other ranks follow; `words` are kept in its command.txt.

        Raises:
            InputError: If its folder is taken, or the agent cannot decide in the environment.
        """
        directory = RunDirectory(out or _new_folder(config))
        if out is not None:
            directory.require_new()
        require_room(directory.path, "--out")
        return cls(directory, config, words, [], 0, False, out is None, *_actors(config, directory, [], 0, ranks))

    @classmethod
    def resume(cls, directory: RunDirectory, trust: bool = False, ranks: Ranks = ALONE) -> "Job":
        """Return the job that resumes a run from its newest checkpoint; call it under the folder's lock.

        Raises:
            InputError: If the folder holds no run, a damaged one, or one that names code to import and is not trusted.
        """
        config = load_config(directory.read_config(), trust)
        lines = _known_decisions(directory)
        start = directory.snapshot_before(len(lines))
        try:
            actors = _actors(config, directory, lines, start, ranks)
        except InputError as error:  # what it was made from may be gone
            raise InputError([f"cannot resume {directory.path}: {line}" for line in error.lines]) from error
        job = cls(directory, config, (), lines, start, True, False, *actors)
        if start:
            run = snapshot.digest(directory, start).hexdigest()
            snapshot.require(directory.snapshot_folder(start), run, job.agent)
        return job

    @property
    def iteration(self) -> int:
        """Iterations done before this job takes over."""
        return self.lines[-1].record.iteration if self.lines else 0

    def run(self, console: Console) -> None:
        """Train to the end and write the final files; what can be refused is refused before the folder is made."""
        facts = self._prepare(console)
        if self.numbered:
            self.directory = RunDirectory.take(self.directory.path)
        with self._begun(facts) as logger:
            self._clean_folder()
            self._introduce(console)
            with self._display(console) as display:
                recorder = self._recorder(logger, display)
                self._listen(recorder)
                # Another person's agent need not keep the environment that it was made for.
                self.agent.learn(getattr(self.agent, "env", self.env), self.env.num_decisions)
            self.simulator.ranks.release()
            if len(recorder.lines) < self.env.num_decisions:
                raise InputError(
                    f"agent {self.config.agent.name!r} took {len(recorder.lines)} of {self.env.num_decisions} decisions: "
                    "its learn() must take as many as it is asked for"
                )
            console.print("evaluating on the whole test split ...")
            write_final(self.directory, self.config, recorder)

    @contextmanager
    def _begun(self, facts: dict[str, Any]) -> Iterator[TensorBoardLogger]:
        """Hold the folder's lock while a block trains the run; a new run's folder is made under it."""
        script = [*self._launcher, "-m", "experiments.train"]
        trust = ["--trust"] if self.config.needs_trust else []
        with self.directory.locked():
            if not self.resumed:
                self.directory.create(self.config.to_json(), [*script, *self.words], facts)
            resume = [*script, "--resume", str(self.directory.path), *trust]
            with cli.resumable(resume), closing(self._logger()) as logger:
                yield logger

    def _listen(self, recorder: Recorder) -> None:
        """Let the recorder hear of the run, and put the agent where its snapshot was taken."""
        self.simulator.on_iteration = recorder.on_iteration
        self.env.on_decision = recorder.on_decision
        self.env.explain = getattr(self.agent, "explain", None)
        if is_resumable(self.agent):
            self.agent.on_boundary = recorder.on_boundary
        if self.start:
            self.agent.restore(self.directory.snapshot_folder(self.start), self.start)

    def _prepare(self, console: Console) -> dict[str, Any]:
        """Read the data, build the model, and return what the run depends on besides its settings."""
        console.print(f"corpus {self.simulator.task.source}: reading ...", soft_wrap=True)
        self.simulator.task.require()
        # The run's seed also holds for an agent that resets the environment without one.
        self.env.reset(seed=self.config.run.seed)
        self.simulator.reset(self.config.run.seed)
        device = self.simulator.start(self._first_pointers).device
        known_by = inputs(self.simulator.task, self.agent)
        num_processes = self.simulator.ranks.size
        facts = {"device": device.type, "threads": torch.get_num_threads(), "processes": num_processes, **known_by}
        if self.resumed:
            known = self.directory.read_versions()
            self.directory.require_inputs(known_by)
            other = differences(known, {**made_by(), **facts})
            if other:
                line = f"warning: the run may not end bit by bit as it would have: {other}"
                console.print(line, soft_wrap=True)
        return facts

    def _clean_folder(self) -> None:
        """Remove what a killed process left, and what came after the checkpoint that the run resumes from."""
        self.directory.remove_leftovers()
        self.directory.remove_after(len(self.lines))
        self.directory.keep_checkpoints(KEPT_CHECKPOINTS)
        self.directory.rewrite_decisions(self.lines)
        self.directory.write_assets(self.simulator.task.save_assets)

    def _introduce(self, console: Console) -> None:
        trainer, size = self.simulator.start(self._first_pointers), self.simulator.ranks.size
        console.print(
            f"run {self.directory.path}\n"
            f"model {trainer.independent_params:,} parameters untied, {self.simulator.num_layers} layers; "
            f"device {trainer.device.type}{f', {size} processes' if size > 1 else ''}; agent {self.config.agent.name}",
            soft_wrap=True,
        )

    @property
    def _launcher(self) -> list[str]:
        size = self.simulator.ranks.size
        return ["torchrun", "--nproc-per-node", str(size)] if size > 1 else [Path(sys.executable).name]

    def _tokens_per_iteration(self) -> int:
        return self.config.trainer.batch_size * self.simulator.task.sequence_length

    @property
    def _first_pointers(self) -> Pointers:
        return self.lines[-1].record.pointers if self.lines else self.env.initial_pointers

    def _display(self, console: Console) -> Display:
        pointers, length = self._first_pointers, self.config.trainer.iterations
        perplexity = bool(self.simulator.task.perplexity)
        return Display(length, self._tokens_per_iteration(), pointers, console, perplexity, self.iteration)

    def _logger(self) -> TensorBoardLogger:
        after = self.iteration if self.resumed else None
        perplexity = self.simulator.task.perplexity
        logger = TensorBoardLogger(self.directory.tensorboard, after, self._tokens_per_iteration(), perplexity)
        if not self.resumed:
            logger.config(dump(self.config))
        return logger

    def _recorder(self, logger: TensorBoardLogger, display: Display) -> Recorder:
        return Recorder(
            directory=self.directory,
            logger=logger,
            simulator=self.simulator,
            agent=self.agent,
            display=display,
            lines=self.lines,
            start=self.start,
            num_decisions=self.env.num_decisions,
            config=self.config.run,
        )


def _new_folder(config: Config) -> Path:
    agent = re.sub(r"[^\w.]+", "-", config.agent.name)
    stem = f"{config.preset}__{agent}__s{config.run.seed}__{time.strftime('%Y%m%d-%H%M%S')}"
    return Path("runs") / re.sub(r"[^\w.-]+", "-", stem)


def _known_decisions(directory: RunDirectory) -> list[Line]:
    """Return the decisions up to the newest checkpoint; what came after it will be done again.

    A power cut can leave a record that is shorter than the newest checkpoint: then an older one holds.
    """
    lines = directory.read_decisions()
    newest, fitting = directory.latest_checkpoint(), directory.latest_checkpoint(most=len(lines))
    if newest is not None and fitting is None:
        raise InputError(
            f"{directory.decisions_file}: {len(lines)} decisions, but the newest checkpoint is after {newest[0]}"
        )
    if newest is not None and fitting != newest:
        warn_once(f"{directory.decisions_file}: {len(lines)} decisions; resuming from the checkpoint before {newest[1]}")
    return lines[: fitting[0]] if fitting is not None else []


def _actors(
    config: Config, directory: RunDirectory, lines: Sequence[Line], start: int, ranks: Ranks
) -> tuple[TrainingSimulator, LayerTyingEnv, Agent]:
    simulator = LeadingSimulator(config, ranks) if ranks.size > 1 else TrainingSimulator(config)
    whole: TrainingSimulator | ResumedSimulator = simulator
    if lines:
        records = [line.record for line in lines]
        whole = ResumedSimulator(simulator, records, directory.checkpoint_folder(len(lines)), start)
    env = LayerTyingEnv(config, simulator=whole)
    env.restore([line.record for line in lines[:start]])
    return simulator, env, agents.make(config.agent.name, env, config.run.seed, **config.hyperparameters)


def resume(directory: RunDirectory, console: Console, trust: bool = False, ranks: Ranks = ALONE) -> None:
    """Resume a run to its end; nothing of it is read before other processes are kept away.

    Args:
        directory: Its folder.
        console: Where to show it.
        trust: Whether code may be imported that its files name.
        ranks: The processes, of which the others follow.

    Raises:
        InputError: If another process is at it, or the run is damaged.
    """
    directory.read_config()
    with directory.locked():
        if not directory.finished:
            Job.resume(directory, trust, ranks).run(console)
