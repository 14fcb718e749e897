"""The settings of models, kept apart from the models: reading them needs no torch."""

from pathlib import Path
from typing import Annotated, ClassVar, Literal

from tying.config import config, one_of, setting
from tying.errors import InputError
from tying.models.base_config import BlocksConfig, DecoderConfig, ModelConfig
from tying.pointers import Pointers

__all__ = [
    "RESIDUALS",
    "BertConfig",
    "BlocksConfig",
    "DecoderConfig",
    "GPTConfig",
    "LlamaConfig",
    "ModelConfig",
    "ViTConfig",
]

# How parts of a block join the residual stream (`tying.models.parts.residual`), and where the norms have to be for it.
RESIDUALS = {"plain": None, "looped": "pre", "admin": "post", "deepnet": "post", "b2t": "post"}
_RESIDUAL = (
    "how parts of a block are added to the residual stream: plain; looped (norms before), scaled by how many positions "
    "share; admin, deepnet, b2t (norms behind), for deep stacks"
)


@config
class GPTConfig(DecoderConfig):
    """The shape of a GPT."""

    name: Literal["gpt"] = setting("architecture: gpt, or package.module:Class", default="gpt")
    bias: bool = setting("biases in linear layers and norms, as in GPT-2", default=True)
    tie_embeddings: bool = setting("input and output embeddings share (not the tying of layers)", default=True)
    positions: Literal["learned", "rotary", "alibi"] = setting(
        "a learned table, or rotations or linear biases inside attention: sooner beyond bigrams", default="learned"
    )
    qk_norm: bool = setting("norm queries and keys per head", default=False)
    norm_place: Literal["pre", "post"] = setting("norms before each part of a block, or behind it", default="pre")
    residual: Annotated[str, one_of(lambda: RESIDUALS)] = setting(_RESIDUAL, default="plain")
    depth_embedding: Literal["none", "sinusoid", "learned"] = setting(
        "vector added to the input of each block, which tells tied layers where they are", default="none"
    )
    halting: Literal["none", "act"] = setting(
        "act: tokens halt at a step of their own; one group of layers is repeated then (all_tied, cycle:M)", default="none"
    )
    halting_cost: float = setting("weight of mean(steps + remainder) in the training loss [>= 0]", default=0.01, ge=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        require_heads(self.width, self.num_heads, rotary=self.positions == "rotary")
        require_norm_place(self.residual, self.norm_place)
        sharing = super().bound_to_stack
        if self.halting != "none" and sharing:
            raise InputError(f"model.halting = {self.halting!r} and {sharing[0]} exclude each other")

    def check_tying(self, pointers: Pointers | None, share: str = "block") -> None:
        """See BlocksConfig.check_tying; tokens that halt need one group of layers that is repeated."""
        if self.halting == "none":
            return
        where = f"model.halting = {self.halting!r}"
        if share != "block":
            raise InputError(f"{where}: binding.share = {share!r} ties parts of layers, and whole ones are repeated")
        if pointers is None:
            way = "--agent all_tied or cycle:M, or --env.freeze-after 0 --env.initial-pointers all_tied"
            raise InputError(f"{where}: pointers must not move: {way}")
        size = pointers.num_unique
        repeated = len(pointers) % size == 0 and all(root == layer % size for layer, root in enumerate(pointers))
        if not repeated or 1 < size == len(pointers):
            raise InputError(f"{where}: pointers '{pointers}' repeat no group of layers, as all_tied and cycle:M do")

    @property
    def bound_to_stack(self) -> tuple[str, ...]:
        """See BlocksConfig.bound_to_stack."""
        others = [f"model.depth_embedding = {self.depth_embedding!r}"] if self.depth_embedding == "sinusoid" else []
        others += [f"model.halting = {self.halting!r}"] if self.halting != "none" else []
        return (*super().bound_to_stack, *_bound_residual(self.residual), *others)


@config
class LlamaConfig(DecoderConfig):
    """The shape of a Llama."""

    name: Literal["llama"] = setting("architecture: llama, or package.module:Class", default="llama")
    num_kv_heads: int = setting("heads of keys and values, must divide num_heads [heads, >= 1]", default=2, ge=1)
    hidden: int = setting(
        "inner width of the feed-forward part; 0: 8/3 of the width, rounded up to a multiple of 16 [features, >= 0]",
        default=0,
        ge=0,
    )
    norm_eps: float = setting("added to the mean square in norms [> 0]", default=1e-6, gt=0)
    rotary_base: float = setting(
        "positions: the slowest pair turns a radian in about so many tokens [above 1]", default=1e4, gt=1
    )
    tie_embeddings: bool = setting("input and output embeddings share (not the tying of layers)", default=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        require_heads(self.width, self.num_heads, rotary=True)
        if self.num_heads % self.num_kv_heads:
            raise InputError(f"model.num_kv_heads = {self.num_kv_heads}: must divide model.num_heads = {self.num_heads}")

    @property
    def feed_forward_width(self) -> int:
        """`hidden`, or what 0 stands for."""
        return self.hidden or -(-8 * self.width // 48) * 16


@config
class BertConfig(ModelConfig):
    """The shape of a BERT, or with a small `embedding_size` of an ALBERT."""

    name: Literal["bert"] = setting("architecture: bert, or package.module:Class", default="bert")
    num_heads: int = setting("attention heads per block, must divide the width [heads, >= 1]", default=4, ge=1)
    width: int = setting("size C of the residual stream [features, >= 1]", default=128, ge=1)
    embedding_size: int = setting(
        "size E of embeddings, mapped to the width as in ALBERT; 0: the width, without a map [features, >= 0]",
        default=0,
        ge=0,
    )
    norm_place: Literal["post", "pre"] = setting(
        "norms behind each part of a block, as in BERT, or before it", default="post"
    )
    residual: Annotated[str, one_of(lambda: RESIDUALS)] = setting(_RESIDUAL, default="plain")
    token_types: int = setting(
        "rows of a table of token types, of which the first is used (BERT: 2) [>= 0]", default=0, ge=0
    )
    dropout: float = setting("share of activations dropped while training [0 to below 1]", default=0.0, ge=0, lt=1)

    init_from: str | None = setting(
        "finished run of masked_lm to fine-tune: its weights and its tokenizer (task sequence_classification)", default=None
    )

    tasks: ClassVar[tuple[str, ...]] = ("masked_lm", "sequence_classification")

    def __post_init__(self) -> None:
        require_heads(self.width, self.num_heads)
        require_norm_place(self.residual, self.norm_place)

    @property
    def bound_to_stack(self) -> tuple[str, ...]:
        """See BlocksConfig.bound_to_stack."""
        return tuple(_bound_residual(self.residual))

    def require(self) -> None:
        """See BlocksConfig.require."""
        if self.init_from is not None and not self.initial_tokenizer.is_file():
            raise InputError(
                f"model.init_from = {self.init_from!r}: no folder of a run, which has {self.initial_tokenizer.name}"
            )

    @property
    def initial_tokenizer(self) -> Path:
        """The tokenizer of `init_from`."""
        return Path(self.init_from or "").expanduser() / "tokenizer.json"


@config
class ViTConfig(BlocksConfig):
    """The shape of a vision transformer."""

    name: Literal["vit"] = setting("architecture: vit, or package.module:Class", default="vit")
    num_heads: int = setting("attention heads per block, must divide the width [heads, >= 1]", default=4, ge=1)
    width: int = setting("size C of the residual stream [features, >= 1]", default=64, ge=1)
    patch: int = setting("side of a patch, must divide the image's sides [pixels, >= 1]", default=2, ge=1)
    pooling: Literal["class", "mean"] = setting(
        "what is classified: a class token, or the mean of the patches", default="class"
    )
    dropout: float = setting("share of activations dropped while training [0 to below 1]", default=0.0, ge=0, lt=1)

    tasks: ClassVar[tuple[str, ...]] = ("image_classification",)

    def __post_init__(self) -> None:
        require_heads(self.width, self.num_heads)


def _bound_residual(residual: str) -> list[str]:
    return [f"model.residual = {residual!r}"] if residual in ("looped", "deepnet") else []


def require_norm_place(residual: str, norm_place: str) -> None:
    """Check that norms are where a kind of residual has them.

    Raises:
        InputError: If they are not.
    """
    wanted = RESIDUALS[residual]
    if wanted not in (None, norm_place):
        raise InputError(f"model.norm_place = {norm_place!r}: model.residual = {residual!r} needs {wanted!r}")


def require_heads(width: int, num_heads: int, rotary: bool = False) -> None:
    """Check that heads divide a width, into an even number of features where pairs of them are rotated.

    Raises:
        InputError: If they do not.
    """
    if width % num_heads:
        raise InputError(f"model.num_heads = {num_heads}: must divide model.width = {width}")
    if rotary and width // num_heads % 2:
        raise InputError(
            f"model.num_heads = {num_heads}: rotary positions need an even number of features per head, "
            f"model.width = {width} gives {width // num_heads}"
        )
