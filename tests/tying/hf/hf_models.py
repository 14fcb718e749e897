"""Tiny models of every family that is tested, 4 layers wide 32, with all parameters perturbed."""

from typing import Any

import torch
import transformers as tf
from torch import Tensor

VOCAB = 99
# What most configurations call their sizes.
USUAL = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 64, "vocab_size": VOCAB}
TOKENS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
GROUPED = {**USUAL, "num_key_value_heads": 2}
PICTURE = {**USUAL, "image_size": 16, "patch_size": 8}
EXPERTS = {**GROUPED, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
T5 = {
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 64,
    "num_layers": 4,
    "num_heads": 4,
    "vocab_size": VOCAB,
    "decoder_start_token_id": 0,
}
BART = {
    "d_model": 32,
    "encoder_layers": 4,
    "decoder_layers": 4,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "vocab_size": VOCAB,
    "max_position_embeddings": 64,
    **TOKENS,
    "decoder_start_token_id": 2,
    "forced_eos_token_id": None,
}

CAUSAL: dict[str, dict[str, Any]] = {
    "gpt2": {"n_embd": 32, "n_layer": 4, "n_head": 4, "vocab_size": VOCAB},
    "llama": GROUPED,
    "qwen2": GROUPED,
    "qwen3": {**GROUPED, "head_dim": 8},
    "mistral": {**GROUPED, "sliding_window": 6},
    "gemma2": {**GROUPED, "head_dim": 8},
    "gemma3_text": {**GROUPED, "head_dim": 8},
    "phi3": GROUPED,
    "olmo2": GROUPED,
    "mixtral": {**GROUPED, "num_local_experts": 4},
    "qwen2_moe": {**EXPERTS, "num_experts": 4, "shared_expert_intermediate_size": 16},
    "gpt_oss": {**GROUPED, "head_dim": 8, "num_local_experts": 4},
    "deepseek_v3": {
        **USUAL,
        "num_key_value_heads": 4,
        "moe_intermediate_size": 16,
        "n_routed_experts": 4,
        "num_experts_per_tok": 2,
        "n_group": 1,
        "topk_group": 1,
        "first_k_dense_replace": 1,
        "kv_lora_rank": 8,
        "q_lora_rank": 8,
        "qk_rope_head_dim": 8,
        "qk_nope_head_dim": 8,
        "v_head_dim": 8,
    },
    "jamba": {
        **GROUPED,
        "mamba_dt_rank": 4,
        "num_experts": 2,
        "attn_layer_period": 2,
        "attn_layer_offset": 1,
        "expert_layer_period": 1,
        "expert_layer_offset": 0,
    },
    "gpt_neox": USUAL,
    "gptj": {"n_embd": 32, "n_layer": 4, "n_head": 4, "rotary_dim": 4, "vocab_size": VOCAB},
    "opt": {
        "hidden_size": 32,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "ffn_dim": 64,
        "vocab_size": VOCAB,
        "word_embed_proj_dim": 32,
    },
    "falcon": USUAL,
    "bloom": {"hidden_size": 32, "n_layer": 4, "n_head": 4, "vocab_size": VOCAB},
    "gpt_neo": {
        "hidden_size": 32,
        "num_layers": 4,
        "num_heads": 4,
        "vocab_size": VOCAB,
        "attention_types": [[["global", "local"], 2]],
        "window_size": 4,
    },
    "mamba": {"hidden_size": 32, "num_hidden_layers": 4, "vocab_size": VOCAB},
    "mamba2": {"hidden_size": 32, "num_hidden_layers": 4, "num_heads": 8, "head_dim": 8, "vocab_size": VOCAB},
    "rwkv": {
        "hidden_size": 32,
        "num_hidden_layers": 4,
        "attention_hidden_size": 32,
        "vocab_size": VOCAB,
        "context_length": 16,
    },
}
MASKED: dict[str, dict[str, Any]] = {
    "bert": USUAL,
    "roberta": {**USUAL, "max_position_embeddings": 64},
    "electra": {**USUAL, "embedding_size": 32},
    "layoutlm": USUAL,
    "deberta-v2": {**USUAL, "relative_attention": True, "pos_att_type": ["p2c", "c2p"]},
    "distilbert": {"dim": 32, "n_layers": 4, "n_heads": 4, "hidden_dim": 64, "vocab_size": VOCAB},
    "modernbert": {**USUAL, "pad_token_id": 0},
    "albert": {**USUAL, "embedding_size": 16, "num_hidden_groups": 4},
}
SEQUENCES: dict[str, dict[str, Any]] = {
    "t5": T5,
    "mt5": T5,
    "bart": BART,
    "marian": BART,
}
PICTURES: dict[str, dict[str, Any]] = {
    "vit": PICTURE,
    "deit": PICTURE,
    "beit": PICTURE,
    "dinov2": {**PICTURE, "mlp_ratio": 2},
    "swin": {"embed_dim": 16, "depths": [2, 4], "num_heads": [2, 2], "image_size": 32, "patch_size": 4, "window_size": 2},
}


def build(family: str, seed: int = 0) -> tf.PreTrainedModel:
    """Return a tiny model of a family, in evaluation mode."""
    torch.manual_seed(seed)
    for table, auto in (
        (CAUSAL, tf.AutoModelForCausalLM),
        (MASKED, tf.AutoModelForMaskedLM),
        (SEQUENCES, tf.AutoModelForSeq2SeqLM),
        (PICTURES, tf.AutoModel),
    ):
        if family in table:
            extra = TOKENS if table is CAUSAL else {}
            model = auto.from_config(tf.AutoConfig.for_model(family, **{**extra, **table[family]}))
            break
    else:
        model = _others(family)
    with torch.no_grad():
        for parameter in model.parameters():
            # Marian's positions do not train, and are made anew instead of saved.
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.02)
    return model.eval()


def _others(family: str) -> tf.PreTrainedModel:
    if family == "whisper":
        sizes = {**BART, "num_mel_bins": 8, "max_source_positions": 8, "max_target_positions": 32}
        sizes.pop("max_position_embeddings")
        return tf.WhisperForConditionalGeneration(
            tf.WhisperConfig(**sizes, suppress_tokens=None, begin_suppress_tokens=None)
        )
    if family == "wav2vec2":
        convolutions = {"conv_dim": [8, 8], "conv_kernel": [4, 4], "conv_stride": [2, 2], "num_feat_extract_layers": 2}
        return tf.Wav2Vec2Model(
            tf.Wav2Vec2Config(**USUAL, **convolutions, num_conv_pos_embeddings=4, num_conv_pos_embedding_groups=2)
        )
    assert family == "clip"
    text, vision = {**USUAL, **TOKENS}, {name: value for name, value in PICTURE.items() if name != "vocab_size"}
    return tf.CLIPModel(tf.CLIPConfig(text_config=text, vision_config=vision, projection_dim=16))


FAMILIES = (*CAUSAL, *MASKED, *SEQUENCES, "whisper", *PICTURES, "wav2vec2", "clip")


def tokens(seed: int = 0) -> Tensor:
    """Return token ids, (2, 8)."""
    return torch.randint(3, VOCAB, (2, 8), generator=torch.Generator().manual_seed(seed))
