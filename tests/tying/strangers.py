"""Modules of other people, as source: a model, and a task that is no language."""

MODEL = '''
"""A language model whose blocks mix the channels of each token by themselves."""
import torch.nn.functional as F
from torch import nn

from tying.config import config, setting
from tying.models.base import Model
from tying.models.config import ModelConfig


@config
class MixerConfig(ModelConfig):
    """Its shape."""

    name: str = setting("architecture", default="mixers:Mixer")
    width: int = setting("channels [>= 1]", default=8, ge=1)


class Mixer(Model):
    """It sees the newest token alone."""

    Config = MixerConfig

    def build(self, vocab_size):
        self.embed = nn.Embedding(vocab_size, self.config.width)
        self.h = nn.ModuleList(nn.Linear(self.config.width, self.config.width) for _ in range(self.config.num_layers))
        self.head = nn.Linear(self.config.width, vocab_size)

    def forward(self, tokens):
        x = self.embed(tokens)
        for block in self.h:
            x = x + F.gelu(block(x))
        return self.head(x)
'''

TASK = '''
"""Regression: find a fixed function of 4 numbers; no text, no tokens, no perplexity."""
import torch
from torch import nn

from tying.config import config, setting
from tying.models.config import ModelConfig
from tying.seeding import derive_seed
from tying.tasks.base import Task
from tying.tasks.config import TaskConfig


@config
class RegressionConfig(TaskConfig):
    """Its settings."""

    name: str = setting("kind of work", default="regressions:Regression")
    scale: float = setting("size of the targets [> 0]", default=1.0, gt=0)


class Network(nn.Module):
    def __init__(self, num_layers):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(num_layers))

    def forward(self, x):
        for layer in self.layers:
            x = x + torch.tanh(layer(x))
        return x.sum(1)


class Regression(Task):
    """Mean squared error."""

    Config = RegressionConfig
    sequence_length = 1
    uninformed_loss = 4.0

    def require(self):
        pass

    def build_model(self, seed):
        if seed is None:
            with torch.device("meta"):
                return Network(self.num_layers)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(seed, "initial weights"))
            return Network(self.num_layers)

    def blocks(self, model):
        return list(model.layers)

    def _draw(self, generator, batch_size):
        x = torch.randn(batch_size, 4, generator=generator)
        return x, self.config.scale * x.abs().sum(1)

    def batch(self, seed, index, batch_size):
        return self._draw(torch.Generator().manual_seed(derive_seed(seed, "data order", index)), batch_size)

    def evaluation_batches(self, split, batch_size, num_batches=None):
        for index in range(num_batches or 8):
            yield self._draw(torch.Generator().manual_seed(derive_seed(0, split, index)), batch_size)

    def loss(self, model, batch):
        return ((model(batch[0]) - batch[1]) ** 2).mean()

    def size(self, batch):
        return len(batch[1])

    def metrics(self, model, batches):
        found = super().metrics(model, batches)
        return {**found, "rmse": found["loss"] ** 0.5}

    def facts(self):
        return {"corpus": "numbers", "corpus_sha256": "0"}
'''
