"""CompressingEnv: tie and remove layers of a trained model; decisions are answered by questions, nothing is trained.

Layer 0 of the environment stands for nothing: a layer that joins it is removed, and passes its input on. The model's own
layers are 1 to L. So actions, masks, observations and agents are those of all tying environments.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from envs.base import Simulator, TyingEnv, instant_sections
from envs.table import TableSimulator
from tying.compression.sources import Sources
from tying.errors import InputError
from tying.pointers import Pointers
from tying.training.record import StepRecord
from tying.tyingbench import TyingBench

DEFAULT = "minilm-6"


class QuestionSimulator:
    """A trained model as a simulator: the loss of a pattern is asked for.

    Args:
        ask: The loss under sources; see `tying.compression.search.Questions`.
        num_layers: Layers L of the model.
        set_params: Parameters of one set of shared weights.
        uninformed_loss: Loss of a model that knows nothing.

    Attributes:
        queries: Questions since the episode began, those for known patterns included.
    """

    def __init__(
        self,
        ask: Callable[[Sources], float],
        num_layers: int,
        set_params: int,
        uninformed_loss: float,
    ) -> None:
        self._ask = ask
        self._set_params = set_params
        self._uninformed_loss = uninformed_loss
        self.num_layers = num_layers + 1
        self.num_iterations = 1  # decisions of an episode; the environment says how many
        self.queries = 0

    def reset(self, seed: int) -> None:
        """Begin again."""
        self.queries = 0

    def uninformed_loss(self) -> float:
        """Return the loss of a model that knows nothing."""
        return self._uninformed_loss

    def param_share(self, pointers: Pointers) -> float:
        """Return the share of sets of weights that exist."""
        return num_sets(pointers) / (self.num_layers - 1)

    def run(self, record: StepRecord, num_batches: int, fork: bool) -> StepRecord:
        """Ask for the loss of the pattern, and for a fork that of the one before it."""
        loss = self._answer(record.pointers)
        fork_loss = self._answer(record.previous_pointers) if fork else None
        return replace(
            record,
            train_loss=loss,
            last_loss=loss,
            reward_loss=loss,
            fork_loss=fork_loss,
            block_params=num_sets(record.pointers) * self._set_params,
            independent_block_params=(self.num_layers - 1) * self._set_params,
        )

    def _answer(self, pointers: Pointers) -> float:
        self.queries += 1
        return self._ask(Sources.of(pointers, removing=True))


def num_sets(pointers: Pointers) -> int:
    """Return the sets of weights that exist under pointers whose layer 0 stands for nothing."""
    return pointers.num_unique - 1


class CompressingEnv(TyingEnv):
    """Compress a trained model, decision by decision; `tying/Compressing-v0`. Spaces and rewards are those of TyingEnv.

    The reward is the fall of the loss less `reward.param_weight` times the change of the share of sets; both telescope.
    An episode ends after `num_decisions`, or as soon as no more than `num_sets` sets of weights are left. `info` has,
    beside that of every environment, `sources`, `num_sets` and `queries`.

    Arguments:
        model: A table of questions that were asked before (a shipped one's name, or the path of a CSV file), a TyingBench,
            or a QuestionSimulator over a model in memory.
        num_sets: Sets of weights to reach; None: no budget.
        num_decisions: Most decisions in an episode.
        render_mode: None, "ansi" or "rgb_array".
        overrides: Settings of `env` and `reward`, as LayerTyingEnv takes them.
    """

    def __init__(
        self,
        model: str | TyingBench | QuestionSimulator = DEFAULT,
        num_sets: int | None = None,
        num_decisions: int = 60,
        render_mode: str | None = None,
        **overrides: Any,
    ) -> None:
        if not isinstance(num_decisions, int) or num_decisions < 1:
            raise InputError(f"num_decisions = {num_decisions!r}: expected a whole number of at least 1")
        config, reward = instant_sections(overrides)
        if config.gradient_statistics:
            raise InputError("gradient_statistics: nothing is trained here; they are seen in tying/LayerTying-v0")
        simulator = model if isinstance(model, QuestionSimulator) else _of_table(model, num_decisions)
        simulator.num_iterations = num_decisions
        most = simulator.num_layers - 1
        if num_sets is not None and not (isinstance(num_sets, int) and 1 <= num_sets <= most):
            raise InputError(f"num_sets = {num_sets!r}: expected a whole number from 1 to {most}, or None")
        self.num_sets = num_sets
        super().__init__(simulator, config, reward, render_mode)

    @property
    def _over(self) -> bool:
        reached = self.num_sets is not None and num_sets(self.pointers) <= self.num_sets
        return super()._over or (reached and self.record.decision >= 0)

    def _info(self) -> dict[str, Any]:
        return {
            **super()._info(),
            "sources": list(Sources.of(self.pointers, removing=True)),
            "num_sets": num_sets(self.pointers),
            "queries": self.simulator.queries,  # type: ignore[attr-defined]
        }


def _of_table(model: str | TyingBench, num_decisions: int) -> Simulator:
    bench = model if isinstance(model, TyingBench) else TyingBench.load(model)
    if not bench.facts.get("removing"):
        raise InputError(f"model = {model!r}: a table of models trained from scratch; it is for tying/TyingBench-v0")
    return TableSimulator(bench, num_decisions, budget=1.0, answers="seed")
