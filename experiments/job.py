"""A job: one run from its settings to its final files, begun or gone on with."""

import re
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium
from rich.console import Console

import agents
from agents.base import Agent
from envs.layer_tying import LayerTyingEnv, ResumedBackend, TrainingBackend
from experiments.display import Display
from experiments.recorder import Recorder
from experiments.settings import Settings, dump, from_dict
from experiments.summary import write_final
from tying.data import TokenData
from tying.errors import DivergenceError, InputError
from tying.files import read_json, replacing
from tying.pointers import Pointers
from tying.records import RunDirectory, window_of
from tying.tensorboard import Board


@dataclass(frozen=True)
class Job:
    """All that carries out a run.

    Attributes:
        run: Its folder.
        settings: What it is made from.
        flags: Of `experiments.train` for the same run; empty for a resumed one.
        lines: The decisions that its record holds already; empty for a new run.
        resumed: Whether the folder was there before.
        backend: What trains.
        env: The environment over it.
        agent: Who decides.
    """

    run: RunDirectory
    settings: Settings
    flags: Sequence[str]
    lines: Sequence[dict[str, Any]]
    resumed: bool
    backend: TrainingBackend
    env: LayerTyingEnv
    agent: Agent

    @classmethod
    def new(cls, settings: Settings, out: Path | None, flags: Sequence[str]) -> "Job":
        """Return the job of a new run; `flags` are kept in its command.txt.

        Raises:
            InputError: If its folder is taken, or the agent cannot decide in the environment.
        """
        run = RunDirectory(out or _new_folder(settings))
        run.require_new()
        return cls(run, settings, flags, [], False, *_actors(settings, run, []))

    @classmethod
    def resume(cls, run: RunDirectory) -> "Job":
        """Return the job that goes on with a run from its newest checkpoint.

        Raises:
            InputError: If the folder holds no run, or a damaged one.
        """
        settings = from_dict(run.read_config(), f"{run.config_file}: ")
        lines = _known_decisions(run)
        return cls(run, settings, (), lines, True, *_actors(settings, run, lines))

    @property
    def batch_tokens(self) -> int:
        """Tokens of one iteration."""
        return self.settings.setup.trainer.batch_size * self.settings.setup.model.context

    @property
    def iteration(self) -> int:
        """Iterations done before this job takes over."""
        return int(self.lines[-1]["iteration"]) if self.lines else 0

    def carry_out(self, console: Console) -> None:
        """Train to the end and write the final files; what can be refused is refused before the folder is made."""
        data_config = self.settings.setup.data
        name = data_config.path or data_config.hf or data_config.corpus
        console.print(f"corpus {name}: reading and tokenizing ...", highlight=False)
        self._check_data(self.backend.data)
        # The run's seed also holds for an agent that resets the environment without one.
        self.env.reset(seed=self.settings.run.seed)
        self.backend.reset(self.settings.run.seed)
        self.backend.start()
        self._make_folder()
        with self.run.locked(), _how_to_resume(self.run):
            self._clean_folder()
            self._introduce(console)
            self._train(console)

    def _train(self, console: Console) -> None:
        with closing(self._board()) as board:
            with self._display(console) as display:
                recorder = self._recorder(board, display)
                self.backend.on_iteration = recorder.on_iteration
                self.env.on_decision = recorder.on_decision
                # A stranger's agent need not keep the environment that it was made for.
                self.agent.learn(getattr(self.agent, "env", self.env), self.env.num_decisions)
            if len(recorder.lines) < self.env.num_decisions:
                raise InputError(
                    f"agent {self.settings.agent!r} took {len(recorder.lines)} of {self.env.num_decisions} decisions: "
                    "its learn() must take as many as it is asked for"
                )
            console.print("evaluating on the whole test split ...", highlight=False)
            write_final(self.run, self.settings, recorder)

    def _check_data(self, data: TokenData) -> None:
        data.require(self.settings.setup.model.context)
        if self.resumed:
            facts = read_json(self.run.path / "versions.json")
            if not isinstance(facts, dict) or facts.get("corpus_sha256") != data.corpus_sha256:
                raise InputError(
                    f"cannot resume: corpus {data.name} is no longer the text that {self.run.path} was trained on"
                )

    def _make_folder(self) -> None:
        if not self.resumed:
            data, device = self.backend.data, self.backend.start().device
            facts = {"device": str(device), "corpus": data.name, "corpus_sha256": data.corpus_sha256}
            command = [Path(sys.executable).name, "-m", "experiments.train", *self.flags]
            self.run.create(self.settings.to_dict(), command, facts)

    def _clean_folder(self) -> None:
        """Take away what a killed process left, and what came after the checkpoint that is gone on from."""
        self.run.remove_leftovers()
        self.run.rewrite_decisions(self.lines)
        with replacing(self.run.tokenizer_file) as temporary:
            self.backend.data.tokenizer.save(str(temporary))

    def _introduce(self, console: Console) -> None:
        trainer = self.backend.start()
        console.print(
            f"run {self.run.path}\n"
            f"model {trainer.independent_params:,} parameters untied, {self.env.backend.num_layers} layers; "
            f"data {len(trainer.data.splits['train']):,} training tokens; device {trainer.device}; "
            f"agent {self.settings.agent}",
            highlight=False,
            soft_wrap=True,
        )

    def _display(self, console: Console) -> Display:
        pointers = Pointers(self.lines[-1]["pointers"]) if self.lines else self.env.initial_pointers
        return Display(self.settings.setup.trainer.iterations, self.batch_tokens, pointers, console, self.iteration)

    def _board(self) -> Board:
        board = Board(self.run.tensorboard, self.iteration if self.resumed else None, self.batch_tokens)
        if not self.resumed:
            board.config(dump(self.settings))
        return board

    def _recorder(self, board: Board, display: Display) -> Recorder:
        return Recorder(
            run=self.run,
            board=board,
            backend=self.backend,
            agent=self.agent,
            display=display,
            lines=self.lines,
            num_decisions=self.env.num_decisions,
            log_interval=self.settings.run.log_interval,
            checkpoint_interval=self.settings.run.checkpoint_interval,
        )


def _new_folder(settings: Settings) -> Path:
    agent = re.sub(r"[^\w.]+", "-", settings.agent)
    stem = f"{settings.preset}__{agent}__s{settings.run.seed}__{time.strftime('%Y%m%d-%H%M%S')}"
    folder = Path("runs") / stem
    number = 1
    while folder.exists():
        number += 1
        folder = Path("runs") / f"{stem}-{number}"
    return folder


def _known_decisions(run: RunDirectory) -> list[dict[str, Any]]:
    """Return the decisions up to the newest checkpoint; what came after it will be done again."""
    newest = run.latest_checkpoint()
    count = newest[0] if newest else 0
    lines = run.read_decisions()[:count]
    if len(lines) < count:
        raise InputError(f"{run.decisions_file}: {len(lines)} decisions, but the newest checkpoint is after {count}")
    run.require_clocks(lines)
    return lines


def _actors(
    settings: Settings, run: RunDirectory, lines: Sequence[dict[str, Any]]
) -> tuple[TrainingBackend, LayerTyingEnv, Agent]:
    backend = TrainingBackend(settings.setup)
    whole: TrainingBackend | ResumedBackend = backend
    if lines:
        record = [(Pointers(line["pointers"]), window_of(line)) for line in lines]
        whole = ResumedBackend(backend, record, run.checkpoint_folder(len(lines)))
    env = LayerTyingEnv(settings.setup, backend=whole)
    ordered = gymnasium.wrappers.OrderEnforcing(env)
    return backend, env, agents.make(settings.agent, ordered, settings.run.seed, **settings.hyperparameters)


@contextmanager
def _how_to_resume(run: RunDirectory) -> Iterator[None]:
    try:
        yield
    except (InputError, DivergenceError):
        raise  # it would end in the same way again
    except BaseException:
        print(f"to go on: python -m experiments.train --resume {run.path}", file=sys.stderr)
        raise
