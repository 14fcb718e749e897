"""Fixed rules: patterns of a given number of sets K that are chosen without looking at the model."""

from tying import strategies
from tying.compression.sources import Sources


def tyings(num_layers: int, num_sets: int) -> dict[str, Sources]:
    """Return the tying rules with K sets by name, each pattern once: the strategies, one shared block, adjacent pairs."""
    length = num_layers - num_sets + 1
    found = {name: Sources(pointers) for name, pointers in strategies.of_size(num_layers, num_sets).items()}
    if length > 1:
        for first in range(num_sets):
            name = {0: "first_block", num_layers - length: "last_block"}.get(first, f"block@{first}")
            found[name] = Sources(first if first <= i < first + length else i for i in range(num_layers))
    for name, first in _pairs(num_layers, num_layers - num_sets).items():
        last = first + 2 * (num_layers - num_sets)
        found[name] = Sources(i - (i - first) % 2 if first <= i < last else i for i in range(num_layers))
    return _once(found)


def removals(num_layers: int, num_sets: int) -> dict[str, Sources]:
    """Return the rules that remove L - K layers by name: a run of them at every position, and every other one."""
    count = num_layers - num_sets
    found = {}
    for first in range(num_layers - count + 1) if count else ():
        name = {0: "drop_first", num_layers - count: "drop_last"}.get(first, f"drop@{first}")
        found[name] = Sources(None if first <= i < first + count else i for i in range(num_layers))
    if 0 < count and 2 * count <= num_layers:
        found["drop_alternate"] = Sources(None if i % 2 and i < 2 * count else i for i in range(num_layers))
    return _once(found)


def _pairs(num_layers: int, count: int) -> dict[str, int]:
    """Return where a run of that many adjacent pairs may begin: at either end and in the middle."""
    spare = num_layers - 2 * count
    if count < 1 or spare < 0:
        return {}
    return {"pairs_first": 0, "pairs_middle": spare // 2, "pairs_last": spare}


def _once(found: dict[str, Sources]) -> dict[str, Sources]:
    seen: dict[Sources, str] = {}
    for name, sources in found.items():
        seen.setdefault(sources, name)
    return {name: sources for sources, name in seen.items()}
