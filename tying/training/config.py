"""The settings of training, kept apart from the code that they set up: reading them needs no torch."""

from typing import Literal

from tying.config import config, setting
from tying.errors import InputError


@config
class TrainerConfig:
    """How long, on what and with what the model is trained."""

    iterations: int = setting("length of the run [iterations, >= 1]", default=1000, ge=1)
    batch_size: int = setting("sequences per iteration B [sequences, >= 1]", default=16, ge=1)
    micro_batches: int = setting("parts that a batch is run in, must divide the batch size [parts, >= 1]", default=1, ge=1)
    device: Literal["auto", "cpu", "cuda", "mps"] = setting(
        "where to train; auto takes cuda, then mps, then cpu", default="auto"
    )
    precision: Literal["fp32", "tf32", "bf16"] = setting(
        "of matrix products: tf32 rounds float32 to 19 bits (cuda alone), bf16 is bfloat16; weights stay float32",
        default="fp32",
    )
    compile: bool = setting("compile the blocks (one graph serves all layers and survives rebinding)", default=False)
    recompute: bool = setting("keep only block inputs for the backward pass and recompute the rest", default=False)

    chunked_loss: bool = setting(
        "cross-entropy in chunks: faster on CPUs, less memory; the last bits of losses differ (models of tying.models)",
        default=False,
    )

    def __post_init__(self) -> None:
        if self.batch_size % self.micro_batches:
            raise InputError(
                f"trainer.micro_batches = {self.micro_batches}: must divide trainer.batch_size = {self.batch_size}"
            )


@config
class OptimConfig:
    """AdamW with linear warm-up and cosine decay."""

    learning_rate: float = setting(
        "peak learning rate, right for widths near 128 [per step, > 0 to 10]", default=2e-3, gt=0, le=10
    )
    final_rate: float = setting("learning rate at the end, as a share of the peak [0 to 1]", default=0.1, ge=0, le=1)
    warmup_iterations: int = setting(
        "linear warm-up; at most a tenth of the run is used [iterations, >= 0]", default=100, ge=0
    )
    weight_decay: float = setting("decoupled weight decay of matrices, none for biases and norms [>= 0]", default=0.1, ge=0)
    beta1: float = setting("decay of the first moment [0 to below 1]", default=0.9, ge=0, lt=1)
    beta2: float = setting("decay of the second moment; 0.99 suits small batches [0 to below 1]", default=0.99, ge=0, lt=1)
    tied_rate: float = setting(
        "learning rate of weights that n layers use: divided by n to this power, 0 for the same rate [0 to 1]",
        default=0.0,
        ge=0,
        le=1,
    )
    clip_norm: float = setting("largest gradient norm, 0 for no clipping [>= 0]", default=1.0, ge=0)


@config
class BindingConfig:
    """What follows the pointers, and how gradients of tied layers add up."""

    share: str = setting(
        "block, attention, feed_forward, kv or map (with model.kv_sharing or model.attention_sharing tied: what makes keys "
        "and values, or maps), or name patterns joined by commas ('attn.*')",
        default="block",
    )
    norms: Literal["shared", "private"] = setting("private: norms stay with each layer even when tied", default="shared")
    gradient: Literal["sum", "mean", "root_only"] = setting(
        "sum over tied positions, its mean, or the root's own position alone (faster, not the true gradient)", default="sum"
    )
    untie_moments: Literal["copy", "zero"] = setting(
        "optimizer moments of a copy, made when a root leaves weights in use: its source's, or zero", default="copy"
    )
    delta_rank: int = setting(
        "rank of what each tied layer adds to its root's linear weights, 0 for nothing [>= 0]", default=0, ge=0
    )
    delta_start: Literal["svd", "zero"] = setting(
        "delta of a layer that joins others: the nearest to its own weights of before (svd), or zero", default="svd"
    )
