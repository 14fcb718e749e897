"""A BERT: a bidirectional encoder with norms behind (or before) each part of a block (Devlin et al. 2019).

With `embedding_size` below the width it is an ALBERT (Lan et al. 2020, arXiv 1909.11942), once its layers are tied.

Shapes: B batch, T tokens, C width, E size of embeddings, V vocabulary, L layers.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tying.models.base import BlockModel
from tying.models.config import BertConfig
from tying.models.parts.attention import Attention
from tying.models.parts.feed_forward import FeedForward
from tying.models.parts.residual import RESIDUALS, follow_pointers, scale_weights

_EPS = 1e-12  # of the norms, as in BERT


class Block(nn.Module):
    """One layer: attention and feed-forward, each beside a residual path and with a norm."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.residual = RESIDUALS[config.residual](config.width, config.num_layers, config.norm_place == "pre")
        self.attn = Attention(config.width, config.num_heads, bias=True, dropout=config.dropout, causal=False)
        self.ln_1 = nn.LayerNorm(config.width, _EPS)
        self.mlp = FeedForward(config.width, bias=True, dropout=config.dropout)
        self.ln_2 = nn.LayerNorm(config.width, _EPS)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """(B, T, C) -> (B, T, C); the mask (B, 1, 1, T) is True where a token may be seen."""
        x = self.residual(x, (self.ln_1, lambda y: self.attn(y, mask=mask)), (self.ln_2, self.mlp))
        return x


class Embeddings(nn.Module):
    """Tokens, places and the one token type that is used, added up and normed."""

    def __init__(self, config: BertConfig, vocab_size: int, size: int) -> None:
        super().__init__()
        self.dropout = config.dropout
        self.tokens = nn.Embedding(vocab_size, size)
        self.positions = nn.Embedding(config.context, size)
        self.types = nn.Embedding(config.token_types, size) if config.token_types else None
        self.norm = nn.LayerNorm(size, _EPS)
        self.map = nn.Linear(size, config.width) if size != config.width else None

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, T) int64 -> (B, T, C)."""
        x = self.tokens(tokens) + self.positions(torch.arange(tokens.shape[1], device=tokens.device))  # (B, T, E)
        if self.types is not None:
            x = x + self.types.weight[0]
        x = F.dropout(self.norm(x), self.dropout, self.training)
        x = x if self.map is None else self.map(x)
        return x


class MaskedLMHead(nn.Module):
    """Logits of tokens, through the table of their embeddings."""

    def __init__(self, config: BertConfig, vocab_size: int, size: int) -> None:
        super().__init__()
        self.dense = nn.Linear(config.width, size)
        self.norm = nn.LayerNorm(size, _EPS)
        self.bias = nn.Parameter(torch.empty(vocab_size))

    def forward(self, x: Tensor, table: Tensor) -> Tensor:
        """(B, T, C) and the table (V, E) -> (B, T, V)."""
        return F.linear(self.norm(F.gelu(self.dense(x))), table, self.bias)


class ClassificationHead(nn.Module):
    """Logits of labels, from what the first token became."""

    def __init__(self, config: BertConfig, num_classes: int) -> None:
        super().__init__()
        self.dropout = config.dropout
        self.pooler = nn.Linear(config.width, config.width)
        self.classifier = nn.Linear(config.width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, C) -> (B, classes)."""
        pooled = F.dropout(torch.tanh(self.pooler(x[:, 0])), self.dropout, self.training)
        logits: Tensor = self.classifier(pooled)
        return logits


class Bert(BlockModel):
    """The whole model.

    Its size is (V, number of classes): with classes it labels texts, with 0 it predicts tokens.
    """

    Config = BertConfig
    config: BertConfig

    def build(self, size: tuple[int, int]) -> None:
        """See BlockModel.build."""
        config, (vocab_size, num_classes) = self.config, size
        embedding_size = config.embedding_size or config.width
        self.embeddings = Embeddings(config, vocab_size, embedding_size)
        self.h = nn.ModuleList(Block(config) for _ in range(config.num_layers))
        self.ln_f = nn.LayerNorm(config.width, _EPS) if config.norm_place == "pre" else None
        self.lm_head = None if num_classes else MaskedLMHead(config, vocab_size, embedding_size)
        self.head = ClassificationHead(config, num_classes) if num_classes else None

    def init_weights(self, generator: torch.Generator) -> None:
        """See BlockModel.init_weights."""
        super().init_weights(generator)
        scale_weights(self.h, generator)

    def forward(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return logits: (B, T) int64 -> (B, T, V), or (B, classes).

        Args:
            tokens: Their ids.
            mask: (B, T), 0 where a text is filled up.
        """
        follow_pointers(self.h)
        x = self.run_blocks(self.embeddings(tokens), None if mask is None else mask.bool()[:, None, None, :])
        x = x if self.ln_f is None else self.ln_f(x)
        logits: Tensor
        if self.head is not None:
            logits = self.head(x)
        else:
            assert self.lm_head is not None
            logits = self.lm_head(x, self.embeddings.tokens.weight)
        return logits
