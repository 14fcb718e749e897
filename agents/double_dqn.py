"""Double DQN for few, dear decisions, with action masks wherever an action is drawn or valued.

Double Q-learning: van Hasselt et al., AAAI 2016. Prioritised replay: Schaul et al., ICLR 2016. n-step returns: Hessel
et al. (Rainbow), AAAI 2018. B transitions, A actions, D numbers of an observation.
"""

from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

import gymnasium
import numpy as np
import torch
import torch.nn.functional as F
from gymnasium import spaces
from torch import Tensor, nn

from agents.base import Agent, Callback, Diagnostics, masks_of
from agents.networks import PerLayerNetwork, mlp
from agents.replay import Batch, Replay
from tying import layout
from tying.config import config, setting
from tying.errors import InputError
from tying.files import read_json

# Large and finite: minus infinity times a discount of 0 would not be a number.
_ILLEGAL = -1e9
_MAX_GRADIENT_NORM = 10.0


@config
class DoubleDQNConfig:
    """Hyper-parameters of DoubleDQNAgent."""

    learning_rate: float = setting("Adam's learning rate [> 0]", default=3e-3, gt=0)
    gamma: float = setting(
        "discount per decision; the reward is an improvement, most of it shows at once [0 to 1]", default=0.5, ge=0, le=1
    )
    width: int = setting("units in each of two hidden layers [>= 1]", default=64, ge=1)
    buffer_size: int = setting("transitions kept; all of any run [>= 1]", default=5_000, ge=1)
    learning_starts: int = setting("decisions at random before the first update [>= 1]", default=8, ge=1)
    batch_size: int = setting("transitions in an update [>= 1]", default=32, ge=1)
    gradient_steps: int = setting("updates per decision; decisions are dear, updates cheap [>= 1]", default=8, ge=1)
    target_rate: float = setting(
        "how far the target network moves to the other at each decision [above 0 to 1]", default=0.1, gt=0, le=1
    )
    exploration_fraction: float = setting(
        "share of the decisions over which epsilon falls [above 0 to 1]", default=0.4, gt=0, le=1
    )
    exploration_final_eps: float = setting("epsilon at the end [0 to 1]", default=0.05, ge=0, le=1)
    n_steps: int = setting("rewards summed before the value of what follows is asked [decisions, >= 1]", default=1, ge=1)
    priority_exponent: float = setting(
        "how much more often surprising transitions are replayed; 0: all alike [0 to 1]", default=0.0, ge=0, le=1
    )
    reward_clip: float = setting("normalised rewards are clipped to this size [> 0]", default=10.0, gt=0)
    network: Literal["flat", "per_layer"] = setting(
        "flat sees the whole observation; per_layer every layer and target by themselves, whatever the number of layers",
        default="flat",
    )
    init_from: str | None = setting(
        "folder where a double_dqn was saved: begin with what its network learned, and explore little from the start; "
        "per_layer networks fit any number of layers",
        default=None,
    )


class DoubleDQNAgent(Agent):
    """Masked double DQN; decides where the action space is Discrete.

    Rewards are learned from in units of their own spread: minus their median, divided by their median absolute
    deviation, clipped. The first windows of a run pay a hundred times what a good decision does; a mean and a standard
    deviation would be all about them.
    """

    Config = DoubleDQNConfig
    action_spaces = (spaces.Discrete,)

    def __init__(self, env: gymnasium.Env[Any, Any], seed: int = 0, **hyperparameters: Any) -> None:
        super().__init__(env, seed, **hyperparameters)
        assert env.observation_space.shape is not None
        self.num_actions = int(env.action_space.n)  # type: ignore[attr-defined]
        size = env.observation_space.shape[0]
        self.generator = torch.Generator().manual_seed(seed)
        self.network, self.target = self._network(size), self._network(size)
        if self.config.init_from is not None:
            self._begin_with(Path(self.config.init_from))
        self.target.load_state_dict(self.network.state_dict())
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=self.config.learning_rate, fused=True)
        self.replay = Replay(self.config.buffer_size, size, self.num_actions, self.config.priority_exponent)
        self.rewards: list[float] = []
        self.pending: deque[tuple[Tensor, int, float]] = deque()
        self.planned = 0
        self.figures: dict[str, float] = {}

    def _network(self, size: int) -> nn.Module:
        width = self.config.width
        if self.config.network == "per_layer":
            return PerLayerNetwork(layout.num_layers(size), self.num_actions, width, self.generator)
        return mlp([size, width, width, self.num_actions], self.generator)

    def _begin_with(self, folder: Path) -> None:
        """Take over the network that an agent saved.

        Raises:
            InputError: If it does not fit, or there is none.
        """
        there = read_json(folder / "agent.json").get("hyperparameters", {})
        for name in ("network", "width"):
            if there.get(name) != getattr(self.config, name):
                raise InputError(
                    f"agent.init_from = {str(folder)!r}: its {name} is {there.get(name)!r}, here agent.{name} is "
                    f"{getattr(self.config, name)!r}"
                )
        try:
            self.network.load_state_dict(torch.load(folder / "state.pt", weights_only=True)["network"])
        except (OSError, RuntimeError, KeyError) as error:
            reason = str(error).splitlines()[-1].strip()
            raise InputError(
                f"agent.init_from = {str(folder)!r}: its network does not fit ({reason}); one of agent.network per_layer "
                "fits any number of layers"
            ) from error

    def learn(self, env: gymnasium.Env[Any, Any], decisions: int, callback: Callback | None = None) -> Self:
        """See Agent.learn; epsilon falls over the decisions of the first call."""
        self.planned = self.planned or decisions
        return super().learn(env, decisions, callback)

    @property
    def epsilon(self) -> float:
        """Share of random actions now."""
        decided = len(self.rewards)
        if self.config.init_from is not None:
            known: float = self.config.exploration_final_eps
            return known
        if decided < self.config.learning_starts:
            return 1.0
        progress: float = min(1.0, decided / max(1.0, self.planned * self.config.exploration_fraction))
        final: float = self.config.exploration_final_eps
        return 1 - progress * (1 - final)

    def predict(self, observation: np.ndarray, action_masks: np.ndarray | None = None, deterministic: bool = False) -> Any:
        """See Agent.predict."""
        legal = self._legal(action_masks)
        if not deterministic and float(torch.rand((), generator=self.generator)) < self.epsilon:
            choices = legal.nonzero()[:, 0]
            return int(choices[torch.randint(len(choices), (), generator=self.generator)])
        return int(self._values(observation).masked_fill(~legal, _ILLEGAL).argmax())

    def learn_from(
        self, observation: np.ndarray, action: Any, reward: float, following: np.ndarray, terminated: bool
    ) -> None:
        """Remember the transition, then take the gradient steps."""
        self.rewards.append(reward)
        self.pending.append((torch.tensor(observation), int(action), reward))
        while self.pending and (terminated or len(self.pending) >= self.config.n_steps):
            self._remember(torch.tensor(following), terminated)
        if len(self.rewards) >= self.config.learning_starts and len(self.replay):
            self._update()

    @torch.no_grad()
    def diagnostics(self, observation: np.ndarray, action_masks: np.ndarray) -> Diagnostics:
        """Return the Q-value of every action, in units of the rewards' spread, and epsilon."""
        return {"q": self._values(observation).tolist(), "epsilon": self.epsilon}

    def metrics(self) -> dict[str, float]:
        """Return the mean loss of the decision's gradient steps, and the spread that rewards are measured in."""
        figures, self.figures = self.figures, {}
        return figures

    def _legal(self, action_masks: np.ndarray | None) -> Tensor:
        return torch.ones(self.num_actions, dtype=torch.bool) if action_masks is None else torch.tensor(action_masks)

    @torch.no_grad()
    def _values(self, observation: np.ndarray) -> Tensor:
        values: Tensor = self.network(torch.as_tensor(observation))
        return values

    def _remember(self, following: Tensor, terminated: bool) -> None:
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
            following=following,
            following_masks=self._legal(masks_of(self.env)),
        )

    def _update(self) -> None:
        """Fit the network to targets that stay as they are during the gradient steps of a decision."""
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
            self.replay.surprise(batch.index[part], (values - targets[part]).detach())
            total += float(loss.detach())
        with torch.no_grad():
            for behind, ahead in zip(self.target.parameters(), self.network.parameters(), strict=True):
                behind.lerp_(ahead, self.config.target_rate)
        self.figures = {"train/loss": total / steps, "train/reward_spread": spread}

    @torch.no_grad()
    def _targets(self, batch: Batch, median: float, spread: float) -> Tensor:
        """Return what the values should be (B,): the network picks the best legal action, the target network values it."""
        reward = (batch.reward - batch.reward_weight * median) / spread
        best = self.network(batch.following).masked_fill(~batch.following_masks, _ILLEGAL).argmax(dim=1, keepdim=True)
        following: Tensor = self.target(batch.following).gather(1, best)[:, 0]
        return reward.clamp(-self.config.reward_clip, self.config.reward_clip) + batch.discount * following

    def _save_state(self, folder: Path) -> None:
        state = {name: part.state_dict() for name, part in self._parts().items()}
        state |= {"generator": self.generator.get_state(), "rewards": self.rewards, "planned": self.planned}
        torch.save({**state, "pending": list(self.pending)}, folder / "state.pt")

    def _load_state(self, folder: Path) -> None:
        state = torch.load(folder / "state.pt", weights_only=True)
        for name, part in self._parts().items():
            part.load_state_dict(state[name])
        self.generator.set_state(state["generator"])
        self.rewards, self.planned, self.pending = state["rewards"], state["planned"], deque(state["pending"])

    def _parts(self) -> Mapping[str, Any]:
        return {"network": self.network, "target": self.target, "optimizer": self.optimizer, "replay": self.replay}
