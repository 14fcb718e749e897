"""The settings of the task `hf` and of its model, read without torch and transformers."""

import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

from tying.config import config, setting
from tying.data import corpora, labelled
from tying.data.corpora import DataConfig
from tying.errors import InputError
from tying.models.config import BlocksConfig, ModelConfig
from tying.tasks.config import TaskConfig

# What families call these facts in their config.json.
LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
_POSITIONS = ("max_position_embeddings", "n_positions")
# Value of data.tokenizer: the tokenizer that the model was trained with.
OWN_TOKENIZER = "pretrained"


@config
class HFTaskConfig(TaskConfig):
    """Settings of the task `hf`."""

    name: Literal["hf"] = setting("kind of work: hf", default="hf")
    head: Literal["causal_lm", "masked_lm", "classification", "embedding"] = setting(
        "predict the next token, hidden tokens (15 %), or the label of a text (data.path is .tsv or .jsonl); or keep the "
        "text embeddings of the original",
        default="causal_lm",
    )
    whole_words: bool = setting("head masked_lm: hide all tokens of a word or none", default=False)

    recommended: ClassVar[Mapping[str, Any]] = {
        "model.name": "hf",
        "data.tokenizer": OWN_TOKENIZER,
        # Weights that are good already want small steps (Devlin et al. 2019: 2e-5 to 5e-5).
        "optim.learning_rate": 5e-5,
        "optim.beta2": 0.999,
        "optim.weight_decay": 0.01,
    }

    def __post_init__(self) -> None:
        if self.whole_words and self.head != "masked_lm":
            raise InputError(f"task.whole_words = True: only with task.head = 'masked_lm', not {self.head!r}")

    def check(self, model: BlocksConfig) -> None:
        """See TaskConfig.check."""
        if not isinstance(model, HFConfig):
            raise InputError(f"model.name = {model.name!r}: task 'hf' trains model 'hf' alone")

    def require_data(self, data: DataConfig) -> None:
        """See TaskConfig.require_data."""
        if self.head == "classification":
            labelled.require(data)
        else:
            corpora.require(data)


@config
class HFConfig(ModelConfig):
    """A pretrained model of transformers."""

    name: Literal["hf"] = setting("architecture: hf", default="hf")
    pretrained: str | None = setting("folder of a model of transformers, or its name on the hub", default=None)
    stack: str | None = setting("the blocks that pointers are over, where a model has several stacks", default=None)
    num_layers: int = setting("blocks L [layers, >= 0; 0: as many as the model's config.json says]", default=0, ge=0)

    tasks: ClassVar[tuple[str, ...]] = ("hf",)

    def __post_init__(self) -> None:
        if self.pretrained is None:
            return
        if not self.num_layers:
            found = _number(read(self.pretrained), LAYERS)
            if found is None:
                raise InputError(
                    f"model.pretrained = {self.pretrained!r}: its config.json has none of {', '.join(LAYERS)}; "
                    "give model.num_layers"
                )
            object.__setattr__(self, "num_layers", found)

    def require(self) -> None:
        """Check that the model is there and fits the settings, without reading its weights.

        Raises:
            InputError: If it does not.
        """
        if self.pretrained is None:
            raise InputError("model.pretrained is missing: the folder of a model of transformers, or its name on the hub")
        facts = read(self.pretrained)
        positions = _number(facts, _POSITIONS)
        if positions is not None and self.context > positions:
            raise InputError(f"model.context = {self.context}: {self.pretrained} has {positions} positions")
        layers = _number(facts, LAYERS)
        if self.stack is None and layers not in (None, self.num_layers):
            raise InputError(f"model.num_layers = {self.num_layers}: {self.pretrained} has {layers}; leave it out")


def read(pretrained: str) -> dict[str, Any]:
    """Return the content of a model's config.json.

    Args:
        pretrained: A folder, or a name on the hub.

    Raises:
        InputError: If it is not there, or cannot be fetched.
    """
    folder = Path(pretrained).expanduser()
    path = folder / "config.json" if folder.is_dir() else _fetch(pretrained)
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"model.pretrained = {pretrained!r}: the folder has no config.json") from error
    except (OSError, ValueError) as error:
        raise InputError(f"model.pretrained = {pretrained!r}: config.json is unreadable ({error})") from error
    if not isinstance(facts, dict):
        raise InputError(f"model.pretrained = {pretrained!r}: config.json holds no settings")
    return facts


def vocabulary(pretrained: str) -> int | None:
    """Return the number of tokens that a model has rows for; None where its config.json does not say."""
    return _number(read(pretrained), ("vocab_size",))


@functools.cache
def _fetch(name: str) -> Path:
    where = f"model.pretrained = {name!r}"
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise InputError(f"{where}: no such folder")
    try:
        from huggingface_hub import hf_hub_download
    except ImportError as error:
        raise InputError(
            f"{where}: no such folder, and the hub needs huggingface_hub: pip install layer-tying[hf]"
        ) from error
    try:
        return Path(hf_hub_download(name, "config.json"))
    except Exception as error:  # the library raises dozens of types: hub, network, names
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(f"{where}: no such folder, and not to be had from the hub ({reason})") from error


def _number(facts: Mapping[str, Any], names: tuple[str, ...]) -> int | None:
    """Return the first of several settings that is there; models of text and pictures keep those of text in a part."""
    parts = [facts, *(facts[key] for key in ("text_config", "decoder", "encoder") if isinstance(facts.get(key), dict))]
    return next((part[name] for part in parts for name in names if isinstance(part.get(name), int)), None)
