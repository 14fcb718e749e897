"""Tensors in a file: the same bits when they come back, and nothing of them in memory meanwhile."""

import weakref
from tempfile import SpooledTemporaryFile

import pytest
import torch

from tying.training.tensor_file import TensorFile

TENSORS = {
    "matrix": torch.randn(3, 5, generator=torch.Generator().manual_seed(0)),
    "turned": torch.arange(6.0).view(2, 3).T,
    "half": torch.tensor([1.5, -0.0, torch.inf], dtype=torch.bfloat16),
    "not a number": torch.tensor([0x7FC00001, 0x7F800001], dtype=torch.int32).view(torch.float32),
    "steps": torch.tensor(7.0),
    "none": torch.zeros(0, 4, dtype=torch.float64),
}


@pytest.mark.parametrize("max_size", [1, 0])
def test_tensors_come_back_bit_by_bit_in_any_order(max_size: int) -> None:
    """On the disk, and in memory (0: without a limit)."""
    with SpooledTemporaryFile(max_size) as file:
        file.write(b"before")
        stored = TensorFile(TENSORS, file)
        more = TensorFile({"matrix": torch.ones(1000)}, file)
        assert stored.keys() == TENSORS.keys() and len(stored) == len(TENSORS)
        for name, tensor in reversed(TENSORS.items()):
            assert torch.equal(more["matrix"], torch.ones(1000))
            found = stored[name]
            assert (found.dtype, found.shape) == (tensor.dtype, tensor.shape)
            assert found.is_contiguous()
            assert found.flatten().view(torch.uint8).tolist() == tensor.flatten().view(torch.uint8).tolist()


def test_no_tensor_is_kept() -> None:
    tensor = torch.ones(10)
    alive = weakref.ref(tensor)
    with SpooledTemporaryFile() as file:
        stored = TensorFile({"a": tensor}, file)
        del tensor
        assert alive() is None
        assert torch.equal(stored["a"], torch.ones(10))
