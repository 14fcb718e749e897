"""A corpus and a task made up for tests: no files, no tokenizer training."""

import numpy as np
from tokenizers import Tokenizer, models

from tying.data.corpora import DataConfig
from tying.data.tokens import TokenData
from tying.models.config import ModelConfig
from tying.tasks.causal_lm import CausalLM
from tying.tasks.config import TaskConfig


def made_up_data(vocab_size: int = 16, train: int = 4000, seed: int = 0) -> TokenData:
    """Return tokens in which every token is followed by its successor nine times out of ten."""
    generator = np.random.default_rng(seed)
    steps = np.where(generator.random(train + 1000) < 0.9, 1, generator.integers(0, vocab_size, train + 1000))
    tokens = (np.cumsum(steps) % vocab_size).astype(np.uint16)
    splits = {"train": tokens[:train], "reward": tokens[train : train + 400], "test": tokens[train + 400 :]}
    tokenizer = Tokenizer(models.WordLevel({str(i): i for i in range(vocab_size)}))
    return TokenData("made up", "0" * 64, tokenizer, splits, {name: len(part) for name, part in splits.items()})


def made_up_task(model: ModelConfig, data: TokenData | None = None) -> CausalLM:
    """Return language modelling on given tokens, or on those of `made_up_data`."""
    task = CausalLM(TaskConfig(), model, DataConfig())
    task.data = data or made_up_data()
    return task
