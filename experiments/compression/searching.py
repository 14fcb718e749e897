"""Where candidates come from: the measured search, or an agent that decides in tying/Compressing-v0."""

from experiments.compression.settings import DEFAULT_SEARCH, Compression
from tying.compression.search import Found, Questions, search


def find(ask: Questions, num_sets: int, compression: Compression) -> Found:
    """Return what the search of a call finds at K sets."""
    flags = compression.flags
    if flags.search == DEFAULT_SEARCH:
        return search(ask, num_sets, flags.removing)
    raise NotImplementedError
