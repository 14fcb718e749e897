"""The vision transformer: counts by hand, and what a patch is."""

from typing import Any

import pytest
import torch

from tying.errors import InputError
from tying.models.base import num_params
from tying.models.config import ViTConfig
from tying.models.vit import ImageSize, ViT

SIZE = ImageSize(channels=3, height=4, width=6, num_classes=5)


def tiny_vit(**shape: Any) -> ViT:
    return ViT(ViTConfig(**{"num_layers": 2, "num_heads": 2, "width": 8, "patch": 2, **shape}), SIZE, 0).double()


def images() -> torch.Tensor:
    return torch.randn(2, 3, 4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def test_parameters_counted_by_hand() -> None:
    """Patches 12 * 8 + 8, a class token, 7 positions, two blocks as a GPT's, a norm, the head 8 * 5 + 5."""
    block = 32 + 216 + 72 + 288 + 264
    assert num_params(tiny_vit()) == 104 + 8 + 7 * 8 + 2 * block + 16 + 45
    assert num_params(tiny_vit()) - num_params(tiny_vit(pooling="mean")) == 8 + 8


def test_a_patch_is_a_square_of_all_channels() -> None:
    model = tiny_vit(pooling="mean", patch=2)
    seen = []
    model.h[0].register_forward_pre_hook(lambda block, arguments: seen.append(arguments[0]))
    changed = images()
    changed[:, 1, 2:4, 4:6] += 1  # the last of 2 x 3 patches
    model(images())
    model(changed)
    moved = (seen[0] - seen[1]).abs().amax(dim=(0, 2)) > 0
    assert moved.tolist() == [False] * 5 + [True]


@pytest.mark.parametrize("pooling", ["class", "mean"])
def test_every_parameter_learns_and_every_patch_is_seen(pooling: str) -> None:
    model = tiny_vit(pooling=pooling)
    pixels = images().requires_grad_()
    torch.nn.functional.cross_entropy(model(pixels), torch.tensor([0, 3])).backward()
    assert all(p.grad is not None and float(p.grad.abs().max()) > 0 for p in model.parameters())
    assert pixels.grad is not None and float(pixels.grad.abs().min()) > 0


def test_patches_must_fill_the_image() -> None:
    with pytest.raises(InputError, match=r"model\.patch = 4: must divide the images' 4 x 6 pixels"):
        tiny_vit(patch=4)
    with pytest.raises(InputError, match=r"model\.num_heads = 3: must divide model\.width = 8"):
        tiny_vit(num_heads=3)
