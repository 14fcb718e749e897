"""Rules of a given number of sets K that look at the model: what the literature merges or removes without a search.

Layers that are alike are merged, the two most similar groups first, with the mean over their pairs as the similarity of
two groups (average linkage); a group has the values of its first layer.
"""

import itertools
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch

from tying.compression.sources import Sources
from tying.compression.walk import BlockWalk

if TYPE_CHECKING:
    from tying.compression.search import Questions

# Beyond, greedy merging is left out: it asks some L^3 / 8 questions on the way to half of the sets.
_MOST_MERGED = 16
_Group = tuple[int, ...]
_Pair = tuple[_Group, _Group]


def rules(ask: "Questions", num_sets: int, removing: bool = True) -> dict[str, Sources]:
    """Return them by name; several may lead to one pattern.

    Args:
        ask: The questions; greedy rules ask, the others look at weights and activations.
        num_sets: K.
        removing: Whether layers may be removed.
    """
    walk = ask.walk
    found = {
        "similar_weights": merged(similar_weights(walk), num_sets),
        "similar_outputs": merged(similar_outputs(walk), num_sets),
    }
    if walk.num_layers <= _MOST_MERGED:
        found["greedy_merging"] = greedy_merging(ask, num_sets)
    if removing:
        found |= {"least_change": least_change(walk, num_sets), "greedy_removal": greedy_removal(ask, num_sets)}
    return found


def similar_weights(walk: BlockWalk) -> np.ndarray:
    """Return the cosine of every two layers' shared matrices, a mean over matrices: (L, L)."""
    layers = [[weight.detach() for weight in walk.weights_of(i) if weight.dim() >= 2] for i in range(walk.num_layers)]
    cosines = [_cosines(torch.stack(same).flatten(1)[None]) for same in zip(*layers, strict=True)]
    return np.asarray(np.mean(cosines, axis=0))


def similar_outputs(walk: BlockWalk) -> np.ndarray:
    """Return the cosine of every two layers' outputs, a mean over tokens: (L, L)."""
    return _cosines(torch.cat([torch.stack(after[1:]).flatten(1, -2).transpose(0, 1) for after in walk.activations()]))


def least_change(walk: BlockWalk, num_sets: int) -> Sources:
    """Remove the L - K layers whose output is nearest to their input by cosine (Men et al. 2024, arXiv 2403.03853)."""
    cosines = [
        [float(torch.cosine_similarity(x, y, dim=-1).mean()) for x, y in itertools.pairwise(after)]
        for after in walk.activations()
    ]
    kept = np.argsort(np.mean(cosines, axis=0), kind="stable")[:num_sets]
    return Sources(layer if layer in kept else None for layer in range(walk.num_layers))


def merged(similarity: np.ndarray, num_sets: int) -> Sources:
    """Merge the most similar layers until K groups are left: (L, L) -> sources."""

    def between(groups: _Pair) -> float:
        return -float(similarity[np.ix_(*groups)].mean())

    return _merge(len(similarity), num_sets, lambda pairs: min(pairs, key=between))


def greedy_merging(ask: "Questions", num_sets: int) -> Sources:
    """Merge two groups at a time, each time those whose loss is least: L (L - 1) / 2 questions, then fewer."""
    sources = Sources.original(ask.walk.num_layers)

    def best(pairs: list[_Pair]) -> _Pair:
        nonlocal sources
        tied = {sources.with_donor(both, min(both)): pair for pair in pairs for both in [(*pair[0], *pair[1])]}
        sources = ask.best(tied)[0]
        return tied[sources]

    return _merge(ask.walk.num_layers, num_sets, best)


def greedy_removal(ask: "Questions", num_sets: int) -> Sources:
    """Remove layers one by one, each time the one whose loss is least: L + (L - 1) + ... questions."""
    sources = Sources.original(ask.walk.num_layers)
    while sources.num_sets > num_sets:
        sources = ask.best(Sources(None if i == layer else s for i, s in enumerate(sources)) for layer in sources.kept)[0]
    return sources


def _merge(num_layers: int, num_sets: int, choose: Callable[[list[_Pair]], _Pair]) -> Sources:
    groups: list[_Group] = [(layer,) for layer in range(num_layers)]
    while len(groups) > num_sets:
        pair = choose(list(itertools.combinations(groups, 2)))
        groups = sorted([*(group for group in groups if group not in pair), tuple(sorted((*pair[0], *pair[1])))])
    return Sources(next(group[0] for group in groups if layer in group) for layer in range(num_layers))


def _cosines(vectors: torch.Tensor) -> np.ndarray:
    """Return cosines, a mean over what they are taken of: (N, L, C) -> (L, L)."""
    unit = torch.nn.functional.normalize(vectors.double(), dim=-1)
    found: np.ndarray = (unit @ unit.transpose(1, 2)).mean(0).cpu().numpy()
    return found
