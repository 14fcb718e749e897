"""Job: one run from its configuration to its final files, new or resumed."""

import re
import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

import agents
from agents.base import Agent, is_resumable
from envs.training import LayerTyingEnv, ResumedSimulator, TrainingSimulator
from experiments.run import snapshot
from experiments.run.config import Config, dump, load_config
from experiments.run.directory import Line, RunDirectory
from experiments.run.display import Display
from experiments.run.recorder import KEPT_CHECKPOINTS, Recorder
from experiments.run.summary import write_final
from experiments.run.tensorboard import TensorBoardLogger
from tying.errors import DivergenceError, InputError
from tying.files import read_json


@dataclass(frozen=True)
class Job:
    """A run that is about to be trained.

    Attributes:
        directory: Its folder.
        config: Its settings.
        words: The call of `experiments.train` for the same run; empty for a resumed one.
        lines: The decisions that its record holds already; empty for a new run.
        start: Decisions of them that the agent is not shown again: those before its newest snapshot.
        resumed: Whether the folder was there before.
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
    simulator: TrainingSimulator
    env: LayerTyingEnv
    agent: Agent

    @classmethod
    def new(cls, config: Config, out: Path | None, words: Sequence[str]) -> "Job":
        """Return the job of a new run; `words` are kept in its command.txt.

        Raises:
            InputError: If its folder is taken, or the agent cannot decide in the environment.
        """
        directory = RunDirectory(out or _new_folder(config))
        directory.require_new()
        return cls(directory, config, words, [], 0, False, *_actors(config, directory, [], 0))

    @classmethod
    def resume(cls, directory: RunDirectory) -> "Job":
        """Return the job that resumes a run from its newest checkpoint.

        Raises:
            InputError: If the folder holds no run, or a damaged one.
        """
        config = load_config(directory.read_config())
        lines = _known_decisions(directory)
        start = directory.snapshot_before(len(lines))
        job = cls(directory, config, (), lines, start, True, *_actors(config, directory, lines, start))
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
        self._prepare(console)
        with self.directory.locked(), _how_to_resume(self.directory), closing(self._logger()) as logger:
            self._clean_folder()
            self._introduce(console)
            with self._display(console) as display:
                recorder = self._recorder(logger, display)
                self.simulator.on_iteration = recorder.on_iteration
                self.env.on_decision = recorder.on_decision
                self.env.explain = getattr(self.agent, "explain", None)
                if is_resumable(self.agent):
                    self.agent.on_boundary = recorder.on_boundary
                if self.start:
                    self.agent.restore(self.directory.snapshot_folder(self.start), self.start)
                # Another person's agent need not keep the environment that it was made for.
                self.agent.learn(getattr(self.agent, "env", self.env), self.env.num_decisions)
            if len(recorder.lines) < self.env.num_decisions:
                raise InputError(
                    f"agent {self.config.agent.name!r} took {len(recorder.lines)} of {self.env.num_decisions} decisions: "
                    "its learn() must take as many as it is asked for"
                )
            console.print("evaluating on the whole test split ...", highlight=False)
            write_final(self.directory, self.config, recorder)

    def _prepare(self, console: Console) -> None:
        """Read the data, build the model, and make the folder of a new run."""
        data = self.config.data
        console.print(f"corpus {data.path or data.hf or data.corpus}: reading ...", markup=False, highlight=False)
        self.simulator.task.require()
        facts = self.simulator.task.facts()
        if self.resumed:
            known = read_json(self.directory.versions_file)
            if not isinstance(known, dict) or known.get("corpus_sha256") != facts["corpus_sha256"]:
                raise InputError(
                    f"cannot resume {self.directory.path}: corpus {facts['corpus']} is no longer the text of its beginning"
                )
        # The run's seed also holds for an agent that resets the environment without one.
        self.env.reset(seed=self.config.run.seed)
        self.simulator.reset(self.config.run.seed)
        device = str(self.simulator.start().device)
        if not self.resumed:
            command = [Path(sys.executable).name, "-m", "experiments.train", *self.words]
            self.directory.create(self.config.to_json(), command, {"device": device, **facts})

    def _clean_folder(self) -> None:
        """Remove what a killed process left, and what came after the checkpoint that the run resumes from."""
        self.directory.remove_leftovers()
        self.directory.rewrite_decisions(self.lines)
        self.directory.remove_snapshots_after(len(self.lines))
        self.directory.keep_checkpoints(KEPT_CHECKPOINTS)
        self.simulator.task.save_assets(self.directory.path)

    def _introduce(self, console: Console) -> None:
        trainer = self.simulator.start()
        console.print(
            f"run {self.directory.path}\n"
            f"model {trainer.independent_params:,} parameters untied, {self.simulator.num_layers} layers; "
            f"device {trainer.device}; agent {self.config.agent.name}",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )

    def _tokens_per_iteration(self) -> int:
        return self.config.trainer.batch_size * self.simulator.task.sequence_length

    def _display(self, console: Console) -> Display:
        pointers = self.lines[-1].record.pointers if self.lines else self.env.initial_pointers
        return Display(self.config.trainer.iterations, self._tokens_per_iteration(), pointers, console, self.iteration)

    def _logger(self) -> TensorBoardLogger:
        after = self.iteration if self.resumed else None
        logger = TensorBoardLogger(self.directory.tensorboard, after, self._tokens_per_iteration())
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
    folder = Path("runs") / re.sub(r"[^\w.-]+", "-", stem)
    number = 1
    while folder.exists():
        number += 1
        folder = folder.with_name(f"{stem}-{number}")
    return folder


def _known_decisions(directory: RunDirectory) -> list[Line]:
    """Return the decisions up to the newest checkpoint; what came after it will be done again."""
    newest = directory.latest_checkpoint()
    count = newest[0] if newest else 0
    lines = directory.read_decisions()[:count]
    if len(lines) < count:
        raise InputError(f"{directory.decisions_file}: {len(lines)} decisions, but the newest checkpoint is after {count}")
    return lines


def _actors(
    config: Config, directory: RunDirectory, lines: Sequence[Line], start: int
) -> tuple[TrainingSimulator, LayerTyingEnv, Agent]:
    simulator = TrainingSimulator(config)
    whole: TrainingSimulator | ResumedSimulator = simulator
    if lines:
        records = [line.record for line in lines]
        whole = ResumedSimulator(simulator, records, directory.checkpoint_folder(len(lines)), start)
    env = LayerTyingEnv(config, simulator=whole)
    env.restore([line.record for line in lines[:start]])
    return simulator, env, agents.make(config.agent.name, env, config.run.seed, **config.hyperparameters)


@contextmanager
def _how_to_resume(directory: RunDirectory) -> Iterator[None]:
    try:
        yield
    except (InputError, DivergenceError):
        raise  # it would end in the same way again
    except BaseException:
        resume = f"python -m experiments.train --resume {shlex.quote(str(directory.path))}"
        print(f"to resume: {resume}", file=sys.stderr)
        raise
