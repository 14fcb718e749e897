"""StepRecord: one decision and the window of training after it, as one flat value.

The environment makes it, the simulator adds measurements, the reward adds its terms. Everything else reads it:
observations, `info`, the line in decisions.jsonl, TensorBoard, tables, resume.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Annotated, Any, Self

from pydantic import Field

from tying import schema
from tying.errors import InputError
from tying.pointers import Pointers


def perplexity(loss: float) -> float:
    """Return exp(loss), or the largest finite power of e that a float holds."""
    return math.exp(min(loss, 709.0))


@dataclass(frozen=True)
class StepRecord:
    """One action of an agent, and the window of training after it. Losses are nats per token.

    Attributes:
        decision: Number of the decision in its run, from 0; -1 before the first.
        iteration: Iterations done at the window's end.
        num_iterations: Iterations of the window.
        pointers: In force in the window.
        previous_pointers: In force before the decision.
        layer: The layer decided; None when the action decides several.
        action: As the agent gave it.
        explored: Whether the agent took the action to explore; None where it does not say.
        action_value: The value that the agent gave the action, in its own unit; None where it does not say.
        frozen: Whether pointers no longer move, so that the action had no effect.
        window_share: The window's iterations as a share of the run's.
        previous_loss: reward_loss before the window; that of a model that knows nothing before the first.
        previous_share: param_share under previous_pointers.
        tokens: Training tokens seen at the window's end.
        train_loss: Mean over the window's iterations.
        last_loss: Of its last training batch.
        reward_loss: On the fixed reward batches, after the window; previous_loss where it was not evaluated.
        evaluated: Whether reward_loss was measured after this window.
        fork_loss: reward_loss, had the same window been trained without the change; None where no reward needs it.
        block_params: Trainable parameters of the blocks.
        independent_block_params: The same for the untied model.
        gradient_norms: Per layer, of the last iteration (clipped); empty where unknown.
        similarities: Per layer, cosine of its weights with the layer before; empty where unknown.
        gradient_similarities: Per layer, cosine of its position's gradient with that of the layer before; empty where
            unknown.
        agreements: Per layer, cosine of its position's gradient with the sum of the others in its group; empty where
            unknown.
        reward: Sum of reward_terms.
        reward_terms: Name of each term to its value.
        param_weight: Weight of the parameters in the reward, nats per token.
        train_s: Wall seconds of training the window.
        evaluate_s: Wall seconds of the reward evaluation, layer statistics and the branch without the change.
    """

    decision: int
    iteration: int
    num_iterations: int
    pointers: Pointers
    previous_pointers: Pointers
    layer: int | None = None
    action: int | list[int] | None = None
    explored: bool | None = None
    action_value: float | None = None
    frozen: bool = False
    window_share: float = 0.0
    previous_loss: float = 0.0
    previous_share: float = 1.0
    tokens: int = 0
    train_loss: float = 0.0
    last_loss: float = 0.0
    reward_loss: float = 0.0
    evaluated: bool = True
    fork_loss: float | None = None
    block_params: int = 0
    independent_block_params: int = 1
    gradient_norms: tuple[float, ...] = ()
    similarities: tuple[float, ...] = ()
    gradient_similarities: tuple[float, ...] = ()
    agreements: tuple[float, ...] = ()
    reward: float = 0.0
    reward_terms: Mapping[str, float] = field(default_factory=dict)
    param_weight: float = 0.0
    train_s: float = 0.0
    evaluate_s: float = 0.0

    @property
    def param_share(self) -> float:
        """Trainable block parameters as a share of the untied model's, 0 to 1."""
        return self.block_params / self.independent_block_params

    @property
    def changed(self) -> bool:
        """Whether the decision changed the tying."""
        return self.pointers != self.previous_pointers

    def having(self, **values: Any) -> Self:
        """Return a record that differs in some fields; a tenth of the time of `dataclasses.replace`, same result."""
        new = object.__new__(type(self))
        vars(new).update(vars(self), **values)
        return new

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready values."""
        values = {name: getattr(self, name) for name in _NAMES}
        plain = {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}
        return plain | {name: values[name].to_list() for name in ("pointers", "previous_pointers")}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Rebuild a record from what JSON made of `to_dict`; other keys are left out.

        Raises:
            InputError: If an entry is missing or of another type, the pointers are invalid, or layers are missing.
        """
        schema.check(_SHAPE, values)
        num_layers = len(values["pointers"])
        for name in ("previous_pointers", *(name for name in _SEQUENCES if values[name])):
            if len(values[name]) != num_layers:
                raise InputError(f"{name}: {len(values[name])} values for {num_layers} layers")
        plain: dict[str, Any] = {name: tuple(values[name]) if name in _SEQUENCES else values[name] for name in _NAMES}
        for name in ("pointers", "previous_pointers"):
            plain[name] = Pointers(plain[name])
        return cls(**plain)


_NAMES = tuple(f.name for f in fields(StepRecord))
_SEQUENCES = ("gradient_norms", "similarities", "gradient_similarities", "agreements")
# What a simulator measures, in contrast to what the environment decides and the reward adds.
MEASUREMENTS = (
    *("tokens", "train_loss", "last_loss", "reward_loss", "evaluated"),
    *("fork_loss", "block_params", "independent_block_params"),
    *_SEQUENCES,
)
# Of a diagnostic (the value of an action, a cosine) that is not finite, a run can go on; of a loss or a reward it cannot.
_Any = Annotated[float, Field(allow_inf_nan=True)]
_Count = Annotated[int, Field(ge=0)]
_Size = Annotated[int, Field(ge=1)]
_SHAPE = schema.shape(
    **dict.fromkeys(("decision", "iteration", "tokens"), _Count),
    **dict.fromkeys(("num_iterations", "block_params", "independent_block_params"), _Size),
    **dict.fromkeys(("pointers", "previous_pointers"), schema.PointerList),
    **dict.fromkeys(("window_share", "previous_loss", "previous_share", "train_loss", "last_loss", "reward_loss"), float),
    **dict.fromkeys(("reward", "param_weight", "train_s", "evaluate_s"), float),
    **dict.fromkeys(_SEQUENCES, list[_Any]),
    layer=_Count | None,
    action=int | list[int] | None,
    explored=bool | None,
    action_value=_Any | None,
    **dict.fromkeys(("frozen", "evaluated"), bool),
    fork_loss=float | None,
    reward_terms=dict[str, float],
)
