"""p-hop induction: a generated task whose steps follow one another, so that depth can pay where small texts do not need it.

A sequence is random tokens. One *hop* leads from a position to the one behind the latest earlier occurrence of its token;
the answer at a position is the token that p hops lead to. Transformers of some log2(p) + 2 layers can do it, and fewer
probably cannot (Sanford, Hsu & Telgarsky 2024, arXiv 2402.09268); looped ones learn it as deep ones do (Saunshi et al.
2025, arXiv 2502.17416).

Shapes: B batch, T tokens (the model's context), V alphabet.
"""

import functools
import hashlib
import math
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tying import models
from tying.errors import InputError
from tying.models.config import ModelConfig
from tying.seeding import derive_seed
from tying.tasks.base import Batch, Task
from tying.tasks.config import PHopConfig

# A target that no loss counts: the position has no answer.
IGNORED = -100


def answers(tokens: np.ndarray, hops: int) -> np.ndarray:
    """Return the answer at every position, IGNORED where a hop leads nowhere: (B, T) integers -> (B, T) int64.

    Args:
        tokens: The sequences.
        hops: p, at least 1.
    """
    num_rows, length = tokens.shape
    # Equal tokens stand side by side, in the order of their positions.
    order = np.argsort(tokens, axis=1, kind="stable")
    ranked = np.take_along_axis(tokens, order, axis=1)
    rows, places = np.nonzero(ranked[:, 1:] == ranked[:, :-1])
    # Where one hop leads, `length` for nowhere.
    hop = np.full((num_rows, length + 1), length)
    hop[rows, order[rows, places + 1]] = order[rows, places] + 1
    reached = np.broadcast_to(np.arange(length), tokens.shape)
    for _ in range(hops):
        reached = np.take_along_axis(hop, reached, axis=1)
    padded = np.pad(tokens.astype(np.int64), ((0, 0), (0, 1)), constant_values=IGNORED)
    return np.take_along_axis(padded, reached, axis=1)


class PHop(Task):
    """p-hop induction; batches are tokens and answers of (B, T) int64.

    Sequences differ in how many positions have an answer: the loss of a batch is the mean over its positions, and under
    `trainer.micro_batches` the mean of its parts' means.
    """

    Config = PHopConfig
    unit = "answer"
    config: PHopConfig
    model_config: ModelConfig

    @property
    def sequence_length(self) -> int:
        """T."""
        return self.model_config.context

    @property
    def uninformed_loss(self) -> float:
        """log(V), nats per answer."""
        return math.log(self.config.alphabet)

    @property
    def source(self) -> str:
        """What is generated."""
        return f"p-hop induction ({self.config.hops} hops, {self.config.alphabet} letters)"

    def require(self) -> None:
        """Check that the test sequences have answers.

        Raises:
            InputError: If the context is too short for any.
        """
        if all(self.size(self._split(split)) for split in ("reward", "test")):
            return
        raise InputError(
            f"model.context = {self.model_config.context}: too short for {self.config.hops} hops over "
            f"{self.config.alphabet} letters, no position has an answer"
        )

    def build_model(self, seed: int | None) -> nn.Module:
        """See Task.build_model."""
        return models.model_class(self.model_config.name)(self.model_config, self.config.alphabet, seed)

    def batch(self, seed: int, index: int, batch_size: int) -> Batch:
        """See Task.batch."""
        return self._draw("train", seed, index, batch_size)

    def _draw(self, split: str, seed: int, index: int, num_sequences: int) -> Batch:
        """Return sequences and answers; splits are streams of their own."""
        generator = np.random.Generator(np.random.PCG64(derive_seed(seed, f"p-hop {split}", index)))
        tokens = generator.integers(0, self.config.alphabet, (num_sequences, self.sequence_length))
        return torch.from_numpy(tokens), torch.from_numpy(answers(tokens, self.config.hops))

    @functools.cache  # noqa: B019 (a task lives as long as its run)
    def _split(self, split: str) -> Batch:
        return self._draw(split, 0, 0, self.config.eval_sequences)

    def evaluation_batches(self, split: str, batch_size: int, num_batches: int | None = None) -> Iterator[Batch]:
        """See Task.evaluation_batches; a split has `eval_sequences` sequences, the same for every seed of a run."""
        tokens, targets = self._split(split)
        rows = torch.arange(len(tokens))
        if num_batches is not None and num_batches * batch_size < len(rows):
            rows = torch.linspace(0, len(rows) - 1, num_batches * batch_size).round().long()
        for part in rows.split(batch_size):
            yield tokens[part], targets[part]

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the mean negative log-likelihood of the answers, nats per answer; 0 where there is none."""
        total = F.cross_entropy(model(batch[0]).flatten(0, 1), batch[1].flatten(), ignore_index=IGNORED, reduction="sum")
        return total / max(self.size(batch), 1)

    def size(self, batch: Batch) -> int:
        """Return the number of positions that have an answer."""
        return int((batch[1] != IGNORED).sum())

    @torch.no_grad()
    def metrics(self, model: nn.Module, batches: Iterable[Batch]) -> dict[str, float]:
        """Return `loss`, nats per answer, and `accuracy`, the share of answers whose most probable token is right."""
        losses: list[Tensor] = []
        right = count = 0
        for batch in batches:
            logits, targets = model(batch[0]).flatten(0, 1), batch[1].flatten()
            losses.append(F.cross_entropy(logits.float(), targets, ignore_index=IGNORED, reduction="sum"))
            right += int((logits.argmax(-1) == targets).sum())
            count += self.size(batch)
        return {"loss": float(torch.stack(losses).cpu().double().sum()) / count, "accuracy": right / count}

    def facts(self) -> dict[str, Any]:
        """See Task.facts; the digest is of the test sequences and their answers."""
        whole = b"".join(part.numpy().tobytes() for part in self._split("test"))
        return {"corpus": self.source, "corpus_sha256": hashlib.sha256(whole).hexdigest()}
