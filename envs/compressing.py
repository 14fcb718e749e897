"""CompressingEnv: tie and remove layers of a trained model; decisions are answered by questions, nothing is trained.

Layer 0 of the environment stands for nothing: a layer that joins it is removed, and passes its input on. The model's own
layers are 1 to L. So actions, masks, observations and agents are those of all tying environments. Over halves, 1 to L are
the attention halves and L + 1 to 2L the feed-forward halves; those of different kinds never share.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from envs.base import TyingEnv, instant_sections
from envs.table import TableSimulator
from tying.compression.search import best_donors
from tying.compression.sources import Sources
from tying.errors import InputError
from tying.parts import Parts
from tying.pointers import Pointers
from tying.training.record import StepRecord
from tying.tyingbench import TyingBench

DEFAULT = "minilm-6"


class QuestionSimulator:
    """A trained model as a simulator: the loss of a pattern is asked for.

    Args:
        ask: The loss under sources, of 2L virtual layers over halves; see `tying.compression.search.Questions`.
        num_layers: Layers L of the model.
        set_params: Parameters of one set of shared weights; over halves, of attention and of feed-forward.
        uninformed_loss: Loss of a model that knows nothing.
        parts: What a decision ties or removes: "block" or "halves".
        donors: Whether a group gets the values of the best of its members, which is asked for, not of its first.

    Attributes:
        parts: The layers of the environment.
        queries: Questions since the episode began, those for known patterns included.
        sources: Whose weights the pattern of the last window ran.

    Raises:
        InputError: If the parts are not known, or `set_params` has not a number for each.
    """

    def __init__(
        self,
        ask: Callable[[Sources], float],
        num_layers: int,
        set_params: int | Sequence[int],
        uninformed_loss: float,
        parts: str = "block",
        donors: bool = False,
    ) -> None:
        self._ask = ask
        self._donors = donors
        self._uninformed_loss = uninformed_loss
        self.parts = Parts(num_layers, parts, removing=True)
        self._set_params = (set_params,) if isinstance(set_params, int) else tuple(set_params)
        if len(self._set_params) != len(self.parts.shares):
            raise InputError(f"set_params = {set_params!r}: expected a number for each of {', '.join(self.parts.shares)}")
        self._independent_params = num_layers * sum(self._set_params)
        self.num_layers = self.parts.size
        self.num_iterations = 1  # decisions of an episode; the environment says how many
        self.reset(0)

    def reset(self, seed: int) -> None:
        """Begin again."""
        self.queries = 0
        self.sources: Sources | None = None

    def uninformed_loss(self) -> float:
        """Return the loss of a model that knows nothing."""
        return self._uninformed_loss

    def param_share(self, pointers: Pointers) -> float:
        """Return the share of the parameters of all sets of weights that exist."""
        return self._params(pointers) / self._independent_params

    def run(self, record: StepRecord, num_batches: int, fork: bool) -> StepRecord:
        """Ask for the loss of the pattern, and for a fork that of the one before it."""
        self.sources, loss = self._answer(record.pointers)
        fork_loss = self._answer(record.previous_pointers)[1] if fork else None
        return replace(
            record,
            train_loss=loss,
            last_loss=loss,
            reward_loss=loss,
            fork_loss=fork_loss,
            block_params=self._params(record.pointers),
            independent_block_params=self._independent_params,
        )

    def _params(self, pointers: Pointers) -> int:
        kinds = self.parts.kinds
        return sum(self._set_params[kind] for kind in (kinds[root] for root in pointers.roots) if kind is not None)

    def _answer(self, pointers: Pointers) -> tuple[Sources, float]:
        asked: dict[Sources, float] = {}

        def ask(sources: Sources) -> float:
            if sources not in asked:
                asked[sources] = self._ask(sources)
            return asked[sources]

        sources = Sources.of(pointers, removing=True)
        sources = best_donors(ask, sources) if self._donors else sources
        loss = ask(sources)
        self.queries += len(asked)
        return sources, loss


class CompressingEnv(TyingEnv):
    """Compress a trained model, decision by decision; `tying/Compressing-v0`. Spaces and rewards are those of TyingEnv.

    The reward is the fall of the loss less `reward.param_weight` times the change of the share of sets; both telescope.
    An episode ends after `num_decisions`, or as soon as no more than `num_sets` sets of weights are left. `info` has,
    beside that of every environment, `sources`, `num_sets` and `queries`. Sets are counted by their parameters: over
    halves, half of a set may be a third of it.

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
        self._parts = simulator.parts if isinstance(simulator, QuestionSimulator) else simulator.bench.parts
        most = self._parts.num_layers
        if num_sets is not None and not (isinstance(num_sets, int) and 1 <= num_sets <= most):
            raise InputError(f"num_sets = {num_sets!r}: expected a whole number from 1 to {most}, or None")
        self.num_sets = num_sets
        super().__init__(simulator, config, reward, render_mode, parts=self._parts)

    @property
    def _over(self) -> bool:
        if super()._over or self.num_sets is None or self.record.decision < 0:
            return super()._over
        return self._sets <= self.num_sets

    @property
    def _sets(self) -> float:
        return self._parts.num_sets(self.record.block_params, self.record.independent_block_params)

    def _info(self) -> dict[str, Any]:
        simulator: Any = self.simulator
        sources = simulator.sources if isinstance(simulator, QuestionSimulator) else None
        return {
            **super()._info(),
            "sources": list(sources or Sources.of(self.pointers, removing=True)),
            "num_sets": self._sets,
            "queries": simulator.queries,
        }


def _of_table(model: str | TyingBench, num_decisions: int) -> TableSimulator:
    bench = model if isinstance(model, TyingBench) else TyingBench.load(model)
    if not bench.facts.get("removing"):
        raise InputError(f"model = {model!r}: a table of models trained from scratch; it is for tying/TyingBench-v0")
    return TableSimulator(bench, num_decisions, budget=1.0, answers="seed")
