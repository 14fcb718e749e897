"""TensorFile: tensors that wait in a file, so that a second copy of a large model need not fit into memory."""

from collections.abc import Iterator, Mapping
from tempfile import SpooledTemporaryFile

import torch
from torch import Tensor


class TensorFile(Mapping[str, Tensor]):
    """Copies of tensors in a file; each is read when it is asked for, on the CPU and contiguous, with its own bits.

    Args:
        tensors: To copy, from any device, one after the other; no reference to them is kept.
        file: Written to from where it stands; it stays open for as long as they are needed.

    Raises:
        OSError: If they cannot be written whole (a full disk).
    """

    def __init__(self, tensors: Mapping[str, Tensor], file: SpooledTemporaryFile[bytes]) -> None:
        self._file = file
        self._places: dict[str, tuple[int, Tensor]] = {}
        for name, tensor in tensors.items():
            self._places[name] = (file.tell(), torch.empty_like(tensor, device="meta"))
            file.write(_bytes(tensor.cpu().contiguous()))
        file.flush()  # a full disk is told of now

    def __getitem__(self, name: str) -> Tensor:
        start, like = self._places[name]
        tensor = torch.empty_like(like, device="cpu", memory_format=torch.contiguous_format)
        self._file.seek(start)
        self._file.readinto(_bytes(tensor))
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


def _bytes(tensor: Tensor) -> memoryview:
    return tensor.flatten().view(torch.uint8).numpy().data
