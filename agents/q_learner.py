"""The learner of double DQN: networks, replay and updates. B transitions, A actions, D numbers of an observation."""

import hashlib
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from agents.base import Transition, read_agent
from agents.networks import PerLayerNetwork, mlp
from agents.replay import Batch, Replay
from tying import interface
from tying.errors import InputError
from tying.isolation import isolated

# Large and finite: minus infinity times a discount of 0 would not be a number.
_ILLEGAL = -1e9
_MAX_GRADIENT_NORM = 10.0


class QLearner:
    """Learns action values from transitions.

    Args:
        config: A DoubleDQNConfig.
        num_layers: L.
        num_actions: A.
        seed: Of the initial weights, the draws from the replay buffer and those of the agent.
    """

    @isolated()
    def __init__(self, config: Any, num_layers: int, num_actions: int, seed: int) -> None:
        self.config = config
        self.num_layers = num_layers
        self.num_actions = num_actions
        size = interface.size(num_layers)
        self.generator = torch.Generator().manual_seed(seed)
        self.network, self.target = self._make_network(size), self._make_network(size)
        self.target.load_state_dict(self.network.state_dict())
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=config.learning_rate, fused=True)
        self.replay = Replay(config.buffer_size, size, num_actions, config.priority_exponent)
        self.rewards: list[float] = []
        self.pending: deque[tuple[Tensor, int, float]] = deque()
        self.figures: dict[str, float] = {}

    def _make_network(self, size: int) -> nn.Module:
        width = self.config.width
        if self.config.network == "per_layer":
            return PerLayerNetwork(self.num_layers, self.num_actions, width, self.generator)
        return mlp([size, width, width, self.num_actions], self.generator)

    @property
    def num_rewards(self) -> int:
        """Transitions seen."""
        return len(self.rewards)

    @isolated()
    def uniform(self) -> float:
        """Return a draw from 0 to 1."""
        return float(torch.rand((), generator=self.generator))

    @isolated()
    def integer(self, count: int) -> int:
        """Return a draw from 0 to count - 1."""
        return int(torch.randint(count, (), generator=self.generator))

    @isolated()
    @torch.no_grad()
    def values(self, observation: np.ndarray) -> np.ndarray:
        """Return the Q-value of every action, (A,)."""
        values: np.ndarray = self.network(torch.as_tensor(observation)).numpy()
        return values

    @isolated()
    def remember(self, step: Transition, next_masks: np.ndarray) -> None:
        """Take in a transition; with n steps, it is stored once the n rewards are known."""
        self.rewards.append(step.reward)
        self.pending.append((torch.tensor(step.observation), int(step.action), step.reward))
        while self.pending and (step.terminated or len(self.pending) >= self.config.n_steps):
            self._store(torch.tensor(step.next_observation), step.terminated, next_masks)

    def _store(self, next_observation: Tensor, terminated: bool, next_masks: np.ndarray) -> None:
        """Store the oldest pending transition with the rewards up to now."""
        gamma = self.config.gamma
        rewards = [reward for _, _, reward in self.pending]
        observation, action, _ = self.pending.popleft()
        self.replay.add(
            observation=observation,
            action=action,
            reward=sum(gamma**k * reward for k, reward in enumerate(rewards)),
            reward_weight=sum(gamma**k for k in range(len(rewards))),
            discount=0.0 if terminated else gamma ** len(rewards),
            next_observation=next_observation,
            next_masks=torch.tensor(next_masks),
        )

    @isolated()
    def update(self) -> None:
        """Fit the network to targets that stay as they are during the gradient steps of a decision, once enough is seen."""
        if len(self.rewards) < self.config.learning_starts or not len(self.replay):
            return
        steps, size = self.config.gradient_steps, self.config.batch_size
        batch = self.replay.sample(steps * size, self.generator)
        median = float(np.median(self.rewards))
        spread = 1.48 * float(np.median(np.abs(np.array(self.rewards) - median))) + 1e-9
        targets = self._targets(batch, median, spread)
        total = 0.0
        for part in torch.arange(steps * size).split(size):
            values = self.network(batch.observation[part]).gather(1, batch.action[part, None])[:, 0]
            loss = (batch.weight[part] * F.smooth_l1_loss(values, targets[part], reduction="none")).mean()
            self.optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(self.network.parameters(), _MAX_GRADIENT_NORM)
            self.optimizer.step()
            self.replay.set_priority(batch.index[part], (values - targets[part]).detach())
            total += float(loss.detach())
        with torch.no_grad():
            for behind, ahead in zip(self.target.parameters(), self.network.parameters(), strict=True):
                behind.lerp_(ahead, self.config.target_rate)
        self.figures = {"train/loss": total / steps, "train/reward_spread": spread}

    @torch.no_grad()
    def _targets(self, batch: Batch, median: float, spread: float) -> Tensor:
        """Return the targets of the values (B,): the network picks the best legal action, the target network values it."""
        reward = (batch.reward - batch.reward_weight * median) / spread
        best = self.network(batch.next_observation).masked_fill(~batch.next_masks, _ILLEGAL).argmax(dim=1, keepdim=True)
        next_value: Tensor = self.target(batch.next_observation).gather(1, best)[:, 0]
        return reward.clamp(-self.config.reward_clip, self.config.reward_clip) + batch.discount * next_value

    def take_figures(self) -> dict[str, float]:
        """Return the figures of the last update, once."""
        figures, self.figures = self.figures, {}
        return figures

    @isolated()
    def begin_with(self, folder: Path) -> str:
        """Take over the network that an agent saved, and return the digest of its file.

        Raises:
            InputError: If it does not fit, or there is none.
        """
        where = f"agent.init_from = {str(folder)!r}"
        if not folder.is_dir():
            raise InputError(f"{where}: no such folder; the policy that the agent begins with has to be there")
        saved = read_agent(folder)["hyperparameters"]
        for name in ("network", "width"):
            if saved.get(name) != getattr(self.config, name):
                raise InputError(
                    f"{where}: its {name} is {saved.get(name)!r}, here agent.{name} is {getattr(self.config, name)!r}"
                )
        try:
            self.network.load_state_dict(torch.load(folder / "state.pt", weights_only=True)["network"])
        except Exception as error:  # torch raises many types for damaged files
            reason = (str(error).splitlines() or [""])[-1].strip()
            raise InputError(
                f"{where}: its network does not fit ({reason}); one of agent.network per_layer fits any number of layers"
            ) from error
        self.target.load_state_dict(self.network.state_dict())
        return hashlib.sha256((folder / "state.pt").read_bytes()).hexdigest()

    @isolated()
    def save(self, folder: Path, planned: int) -> None:
        """Write the learner's state; `planned` is kept beside it."""
        state = {name: part.state_dict() for name, part in self._parts().items()}
        state |= {"generator": self.generator.get_state(), "rewards": self.rewards, "planned": planned}
        torch.save({**state, "pending": list(self.pending), "num_layers": self.num_layers}, folder / "state.pt")

    @isolated()
    def load(self, folder: Path) -> int:
        """Read the learner's state and return `planned`; transitions of another depth are left out."""
        state = torch.load(folder / "state.pt", weights_only=True)
        same = state["num_layers"] == self.num_layers
        for name, part in self._parts().items():
            if same or name != "replay":
                part.load_state_dict(state[name])
        self.generator.set_state(state["generator"])
        self.rewards, self.pending = state["rewards"], deque(state["pending"] if same else [])
        return int(state["planned"])

    def _parts(self) -> Mapping[str, Any]:
        return {"network": self.network, "target": self.target, "optimizer": self.optimizer, "replay": self.replay}
