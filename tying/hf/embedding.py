"""The head `embedding` of task `hf`: keep the embeddings of a pretrained encoder, as when its layers are tied or removed.

Shapes: B batch, T tokens, C width.
"""

import functools
from collections.abc import Iterator

from torch import Tensor, nn

from tying.hf.pretrained import without_cache
from tying.hf.task import Pretrained
from tying.tasks.base import Batch
from tying.tasks.remembered import Remembered
from tying.tasks.text import TextTask


class PretrainedEmbedding(Pretrained, TextTask):
    """The distance to the original's text embeddings; batches are tokens, (B, T).

    An embedding is the mean over the tokens of the last layer, of length 1, as sentence encoders define it (Reimers &
    Gurevych 2019, arXiv 1908.10084). Losses are 1 - cosine, a mean over texts.
    """

    auto = "AutoModel"
    perplexity = ""

    def require(self) -> None:
        """See Task.require."""
        super().require()
        self.framed_text_tokens  # noqa: B018 (raises)

    @property
    def uninformed_loss(self) -> float:
        """1: orthogonal to the original's embeddings."""
        return 1.0

    @functools.cached_property
    def _target(self) -> Remembered:
        """The embeddings that are kept: (B, T) int64 -> (B, C)."""
        return Remembered(self.build_model(0), embed)

    def batch(self, seed: int, index: int, batch_size: int) -> Batch:
        """See Task.batch."""
        return (self.framed(self.data.batch(seed, index, batch_size, self.framed_text_tokens)[0]),)

    def evaluation_batches(self, split: str, batch_size: int, num_batches: int | None = None) -> Iterator[Batch]:
        """See Task.evaluation_batches."""
        for rows, _ in self.data.evaluation_batches(split, batch_size, self.framed_text_tokens, num_batches):
            yield (self.framed(rows),)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return 1 - cosine to the original's embeddings, a mean over texts."""
        (tokens,) = batch
        return (1 - (embed(model, tokens) * self._target(tokens)).sum(-1)).mean()

    def size(self, batch: Batch) -> int:
        """Return the number of texts."""
        return len(batch[0])


def embed(model: nn.Module, tokens: Tensor) -> Tensor:
    """Return embeddings of length 1: (B, T) int64 -> (B, C)."""
    hidden: Tensor = model(input_ids=tokens, **without_cache(model)).last_hidden_state  # (B, T, C)
    return nn.functional.normalize(hidden.mean(1), dim=-1)
