"""The hooks by which a binding acts while the model runs, and what keeps them from being copied unnoticed.

A copy of a hook does nothing: a LayerBinding that is copied with its blocks makes hooks of its own, and a model that is
copied alone keeps its tie but has no binding. Where that would change gradients, the copy is refused.
"""

import weakref
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from tying.errors import InputError

if TYPE_CHECKING:
    from tying.binding.layer_binding import LayerBinding

# The bindings in force. One that changes gradients is kept alive by its hooks, the others by the code that holds them.
OPEN: "weakref.WeakSet[LayerBinding]" = weakref.WeakSet()


class DivideBy:
    """Divides a gradient by a number; on a parameter it sees the sum over all positions of one backward pass."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __call__(self, gradient: torch.Tensor) -> torch.Tensor:
        """Return the mean over the group's positions."""
        return gradient / self.size


class BindingHook:
    """A hook on a module in the name of a binding.

    It keeps the binding alive where the binding changes gradients, which must not depend on who still holds it.
    """

    def __init__(self, binding: "LayerBinding | None" = None) -> None:
        self._keep = binding if binding is not None and binding.gradient != "sum" else None
        self._binding = weakref.ref(binding) if binding is not None else None

    @property
    def binding(self) -> "LayerBinding | None":
        """The binding, unless it is gone."""
        return self._binding() if self._binding is not None else None

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        if self._keep is not None and id(self._keep) not in memo:
            raise InputError(
                f"gradient {self._keep.gradient!r} is made by hooks of a LayerBinding, which a copy of the model would "
                "lack: copy.deepcopy((binding, model)) copies both, or close() the binding first"
            )
        return type(self)()

    def __reduce__(self) -> tuple[Any, ...]:
        if self._keep is not None:
            raise InputError(
                f"gradient {self._keep.gradient!r} is made by hooks of a LayerBinding, which cannot be pickled: save the "
                "state_dict and the pointers, or close() the binding first"
            )
        return type(self), ()


class DetachWeights(BindingHook):
    """Puts detached views into the places of a tied, non-root block before it runs: no weight gradient is formed."""

    def __init__(self, binding: "LayerBinding | None" = None, layer: int = 0) -> None:
        super().__init__(binding)
        self.layer = layer

    def __call__(self, block: nn.Module, *_: Any) -> None:
        """Detach what the layer uses, if it is not the layer's own.

        Raises:
            InputError: If the block would run again in the backward pass without its hooks.
        """
        binding = self.binding
        if binding is None or binding.pointers[self.layer] == self.layer:
            return
        # Hugging Face's layers recompute `forward` alone.
        if getattr(block, "gradient_checkpointing", False) and block.training and torch.is_grad_enabled():
            raise InputError(
                "gradient 'root_only' would be lost in the layers' gradient checkpointing: call "
                "gradient_checkpointing_disable(), or bind with gradient 'sum' or 'mean'"
            )
        binding.slots.assign(self.layer, [parameter.detach() for parameter in binding.weights_of(self.layer)])


class RestoreWeights(BindingHook):
    """Puts the parameters back after the block ran."""

    def __init__(self, binding: "LayerBinding | None" = None, layer: int = 0) -> None:
        super().__init__(binding)
        self.layer = layer

    def __call__(self, *_: Any) -> None:
        """Assign what the layer uses."""
        binding = self.binding
        if binding is not None:
            binding.slots.assign(self.layer, binding.weights_of(self.layer))


class LoadGuard(BindingHook):
    """Refuses to load, into tied layers, values that differ: the last layer's would silently win.

    On the whole model it compares the state with itself before anything is loaded. On a block, whose hook sees that block
    alone, it compares a tied layer's values with those that its root has loaded just before.

    Args:
        binding: Of the layers.
        paths: Per layer, what its parameters' names start with in the module that has the hook.
        layer: The layer, where the hook is on a block.
    """

    def __init__(
        self, binding: "LayerBinding | None" = None, paths: Sequence[Sequence[str]] = (), layer: int | None = None
    ) -> None:
        super().__init__(binding)
        self.paths = paths
        self.layer = layer

    def __call__(
        self, _: nn.Module, state: Mapping[str, Any], prefix: str, local_metadata: Mapping[str, Any], *__: Any
    ) -> None:
        """Check a state before it is loaded.

        Raises:
            InputError: If tied layers would get different values, or parameters of their own (assign=True).
        """
        binding = self.binding
        groups = [] if binding is None else [group for group in binding.pointers.groups if len(group) > 1]
        if binding is None or not groups or not binding.guards_loading:
            return
        if local_metadata.get("assign_to_params_buffers"):
            raise InputError(
                f"load_state_dict(assign=True) would replace the parameters of layers tied as '{binding.pointers}': load "
                "without it, or untie first"
            )
        for group in groups:
            paths = [prefix + path for layer in group for path in self.paths[layer]]
            for name, own in zip(binding.shared_names, binding.weights_of(group[0]), strict=True):
                values = [state[path + name] for path in paths if path + name in state]
                if self.layer in group[1:]:
                    values.append(own)
                if not all(_equal(value, values[0]) for value in values[1:]):
                    raise InputError(
                        f"the state has different values for {name!r} of the tied layers {', '.join(map(str, group))}: "
                        "rebind to the pointers of the state before loading it"
                    )


def _equal(left: torch.Tensor, right: torch.Tensor) -> bool:
    if left is right or left.is_meta or right.is_meta:
        return True
    return left.shape == right.shape and torch.equal(left.detach().to(right), right.detach())


def bindings_of(blocks: Iterable[nn.Module]) -> "list[LayerBinding]":
    """Return the bindings in force on any of the blocks."""
    wanted = set(map(id, blocks))
    return [binding for binding in OPEN if any(id(block) in wanted for block in binding.blocks)]


def register(binding: "LayerBinding") -> list[RemovableHandle]:
    """Bring a binding into force: hooks on its blocks, and on its model if it knows that.

    Returns:
        Handles that remove the hooks.

    Raises:
        InputError: If another binding is in force over some of its parameters.
    """
    for other in OPEN:
        if other.slots.ids & binding.slots.ids:
            raise InputError(
                f"the blocks are bound already, with gradient {other.gradient!r} and pointers '{other.pointers}': "
                "close() that binding (tying.binding.bindings_of finds it), or choose another `share`"
            )
    handles: list[RemovableHandle] = []
    for layer, block in enumerate(binding.blocks):
        if binding.gradient == "root_only":
            handles.append(block.register_forward_pre_hook(DetachWeights(binding, layer)))
            # always_call: an exception inside the block must not leave detached views behind.
            handles.append(block.register_forward_hook(RestoreWeights(binding, layer), always_call=True))
        own = [("",) if other == layer else () for other in range(binding.num_layers)]
        handles.append(block.register_load_state_dict_pre_hook(LoadGuard(binding, own, layer)))
    if binding.model is not None:
        paths: dict[nn.Module, list[str]] = {}
        for path, module in binding.model.named_modules(remove_duplicate=False):
            paths.setdefault(module, []).append(f"{path}." if path else "")
        guard = LoadGuard(binding, [paths.get(block, []) for block in binding.blocks])
        handles.append(binding.model.register_load_state_dict_pre_hook(guard))
    OPEN.add(binding)
    return handles


def divide_gradients(binding: "LayerBinding", before: Sequence[RemovableHandle]) -> list[RemovableHandle]:
    """With gradient "mean", divide the summed gradient of every shared set by the size of its group.

    Args:
        binding: Whose tying is in force.
        before: Of the tying before; removed.

    Returns:
        Handles of the new hooks.
    """
    for handle in before:
        handle.remove()
    if binding.gradient != "mean":
        return []
    return [
        parameter.register_hook(DivideBy(len(group)))
        for group in binding.pointers.groups
        if len(group) > 1
        for parameter in binding.weights_of(group[0])
        if parameter.requires_grad
    ]
