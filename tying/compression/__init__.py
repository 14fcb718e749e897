"""Compression: a smaller copy of a trained model, its layers tied or removed by measurement."""

from tying.compression.sources import Sources
from tying.compression.walk import BlockWalk

__all__ = ["BlockWalk", "Sources"]
