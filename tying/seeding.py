"""Private randomness: a run's own draws neither read nor move the global generators.

Everything random in a run is a function of (seed, purpose, iteration), so there is no generator state to save, the
order of the data does not depend on the agent, and resuming is exact by construction.
"""

import zlib
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def derive_seed(seed: int, purpose: str, iteration: int = 0) -> int:
    """Return a 63-bit seed that is a fixed, well-mixed function of its arguments."""
    entropy = np.random.SeedSequence([seed, zlib.crc32(purpose.encode()), iteration])
    return int(entropy.generate_state(1, np.uint64)[0] >> np.uint64(1))


def seed_device(device: torch.device, seed: int) -> None:
    """Seed the global generator of one device, which dropout reads; the generators of other devices stay as they are."""
    if device.type == "cuda":
        torch.cuda.default_generators[device.index or 0].manual_seed(seed)
    elif device.type == "mps":
        torch.mps.manual_seed(seed)
    else:
        torch.default_generator.manual_seed(seed)


@contextmanager
def global_generators_kept(device: torch.device) -> Iterator[None]:
    """Let a block reseed torch's global generators (dropout reads nothing else) and put them back afterwards."""
    devices = [device] if device.type in ("cuda", "mps") else []
    with torch.random.fork_rng(devices=devices, device_type=device.type):
        yield
