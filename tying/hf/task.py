"""The task `hf`: train a pretrained model of transformers, or fine-tune it, by one of three heads.

Shapes: B batch, T tokens (the model's context), V vocabulary.
"""

import functools
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tying.binding import bindings_of
from tying.data.corpora import DataConfig
from tying.errors import InputError
from tying.hf import pretrained, saving
from tying.hf.bind import entry
from tying.hf.config import OWN_TOKENIZER, HFConfig, HFTaskConfig
from tying.hf.stacks import find_stack
from tying.models.base import draw
from tying.models.config import ModelConfig
from tying.seeding import derive_seed
from tying.tasks.base import Batch, Task
from tying.tasks.causal_lm import CausalLM
from tying.tasks.config import TaskConfig
from tying.tasks.text import TextTask

# In a run's folder: configuration and tokenizer, from which the model is built again; in final/: the model.
SHAPE_FOLDER = "pretrained"
EXPORT_FOLDER = "hf"
# Share of tokens to predict; of these, hidden by the mask token, and replaced by a random one (Devlin et al. 2019,
# arXiv 1810.04805). The others stay as they are.
_MASKED, _HIDDEN, _REPLACED = 0.15, 0.8, 0.1
_IGNORED = -100  # a target that no loss counts


def make(config: TaskConfig, model: ModelConfig, data: DataConfig) -> "Pretrained":
    """Return the task of a head.

    Raises:
        InputError: If the settings are not those of this task, or no model is named.
    """
    config.check(model)
    assert isinstance(config, HFTaskConfig)
    return _HEADS[config.head](config, model, data)


class Pretrained(Task):
    """What all heads have in common: a model of transformers, its blocks, and its own form when it is saved."""

    Config = HFTaskConfig
    auto: ClassVar[str]
    expected: ClassVar[str] = ""
    model_config: HFConfig

    def __init__(self, config: TaskConfig, model: ModelConfig, data: DataConfig) -> None:
        assert isinstance(model, HFConfig)
        if model.pretrained is None:
            model.require()  # raises
        super().__init__(config, model, data)
        name = str(Path(self._name).expanduser())
        file = str(Path(name) / "tokenizer.json") if Path(name).is_dir() else self._name
        self._tokenizer_source = name if data.tokenizer == OWN_TOKENIZER else data.tokenizer
        if data.tokenizer == OWN_TOKENIZER:
            self.data_config = replace(data, tokenizer=file)

    @property
    def _name(self) -> str:
        return str(self.model_config.pretrained)

    @functools.cached_property
    def tokenizer(self) -> Any:
        """The tokenizer, as transformers has it."""
        return pretrained.load_tokenizer(self._tokenizer_source)

    def require(self) -> None:
        """See Task.require."""
        self.model_config.require()
        super().require()  # type: ignore[safe-super]

    def settings(self) -> dict[str, Any]:
        """Return what the data change in the model's configuration."""
        return {}

    def build_model(self, seed: int | None) -> nn.Module:
        """See Task.build_model."""
        if seed is None:
            return pretrained.from_config(self._name, self.auto, "meta")
        model = pretrained.load(
            self._name, self.auto, seed, self.model_config.stack, self.expected, **self.settings()
        )
        return model

    def load_model(self, folder: Path) -> nn.Module:
        """See Task.load_model."""
        return pretrained.from_config(folder / SHAPE_FOLDER, self.auto, "cpu")

    def blocks(self, model: nn.Module) -> Sequence[nn.Module]:
        """See Task.blocks."""
        stack = find_stack(model, self.model_config.stack)
        if len(stack.blocks) != self.num_layers:
            raise InputError(f"model.num_layers = {self.num_layers}: {stack.path} of {self._name} has {len(stack.blocks)}")
        return list(stack.blocks)

    def recompute(self, model: nn.Module) -> None:
        """See Task.recompute."""
        pretrained.enable_recompute(model)

    def save_assets(self, folder: Path) -> None:
        """Write the tokenizer and the model's configuration."""
        super().save_assets(folder)
        config = self._configuration()
        config.save_pretrained(folder / SHAPE_FOLDER)
        self.tokenizer.save_pretrained(folder / SHAPE_FOLDER)

    def export(self, model: nn.Module, folder: Path) -> None:
        """Write the model and its tokenizer as transformers does, each set of weights once."""
        stack = find_stack(model, self.model_config.stack)
        (binding,) = bindings_of(stack.blocks)
        saving.record(model, stack.path, entry(binding))
        try:
            model.save_pretrained(folder / EXPORT_FOLDER)  # type: ignore[operator]
        finally:
            saving.forget(model)
        self.tokenizer.save_pretrained(folder / EXPORT_FOLDER)

    def _configuration(self) -> Any:
        from transformers import AutoConfig

        config = AutoConfig.from_pretrained(self._name, **self.settings())
        for name in ("layer_tying", "transformers_weights"):  # of a folder that was saved tied
            vars(config).pop(name, None)
        return config


class PretrainedCausalLM(Pretrained, CausalLM):
    """Next-token prediction; losses are nats per token."""

    auto = "AutoModelForCausalLM"

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the mean negative log-likelihood, nats per token."""
        tokens, targets = batch
        return F.cross_entropy(self._logits(model, tokens).flatten(0, 1), targets.flatten())

    def _logits(self, model: nn.Module, tokens: Tensor) -> Tensor:
        logits: Tensor = model(input_ids=tokens, use_cache=False).logits
        return logits

    @torch.no_grad()
    def generate(
        self,
        model: nn.Module,
        tokens: Tensor,
        num_tokens: int,
        generator: torch.Generator,
        temperature: float = 1.0,
        top_k: int = 0,
    ) -> Tensor:
        """Continue a text; see `tying.models.base.Model.generate`."""
        for _ in range(num_tokens):
            logits = self._logits(model, tokens[:, -self.model_config.context :])[:, -1]
            tokens = torch.cat([tokens, draw(logits, generator, temperature, top_k)], dim=1)
        return tokens


class PretrainedMaskedLM(Pretrained, TextTask):
    """Prediction of hidden tokens: the same number in every sequence, so that parts of a batch weigh the same."""

    auto = "AutoModelForMaskedLM"

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the mean negative log-likelihood of the hidden tokens, nats per token."""
        tokens, targets = batch
        counted = targets != _IGNORED
        return F.cross_entropy(model(input_ids=tokens).logits[counted], targets[counted])


_HEADS: dict[str, type[Pretrained]] = {
    "causal_lm": PretrainedCausalLM,
    "masked_lm": PretrainedMaskedLM,
}
