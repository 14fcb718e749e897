"""Devices: whether this machine has the one that a configuration names, before and after torch is imported."""

import ctypes
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from tying.errors import InputError

if TYPE_CHECKING:
    import torch

_DRIVERS = ("libcuda.so.1", "nvcuda.dll")


def require_device(name: str) -> None:
    """Check for a device's driver, without torch: a quick answer to a name that cannot work here.

    Raises:
        InputError: If this machine surely does not have the device.
    """
    if name == "mps" and sys.platform != "darwin":
        raise InputError(f"trainer.device = {name!r}: this machine does not have it; try auto or cpu")
    if name == "cuda" and not (_has_driver() or Path("/dev/kfd").exists()):
        raise InputError(f"trainer.device = {name!r}: this machine does not have it; try auto or cpu")


def _has_driver() -> bool:
    for library in _DRIVERS:
        try:
            ctypes.CDLL(library)
        except OSError:
            continue
        return True
    return False


def find_device(name: str) -> "torch.device":
    """Return the device that a configuration names.

    Raises:
        InputError: If this machine does not have it.
    """
    import torch

    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        name = next(kind for kind, available in there.items() if available)
    if not there[name]:
        here = ", ".join(kind for kind, available in there.items() if available)
        raise InputError(f"trainer.device = {name!r}: this machine does not have it; it has {here}")
    return torch.device(name)
