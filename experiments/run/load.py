"""load_run: a run's folder from Python: its configuration, decisions, trained model, agent and summary."""

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

import agents
from agents.base import Agent
from envs.config import TrainingConfig
from envs.training import LayerTyingEnv
from experiments.run.config import Config, load_config, load_training_config
from experiments.run.directory import RunDirectory
from tying import schema, tasks
from tying.binding import Deltas, LayerBinding
from tying.data import tokenizers
from tying.errors import InputError
from tying.files import read_json, require_checksums
from tying.pointers import Pointers
from tying.tasks.base import Task
from tying.tasks.text import TOKENIZER_FILE
from tying.training import checkpoint
from tying.training.trainer import load_parameters

if TYPE_CHECKING:
    import pandas as pd

_POINTERS = schema.shape(**{"pointers.json": schema.PointerList})


@dataclass(frozen=True)
class Run:
    """A run's folder; its parts are read when they are asked for.

    Attributes:
        directory: The folder.
        trust: Whether code may be imported that its files name.
    """

    directory: RunDirectory
    trust: bool = False

    @property
    def path(self) -> Path:
        """The folder's path."""
        return self.directory.path

    @functools.cached_property
    def config(self) -> Config:
        """Its settings."""
        return load_config(self.directory.config_file, self.trust)

    @functools.cached_property
    def training_config(self) -> TrainingConfig:
        """The settings of its environment: the model is used without importing the agent."""
        return load_training_config(self.directory.config_file, self.trust)

    @functools.cached_property
    def summary(self) -> dict[str, Any]:
        """final/summary.json of a finished run."""
        return self.directory.read_summary()

    @functools.cached_property
    def decisions(self) -> "pd.DataFrame":
        """One row per decision: the fields of StepRecord, and wall_s, cpu_s, decision_s."""
        import pandas as pd  # of the extra `study`, which training does without

        lines = self.directory.read_decisions()
        clocks = ("wall_s", "cpu_s", "decision_s")
        return pd.DataFrame([{**line.record.to_dict(), **{name: getattr(line, name) for name in clocks}} for line in lines])

    @functools.cached_property
    def task(self) -> Task:
        """The task, whose data are read when they are asked for."""
        config = self.training_config
        return tasks.make(config.task, config.model, config.data)

    @functools.cached_property
    def model(self) -> torch.nn.Module:
        """The trained model on the CPU, tied as it was; of an unfinished run, that of the newest checkpoint."""
        self.directory.require_assets()
        folder, pointers = self._weights()
        model = self.task.load_model(self.path)
        binding = self.training_config.binding
        deltas = Deltas(binding.delta_rank, start="zero")  # their values are read next
        LayerBinding(self.task.blocks(model), share=binding.share, norms=binding.norms, deltas=deltas).rebind(pointers)
        load_parameters(model, checkpoint.load_tensors(folder / "model.safetensors"))
        return model.eval()

    def sample(
        self,
        prompt: str,
        num_tokens: int = 200,
        temperature: float = 0.8,
        top_k: int = 0,
        seed: int = 0,
        device: torch.device | str = "cpu",
    ) -> str:
        """Return a prompt and its continuation; see `tying.models.base.Model.generate`.

        Raises:
            InputError: If there is no model yet, or none that continues text, or the prompt has unknown characters.
        """
        generate = getattr(self.task, "generate", None)
        if generate is None:
            raise InputError(f"{self.path}: the model of task {self.training_config.task.name!r} does not continue text")
        self.directory.require_assets()
        tokenizer = tokenizers.load(self.path / TOKENIZER_FILE)
        tokens = torch.tensor([list(tokenizers.encode(tokenizer, prompt))], device=device)
        if not tokens.numel():
            raise InputError(f"prompt {prompt!r}: no tokens for {self.path / TOKENIZER_FILE}; give some text")
        generator = torch.Generator(device).manual_seed(seed)
        tokens = generate(self.model.to(device), tokens, num_tokens, generator, temperature, top_k)
        return str(tokenizer.decode(tokens[0].tolist()))

    def _weights(self) -> tuple[Path, Pointers]:
        """Return the folder of the newest weights, and their pointers."""
        newest = self.directory.latest_checkpoint()
        final = self.directory.final
        if final.is_dir():
            require_checksums(final, "model.")
            require_checksums(final, "pointers.")
            pointers = read_json(final / "pointers.json")
            schema.check(_POINTERS, {"pointers.json": pointers})
            return final, Pointers(pointers)
        if newest is not None:
            return newest[1], checkpoint.saved_pointers(newest[1])
        raise InputError(f"{self.path}: no model yet, not even a checkpoint")

    @functools.cached_property
    def agent(self) -> Agent:
        """The agent as it was at the end of a finished run."""
        require_checksums(self.directory.final, "agent/")
        return agents.load(self.directory.final / "agent", LayerTyingEnv(self.training_config), trust=self.trust)


def load_run(path: str | Path, trust: bool = False) -> Run:
    """Return a run by its folder.

    Args:
        path: The folder.
        trust: Whether code may be imported that its files name: only for runs of people whom you trust.

    Raises:
        InputError: If it is no run, one of another version, or names code and is not trusted.
    """
    directory = RunDirectory(Path(path))
    load_training_config(directory.read_config(), trust)
    return Run(directory, trust)
