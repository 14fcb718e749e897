"""How a model calls its blocks: recorded on a batch, repeated with other weights and activations, or answered for them."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call

from tying.errors import InputError
from tying.tasks.base import Batch, Task


class Call(NamedTuple):
    """How a model called a block: all but the activations."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    keyword: str | None  # of the activations; None where they are the first argument
    rest: tuple[Any, ...] | None  # what the block returned beside the activations; None where these are all

    @classmethod
    def noted(cls, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> tuple["Call", Tensor]:
        """Return a call as a forward hook sees it, and the activations that went in."""
        keyword = None if args else next(name for name, value in kwargs.items() if isinstance(value, Tensor))
        hidden = args[0] if keyword is None else kwargs[keyword]
        others = {name: value for name, value in kwargs.items() if name != keyword}
        return cls(args[1:], others, keyword, output[1:] if isinstance(output, tuple) else None), hidden

    @property
    def values(self) -> tuple[Any, ...]:
        """What the block got beside the activations."""
        return (*self.args, *self.kwargs.values())

    def run(self, block: nn.Module, weights: dict[str, Tensor], hidden: Tensor) -> Tensor:
        """Run the block on other activations and with other weights: (B, T, C) -> (B, T, C)."""
        args = (hidden, *self.args) if self.keyword is None else self.args
        kwargs = self.kwargs if self.keyword is None else {**self.kwargs, self.keyword: hidden}
        output = functional_call(block, weights, args, kwargs, tie_weights=False)
        found: Tensor = output if self.rest is None else output[0]
        return found

    def answer(self, hidden: Tensor) -> Any:
        """Return what the block returned, with other activations."""
        return hidden if self.rest is None else (hidden, *self.rest)


class Recorded(NamedTuple):
    """A batch, how the model called its blocks on it, the activations before them, and the number of predictions."""

    batch: Batch
    calls: list[Call]
    start: Tensor
    size: int


class Answer(NamedTuple):
    """What a module answered last, with which weights, and to which tensors."""

    weights: tuple[int | None, bool]  # whose, and whether with a delta
    given: list[Tensor]
    output: Any
    versions: list[int]  # of all these tensors: others may write into them

    @classmethod
    def to(cls, weights: tuple[int | None, bool], given: list[Tensor], output: Any) -> "Answer":
        """Return one that holds for as long as nobody writes into its tensors."""
        return cls(weights, given, output, cls._versions(given, output))

    @staticmethod
    def _versions(given: list[Tensor], output: Any) -> list[int]:
        return [tensor._version for tensor in (*given, *([output] if isinstance(output, Tensor) else _inside((output,))))]

    def holds(self, weights: tuple[int | None, bool], given: list[Tensor]) -> bool:
        """Return whether it would answer the same."""
        untouched = self.versions == self._versions(self.given, self.output)
        same = weights == self.weights and len(given) == len(self.given)
        return untouched and same and all(map(torch.equal, given, self.given))


def record(task: Task, model: nn.Module, batch: Batch) -> Recorded:
    """Return how a model calls its blocks on a batch.

    Raises:
        InputError: If blocks are not run one after another, so that they cannot be run apart from the model.
    """
    blocks = list(task.blocks(model))
    noted: list[tuple[nn.Module, Call, Tensor]] = []

    def note(block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        noted.append((block, *Call.noted(args, kwargs, output)))

    handles = [block.register_forward_hook(note, with_kwargs=True) for block in blocks]
    try:
        task.loss(model, batch)
    finally:
        for handle in handles:
            handle.remove()
    if any(hasattr(value, "update") and hasattr(value, "get_seq_length") for _, call, _ in noted for value in call.values):
        raise InputError(f"{type(model).__name__}: it fills a cache of keys and values; the task's loss is without")
    returned = {id(part) for _, call, _ in noted for part in _inside(call.rest or ())}
    if returned & {id(part) for _, call, _ in noted for part in _inside(call.values)}:
        raise InputError(
            f"{type(model).__name__}: its blocks read keys, values or maps of other blocks (model.kv_sharing, "
            "model.attention_sharing), which change with those blocks: it cannot be run block by block"
        )
    if [block for block, _, _ in noted] != blocks:
        raise InputError(f"{type(model).__name__}: its blocks are not run once each, in their order")
    return Recorded(batch, [call for _, call, _ in noted], noted[0][2], task.size(batch))


def answering(blocks: Sequence[nn.Module], outputs: Sequence[Any]) -> AbstractContextManager[None]:
    """Let blocks return given outputs, whatever they are called with."""
    return instead(blocks, [lambda *args, _output=output, **kwargs: _output for output in outputs])


@contextmanager
def instead(modules: Sequence[nn.Module], forwards: Sequence[Callable[..., Any]]) -> Iterator[None]:
    """Let modules compute something else."""
    before = [vars(module).get("forward") for module in modules]
    for module, forward in zip(modules, forwards, strict=True):
        module.forward = forward
    try:
        yield
    finally:
        for module, own in zip(modules, before, strict=True):
            if own is None:
                del module.forward
            else:
                module.forward = own


def _inside(values: Iterable[Any]) -> list[Tensor]:
    """Return the tensors in the tuples among values."""
    return [part for value in values if isinstance(value, tuple) for part in value if isinstance(part, Tensor)]
