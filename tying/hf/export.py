"""Our models as those of transformers, and back: the same weights under the names of the class of the same kind.

gpt is GPT2LMHeadModel, llama is LlamaForCausalLM; bert is BertForMaskedLM or, with embeddings of another size,
AlbertForMaskedLM with a group for every layer (with labels: ...ForSequenceClassification); vit is
ViTForImageClassification.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from tying import models
from tying.binding import LayerBinding
from tying.binding.deltas import KEYS
from tying.binding.sharing import shared_names
from tying.errors import InputError
from tying.hf import saving
from tying.hf.bind import tie
from tying.hf.names import KINDS, Kind
from tying.models.base import BlockModel
from tying.models.config import BertConfig, BlocksConfig, GPTConfig, LlamaConfig, ViTConfig
from tying.models.vit import ImageSize
from tying.pointers import Pointers

_ENDS = (".weight", ".bias", "")  # the last one of parameters that belong to no module of theirs


@torch.no_grad()
def to_transformers(model: BlockModel) -> Any:
    """Return a model of transformers with the weights of one of ours, tied as it is; it computes the same.

    Biases and token types that ours lacks are zeros there.

    Args:
        model: A gpt, llama, bert or vit, such as `load_run(...).model`.

    Raises:
        InputError: If transformers has no class that computes the same.
    """
    if any(name.endswith(KEYS) for name, _ in model.named_parameters()):
        raise InputError("the layers have low-rank deltas, and transformers has none: give tying.hf.untied(model)")
    made, kind = _CONVERTERS.get(type(model.config), _refuse)(model)
    ours = dict(model.named_parameters(remove_duplicate=False))
    for name, parts, transposed in _pairs(kind, len(model.h)):
        for end in _ENDS:
            value = ours.get(name + end)
            for part, own in _split(parts, made, end, value):
                theirs = _parameter(made, part + end)
                theirs.copy_((own.T if transposed and own.dim() == 2 else own).view_as(theirs))
    tying = tying_of(model)
    if tying is not None:
        tie(made, tying.pointers, stack=kind.stack, share=tying.share, norms=tying.norms)
    return made.train(model.training)


@torch.no_grad()
def from_transformers(model: Any) -> BlockModel:
    """Return one of our models with the weights of a model of transformers, tied as it is: undoes `to_transformers`.

    Args:
        model: GPT2LMHeadModel, LlamaForCausalLM, BertForMaskedLM, AlbertForMaskedLM with a group for every layer, or
            ViTForImageClassification.

    Raises:
        InputError: If ours would compute something else.
    """
    config, size = _READERS.get(model.config.model_type, _unknown)(model)
    kind = KINDS[model.config.model_type]
    made = models.model_class(config.name)(config, size, seed=0)
    ours = dict(made.named_parameters())
    for name, parts, transposed in _pairs(kind, config.num_layers):
        for end in _ENDS:
            if name + end in ours:
                values = [_parameter(model, part + end) for part in parts]
                value = torch.cat([v.T if transposed and v.dim() == 2 else v for v in values])
                ours[name + end].copy_(value.view_as(ours[name + end]))
    entry = saving.records(model).get(kind.stack)
    if entry is not None:
        LayerBinding(made.h, share=entry["share"], norms=entry["norms"]).rebind(saving.read(entry))
    return made.train(model.training)


class Tying(NamedTuple):
    """How the layers of a model are tied, as `tying.hf.tie` takes it."""

    pointers: Pointers
    share: str
    norms: str


def tying_of(model: BlockModel) -> Tying | None:
    """Return how layers share parameters now; None if they do not.

    Raises:
        InputError: If no choice of `share` and `norms` is what they share.
    """
    names = [name for name, _ in model.h[0].named_parameters()]
    blocks = [dict(block.named_parameters(remove_duplicate=False)) for block in model.h]
    labels = {name: [id(block[name]) for block in blocks] for name in names}
    shared = {name: Pointers.from_labels(own) for name, own in labels.items() if len(set(own)) < len(own)}
    if not shared:
        return None
    for share in ("block", "attention", "feed_forward"):
        for norms in ("shared", "private"):
            if set(shared_names(model.h[0], share, norms)) == set(shared) and len(set(shared.values())) == 1:
                return Tying(next(iter(shared.values())), share, norms)
    raise InputError("layers share by patterns of names, or by several bindings, for which transformers has other names")


def _pairs(kind: Kind, num_layers: int) -> Iterator[tuple[str, tuple[str, ...], bool]]:
    """Yield our modules and lone parameters, theirs, and whether their matrices are transposed."""
    for ours, theirs in kind.outer.items():
        yield ours, (theirs,) if isinstance(theirs, str) else theirs, False
    for layer in range(num_layers):
        for ours, theirs in kind.inner.items():
            parts = (theirs,) if isinstance(theirs, str) else theirs
            prefix = f"{kind.stack}.{layer}.{kind.block}"
            yield f"h.{layer}.{ours}", tuple(prefix + part for part in parts), kind.transposed


def _parameter(model: nn.Module, name: str) -> Tensor:
    return model.get_parameter(name)


def _split(parts: tuple[str, ...], model: nn.Module, end: str, value: Tensor | None) -> Iterator[tuple[str, Tensor]]:
    """Yield the modules of theirs that have a parameter, and their rows of ours; zeros where ours has none."""
    known = dict(model.named_parameters(remove_duplicate=False))
    start = 0
    for part in parts:
        theirs = known.get(part + end)
        if theirs is None or (value is None and end == ".weight" and "token_type" not in part):
            continue
        rows = len(theirs)
        if value is None or len(parts) == 1:
            yield part, torch.zeros_like(theirs) if value is None else value
        else:
            yield part, value[start : start + rows]
            start += rows


def _refuse(model: BlockModel) -> Any:
    raise InputError(
        f"{type(model).__name__}: only gpt, llama, bert and vit have a class of transformers that computes the same"
    )


def _unknown(model: Any) -> Any:
    raise InputError(
        f"{type(model).__name__}: only GPT-2, Llama, BERT, ALBERT and ViT have a model of ours that computes the same"
    )


def _require(where: str, wrong: Mapping[str, bool]) -> None:
    """Check that nothing is chosen that the other side does not have.

    Raises:
        InputError: Naming the choices.
    """
    found = [name for name, is_wrong in wrong.items() if is_wrong]
    if found:
        raise InputError(f"{where}: would compute something else, because of {', '.join(found)}")


def _gpt2(model: Any) -> tuple[Any, Kind]:
    from transformers import GPT2Config, GPT2LMHeadModel

    own: GPTConfig = model.config
    wrong = {
        "model.positions": own.positions != "learned",
        "model.qk_norm": own.qk_norm,
        "model.kv_sharing": own.shares_kv,
        "model.attention_sharing": own.map_sources is not None,
        "model.norm_place = 'post'": own.norm_place == "post",
        "model.residual": own.residual != "plain",
        "model.depth_embedding": own.depth_embedding != "none",
        "model.halting": own.halting != "none",
    }
    _require("GPT2LMHeadModel", wrong)
    config = GPT2Config(
        vocab_size=len(model.wte.weight),
        n_positions=own.context,
        n_embd=own.width,
        n_layer=own.num_layers,
        n_head=own.num_heads,
        activation_function="gelu",
        tie_word_embeddings=own.tie_embeddings,
        bos_token_id=None,
        eos_token_id=None,
        resid_pdrop=own.dropout,
        embd_pdrop=own.dropout,
        attn_pdrop=own.dropout,
    )
    return GPT2LMHeadModel(config), KINDS["gpt2"]


def _read_gpt2(model: Any) -> tuple[BlocksConfig, Any]:
    theirs = model.config
    wrong = {
        f"activation_function = {theirs.activation_function!r} (ours is 'gelu')": theirs.activation_function != "gelu",
        f"n_inner = {theirs.n_inner}": theirs.n_inner not in (None, 4 * theirs.n_embd),
        "scaled attention": theirs.scale_attn_by_inverse_layer_idx or not theirs.scale_attn_weights,
    }
    _require("gpt", wrong)
    config = GPTConfig(
        num_layers=theirs.n_layer,
        num_heads=theirs.n_head,
        width=theirs.n_embd,
        context=theirs.n_positions,
        dropout=theirs.resid_pdrop,
        tie_embeddings=theirs.tie_word_embeddings,
    )
    return config, theirs.vocab_size


def _llama(model: Any) -> tuple[Any, Kind]:
    from transformers import LlamaConfig as Config
    from transformers import LlamaForCausalLM

    own: LlamaConfig = model.config
    wrong = {"model.kv_sharing": own.shares_kv, "model.attention_sharing": own.map_sources is not None}
    _require("LlamaForCausalLM", wrong)
    config = Config(
        vocab_size=len(model.embedding.weight),
        max_position_embeddings=own.context,
        hidden_size=own.width,
        intermediate_size=own.feed_forward_width,
        num_hidden_layers=own.num_layers,
        num_attention_heads=own.num_heads,
        num_key_value_heads=own.num_kv_heads,
        rope_parameters={"rope_type": "default", "rope_theta": own.rotary_base},
        rms_norm_eps=own.norm_eps,
        attention_dropout=own.dropout,
        tie_word_embeddings=own.tie_embeddings,
        bos_token_id=None,
        eos_token_id=None,
    )
    return LlamaForCausalLM(config), KINDS["llama"]


def _read_llama(model: Any) -> tuple[BlocksConfig, Any]:
    theirs = model.config
    rope = theirs.rope_parameters
    wrong = {
        f"hidden_act = {theirs.hidden_act!r} (ours is 'silu')": theirs.hidden_act != "silu",
        "biases": theirs.attention_bias or theirs.mlp_bias,
        f"head_dim = {theirs.head_dim}": theirs.head_dim * theirs.num_attention_heads != theirs.hidden_size,
        f"rope_type = {rope['rope_type']!r}": rope["rope_type"] != "default",
    }
    _require("llama", wrong)
    config = LlamaConfig(
        num_layers=theirs.num_hidden_layers,
        num_heads=theirs.num_attention_heads,
        num_kv_heads=theirs.num_key_value_heads,
        width=theirs.hidden_size,
        hidden=theirs.intermediate_size,
        context=theirs.max_position_embeddings,
        rotary_base=rope["rope_theta"],
        norm_eps=theirs.rms_norm_eps,
        dropout=theirs.attention_dropout,
        tie_embeddings=theirs.tie_word_embeddings,
    )
    return config, theirs.vocab_size


def _bert(model: Any) -> tuple[Any, Kind]:
    import transformers

    own: BertConfig = model.config
    wrong = {"model.norm_place = 'pre'": own.norm_place == "pre", "model.residual": own.residual != "plain"}
    _require("BERT", wrong)
    kind = "bert" if model.embeddings.map is None else "albert"
    sizes: dict[str, Any] = (
        {} if kind == "bert" else {"embedding_size": own.embedding_size, "num_hidden_groups": own.num_layers}
    )
    if model.head is not None:
        sizes["num_labels"] = len(model.head.classifier.bias)
        sizes["classifier_dropout_prob" if kind == "albert" else "classifier_dropout"] = own.dropout
    name = kind.capitalize()
    config = getattr(transformers, f"{name}Config")(
        vocab_size=len(model.embeddings.tokens.weight),
        max_position_embeddings=own.context,
        hidden_size=own.width,
        intermediate_size=4 * own.width,
        num_hidden_layers=own.num_layers,
        num_attention_heads=own.num_heads,
        type_vocab_size=max(1, own.token_types),
        hidden_act="gelu",
        hidden_dropout_prob=own.dropout,
        attention_probs_dropout_prob=own.dropout,
        **dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"), None),
        **sizes,
    )
    head = "ForMaskedLM" if model.head is None else "ForSequenceClassification"
    return getattr(transformers, name + head)(config), KINDS[kind]


def _read_bert(model: Any) -> tuple[BlocksConfig, Any]:
    theirs = model.config
    groups = getattr(theirs, "num_hidden_groups", theirs.num_hidden_layers)
    wrong = {
        f"hidden_act = {theirs.hidden_act!r} (ours is 'gelu')": theirs.hidden_act != "gelu",
        f"intermediate_size = {theirs.intermediate_size}": theirs.intermediate_size != 4 * theirs.hidden_size,
        f"num_hidden_groups = {groups} of {theirs.num_hidden_layers} layers": groups != theirs.num_hidden_layers,
        "inner_group_num": getattr(theirs, "inner_group_num", 1) != 1,
        "the map of embeddings of the model's own width": getattr(theirs, "embedding_size", 0) == theirs.hidden_size,
    }
    _require("bert", wrong)
    config = BertConfig(
        num_layers=theirs.num_hidden_layers,
        num_heads=theirs.num_attention_heads,
        width=theirs.hidden_size,
        embedding_size=getattr(theirs, "embedding_size", 0),
        context=theirs.max_position_embeddings,
        token_types=theirs.type_vocab_size,
        dropout=theirs.hidden_dropout_prob,
    )
    classifies = hasattr(model, "classifier")
    return config, (theirs.vocab_size, theirs.num_labels if classifies else 0)


def _vit(model: Any) -> tuple[Any, Kind]:
    from transformers import ViTConfig as Config
    from transformers import ViTForImageClassification

    own: ViTConfig = model.config
    _require("ViTForImageClassification", {"model.pooling = 'mean'": own.pooling == "mean"})
    labels: dict[str, Any] = {"num_labels": model.size.num_classes}
    config = Config(
        image_size=(model.size.height, model.size.width),
        patch_size=own.patch,
        num_channels=model.size.channels,
        hidden_size=own.width,
        intermediate_size=4 * own.width,
        num_hidden_layers=own.num_layers,
        num_attention_heads=own.num_heads,
        hidden_act="gelu",
        layer_norm_eps=model.ln_f.eps,
        hidden_dropout_prob=own.dropout,
        attention_probs_dropout_prob=own.dropout,
        **labels,
    )
    return ViTForImageClassification(config), KINDS["vit"]


def _read_vit(model: Any) -> tuple[BlocksConfig, Any]:
    theirs = model.config
    (height, width), patch = _pair(theirs.image_size), _pair(theirs.patch_size)
    wrong = {
        f"hidden_act = {theirs.hidden_act!r} (ours is 'gelu')": theirs.hidden_act != "gelu",
        f"intermediate_size = {theirs.intermediate_size}": theirs.intermediate_size != 4 * theirs.hidden_size,
        f"layer_norm_eps = {theirs.layer_norm_eps} (ours is 1e-05)": theirs.layer_norm_eps != 1e-5,
        "qkv_bias = False": not theirs.qkv_bias,
        f"patch_size = {theirs.patch_size}": len(set(patch)) > 1,
        f"image_size = {theirs.image_size}, which patches do not fill": bool(height % patch[0] or width % patch[0]),
        "a missing classifier": not isinstance(getattr(model, "classifier", None), nn.Linear),
    }
    _require("vit", wrong)
    config = ViTConfig(
        num_layers=theirs.num_hidden_layers,
        num_heads=theirs.num_attention_heads,
        width=theirs.hidden_size,
        patch=patch[0],
        dropout=theirs.hidden_dropout_prob,
    )
    return config, ImageSize(theirs.num_channels, height, width, theirs.num_labels)


def _pair(side: Any) -> tuple[int, int]:
    return (side, side) if isinstance(side, int) else (side[0], side[1])


_CONVERTERS: dict[type, Callable[[Any], tuple[Any, Kind]]] = {
    GPTConfig: _gpt2,
    LlamaConfig: _llama,
    BertConfig: _bert,
    ViTConfig: _vit,
}
_READERS: dict[str, Callable[[Any], tuple[BlocksConfig, Any]]] = {
    "gpt2": _read_gpt2,
    "llama": _read_llama,
    "bert": _read_bert,
    "albert": _read_bert,
    "vit": _read_vit,
}
