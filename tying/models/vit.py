"""A vision transformer: patches of an image as tokens, pre-norm encoder blocks (Dosovitskiy et al. 2021, arXiv 2010.11929).

Shapes: B batch, T patches (and the class token), P side of a patch, C width, L layers.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tying.errors import InputError
from tying.models.base import BlockModel
from tying.models.config import ViTConfig
from tying.models.parts.attention import Attention
from tying.models.parts.feed_forward import FeedForward


class ImageSize(NamedTuple):
    """What images determine of a model: channels, height and width in pixels, and the number of labels."""

    channels: int
    height: int
    width: int
    num_classes: int

    def num_patches(self, patch: int) -> int:
        """Return the number of patches of a side.

        Raises:
            InputError: If they do not fill the image.
        """
        if self.height % patch or self.width % patch:
            raise InputError(f"model.patch = {patch}: must divide the images' {self.height} x {self.width} pixels")
        return (self.height // patch) * (self.width // patch)


class Block(nn.Module):
    """One layer: attention and feed-forward, each behind a norm and beside a residual path."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(config.width)
        self.attn = Attention(config.width, config.num_heads, bias=True, dropout=config.dropout, causal=False)
        self.ln_2 = nn.LayerNorm(config.width)
        self.mlp = FeedForward(config.width, bias=True, dropout=config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, C) -> (B, T, C)."""
        x = x + self.attn(self.ln_1(x))
        x = x + self.mlp(self.ln_2(x))
        return x


class ViT(BlockModel):
    """The whole model."""

    Config = ViTConfig
    config: ViTConfig
    residual_outputs = ("attn.proj.weight", "mlp.down.weight")

    def build(self, size: ImageSize) -> None:
        """See BlockModel.build."""
        config = self.config
        self.size = size
        has_class_token = config.pooling == "class"
        self.patches = nn.Linear(size.channels * config.patch**2, config.width)
        self.class_token = nn.Parameter(torch.empty(1, 1, config.width)) if has_class_token else None
        self.positions = nn.Parameter(torch.empty(size.num_patches(config.patch) + has_class_token, config.width))
        self.h = nn.ModuleList(Block(config) for _ in range(config.num_layers))
        self.ln_f = nn.LayerNorm(config.width)
        self.head = nn.Linear(config.width, size.num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits of labels: (B, channels, height, width) float -> (B, classes)."""
        patch = self.config.patch
        x = self.patches(F.unfold(images, patch, stride=patch).transpose(1, 2))  # (B, T, C)
        if self.class_token is not None:
            x = torch.cat([self.class_token.expand(len(x), -1, -1), x], dim=1)
        x = F.dropout(x + self.positions, self.config.dropout, self.training)
        x = self.ln_f(self.run_blocks(x))
        logits: Tensor = self.head(x[:, 0] if self.class_token is not None else x.mean(dim=1))
        return logits
