"""Tiny random models of many families, in float64, with their stacks of blocks and a loss: the table of the tests."""

import functools
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

LAYERS, WIDTH, VOCAB, TOKENS = 4, 16, 19, 6


class Family(NamedTuple):
    """One model and one of its stacks.

    Attributes:
        model: In float64, in training mode without dropout.
        blocks: The layers of one stack.
        loss: Of a fixed batch.
    """

    model: nn.Module
    blocks: list[nn.Module]
    loss: Callable[[nn.Module], Tensor]


def _build(auto: str, model_type: str, blocks: str, loss: Callable[[nn.Module], Tensor], **fields: Any) -> Family:
    import transformers

    ends = {"bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1, "sep_token_id": 2}
    config = transformers.AutoConfig.for_model(model_type, **ends, **fields)
    config._attn_implementation = config._experts_implementation = "eager"
    torch.manual_seed(0)
    kind = getattr(transformers, auto)
    model = kind.from_config(config) if auto.startswith("Auto") else kind(config)
    return _perturbed(model, blocks, loss)


def _perturbed(model: nn.Module, blocks: str, loss: Callable[[nn.Module], Tensor]) -> Family:
    """Move every parameter off its initial value, so that equal initial values (norms, biases) hide nothing."""
    model = model.double().train()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return Family(model, list(model.get_submodule(blocks)), loss)  # type: ignore[arg-type]


def _tokens() -> Tensor:
    return torch.randint(3, VOCAB, (2, TOKENS), generator=torch.Generator().manual_seed(0))


def _lm(model: nn.Module) -> Tensor:
    tokens = _tokens()
    return model(input_ids=tokens, labels=tokens, use_cache=False).loss


def _masked(model: nn.Module) -> Tensor:
    tokens = _tokens()
    return model(input_ids=tokens, labels=tokens).loss


def _hidden(model: nn.Module) -> Tensor:
    return model(input_ids=_tokens()).last_hidden_state.square().mean()


def _seq2seq(model: nn.Module) -> Tensor:
    tokens = _tokens()
    return model(input_ids=tokens, labels=tokens, use_cache=False).loss


def _image(size: int) -> Callable[[nn.Module], Tensor]:
    pixels = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return lambda model: model(pixel_values=pixels).last_hidden_state.square().mean()


def _speech(model: nn.Module) -> Tensor:
    features = torch.randn(2, 4, 10, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return model(input_features=features, labels=_tokens(), use_cache=False).loss


def _wave(model: nn.Module) -> Tensor:
    wave = torch.randn(2, 40, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return model(input_values=wave).last_hidden_state.square().mean()


_SIZES = {"hidden_size": WIDTH, "num_hidden_layers": LAYERS, "num_attention_heads": 2, "vocab_size": VOCAB}
_WIDE = {**_SIZES, "intermediate_size": 2 * WIDTH}
_MODERN = {**_WIDE, "num_key_value_heads": 2, "head_dim": 8, "pad_token_id": 0, "max_position_embeddings": 32}
_NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
_ENCODER = {**_WIDE, **_NO_DROPOUT, "max_position_embeddings": 32, "pad_token_id": 0}
_VISION = {**_WIDE, **_NO_DROPOUT, "image_size": 8, "patch_size": 4}

_TABLE: dict[str, tuple[str, str, str, Callable[[nn.Module], Tensor], dict[str, Any]]] = {
    "gpt2": (
        "AutoModelForCausalLM",
        "gpt2",
        "transformer.h",
        _lm,
        {"n_embd": WIDTH, "n_layer": LAYERS, "n_head": 2, "vocab_size": VOCAB, "n_positions": 32}
        | {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0},
    ),
    **{
        name: ("AutoModelForCausalLM", name, "model.layers", _lm, _MODERN)
        for name in ("llama", "qwen2", "qwen3", "mistral", "gemma2", "phi3", "olmo2")
    },
    "mixtral": (
        "AutoModelForCausalLM",
        "mixtral",
        "model.layers",
        _lm,
        {**_MODERN, "num_local_experts": 2, "num_experts_per_tok": 2},
    ),
    "gpt_neox": ("AutoModelForCausalLM", "gpt_neox", "gpt_neox.layers", _lm, {**_WIDE, "max_position_embeddings": 32}),
    "opt": (
        "AutoModelForCausalLM",
        "opt",
        "model.decoder.layers",
        _lm,
        {**_SIZES, "ffn_dim": 32, "word_embed_proj_dim": WIDTH, "max_position_embeddings": 32, "dropout": 0.0},
    ),
    "bloom": (
        "AutoModelForCausalLM",
        "bloom",
        "transformer.h",
        _lm,
        {"hidden_size": WIDTH, "n_layer": LAYERS, "n_head": 2, "vocab_size": VOCAB},
    ),
    "falcon": ("AutoModelForCausalLM", "falcon", "transformer.h", _lm, {**_SIZES, "new_decoder_architecture": True}),
    "mamba": ("AutoModelForCausalLM", "mamba", "backbone.layers", _lm, {**_SIZES, "state_size": 4}),
    "rwkv": (
        "AutoModelForCausalLM",
        "rwkv",
        "rwkv.blocks",
        _lm,
        {**_SIZES, "attention_hidden_size": WIDTH, "intermediate_size": 32, "context_length": 32},
    ),
    "deepseek_v3": (
        "AutoModelForCausalLM",
        "deepseek_v3",
        "model.layers",
        _lm,
        {**_WIDE, "num_key_value_heads": 2, "moe_intermediate_size": 8, "n_routed_experts": 4, "num_experts_per_tok": 2}
        | {"n_group": 1, "topk_group": 1, "first_k_dense_replace": 1, "kv_lora_rank": 8, "q_lora_rank": 8}
        | {"qk_rope_head_dim": 4, "qk_nope_head_dim": 4, "v_head_dim": 8, "n_shared_experts": 1},
    ),
    "jamba": (
        "AutoModelForCausalLM",
        "jamba",
        "model.layers",
        _lm,
        {**_WIDE, "num_key_value_heads": 2, "attn_layer_period": 2, "attn_layer_offset": 1, "num_experts": 1}
        | {"expert_layer_period": 2, "expert_layer_offset": 1, "num_experts_per_tok": 1, "mamba_d_state": 4}
        | {"use_mamba_kernels": False, "pad_token_id": 0},
    ),
    "bert": ("AutoModelForMaskedLM", "bert", "bert.encoder.layer", _masked, _ENCODER),
    "roberta": ("AutoModelForMaskedLM", "roberta", "roberta.encoder.layer", _masked, _ENCODER),
    "electra": ("AutoModelForMaskedLM", "electra", "electra.encoder.layer", _masked, {**_ENCODER, "embedding_size": 8}),
    "deberta-v2": (
        "AutoModelForMaskedLM",
        "deberta-v2",
        "deberta.encoder.layer",
        _masked,
        {**_ENCODER, "relative_attention": True, "pos_att_type": ["c2p", "p2c"], "position_buckets": 4},
    ),
    "distilbert": (
        "AutoModelForMaskedLM",
        "distilbert",
        "distilbert.transformer.layer",
        _masked,
        {"dim": WIDTH, "n_layers": LAYERS, "n_heads": 2, "hidden_dim": 32, "vocab_size": VOCAB, "dropout": 0.0}
        | {"attention_dropout": 0.0, "max_position_embeddings": 32},
    ),
    "albert": (
        "AutoModelForMaskedLM",
        "albert",
        "albert.encoder.albert_layer_groups",
        _masked,
        {**_ENCODER, "embedding_size": 8, "num_hidden_groups": LAYERS},
    ),
    "modernbert": (
        "AutoModelForMaskedLM",
        "modernbert",
        "model.layers",
        _masked,
        {**_WIDE, "pad_token_id": 0, "max_position_embeddings": 32, "local_attention": 4, "global_attn_every_n_layers": 2}
        | {"reference_compile": False},
    ),
    **{
        f"{name} {stack}": (
            "AutoModelForSeq2SeqLM",
            name,
            f"{stack}.block",
            _seq2seq,
            {"d_model": WIDTH, "d_kv": 8, "d_ff": 32, "num_layers": LAYERS, "num_heads": 2, "vocab_size": VOCAB}
            | {"dropout_rate": 0.0, "decoder_start_token_id": 0, "pad_token_id": 0},
        )
        for name in ("t5", "mt5")
        for stack in ("encoder", "decoder")
    },
    **{
        f"bart {stack}": (
            "AutoModelForSeq2SeqLM",
            "bart",
            f"model.{stack}.layers",
            _seq2seq,
            {"d_model": WIDTH, "encoder_layers": LAYERS, "decoder_layers": LAYERS, "encoder_attention_heads": 2}
            | {"decoder_attention_heads": 2, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "vocab_size": VOCAB}
            | {"max_position_embeddings": 32, "dropout": 0.0, "pad_token_id": 0, "decoder_start_token_id": 1},
        )
        for stack in ("encoder", "decoder")
    },
    **{
        name: (
            "AutoModel",
            name,
            "layers",
            _image(8),
            {**_VISION, "layer_scale_init_value": 0.5, "use_mean_pooling": False, "drop_path_rate": 0.0},
        )
        for name in ("vit", "deit", "beit")
    },
    "dinov2": ("AutoModel", "dinov2", "encoder.layer", _image(8), {**_VISION, "mlp_ratio": 2}),
    **{
        f"swin stage {stage}": (
            "AutoModel",
            "swin",
            f"encoder.layers.{stage}.blocks",
            _image(16),
            {"image_size": 16, "patch_size": 2, "embed_dim": 8, "depths": [2, 2], "num_heads": [2, 2], "window_size": 2}
            | {**_NO_DROPOUT, "drop_path_rate": 0.0},
        )
        for stage in (0, 1)
    },
    **{
        f"whisper {stack}": (
            "WhisperForConditionalGeneration",
            "whisper",
            f"model.{stack}.layers",
            _speech,
            {"d_model": WIDTH, "encoder_layers": LAYERS, "decoder_layers": LAYERS, "encoder_attention_heads": 2}
            | {"decoder_attention_heads": 2, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "num_mel_bins": 4}
            | {"max_source_positions": 5, "max_target_positions": 32, "vocab_size": VOCAB, "pad_token_id": 0}
            | {"decoder_start_token_id": 1, "dropout": 0.0},
        )
        for stack in ("encoder", "decoder")
    },
    "wav2vec2": (
        "AutoModel",
        "wav2vec2",
        "encoder.layers",
        _wave,
        {**_WIDE, "conv_dim": [8], "conv_kernel": [4], "conv_stride": [4], "num_conv_pos_embeddings": 4}
        | {"num_conv_pos_embedding_groups": 2, "mask_time_prob": 0.0, "hidden_dropout": 0.0, "attention_dropout": 0.0}
        | {"activation_dropout": 0.0, "feat_proj_dropout": 0.0, "layerdrop": 0.0, "num_feat_extract_layers": 1},
    ),
    "clip text": (
        "CLIPTextModel",
        "clip_text_model",
        "encoder.layers",
        _hidden,
        {**_WIDE, "max_position_embeddings": 32},
    ),
    "clip vision": (
        "CLIPVisionModel",
        "clip_vision_model",
        "encoder.layers",
        _image(8),
        {**_WIDE, "image_size": 8, "patch_size": 4},
    ),
}


def _torch_stack(layer: type[nn.Module]) -> Family:
    torch.manual_seed(0)
    blocks = nn.ModuleList(layer(WIDTH, 2, 2 * WIDTH, dropout=0.0, batch_first=True) for _ in range(LAYERS))
    hidden = torch.randn(2, TOKENS, WIDTH, dtype=torch.float64)

    def loss(model: nn.Module) -> Tensor:
        output = hidden
        for block in model.children():
            output = block(output) if layer is nn.TransformerEncoderLayer else block(output, hidden)
        return output.sin().square().mean()

    return _perturbed(blocks, "", loss)


def _x_transformers(first: int) -> Family:
    with warnings.catch_warnings():
        # It calls torch.jit.script, which torch deprecates, while it is imported.
        warnings.simplefilter("ignore", DeprecationWarning)
        import x_transformers

    torch.manual_seed(0)
    layers = x_transformers.Decoder(dim=WIDTH, depth=LAYERS, heads=2, attn_dim_head=8)
    model = x_transformers.TransformerWrapper(num_tokens=VOCAB, max_seq_len=TOKENS, attn_layers=layers)
    made = _perturbed(model, "attn_layers.layers", lambda model: model(_tokens()).logsumexp(-1).square().mean())
    return made._replace(blocks=made.blocks[first::2])


FAMILIES: dict[str, Callable[[], Family]] = {
    **{
        name: functools.partial(_build, auto, model_type, blocks, loss, **fields)
        for name, (auto, model_type, blocks, loss, fields) in _TABLE.items()
    },
    "nn.TransformerEncoderLayer": functools.partial(_torch_stack, nn.TransformerEncoderLayer),
    "nn.TransformerDecoderLayer": functools.partial(_torch_stack, nn.TransformerDecoderLayer),
    "x-transformers attention": functools.partial(_x_transformers, 0),
    "x-transformers feed-forward": functools.partial(_x_transformers, 1),
}
