"""Devices: whether this machine has the one that a configuration names, before and after torch is imported."""

import ctypes
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from tying.errors import InputError

if TYPE_CHECKING:
    import torch

_DRIVERS = ("libcuda.so.1", "nvcuda.dll")


def require_device(name: str, flag: str = "trainer.device") -> None:
    """Check for a device's driver, without torch: a quick answer to a name that cannot work here.

    Args:
        name: As in `TrainerConfig.device`.
        flag: What named it, for the error.

    Raises:
        InputError: If this machine surely does not have the device.
    """
    missing = {"mps": sys.platform != "darwin", "cuda": not (_has_driver() or Path("/dev/kfd").exists())}
    if missing.get(name, False):
        raise InputError(f"{flag} = {name!r}: this machine does not have it; cpu is always there")


def _has_driver() -> bool:
    for library in _DRIVERS:
        try:
            ctypes.CDLL(library)
        except OSError:
            continue
        return True
    return False


def find_device(name: str, flag: str = "trainer.device") -> "torch.device":
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
        raise InputError(f"{flag} = {name!r}: this machine does not have it; it has {here}")
    return torch.device(name)
