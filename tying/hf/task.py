"""The task `hf`: train a pretrained model of transformers, or fine-tune it, by one of three heads.

Shapes: B batch, T tokens (the model's context), V vocabulary.
"""

import functools
import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tying import registry
from tying.binding import bindings_of
from tying.data.corpora import DataConfig
from tying.data.tokenizers import sha256, vocab_size
from tying.errors import InputError
from tying.files import digest
from tying.hf import pretrained, saving
from tying.hf.bind import entry, untied
from tying.hf.config import OWN_TOKENIZER, HFConfig, HFTaskConfig, vocabulary
from tying.hf.removal import remove_layers
from tying.hf.stacks import Stack, find_stack
from tying.models.base import draw
from tying.models.config import BlocksConfig
from tying.tasks.base import Batch, Task
from tying.tasks.causal_lm import CausalLM
from tying.tasks.classification import TextClassification
from tying.tasks.config import TaskConfig
from tying.tasks.masked_lm import MaskedLM

# In a run's folder: configuration and tokenizer, from which the model is built again; in final/: the model.
SHAPE_FOLDER = "pretrained"
EXPORT_FOLDER = "hf"


def make(config: TaskConfig, model: BlocksConfig, data: DataConfig) -> "Pretrained":
    """Return the task of a head.

    Raises:
        InputError: If the settings are not those of this task, or no model is named.
    """
    config.check(model)
    assert isinstance(config, HFTaskConfig)
    made: Pretrained = registry.find("head", config.head, _HEADS)(config, model, data)
    return made


class Pretrained(Task):
    """What all heads have in common: a model of transformers, its blocks, and its own form when it is saved."""

    Config = HFTaskConfig
    auto: ClassVar[str]
    _path: str | None = None  # of the blocks
    expected: ClassVar[str] = ""
    model_config: HFConfig

    def __init__(self, config: TaskConfig, model: BlocksConfig, data: DataConfig) -> None:
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

    @functools.cached_property
    def frame(self) -> tuple[list[int], list[int]]:
        """The special tokens before and behind a text, such as [CLS] and [SEP]."""
        bare, framed = (self.tokenizer("a", add_special_tokens=special)["input_ids"] for special in (False, True))
        start = next(i for i in range(len(framed)) if framed[i : i + len(bare)] == bare)
        return framed[:start], framed[start + len(bare) :]

    @property
    def framed_text_tokens(self) -> int:
        """Tokens of text that a sequence holds between its special tokens.

        Raises:
            InputError: If there is room for none.
        """
        number = self.model_config.context - sum(map(len, self.frame))
        if number < 1:
            raise InputError(f"model.context = {self.model_config.context}: too short for text between special tokens")
        return number

    def framed(self, rows: Tensor) -> Tensor:
        """Put the special tokens around rows of text: (B, N) int64 -> (B, T)."""
        before, behind = (torch.tensor(ids, dtype=torch.int64).expand(len(rows), -1) for ids in self.frame)
        return torch.cat([before, rows, behind], 1)

    def require(self) -> None:
        """See Task.require."""
        self.require_model()
        super().require()  # type: ignore[safe-super]

    def require_model(self) -> None:
        """Check that the model is there, and that it has a row for every token of its tokenizer.

        Raises:
            InputError: If not.
        """
        self.model_config.require()
        rows, size = vocabulary(self._name), vocab_size(self.tokenizer.backend_tokenizer)
        if rows is not None and size > rows:
            raise InputError(
                f"data.tokenizer: {self._tokenizer_source} has {size} tokens, {self._name} has rows for {rows}"
            )

    def settings(self) -> dict[str, Any]:
        """Return what the data change in the model's configuration."""
        return {}

    def facts(self) -> dict[str, Any]:
        """See Task.facts; the pretrained model's configuration is an input too."""
        return {**super().facts(), **self._own_facts()}  # type: ignore[safe-super]

    def _own_facts(self) -> dict[str, Any]:
        shape = self._configuration().to_dict()
        for name in ("_name_or_path", "transformers_version"):
            shape.pop(name, None)
        return {"pretrained": self._name, "pretrained_sha256": digest(shape)}

    def build_model(self, seed: int | None) -> nn.Module:
        """See Task.build_model."""
        if seed is None:
            return pretrained.from_config(self._name, self.auto, "meta")
        model = pretrained.load(self._name, self.auto, seed, self.model_config.stack, self.expected, **self.settings())
        stack = self._stack(model)
        if len(stack.blocks) != self.num_layers:
            raise InputError(f"model.num_layers = {self.num_layers}: {stack.path} of {self._name} has {len(stack.blocks)}")
        return model

    def load_model(self, folder: Path) -> nn.Module:
        """See Task.load_model."""
        return pretrained.from_config(folder / SHAPE_FOLDER, self.auto, "cpu")

    def blocks(self, model: nn.Module) -> Sequence[nn.Module]:
        """See Task.blocks."""
        return list(self._stack(model).blocks)

    def _stack(self, model: nn.Module) -> Stack:
        """Return the blocks of a model, where those of the first one were: a single block has no equals to be found by."""
        if self._path is None:
            self._path = find_stack(model, self.model_config.stack).path
        return Stack(self._path, model.get_submodule(self._path))  # type: ignore[arg-type]

    def remove_blocks(self, model: nn.Module, layers: Iterable[int]) -> None:
        """See Task.remove_blocks."""
        remove_layers(model, layers, stack=self._stack(model).path)

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
        """See Task.export."""
        self.save_pretrained(model, folder / EXPORT_FOLDER)

    def save_pretrained(self, model: nn.Module, folder: Path) -> None:
        """Write a model whose blocks are bound, and its tokenizer, as transformers does, each set of weights once.

        With low-rank deltas, for which transformers has no place, it is written untied.
        """
        stack = self._stack(model)
        (binding,) = bindings_of(stack.blocks)
        if any(binding.deltas.live):
            model = untied(model)
        else:
            saving.record(model, stack.path, entry(binding))
        try:
            with pretrained.quiet():
                model.save_pretrained(folder)  # type: ignore[operator]
        finally:
            saving.forget(model)
        self.tokenizer.save_pretrained(folder)

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
        return F.cross_entropy(self.logits(model, tokens).flatten(0, 1), targets.flatten())

    def logits(self, model: nn.Module, tokens: Tensor) -> Tensor:
        """See CausalLM.logits."""
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
            logits = self.logits(model, tokens[:, -self.model_config.context :])[:, -1]
            tokens = torch.cat([tokens, draw(logits, generator, temperature, top_k)], dim=1)
        return tokens


class PretrainedMaskedLM(Pretrained, MaskedLM):
    """Prediction of hidden tokens between the model's own special tokens."""

    Config = HFTaskConfig
    auto = "AutoModelForMaskedLM"

    def require(self) -> None:
        """See Task.require."""
        super().require()
        if self.tokenizer.mask_token_id is None:
            raise InputError(f"task.head = 'masked_lm': the tokenizer of {self._name} has no mask token")
        self.framed_text_tokens  # noqa: B018 (raises)

    @property
    def mask_token(self) -> int:
        """See MaskedLM.mask_token."""
        return int(self.tokenizer.mask_token_id)

    @property
    def uninformed_loss(self) -> float:
        """log(vocabulary), nats per hidden token."""
        return math.log(self.data.vocab_size)

    def logits(self, model: nn.Module, tokens: Tensor) -> Tensor:
        """See MaskedLM.logits."""
        logits: Tensor = model(input_ids=tokens, **pretrained.without_cache(model)).logits
        return logits


class PretrainedClassification(Pretrained, TextClassification):
    """The label of a text."""

    Config = HFTaskConfig
    auto = "AutoModelForSequenceClassification"
    expected = "head"

    def encode(self, texts: list[str]) -> list[list[int]]:
        """See TextClassification.encode."""
        ids: list[list[int]] = self.tokenizer(texts, truncation=True, max_length=self.model_config.context)["input_ids"]
        return ids

    @property
    def padding(self) -> int:
        """See TextClassification.padding."""
        known = self.tokenizer.pad_token_id if self.tokenizer.pad_token_id is not None else self.tokenizer.eos_token_id
        if known is None:
            raise InputError(f"task.head = 'classification': the tokenizer of {self._name} has no padding token")
        return int(known)

    def settings(self) -> dict[str, Any]:
        """Return the labels, and the padding where the model's own configuration has none."""
        names = dict(enumerate(self.labels))
        return {
            "num_labels": len(names),
            "id2label": names,
            "label2id": {label: number for number, label in names.items()},
            "pad_token_id": self.padding,
        }

    def logits(self, model: nn.Module, batch: Batch) -> Tensor:
        """See Classification.logits."""
        logits: Tensor = model(input_ids=batch[0], attention_mask=batch[1], **pretrained.without_cache(model)).logits
        return logits

    def facts(self) -> dict[str, Any]:
        """See Task.facts."""
        tokenizer = sha256(self.tokenizer.backend_tokenizer)
        return {**super().facts(), "tokenizer": self._tokenizer_source, "tokenizer_sha256": tokenizer}


_HEADS: dict[str, type[Pretrained] | str] = {
    "causal_lm": PretrainedCausalLM,
    "masked_lm": PretrainedMaskedLM,
    "classification": PretrainedClassification,
    "embedding": "tying.hf.embedding:PretrainedEmbedding",
}
