"""Small networks on the CPU whose first weights come from a generator of their own, never from the global one.

B observations, L layers, A actions.
"""

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from tying import interface


def linear(inputs: int, outputs: int, generator: torch.Generator) -> nn.Linear:
    """Return a linear layer with torch's usual initial weights, uniform within 1 / sqrt(inputs)."""
    layer: nn.Linear = nn.utils.skip_init(nn.Linear, inputs, outputs)
    bound = 1 / math.sqrt(inputs)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.uniform_(-bound, bound, generator=generator)
    return layer


def mlp(sizes: Sequence[int], generator: torch.Generator) -> nn.Sequential:
    """Return linear layers of these sizes with ReLU between them."""
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(sizes):
        layers += [linear(inputs, outputs, generator), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


class PerLayerNetwork(nn.Module):
    """Values of actions, each from its effect on the pattern and from nothing that depends on the number of layers.

    An action ties a layer to a target. One network reads every (layer, target) by itself: their depths as shares of L,
    the sizes of their groups, whether they are tied now, and the pattern as a whole. So a network trained with
    L layers means the same with any other number. It reads no losses and no statistics of gradients or weights, which
    differ between models, and which a table does not have.

    Args:
        num_layers: L.
        num_actions: L for one layer after another (`cursor`), L(L+1)/2 for any layer (`pair`).
        width: Units in each of two hidden layers.
        generator: Of the first weights.
    """

    def __init__(self, num_layers: int, num_actions: int, width: int, generator: torch.Generator) -> None:
        super().__init__()
        self.num_layers = num_layers
        self.in_turn = interface.in_turn(num_layers, num_actions)
        self.pairs = torch.tensor(interface.pairs(num_layers))
        self.values = mlp([_NUM_FEATURES, width, width, 1], generator)

    def forward(self, observation: Tensor) -> Tensor:
        """(B, D) or (D,) -> (B, A) or (A,): the value of every action."""
        rows = observation.reshape(-1, observation.shape[-1])
        values: Tensor = self.values(self._features(rows))[..., 0]
        return values.reshape(*observation.shape[:-1], -1)

    def _features(self, rows: Tensor) -> Tensor:
        """(B, D) -> (B, A, features)."""
        scalars = dict(zip(interface.SCALARS, rows[:, : len(interface.SCALARS)].T, strict=True))
        columns = rows[:, len(interface.SCALARS) :].reshape(len(rows), self.num_layers, -1)
        layers = dict(zip(interface.PER_LAYER, columns.unbind(2), strict=True))
        last = max(1, self.num_layers - 1)
        pointers = (layers["pointer"] * last).round().long()  # (B, L)
        together = (pointers[:, :, None] == pointers[:, None, :]).float()  # (B, L, L)
        sizes = together.sum(2)
        depth = (torch.arange(self.num_layers) / last).expand(len(rows), -1)
        own = torch.stack([depth, layers["root"], sizes / self.num_layers, (sizes == 1).float()], dim=2)  # (B, L, 4)
        layer, target = self._actions(layers["cursor"])  # (B, A)
        of_all = torch.arange(len(rows))[:, None]
        between = torch.stack(
            [together[of_all, layer, target], (layer == target).float(), (layer - target) / last, (target == 0).float()],
            dim=2,
        )
        unique = layers["root"].sum(1) / self.num_layers
        common = torch.stack([scalars["remaining"], scalars["frozen"], scalars["param_share"], unique, own[:, 0, 3]], dim=1)
        common = common[:, None].expand(-1, layer.shape[1], -1)
        return torch.cat([own[of_all, layer], own[of_all, target], between, common], dim=2)

    def _actions(self, cursor: Tensor) -> tuple[Tensor, Tensor]:
        """Return the layer and the target of every action, both (B, A); a target beyond the layer is the layer itself."""
        if not self.in_turn:
            layer, target = self.pairs.T
            return layer.expand(len(cursor), -1), target.expand(len(cursor), -1)
        layer = cursor.argmax(1, keepdim=True).expand(-1, self.num_layers)
        return layer, torch.minimum(torch.arange(self.num_layers).expand(len(cursor), -1), layer)


_NUM_FEATURES = 4 + 4 + 4 + 5
