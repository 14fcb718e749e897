"""Image classification: find the label of an image.

Shapes: B batch.
"""

import functools
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tying import models
from tying.data import images
from tying.data.images import LabelledImages
from tying.files import read_json, write_json
from tying.models.config import ViTConfig
from tying.models.vit import ImageSize
from tying.tasks.base import Batch
from tying.tasks.classification import Classification
from tying.tasks.config import ImageClassificationConfig

IMAGES_FILE = "images.json"


class ImageClassification(Classification):
    """The label of an image; batches are pixels from -1 to 1, (B, channels, height, width), and classes (B,)."""

    Config = ImageClassificationConfig
    unit = "image"
    model_config: ViTConfig

    @functools.cached_property
    def data(self) -> LabelledImages:
        """The images and labels."""
        return images.read(self.data_config)

    @property
    def labels(self) -> tuple[str, ...]:
        """See Classification.labels."""
        return self.data.labels

    @property
    def image_size(self) -> ImageSize:
        """What the data determine of the model."""
        channels, height, width = self.data.pixels["train"].shape[1:]
        return ImageSize(channels, height, width, len(self.labels))

    @property
    def sequence_length(self) -> int:
        """Patches of an image."""
        return self.image_size.num_patches(self.model_config.patch)

    def require(self) -> None:
        """See Task.require."""
        _ = self.sequence_length

    def build_model(self, seed: int | None) -> nn.Module:
        """See Task.build_model."""
        patch = self.model_config.patch
        return self._model(ImageSize(1, patch, patch, 2) if seed is None else self.image_size, seed)

    def _model(self, size: ImageSize, seed: int | None) -> nn.Module:
        return models.model_class(self.model_config.name)(self.model_config, size, seed)

    def num_examples(self, split: str) -> int:
        """See Classification.num_examples."""
        return len(self.data.classes[split])

    def examples(self, split: str, rows: np.ndarray) -> Batch:
        """See Classification.examples."""
        pixels = torch.from_numpy(self.data.pixels[split][rows]).float() / 127.5 - 1
        return pixels, torch.from_numpy(self.data.classes[split][rows])

    def logits(self, model: nn.Module, batch: Batch) -> Tensor:
        """See Classification.logits."""
        logits: Tensor = model(batch[0])
        return logits

    def facts(self) -> dict[str, Any]:
        """See Task.facts."""
        return {"corpus": self.data.name, "corpus_sha256": self.data.sha256}

    def save_assets(self, folder: Path) -> None:
        """Write what the images determine of the model, and the labels."""
        write_json(folder / IMAGES_FILE, {"size": list(self.image_size), "labels": list(self.labels)})

    def load_model(self, folder: Path) -> nn.Module:
        """See Task.load_model."""
        return self._model(ImageSize(*read_json(folder / IMAGES_FILE)["size"]), seed=0)
