"""Saving and loading of tied models: each set of weights once, the pointers beside them.

What is known of a model's tied stacks is its attribute `layer_tying` (path of a stack -> pointers, share, norms, gradient
and the names that follow the pointers). `record` keeps three others in step with it at every rebind:

- `config.layer_tying`, which is saved with the model.
- The stack's `_tied_weights_keys`, from which `save_pretrained` learns which names to leave out.
- The state dict, which carries the pointers under "<stack>.pointers": a model that is bound goes to them before the
  values are loaded, so every way to resume that loads the model before its optimizer restores the tying too.

Saved with tied layers, config.json names a weights file that does not exist, and says in its name how to load: a
`from_pretrained` that knows nothing of tying would otherwise fill the layers that are left out with random values.
"""

import json
import re
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tying.binding import LayerBinding, bindings_of
from tying.errors import InputError
from tying.files import write_text
from tying.pointers import Pointers

GUARD = "layers-are-tied--load-with-tying.hf.from_pretrained.safetensors"

# Where from_pretrained looks for the folder's files; both the configuration and the weights are read with them.
_HUB_OPTIONS = ("cache_dir", "force_download", "local_files_only", "token", "revision", "subfolder", "trust_remote_code")


def records(model: nn.Module) -> dict[str, dict[str, Any]]:
    """Return what is recorded of a model's tied stacks, by path; empty if nothing was tied."""
    found: dict[str, dict[str, Any]] = vars(model).get("layer_tying", {})
    return found


def record(model: nn.Module, path: str, entry: dict[str, Any]) -> None:
    """Record the tying of one stack wherever it has to be known; see the module's text.

    Args:
        model: The whole model.
        path: The stack's path in it.
        entry: pointers (text), share, norms, gradient, names (the parameters that follow the pointers).
    """
    vars(model)["layer_tying"] = {**records(model), path: entry}
    config: Any = getattr(model, "config", None)
    if config is not None:
        config.layer_tying = records(model)
    keys = {
        re.escape(f"{layer}.{name}") + "$": f"{root}.{name}"
        for layer, root in enumerate(Pointers.parse(entry["pointers"]))
        for name in entry["names"]
        if layer != root
    }
    model.get_submodule(path)._tied_weights_keys = keys  # type: ignore[assignment]
    if _before_load not in [getattr(hook, "hook", hook) for hook in model._load_state_dict_pre_hooks.values()]:
        model.register_state_dict_post_hook(_add_pointers)
        handle = model.register_load_state_dict_pre_hook(_before_load)
        # Before the guards of bindings, which refuse a state of other pointers.
        hooks: Any = model._load_state_dict_pre_hooks
        hooks.move_to_end(handle.id, last=False)
    if hasattr(type(model), "save_pretrained"):
        # A partial of a function of this module: copies and pickles of the model take it along.
        model.__dict__["save_pretrained"] = partial(_save_pretrained, model)


def forget(model: nn.Module) -> None:
    """Take back all that `record` did; for a model whose layers no longer share."""
    for path in records(model):
        vars(model.get_submodule(path)).pop("_tied_weights_keys", None)
    for holder in (model, getattr(model, "config", model)):
        vars(holder).pop("layer_tying", None)
    vars(model).pop("save_pretrained", None)
    for hooks in (model._state_dict_hooks, model._load_state_dict_pre_hooks):
        for key, hook in list(hooks.items()):
            if getattr(hook, "hook", hook) in (_add_pointers, _before_load):
                del hooks[key]


def from_pretrained(folder: str | Path, model_class: Any = None, **options: Any) -> Any:
    """Load a model that was saved while its layers were tied; it comes back tied, bit for bit, and saves again by itself.

    To train it further, bind it: `tying.hf.tie(model, optimizer=optimizer)` keeps the pointers and the options that
    were saved.

    Args:
        folder: A folder, or a name on the Hub. A model that was never tied is loaded as usual.
        model_class: A class of transformers, or one of its Auto classes; the class that was saved where it is None.
        **options: As `from_pretrained` of transformers takes them (dtype, device_map, output_loading_info, ...).

    Raises:
        InputError: If the class has no such stack, or the folder lacks weights of one.
    """
    import transformers

    wants_info = options.pop("output_loading_info", False)
    hub = {name: options.pop(name) for name in _HUB_OPTIONS if name in options}
    config, options = transformers.AutoConfig.from_pretrained(folder, return_unused_kwargs=True, **hub, **options)
    is_tied = getattr(config, "transformers_weights", None) == GUARD
    if is_tied:
        del config.transformers_weights
    cls = _class_for(config, model_class)
    entries = dict(getattr(config, "layer_tying", None) or {})
    loading = _tied_class(cls, entries) if is_tied else cls
    model, found = loading.from_pretrained(folder, config=config, output_loading_info=True, **hub, **options)
    model.__class__ = cls
    vars(model.config).pop("layer_tying", None)
    for path, entry in entries.items():
        where = _locate(model, path)
        missing = sorted(name for name in found["missing_keys"] if name.startswith(f"{where}."))
        if missing:
            raise InputError(f"{folder}: no weights for {', '.join(missing[:3])}{' and others' if missing[3:] else ''}")
        if is_tied:
            record(model, where, entry)
    if is_tied:
        keys = _ties(model, entries)
        model.all_tied_weights_keys = {k: v for k, v in model.all_tied_weights_keys.items() if k not in keys}
    return (model, found) if wants_info else model


def read(entry: dict[str, Any]) -> Pointers:
    """Return the pointers of a record."""
    return Pointers.parse(entry["pointers"])


def _save_pretrained(model: Any, save_directory: str | Path, *args: Any, **options: Any) -> None:
    """Save as the model's class does, and write the guard where layers are left out."""
    is_tied = any(read(entry).num_unique < read(entry).num_layers for entry in records(model).values())
    if is_tied and options.get("push_to_hub"):
        raise InputError("save_pretrained(push_to_hub=True): use model.push_to_hub(name), which uploads the pointers too")
    type(model).save_pretrained(model, save_directory, *args, **options)
    config = Path(save_directory) / "config.json"
    is_main = args[0] if args else options.get("is_main_process", True)
    if is_tied and is_main and config.exists() and not getattr(model, "_hf_peft_config_loaded", False):
        content = {**json.loads(config.read_text(encoding="utf-8")), "transformers_weights": GUARD}
        write_text(config, json.dumps(content, indent=2, sort_keys=True) + "\n")


def _add_pointers(model: nn.Module, state_dict: dict[str, Any], prefix: str, _: Any) -> None:
    """State-dict hook: an untied model's state is as it always was, a tied one's carries its pointers."""
    for path, entry in records(model).items():
        pointers = read(entry)
        if pointers.num_unique < len(pointers):
            state_dict[f"{prefix}{path}.pointers"] = torch.tensor(pointers)


def _before_load(model: nn.Module, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
    """Go to the pointers of the state that is about to be loaded, and name its weights for every layer that uses them.

    Without pointers in the state, layers that it has values for get weights of their own.
    """
    for path, entry in list(records(model).items()):
        head = f"{prefix}{path}."
        blocks = model.get_submodule(path)
        saved = state_dict.pop(f"{head}pointers", None)
        if saved is not None:
            new = Pointers(saved.tolist())
        else:
            # A tied layer with values of its own leaves; in a shard of a checkpoint the others' are elsewhere.
            has_values = [any(f"{head}{i}.{n}" in state_dict for n in entry["names"]) for i in range(len(read(entry)))]
            new = Pointers.from_labels(i if has_values[i] else root for i, root in enumerate(read(entry)))
        _rebind(model, path, entry, blocks, new)
        for layer, root in enumerate(new):
            for name in entry["names"]:
                if f"{head}{root}.{name}" in state_dict:
                    state_dict.setdefault(f"{head}{layer}.{name}", state_dict[f"{head}{root}.{name}"])


def _rebind(model: nn.Module, path: str, entry: dict[str, Any], blocks: Any, new: Pointers) -> None:
    names = tuple(entry["names"])
    open_binding = next((b for b in bindings_of(blocks) if b.shared_names == names), None)
    if open_binding is not None:
        open_binding.rebind(new)
    elif new != read(entry):
        with LayerBinding(blocks, share=entry["share"], norms=entry["norms"]) as binding:
            binding.rebind(new)
        record(model, path, {**entry, "pointers": str(new)})


def _class_for(config: Any, model_class: Any) -> Any:
    import transformers

    if model_class is None:
        return getattr(transformers, config.architectures[0])
    if not hasattr(model_class, "_model_mapping"):
        return model_class
    found = model_class._model_mapping[type(config)]
    if not isinstance(found, (list, tuple)):
        return found
    return next((cls for cls in found if cls.__name__ in (config.architectures or [])), found[0])


def _tied_class(cls: Any, entries: dict[str, dict[str, Any]]) -> Any:
    """Return a subclass for the time of loading: transformers' own loader then ties what the file leaves out."""

    def get_expanded_tied_weights_keys(self: Any, all_submodels: bool = False) -> dict[str, str]:
        return {**cls.get_expanded_tied_weights_keys(self, all_submodels), **_ties(self, entries)}

    def keep_bias(*_: Any) -> None:
        """Leave biases alone: they are padded to the rows of a weight, which fits embeddings and not GPT-2's Conv1D."""

    unexpected = {*(cls._keys_to_ignore_on_load_unexpected or ()), *(re.escape(f"{p}.pointers") for p in entries)}
    members = {
        "get_expanded_tied_weights_keys": get_expanded_tied_weights_keys,
        "_adjust_bias": keep_bias,
        "_keys_to_ignore_on_load_unexpected": list(unexpected),
        "__module__": cls.__module__,
    }
    return type(cls.__name__, (cls,), members)


def _ties(model: Any, entries: dict[str, dict[str, Any]]) -> dict[str, str]:
    """Return every name that is left out of the file, and the name of the weights that it uses."""
    return {
        f"{where}.{layer}.{name}": f"{where}.{root}.{name}"
        for path, entry in entries.items()
        for where in [_locate(model, path)]
        for layer, root in enumerate(read(entry))
        for name in entry["names"]
        if layer != root
    }


def _locate(model: Any, path: str) -> str:
    """Return where a stack is in this class: a model with a head holds the bare one under a prefix, or the reverse."""
    prefix = f"{getattr(model, 'base_model_prefix', '')}."
    modules = dict(model.named_modules())
    for candidate in (path, prefix + path, path.removeprefix(prefix)):
        if isinstance(modules.get(candidate), nn.ModuleList):
            return candidate
    raise InputError(f"{type(model).__name__} has no stack {path!r}, which the folder's pointers are for")
