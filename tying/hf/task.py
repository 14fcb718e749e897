"""The task `hf`: train a pretrained model of transformers, or fine-tune it, by one of three heads.

Shapes: B batch, T tokens (the model's context), V vocabulary.
"""

import functools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tying import registry
from tying.binding import bindings_of
from tying.data import labelled
from tying.data.corpora import DataConfig
from tying.data.labelled import LabelledTexts
from tying.data.tokenizers import sha256, vocab_size
from tying.errors import InputError
from tying.files import digest
from tying.hf import pretrained, saving
from tying.hf.bind import entry
from tying.hf.config import OWN_TOKENIZER, HFConfig, HFTaskConfig, vocabulary
from tying.hf.removal import remove_layers
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
    made: Pretrained = registry.find("head", config.head, _HEADS)(config, model, data)
    return made


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
        stack = find_stack(model, self.model_config.stack)
        if len(stack.blocks) != self.num_layers:
            raise InputError(f"model.num_layers = {self.num_layers}: {stack.path} of {self._name} has {len(stack.blocks)}")
        return model

    def load_model(self, folder: Path) -> nn.Module:
        """See Task.load_model."""
        return pretrained.from_config(folder / SHAPE_FOLDER, self.auto, "cpu")

    def blocks(self, model: nn.Module) -> Sequence[nn.Module]:
        """See Task.blocks."""
        return list(find_stack(model, self.model_config.stack).blocks)

    def remove_blocks(self, model: nn.Module, layers: Iterable[int]) -> None:
        """See Task.remove_blocks."""
        remove_layers(model, layers, stack=self.model_config.stack)

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
            with pretrained.quiet():
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

    def require(self) -> None:
        """See Task.require."""
        super().require()
        if self.tokenizer.mask_token_id is None:
            raise InputError(f"task.head = 'masked_lm': the tokenizer of {self._name} has no mask token")
        self.framed_text_tokens  # noqa: B018 (raises)

    def batch(self, seed: int, index: int, batch_size: int) -> Batch:
        """See Task.batch."""
        rows, _ = self.data.batch(seed, index, batch_size, self.framed_text_tokens)
        return self._hide(rows, derive_seed(seed, "hidden tokens", index))

    def evaluation_batches(self, split: str, batch_size: int, num_batches: int | None = None) -> Iterator[Batch]:
        """See Task.evaluation_batches; a batch hides the same tokens at every call."""
        batches = self.data.evaluation_batches(split, batch_size, self.framed_text_tokens, num_batches)
        for index, (rows, _) in enumerate(batches):
            yield self._hide(rows, derive_seed(0, f"hidden tokens of {split}", index))

    def _hide(self, rows: Tensor, seed: int) -> Batch:
        """Return inputs and targets, (B, T) each, of rows of text (B, N)."""
        generator = np.random.Generator(np.random.PCG64(seed))
        number = max(1, round(_MASKED * rows.shape[1]))
        chosen = generator.permuted(np.arange(rows.shape[1])[None].repeat(len(rows), 0), axis=1)[:, :number]
        places = torch.from_numpy(chosen)
        originals = rows.gather(1, places)
        fate = torch.from_numpy(generator.random(chosen.shape))
        others = torch.from_numpy(generator.integers(0, self.data.vocab_size, chosen.shape))
        shown = torch.where(fate < _HIDDEN + _REPLACED, others, originals)
        shown[fate < _HIDDEN] = self.tokenizer.mask_token_id
        targets = torch.full_like(rows, _IGNORED).scatter(1, places, originals)
        before, behind = self.frame
        return self.framed(rows.scatter(1, places, shown)), F.pad(targets, (len(before), len(behind)), value=_IGNORED)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the mean negative log-likelihood of the hidden tokens, nats per token."""
        tokens, targets = batch
        counted = targets != _IGNORED
        return F.cross_entropy(model(input_ids=tokens, **pretrained.without_cache(model)).logits[counted], targets[counted])

    def size(self, batch: Batch) -> int:
        """Return the number of hidden tokens."""
        return int((batch[1] != _IGNORED).sum())


class PretrainedClassification(Pretrained):
    """The label of a text; batches are tokens (B, T), their mask (B, T) and classes (B,), T that of the longest."""

    auto = "AutoModelForSequenceClassification"
    expected = "head"

    @functools.cached_property
    def data(self) -> LabelledTexts:
        """The texts and labels."""
        return labelled.read(self.data_config)

    @functools.cached_property
    def _encoded(self) -> dict[str, tuple[list[list[int]], Tensor]]:
        """Split name to the token ids of its texts, and their classes."""
        classes = {label: number for number, label in enumerate(self.data.labels)}
        return {
            name: (
                self.tokenizer([text for text, _ in rows], truncation=True, max_length=self.model_config.context)[
                    "input_ids"
                ],
                torch.tensor([classes[label] for _, label in rows]),
            )
            for name, rows in self.data.splits.items()
        }

    @property
    def sequence_length(self) -> int:
        """T of the longest text that is not cut."""
        return self.model_config.context

    @property
    def uninformed_loss(self) -> float:
        """log(number of labels)."""
        return math.log(len(self.data.labels))

    def require(self) -> None:
        """See Task.require."""
        self.require_model()
        empty = next((name for name, (texts, _) in self._encoded.items() if not all(texts)), None)
        if empty is not None:
            raise InputError(f"{self.data.name}: a text of the {empty} split has no tokens")

    def settings(self) -> dict[str, Any]:
        """Return the labels, and the padding where the model's own configuration has none."""
        names = dict(enumerate(self.data.labels))
        return {
            "num_labels": len(names),
            "id2label": names,
            "label2id": {label: number for number, label in names.items()},
            "pad_token_id": self._padding,
        }

    @property
    def _padding(self) -> int:
        known = self.tokenizer.pad_token_id if self.tokenizer.pad_token_id is not None else self.tokenizer.eos_token_id
        if known is None:
            raise InputError(f"task.head = 'classification': the tokenizer of {self._name} has no padding token")
        return int(known)

    def batch(self, seed: int, index: int, batch_size: int) -> Batch:
        """See Task.batch."""
        generator = np.random.Generator(np.random.PCG64(derive_seed(seed, "data order", index)))
        return self._padded("train", generator.integers(0, len(self.data.splits["train"]), size=batch_size))

    def evaluation_batches(self, split: str, batch_size: int, num_batches: int | None = None) -> Iterator[Batch]:
        """See Task.evaluation_batches."""
        rows = np.arange(len(self.data.splits[split]))
        if num_batches is not None and num_batches * batch_size < len(rows):
            rows = rows[np.linspace(0, len(rows) - 1, num_batches * batch_size).round().astype(int)]
        for first in range(0, len(rows), batch_size):
            yield self._padded(split, rows[first : first + batch_size])

    def _padded(self, split: str, rows: np.ndarray) -> Batch:
        texts, classes = self._encoded[split]
        chosen = [torch.tensor(texts[row]) for row in rows]
        tokens = nn.utils.rnn.pad_sequence(chosen, batch_first=True, padding_value=self._padding)
        lengths = torch.tensor([len(text) for text in chosen])
        return tokens, (torch.arange(tokens.shape[1]) < lengths[:, None]).long(), classes[rows]

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the mean negative log-likelihood of the labels, nats."""
        return F.cross_entropy(_label_logits(model, batch), batch[2])

    def size(self, batch: Batch) -> int:
        """Return the number of texts."""
        return len(batch[2])

    def metrics(self, model: nn.Module, batches: Iterable[Batch]) -> dict[str, float]:
        """Return `loss` and `accuracy`, the share of texts whose most probable label is right."""
        losses: list[Tensor] = []
        right = count = 0
        for batch in batches:
            logits = _label_logits(model, batch)
            losses.append(F.cross_entropy(logits.float(), batch[2], reduction="none"))
            right += int((logits.argmax(-1) == batch[2]).sum())
            count += len(batch[2])
        return {"loss": float(torch.cat(losses).cpu().double().mean()), "accuracy": right / count}

    def facts(self) -> dict[str, Any]:
        """See Task.facts."""
        tokenizer = sha256(self.tokenizer.backend_tokenizer)
        data = {"corpus": self.data.name, "corpus_sha256": self.data.sha256}
        return {**data, "tokenizer": self._tokenizer_source, "tokenizer_sha256": tokenizer, **self._own_facts()}


def _label_logits(model: nn.Module, batch: Batch) -> Tensor:
    logits: Tensor = model(input_ids=batch[0], attention_mask=batch[1], **pretrained.without_cache(model)).logits
    return logits


_HEADS: dict[str, type[Pretrained] | str] = {
    "causal_lm": PretrainedCausalLM,
    "masked_lm": PretrainedMaskedLM,
    "classification": PretrainedClassification,
    "embedding": "tying.hf.embedding:PretrainedEmbedding",
}
