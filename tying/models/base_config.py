"""The settings that models have in common: all of them, those of tokens, and decoders."""

from collections.abc import Collection, Mapping
from typing import ClassVar, Literal

from tying.config import config, setting
from tying.errors import InputError
from tying.models import activation_sharing
from tying.pointers import Pointers


@config
class BlocksConfig:
    """The settings that every model has; architectures add their own fields.

    Attributes:
        tasks: The only tasks that train it; none: every task that builds its model from these settings.
    """

    name: str = setting("architecture: gpt, llama, bert, vit, hf (under task hf), or package.module:Class", default="gpt")
    num_layers: int = setting("blocks L [layers, >= 1]", default=6, ge=1)

    tasks: ClassVar[tuple[str, ...]] = ()

    def require(self) -> None:
        """Check that files which the model begins with are there; nothing is read.

        Raises:
            InputError: If they are not.
        """

    def figures(self, pointers: Pointers) -> Mapping[str, float]:
        """Return what a run's summary says of the shape under its last pointers, by name."""
        return {}

    @property
    def moves_cache(self) -> bool:
        """Whether the size of the cache of keys and values follows the pointers."""
        return False

    def cache_share(self, pointers: Pointers) -> float:
        """Return the bytes of the cache under any pointers as a share of the untied model's, above 0 to 1."""
        return 1.0

    def check_binding(self, share: str, norms: str, gradient: str, delta_rank: int) -> None:
        """Check that the model can be tied in such a way; the arguments are fields of BindingConfig.

        Raises:
            InputError: If it cannot.
        """

    def check_tying(self, pointers: Pointers | None, share: str = "block") -> None:
        """Check that the model can run with layers tied so.

        Args:
            pointers: The tying; None: any, since an agent moves pointers.
            share: The parameters that follow the pointers.

        Raises:
            InputError: If it cannot.
        """

    @property
    def bound_to_stack(self) -> tuple[str, ...]:
        """The settings under which a block depends on the number of layers, its place or the tying of the others."""
        return ()

    def check_apart(self) -> None:
        """Check that blocks of the trained model can be tied or removed.

        Raises:
            InputError: If a block depends on the others.
        """
        if self.bound_to_stack:
            where = self.bound_to_stack[0]
            raise InputError(f"{where}: a block depends on the others, so none can be tied or removed afterwards")


@config
class ModelConfig(BlocksConfig):
    """The settings that every model of tokens has."""

    context: int = setting("tokens T that the model sees at once [tokens, >= 1]", default=128, ge=1)


@config
class DecoderConfig(ModelConfig):
    """The settings that gpt and llama have in common."""

    num_heads: int = setting("attention heads per block, must divide the width [heads, >= 1]", default=4, ge=1)
    width: int = setting("size C of the residual stream [features, >= 1]", default=128, ge=1)
    dropout: float = setting("share of activations dropped while training [0 to below 1]", default=0.0, ge=0, lt=1)
    kv_sharing: str = setting(activation_sharing.KV_HELP, default="none")
    attention_sharing: str = setting(activation_sharing.MAP_HELP, default="none")

    def __post_init__(self) -> None:
        for name, text in self._activation_sharing.items():
            try:
                activation_sharing.sources(text, self.num_layers)
            except InputError as error:
                raise InputError(f"model.{name}: {error}") from error
        chosen = f"model.attention_sharing = {self.attention_sharing!r}"
        if self.map_sources is not None and self.shares_kv:
            raise InputError(f"{chosen} and model.kv_sharing = {self.kv_sharing!r} exclude each other")
        if self.map_sources is not None and self.dropout:
            raise InputError(f"{chosen} and model.dropout = {self.dropout} exclude each other: maps are shared whole")

    @property
    def head_size(self) -> int:
        """Features D of a head."""
        return self.width // self.num_heads

    @property
    def shares_kv(self) -> bool:
        """Whether keys and values have matrices of their own, which not every position has."""
        return activation_sharing.sources(self.kv_sharing, self.num_layers) is not None

    @property
    def kv_sources(self) -> Pointers:
        """Per position, the one whose keys and values it reads."""
        own = Pointers.independent(self.num_layers)
        return activation_sharing.sources(self.kv_sharing, self.num_layers) or own

    @property
    def map_sources(self) -> Pointers | None:
        """Per position, the one whose map of attention it reads; None: maps are not shared."""
        return activation_sharing.sources(self.attention_sharing, self.num_layers)

    @property
    def sources(self) -> Pointers:
        """Per position, the one whose keys and values, or whose map, it reads where no layers are tied."""
        return self.map_sources or self.kv_sources

    @property
    def shares_activations(self) -> bool:
        """Whether blocks read what other blocks made."""
        return self.shares_kv or self.map_sources is not None

    @property
    def makers(self) -> tuple[str, ...]:
        """The parameters of a block that make what positions read whose makers are tied; none: sources do not move."""
        biases, gains = getattr(self, "bias", False), getattr(self, "qk_norm", False)
        return activation_sharing.makers(self._activation_sharing, biases, gains)

    @property
    def moves_cache(self) -> bool:
        """See BlocksConfig.moves_cache."""
        return bool(self.makers)

    def check_binding(self, share: str, norms: str, gradient: str, delta_rank: int) -> None:
        """See BlocksConfig.check_binding."""
        activation_sharing.check_share(self._activation_sharing, self.makers, share, norms)
        self.check_training(self.makers, gradient, delta_rank)

    def check_training(self, names: Collection[str], gradient: str, delta_rank: int) -> None:
        """Check that parameters of a block which follow the pointers train rightly; a LayerBinding asks each block.

        Args:
            names: Of these parameters.
            gradient: As `delta_rank`, a field of BindingConfig.
            delta_rank: See there.

        Raises:
            InputError: If they do not.
        """
        if self.makers and set(self.makers) <= set(names):
            activation_sharing.check_training(self._activation_sharing, gradient, delta_rank)

    @property
    def _activation_sharing(self) -> dict[str, str]:
        return {"kv_sharing": self.kv_sharing, "attention_sharing": self.attention_sharing}

    @property
    def bound_to_stack(self) -> tuple[str, ...]:
        """See BlocksConfig.bound_to_stack."""
        return tuple(f"model.{name} = {value!r}" for name, value in self._activation_sharing.items() if value != "none")

    def matrices(self, position: int) -> Literal["one", "two", "queries", "map", "values"]:
        """Return which matrices the attention of a position has; see `Attention`."""
        if self.map_sources is not None:
            return "map" if self.map_sources[position] == position else "values"
        if self.shares_kv:
            return "two" if self.kv_sources[position] == position else "queries"
        return "one"

    def cache_bytes_per_token(self, element_bytes: int, pointers: Pointers | None = None) -> int:
        """Return what decoding keeps of a token: keys and values of every source.

        That is 2 x sources x heads of keys and values x D numbers; where maps are shared, keys of sources and all values.

        Args:
            element_bytes: Of a number.
            pointers: The tying in force, which sources may follow; None: no layers are tied.
        """
        heads: int = getattr(self, "num_kv_heads", self.num_heads)
        sources = (pointers if self.moves_cache else None) or self.sources
        parts = 2 * sources.num_unique if self.map_sources is None else sources.num_unique + self.num_layers
        return parts * heads * self.head_size * element_bytes

    def cache_share(self, pointers: Pointers) -> float:
        """See BlocksConfig.cache_share."""
        return self.cache_bytes_per_token(1, pointers) / self.cache_bytes_per_token(1)

    def figures(self, pointers: Pointers) -> Mapping[str, float]:
        """See BlocksConfig.figures; weights, and so keys and values, are of four bytes."""
        return {"cache_bytes_per_token": self.cache_bytes_per_token(4, pointers)} if self.shares_activations else {}
