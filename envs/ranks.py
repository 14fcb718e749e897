"""Several processes: rank 0 has the environment, and the other ranks do with their simulators what its simulator does."""

import warnings
from pathlib import Path

from envs.config import TrainingConfig
from envs.training import TrainingSimulator
from tying.pointers import Pointers
from tying.training.ranks import Ranks
from tying.training.record import StepRecord
from tying.training.trainer import Trainer


class LeadingSimulator(TrainingSimulator):
    """The simulator of rank 0: what it is asked to do, those of the other ranks are asked to do at the same time.

    Args:
        config: See TrainingSimulator.
        ranks: The processes; every other one calls `follow`.
    """

    def __init__(self, config: TrainingConfig, ranks: Ranks) -> None:
        super().__init__(config, ranks)
        # Without the sections that others added: following ranks know no agent.
        ranks.tell(TrainingConfig(**{name: getattr(config, name) for name in TrainingConfig.__pydantic_fields__}))  # type: ignore[attr-defined]

    def reset(self, seed: int) -> None:
        """See TrainingSimulator.reset."""
        self.ranks.tell(("reset", seed))
        super().reset(seed)

    def start(self, pointers: Pointers) -> Trainer:
        """See TrainingSimulator.start."""
        self.ranks.tell(("start", pointers))
        return super().start(pointers)

    def resume(self, folder: Path, pointers: Pointers) -> Trainer:
        """See TrainingSimulator.resume; every rank reads the checkpoint."""
        self.ranks.tell(("resume", folder, pointers))
        return super().resume(folder, pointers)

    def run(self, record: StepRecord, num_batches: int, fork: bool) -> StepRecord:
        """See TrainingSimulator.run; every rank evaluates the same batches, so the figures are those of one process."""
        self.ranks.tell(("run", record, num_batches, fork))
        return super().run(record, num_batches, fork)


def follow(ranks: Ranks) -> None:
    """Do what the LeadingSimulator of rank 0 does, until that process needs no help any more; nothing is written.

    Raises:
        InputError: If the data or the device are not there.
        ConnectionError: If another rank has ended.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # rank 0 gives the same ones
        config = ranks.hear()
        if config is None:
            return
        simulator = TrainingSimulator(config, ranks)
        while (call := ranks.hear()) is not None:
            method, *arguments = call
            getattr(simulator, method)(*arguments)
