"""`tie`: a model of transformers, or any other, tied by one call; `untied`: an ordinary copy of it."""

import copy
from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

import torch
from torch import nn

from tying.binding import LayerBinding, bindings_of
from tying.binding.deltas import merge
from tying.binding.hooks import BindingHook
from tying.binding.sharing import PARTS
from tying.errors import InputError
from tying.hf import saving
from tying.hf.stacks import Stack, find_stack
from tying.pointers import Pointers

# Choices of `share` that take whole modules.
SHARES = ("block", *PARTS)

_Model = TypeVar("_Model", bound=nn.Module)


class ModelBinding(LayerBinding):
    """A LayerBinding that keeps what the model saves in step with every rebind.

    Args:
        model: The whole model.
        stack: Its blocks that are bound.
        optimizer: One optimizer, several, or none.
        **options: share, gradient, norms; see LayerBinding.
    """

    def __init__(
        self,
        model: nn.Module,
        stack: Stack,
        optimizer: torch.optim.Optimizer | Sequence[torch.optim.Optimizer] | None,
        **options: Any,
    ) -> None:
        self._whole = model
        self._path = stack.path
        super().__init__(stack.blocks, optimizer, model=model, **options)
        self._record()

    def rebind(self, pointers: str | Iterable[int]) -> None:
        """See LayerBinding.rebind."""
        super().rebind(pointers)
        self._record()

    def _record(self) -> None:
        saving.record(self._whole, self._path, entry(self))


def entry(binding: LayerBinding) -> dict[str, Any]:
    """Return what `saving.record` keeps of a binding."""
    return {
        "pointers": str(binding.pointers),
        "share": binding.share,
        "norms": binding.norms,
        "gradient": binding.gradient,
        "names": list(binding.shared_names),
    }


def tie(
    model: nn.Module,
    pointers: str | Iterable[int] | None = None,
    *,
    optimizer: torch.optim.Optimizer | Sequence[torch.optim.Optimizer] | None = None,
    stack: str | None = None,
    share: str | None = None,
    gradient: str | None = None,
    norms: str | None = None,
) -> LayerBinding:
    """Tie the layers of a model and return the binding, whose `rebind` changes the pointers between any two steps.

    After it `model.save_pretrained(folder)` stores each set of weights once, and `tying.hf.from_pretrained(folder)`
    gives the tied model back. What is not given is as it was saved, or LayerBinding's default.

    Args:
        model: A model of transformers, or any module with a ModuleList of equal blocks.
        pointers: "0 0 2 2", or one number per layer; the tying in force where it is None.
        optimizer: What trains the model: one optimizer or several; `binding.attach` takes one that is made later.
        stack: Which blocks, by a name of `find_stacks` or a path; needed where there are several stacks.
        share: Which parameters follow the pointers: "block", "attention", "feed_forward", or patterns of names.
        gradient: "sum", "mean" or "root_only".
        norms: "shared" or "private".

    Raises:
        InputError: If there is no such stack, or the binding refuses it; nothing was changed then.
    """
    found = find_stack(model, stack)
    if pointers is not None:
        pointers = Pointers.parse(pointers) if isinstance(pointers, str) else Pointers(pointers)
        if len(pointers) != len(found.blocks):
            raise InputError(f"pointers '{pointers}' are for {len(pointers)} layers, {found.path} has {len(found.blocks)}")
    saved = saving.records(model).get(found.path, {})
    given = {"share": share, "gradient": gradient, "norms": norms}
    options = {name: value if value is not None else saved.get(name) for name, value in given.items()}
    binding = ModelBinding(model, found, optimizer, **{k: v for k, v in options.items() if v is not None})
    try:
        binding.rebind(binding.pointers if pointers is None else pointers)
    except InputError:
        binding.close()
        raise
    return binding


def untied(model: _Model) -> _Model:
    """Return an ordinary deep copy: every layer has weights of its own, and nothing is left of the tying.

    Low-rank deltas are added to the weights.

    For all that expects a plain model: merging adapters, quantising, converters to GGUF or ONNX, inference servers. Its
    `save_pretrained` writes a plain checkpoint of full size. Embeddings that the model itself ties stay tied.

    Args:
        model: A tied model; it is not changed.

    Raises:
        InputError: If it is one of `tying.models` whose tied positions read the keys and values, or the map, of their root.
    """
    if getattr(getattr(model, "config", None), "moves_cache", False):
        raise InputError(
            "untied: what a position reads depends on the tying, so an untied model would compute something else"
        )
    stacks = [module for module in model.modules() if isinstance(module, nn.ModuleList) and len(module)]
    # A binding that is no part of the copy counts as copied; its hooks are then copied as ones that do nothing.
    plain = copy.deepcopy(model, {id(binding): binding for stack in stacks for binding in bindings_of(stack)})
    for module in list(plain.modules()):
        for hooks in (module._forward_pre_hooks, module._forward_hooks, module._load_state_dict_pre_hooks):
            for key in [key for key, hook in hooks.items() if isinstance(getattr(hook, "hook", hook), BindingHook)]:
                del hooks[key]
        if isinstance(module, nn.ModuleList):
            _separate(module)
        saving.forget(module)
    merge(plain)
    return plain


def share_modules(model: nn.Module) -> None:
    """Let tied layers share modules again, after a conversion such as quantisation gave each of them its own.

    For inference: a layer's whole modules (its projections, its norms) become those of its root, so their layers can no
    longer be rebound.

    Args:
        model: A model that was tied, or a deep copy of one, after the conversion.

    Raises:
        InputError: If single parameters were tied, by patterns of names: a converted module is shared whole.
    """
    for path, entry in saving.records(model).items():
        if entry["share"] not in SHARES:
            raise InputError(f"stack {path!r} shares {entry['share']!r}; whole modules are shared by {', '.join(SHARES)}")
        blocks = model.get_submodule(path)
        modules = sorted({name.rpartition(".")[0] for name in entry["names"]} - {""})
        for layer, root in enumerate(saving.read(entry)):
            for module in modules if layer != root else ():
                owner, _, name = module.rpartition(".")
                setattr(
                    blocks.get_submodule(f"{layer}.{owner}".rstrip(".")), name, blocks.get_submodule(f"{root}.{module}")
                )


def _separate(blocks: Iterable[nn.Module]) -> None:
    seen: set[int] = set()
    for block in blocks:
        own: set[int] = set()
        for module in block.modules():
            for key, parameter in module._parameters.items():
                if parameter is None:
                    continue
                if id(parameter) in seen:
                    parameter = module._parameters[key] = copy.deepcopy(parameter)
                own.add(id(parameter))
        seen |= own
