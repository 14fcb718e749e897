"""Divergence: how far the predictions of a copy are from those of the original, as a task.

Shapes: B batch, T tokens, V vocabulary.
"""

import copy

import torch.nn.functional as F
from torch import Tensor, nn

from tying.compression.task_over import TaskOver
from tying.errors import InputError
from tying.tasks.base import Batch, Task
from tying.tasks.causal_lm import CausalLM
from tying.tasks.remembered import Remembered


class Divergence(TaskOver):
    """The KL divergence of a model's next-token distribution from an original's, KL(original || model), nats per token.

    0 for the original, whatever the text. That of a uniform guess is at most log V, the task's `uninformed_loss`.

    Args:
        task: Causal language modelling.
        original: The model to be like; a copy of it is kept, so that it may be changed.

    Raises:
        InputError: If the task is another one.
    """

    def __init__(self, task: Task, original: nn.Module) -> None:
        super().__init__(task)
        if not isinstance(task, CausalLM):
            raise InputError("--objective kl: it is for causal language models; others have --objective loss")
        self.task: CausalLM = task
        # The original's log-probabilities: (B, T) int64 -> (B, T, V).
        self._wanted = Remembered(
            copy.deepcopy(original), lambda model, tokens: self.task.logits(model, tokens).log_softmax(-1)
        )

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """See the class."""
        wanted = self._wanted(batch[0]).flatten(0, 1)
        found = self.task.logits(model, batch[0]).flatten(0, 1).log_softmax(-1)
        return F.kl_div(found, wanted, reduction="batchmean", log_target=True)
