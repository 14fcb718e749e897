"""BlockWalk: the exact loss of a compressed model, without making it: blocks are run one by one, shared prefixes once.

Where parts of a block follow sources of their own, a block is run with the weights of all of them at once. A part that is
removed has zeros for weights, so that it adds nothing to the residual stream; a norm behind it stays. A block of which all
parts are removed passes its input on. Patterns that differ in the last part of a block have the first in common: it is not
run again on the same activations.

With low-rank deltas the first position of a group runs its source's weights, and any other adds to them the best delta of
its rank for its own of before, as a binding does that ties them (`tying.binding.deltas`).

Two patterns that agree on their first positions have the same activations there. Patterns in lexicographic order are the
leaves of a tree of prefixes, and a walk over it runs every prefix once: all 203 tyings of six layers take 278 block runs
instead of 1,218. Activations are kept least-recently-used, up to a bound of memory.
"""

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import takewhile
from typing import Any

import torch
from torch import Tensor, nn

from tying.binding.sharing import common_names
from tying.compression.calls import Answer, answering, instead, record
from tying.compression.deltas import DeltaWeights
from tying.compression.sources import Sources
from tying.errors import InputError
from tying.isolation import isolated
from tying.tasks.base import Batch, Task, on_device

# Of the loss, between the model as it is and its blocks one by one: float32 sums in the same order differ by nothing.
_TOLERANCE = 1e-5
_Label = tuple[int | None, ...]  # of a position: whose weights each part runs, None where it is removed


class BlockWalk:
    """Answers what the loss of a model would be under any sources; the model is the same after it.

    With P parts of a block that follow sources of their own, sources are over P x L virtual layers: the first part of every
    layer, then the second; see tying.parts.

    Args:
        task: Its loss.
        model: A trained model of the task, not bound; in evaluation mode while it is asked, on its own device.
        batches: The fixed batches of all questions.
        share: The parameters that follow the sources; see LayerBinding. Several: parts that have nothing in common.
        norms: "shared" or "private".
        memory: Most bytes of activations that are kept, and of factors of deltas.
        delta_rank: Rank of the deltas of tied positions; 0: none.

    Attributes:
        block_runs: Blocks run so far.

    Raises:
        InputError: If the blocks are not run one after another, so that they cannot be run apart from the model.
    """

    @isolated()
    def __init__(
        self,
        task: Task,
        model: nn.Module,
        batches: Iterable[Batch],
        share: str | Sequence[str] = "block",
        norms: str = "shared",
        memory: int = 2**28,
        delta_rank: int = 0,
    ) -> None:
        self.task = task
        self.model = model
        self.block_runs = 0
        self._blocks = list(task.blocks(model))
        own = [tuple(name for name, _ in block.named_parameters(remove_duplicate=False)) for block in self._blocks]
        names = [common_names(self._blocks, own, part, norms) for part in ([share] if isinstance(share, str) else share)]
        self._weights: list[list[dict[str, Tensor]]] = [
            [{name: block.get_parameter(name) for name in part} for block in self._blocks] for part in names
        ]
        self._deltas = [DeltaWeights(self._blocks, part, delta_rank, memory) for part in names] if delta_rank else []
        self._home = _home(names) if len(names) > 1 else None
        self._last: dict[tuple[int, int], Answer] = {}
        self._memory = memory
        self._kept: OrderedDict[tuple[int, tuple[_Label, ...]], Tensor] = OrderedDict()
        with _evaluating(model):
            device = next(model.parameters()).device
            self._recorded = [record(task, model, on_device(batch, device)) for batch in batches]
            plain = [float(task.loss(model, recorded.batch)) for recorded in self._recorded]
        check = getattr(getattr(model, "config", None), "check_apart", None)
        if check is not None:
            check()
        self.original = self._mean(plain)
        found = self.loss(Sources.original(len(names) * len(self._blocks)))
        if not abs(found - self.original) <= _TOLERANCE * max(1.0, abs(self.original)):
            raise InputError(
                f"{type(model).__name__}: its blocks run one by one give a loss of {found:.6g}, the model gives "
                f"{self.original:.6g}: it is more than a chain of blocks"
            )

    @property
    def num_layers(self) -> int:
        """Number of positions L."""
        return len(self._blocks)

    @property
    def part_params(self) -> tuple[int, ...]:
        """Parameters of one set of shared weights of each part, (P,)."""
        return tuple(sum(weight.numel() for weight in part[0].values()) for part in self._weights)

    @property
    def set_params(self) -> int:
        """Parameters of one set of shared weights, all parts together."""
        return sum(self.part_params)

    def weights_of(self, layer: int) -> list[Tensor]:
        """Return the shared weights of a layer, all parts together."""
        return [weight for part in self._weights for weight in part[layer].values()]

    def activations(self) -> list[list[Tensor]]:
        """Return the original's activations on every batch: before the first block and behind each, (B, T, C)."""
        labels = self._labels(Sources.original(len(self._weights) * self.num_layers))
        with _evaluating(self.model):
            return [[recorded.start, *self._path(n, labels)] for n, recorded in enumerate(self._recorded)]

    def params(self, sources: Sources) -> int:
        """Return the parameters of all sets of shared weights, and of all deltas, that exist under sources."""
        sets = sum(size * len(set(own) - {None}) for size, own in zip(self.part_params, self._parts(sources), strict=True))
        return sets + self.delta_params(sources)

    def block_params(self, sources: Sources) -> int:
        """Return all parameters of the blocks that exist under sources: sets, deltas, and what stays with each layer."""
        shared = {id(weight) for part in self._weights for layer in part for weight in layer.values()}
        kept = (block for block, label in zip(self._blocks, self._labels(sources), strict=True) if set(label) != {None})
        stays = sum(own.numel() for block in kept for own in block.parameters() if id(own) not in shared)
        return stays + self.params(sources)

    def delta_params(self, sources: Sources) -> int:
        """Return the parameters of the deltas of all tied positions."""
        labels = self._labels(sources)
        return sum(
            deltas.size for part, deltas in enumerate(self._deltas) for i in range(len(labels)) if _tied(labels, i, part)
        )

    def in_order(self, many: Iterable[Sources]) -> list[Sources]:
        """Return sources in the order in which neighbours share the longest prefixes of positions."""

        def key(sources: Sources) -> list[int]:
            return [-1 if source is None else source for label in self._labels(sources) for source in label]

        return sorted(many, key=key)

    def losses(self, many: Iterable[Sources]) -> dict[Sources, float]:
        """Return the loss of each; they are run in the order in which prefixes are shared."""
        return {sources: self.loss(sources) for sources in self.in_order(many)}

    @isolated()
    def loss(self, sources: Sources) -> float:
        """Return the loss of the model under sources, a mean over all predictions of the batches."""
        labels = self._labels(sources)
        with _evaluating(self.model):
            return self._mean([self._loss(number, labels) for number in range(len(self._recorded))])

    def _parts(self, sources: Sources) -> list[_Label]:
        """Return the sources of each part, as layers of the model."""
        count, size = self.num_layers, self.num_layers * len(self._weights)
        if len(sources) != size:
            raise InputError(f"sources '{sources}' are for {len(sources)} layers, the model has {size}")
        wrong = [i for i, source in enumerate(sources) if source is not None and source // count != i // count]
        if wrong:
            raise InputError(f"sources[{wrong[0]}] = {sources[wrong[0]]}: a part of another kind has other weights")
        return [
            tuple(None if source is None else source % count for source in sources[start : start + count])
            for start in range(0, size, count)
        ]

    def _labels(self, sources: Sources) -> tuple[_Label, ...]:
        return tuple(zip(*self._parts(sources), strict=True))

    def _given(self, labels: tuple[_Label, ...], layer: int) -> dict[str, Tensor]:
        """Return the weights that a block runs."""
        given: dict[str, Tensor] = {}
        for part, (weights, source) in enumerate(zip(self._weights, labels[layer], strict=True)):
            if source is None:
                given |= {name: torch.zeros_like(weight) for name, weight in weights[0].items()}
                continue
            given |= weights[source]
            if self._deltas and _tied(labels, layer, part):
                given |= self._deltas[part].of(layer, source)
        return given

    def _loss(self, number: int, labels: tuple[_Label, ...]) -> float:
        recorded = self._recorded[number]
        path = list(self._path(number, labels))
        with answering(self._blocks, [call.answer(hidden) for call, hidden in zip(recorded.calls, path, strict=True)]):
            return float(self.task.loss(self.model, recorded.batch))

    def _path(self, number: int, labels: tuple[_Label, ...]) -> Iterator[Tensor]:
        """Yield the activations after every position."""
        recorded = self._recorded[number]
        hidden = recorded.start
        for layer, label in enumerate(labels):
            key = (number, labels[: layer + 1])
            if key in self._kept:
                self._kept.move_to_end(key)
                hidden = self._kept[key]
            elif any(source is not None for source in label):
                with self._remembering(number, labels, layer):
                    hidden = recorded.calls[layer].run(self._blocks[layer], self._given(labels, layer), hidden)
                self.block_runs += 1
                self._keep(key, hidden)
            yield hidden

    @contextmanager
    def _remembering(self, number: int, labels: tuple[_Label, ...], layer: int) -> Iterator[None]:
        """Let the module of the first part answer from memory what it answered last."""
        if self._home is None:
            yield
            return
        module = self._blocks[layer].get_submodule(self._home)
        own, weights = module.forward, (labels[layer][0], _tied(labels, layer, 0))

        def forward(*args: Any, **kwargs: Any) -> Any:
            given = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]
            last = self._last.get((number, layer))
            if last is None or not last.holds(weights, given):
                last = self._last[number, layer] = Answer.to(weights, given, own(*args, **kwargs))
            return last.output

        with instead([module], [forward]):
            yield

    def _keep(self, key: tuple[int, tuple[_Label, ...]], hidden: Tensor) -> None:
        self._kept[key] = hidden
        most = self._memory // max(1, hidden.numel() * hidden.element_size())
        while len(self._kept) > most:
            self._kept.popitem(last=False)

    def _mean(self, losses: Sequence[float]) -> float:
        sizes = [recorded.size for recorded in self._recorded]
        return sum(loss * size for loss, size in zip(losses, sizes, strict=True)) / sum(sizes)


def _tied(labels: Sequence[_Label], layer: int, part: int) -> bool:
    """Return whether a position before has the same source: it is the root of the group, in front of this one."""
    return labels[layer][part] is not None and any(label[part] == labels[layer][part] for label in labels[:layer])


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Run a model without dropout and gradients, and leave its mode as it was."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in modes:
            module.training = training


def _home(names: Sequence[Sequence[str]]) -> str | None:
    """Return the innermost module that has all parameters of the first part, if none of the others are in it."""
    paths = [name.split(".")[:-1] for name in names[0]]
    path = ".".join(step[0] for step in takewhile(lambda step: len(set(step)) == 1, zip(*paths, strict=False)))
    mixed = any(name.startswith(f"{path}.") for part in names[1:] for name in part)
    return path if path and not mixed else None
