"""Subject: the trained model that is compressed, with its task, and the form in which a copy of it is saved."""

import copy
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from experiments.compression.settings import Compression
from experiments.run.directory import RunDirectory
from experiments.run.load import load_run
from tying import registry, tasks
from tying.compression.divergence import Divergence
from tying.compression.sources import Sources
from tying.config import override
from tying.errors import InputError
from tying.files import digest, replacing, write_checksums
from tying.hf.bind import untied
from tying.hf.stacks import find_stack
from tying.hf.task import Pretrained
from tying.models.base import num_params
from tying.tasks.base import Task, on_device
from tying.tasks.from_loss import FromLoss
from tying.training import checkpoint
from tying.training.device import find_device
from tying.training.trainer import Trainer


@dataclass(frozen=True)
class Subject:
    """A trained model and its task.

    Attributes:
        task: Its loss and data.
        objective: The task whose loss is asked for and healed: the same, or one that compares with the original.
        model: It, on the device of trainer.device; every layer has weights of its own.
        compression: How it is compressed.
    """

    task: Task
    objective: Task
    model: nn.Module
    compression: Compression

    @classmethod
    def load(cls, compression: Compression) -> "Subject":
        """Return the model that a call names; the data are read.

        Raises:
            InputError: If it cannot be had.
        """
        config, name = compression.config, compression.flags.model
        if compression.kind == "function":
            model, task = _from_function(name)
            task.require()
        else:
            task = tasks.make(config.task, config.model, config.data)
            task.require()
            run = load_run(name, compression.flags.trust) if compression.kind == "run" else None
            model = task.build_model(config.run.seed) if run is None else run.model
        model = untied(model).eval().to(find_device(config.trainer.device))
        objective = Divergence(task, model) if compression.flags.objective == "kl" else task
        return cls(task, objective, model, compression)

    @property
    def num_layers(self) -> int:
        """Number of layers L of the original."""
        return len(self.task.blocks(self.model))

    def origin(self, settings: Mapping[str, Any]) -> str:
        """Return a digest of the model's weights, the task's inputs and settings: what results depend on."""
        weights = hashlib.sha256()
        for name, parameter in self.model.named_parameters():
            weights.update(name.encode())
            weights.update(parameter.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
        return digest({"settings": settings, "facts": self.task.facts(), "weights": weights.hexdigest()})

    def save(self, trainer: Trainer, sources: Sources, folder: Path, figures: Mapping[str, Any]) -> None:
        """Write a compressed copy: in transformers' form, as a run, or as weights and pointers."""
        with replacing(folder) as temporary:
            if isinstance(self.task, Pretrained):
                self.task.save_pretrained(trainer.model, temporary)
            elif self.compression.kind == "run":
                self._save_run(trainer, sources, temporary, figures)
            else:
                temporary.mkdir()
                _save_weights(trainer, temporary)

    def _save_run(self, trainer: Trainer, sources: Sources, folder: Path, figures: Mapping[str, Any]) -> None:
        config = override(self.compression.config, {"model.num_layers": len(sources.kept)})
        directory = RunDirectory(folder)
        facts = {"device": str(trainer.device), "threads": torch.get_num_threads(), **self.task.facts()}
        directory.create(config.to_json(), self.compression.command, facts)
        directory.rewrite_decisions([])
        self.task.save_assets(folder)
        directory.final.mkdir()
        _save_weights(trainer, directory.final)
        summary = {
            "agent": "compress",
            "seed": trainer.seed,
            "preset": config.preset,
            "task": config.task.name,
            "pointers": list(trainer.pointers),
            "num_layers": len(trainer.pointers),
            "num_unique_layers": trainer.pointers.num_unique,
            "effective_blocks": trainer.pointers.effective_blocks,
            "trainable_params": trainer.trainable_params,
            "trainable_block_params": trainer.binding.trainable_params,
            "iterations": trainer.iteration,
            "tokens": trainer.tokens,
            "decisions": 0,
            "changes": 0,
            "train_s": 0.0,
            "decision_s": 0.0,
            "evaluate_s": 0.0,
            "independent_params": num_params(self.model),
            "independent_block_params": sum(
                p.numel() for block in self.task.blocks(self.model) for p in block.parameters()
            ),
            **self._losses(trainer, figures),
            "wall_s": figures["train_s"],
            **self.task.facts(),
        }
        (directory.final / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
        write_checksums(directory.final)

    def _losses(self, trainer: Trainer, figures: Mapping[str, Any]) -> dict[str, float]:
        """Return a copy's losses of the task itself."""
        names = {split: f"{split}_loss" for split in ("test", "reward")}
        if self.objective is self.task:
            return {name: figures[name] for name in names.values()}
        batch_size, count = self.compression.config.trainer.batch_size, self.compression.flags.test_batches
        trainer.model.eval()
        many = {split: self.task.evaluation_batches(split, batch_size, count) for split in names}
        there = {split: (on_device(batch, trainer.device) for batch in batches) for split, batches in many.items()}
        return {name: self.task.metrics(trainer.model, there[split])["loss"] for split, name in names.items()}


def _save_weights(trainer: Trainer, folder: Path) -> None:
    checkpoint.save_tensors(trainer.state_dict()["model"], folder / "model.safetensors")
    (folder / "pointers.json").write_text(json.dumps(list(trainer.pointers)) + "\n")


def _from_function(name: str) -> tuple[nn.Module, Task]:
    match registry.find("model", name, {})():
        case (nn.Module() as model, Task() as task):
            return copy.deepcopy(model), task
        case (nn.Module() as model, loss, Mapping() as batches, *path) if callable(loss) and len(path) < 2:
            where = path[0] if path else find_stack(model).path
            return copy.deepcopy(model), FromLoss(model, loss, batches, where)
        case made:
            raise InputError(
                f"{name}() returned a {type(made).__name__}: expected a model and its tying.tasks.base.Task, or a model, "
                "loss(model, batch), a mapping from splits to batches and, where it is not found, the path of the blocks"
            )
