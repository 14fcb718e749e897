"""What the parts of our models are called in transformers."""

from collections.abc import Mapping
from typing import NamedTuple

Names = Mapping[
    str, str | tuple[str, ...]
]  # our modules and lone parameters to theirs; several are one matrix of ours, one under the other


class Kind(NamedTuple):
    """How a kind of model is named in transformers.

    Attributes:
        stack: Where its blocks are.
        block: What comes between the number of a block and a name in it.
        outer: Modules outside the blocks.
        inner: Modules of a block.
        transposed: Whether matrices in blocks are (in, out).
    """

    stack: str
    block: str
    outer: Names
    inner: Names
    transposed: bool = False


_QKV = ("query", "key", "value")
KINDS = {
    "gpt2": Kind(
        "transformer.h",
        "",
        {"wte": "transformer.wte", "wpe": "transformer.wpe", "ln_f": "transformer.ln_f", "head": "lm_head"},
        {
            **{name: name for name in ("ln_1", "ln_2")},
            **{"attn.qkv": "attn.c_attn", "attn.proj": "attn.c_proj", "mlp.up": "mlp.c_fc", "mlp.down": "mlp.c_proj"},
        },
        transposed=True,
    ),
    "llama": Kind(
        "model.layers",
        "",
        {"embedding": "model.embed_tokens", "norm": "model.norm", "head": "lm_head"},
        {
            **{"norm_1": "input_layernorm", "norm_2": "post_attention_layernorm"},
            **{"attn.qkv": tuple(f"self_attn.{part}_proj" for part in "qkv"), "attn.proj": "self_attn.o_proj"},
            **{f"mlp.{part}": f"mlp.{part}_proj" for part in ("gate", "up", "down")},
        },
    ),
    "bert": Kind(
        "bert.encoder.layer",
        "",
        {
            "embeddings.tokens": "bert.embeddings.word_embeddings",
            "embeddings.positions": "bert.embeddings.position_embeddings",
            "embeddings.types": "bert.embeddings.token_type_embeddings",
            "embeddings.norm": "bert.embeddings.LayerNorm",
            "lm_head": "cls.predictions",
            "lm_head.dense": "cls.predictions.transform.dense",
            "lm_head.norm": "cls.predictions.transform.LayerNorm",
            "head.pooler": "bert.pooler.dense",
            "head.classifier": "classifier",
        },
        {
            "attn.qkv": tuple(f"attention.self.{part}" for part in _QKV),
            "attn.proj": "attention.output.dense",
            "ln_1": "attention.output.LayerNorm",
            "mlp.up": "intermediate.dense",
            "mlp.down": "output.dense",
            "ln_2": "output.LayerNorm",
        },
    ),
    "albert": Kind(
        "albert.encoder.albert_layer_groups",
        "albert_layers.0.",
        {
            "embeddings.tokens": "albert.embeddings.word_embeddings",
            "embeddings.positions": "albert.embeddings.position_embeddings",
            "embeddings.types": "albert.embeddings.token_type_embeddings",
            "embeddings.norm": "albert.embeddings.LayerNorm",
            "embeddings.map": "albert.encoder.embedding_hidden_mapping_in",
            "lm_head": "predictions",
            "lm_head.dense": "predictions.dense",
            "lm_head.norm": "predictions.LayerNorm",
            "head.pooler": "albert.pooler",
            "head.classifier": "classifier",
        },
        {
            "attn.qkv": tuple(f"attention.{part}" for part in _QKV),
            "attn.proj": "attention.dense",
            "ln_1": "attention.LayerNorm",
            "mlp.up": "ffn",
            "mlp.down": "ffn_output",
            "ln_2": "full_layer_layer_norm",
        },
    ),
    "vit": Kind(
        "vit.layers",
        "",
        {
            "patches": "vit.embeddings.patch_embeddings.projection",
            "class_token": "vit.embeddings.cls_token",
            "positions": "vit.embeddings.position_embeddings",
            "ln_f": "vit.layernorm",
            "head": "classifier",
        },
        {
            "ln_1": "layernorm_before",
            "attn.qkv": tuple(f"attention.{part}_proj" for part in "qkv"),
            "attn.proj": "attention.o_proj",
            "ln_2": "layernorm_after",
            "mlp.up": "mlp.fc1",
            "mlp.down": "mlp.fc2",
        },
    ),
}
