"""Double DQN for few, expensive decisions, with action masks wherever an action is drawn or valued.

Double Q-learning: van Hasselt et al., AAAI 2016. Prioritised replay: Schaul et al., ICLR 2016. n-step returns: Hessel
et al. (Rainbow), AAAI 2018. `agents.q_learner` holds the networks.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import gymnasium
import numpy as np
from gymnasium import spaces

from agents.base import Agent, Callback, Diagnostics, Explanation, Transition
from agents.environment import refusal_of_ranks
from tying.config import build, config, setting

if TYPE_CHECKING:
    from agents.q_learner import QLearner


@config
class DoubleDQNConfig:
    """Hyper-parameters of DoubleDQNAgent."""

    learning_rate: float = setting("Adam's learning rate [> 0 to 1]", default=3e-3, gt=0, le=1)
    gamma: float = setting(
        "discount per decision; most of a decision's improvement shows at once [0 to 1]", default=0.5, ge=0, le=1
    )
    width: int = setting("units in each of two hidden layers [>= 1]", default=64, ge=1)
    buffer_size: int = setting(
        "replay capacity; the default holds any run [transitions, 1 to 1e6]", default=5_000, ge=1, le=1_000_000
    )
    learning_starts: int = setting("decisions at random before the first update [>= 1]", default=8, ge=1)
    batch_size: int = setting("transitions in an update [>= 1]", default=32, ge=1)
    gradient_steps: int = setting("updates per decision; decisions are expensive, updates cheap [>= 1]", default=8, ge=1)
    target_rate: float = setting(
        "share of the way that the target network moves to the other at each decision [above 0 to 1]",
        default=0.1,
        gt=0,
        le=1,
    )
    exploration_fraction: float = setting(
        "share of the decisions over which epsilon falls [above 0 to 1]", default=0.4, gt=0, le=1
    )
    exploration_final_eps: float = setting("epsilon at the end [0 to 1]", default=0.05, ge=0, le=1)
    n_steps: int = setting("rewards summed before the next value is added [decisions, >= 1]", default=1, ge=1)
    priority_exponent: float = setting(
        "exponent of prioritised replay; 0: all transitions alike [0 to 1]", default=0.0, ge=0, le=1
    )
    reward_clip: float = setting("normalised rewards are clipped to this size [> 0]", default=10.0, gt=0)
    network: Literal["flat", "per_layer"] = setting(
        "flat reads the whole observation; per_layer every layer and target by themselves, for any number of layers",
        default="flat",
    )
    init_from: str | None = setting(
        "folder where a double_dqn was saved: begin with its network, and explore little from the start; "
        "per_layer networks fit any number of layers",
        default=None,
    )


class DoubleDQNAgent(Agent):
    """Masked double DQN; decides where the action space is Discrete.

    Rewards are learned from in units of their own spread: minus their median, divided by their median absolute deviation,
    clipped. The first windows of a run have a hundred times the reward of a good decision, which would dominate a mean
    and a standard deviation.
    """

    Config = DoubleDQNConfig
    resumable = True
    action_spaces = (spaces.Discrete,)
    learner: "QLearner"

    def __init__(self, env: gymnasium.Env[Any, Any], seed: int = 0, **hyperparameters: Any) -> None:
        from agents.q_learner import QLearner  # torch is imported when an agent is made, not for its settings

        super().__init__(env, seed, **hyperparameters)
        self.any_depth = self.config.network == "per_layer"
        self.num_actions = int(env.action_space.n)  # type: ignore[attr-defined]
        self.learner = QLearner(self.config, self.num_layers, self.num_actions, seed)
        self._began_with: str | None = None
        if self.config.init_from is not None:
            self._began_with = self.learner.begin_with(Path(self.config.init_from))
        self.planned = 0

    @classmethod
    def refusal(cls, env: gymnasium.Env[Any, Any], config: Any) -> str | None:
        """See Agent.refusal; networks that value a layer with a target have no place for ranks."""
        refusal = refusal_of_ranks(env) if config.network == "per_layer" else None
        return refusal and f"with agent.network per_layer {refusal}"

    @classmethod
    def _unlearned(cls, env: gymnasium.Env[Any, Any], seed: int, hyperparameters: Mapping[str, Any]) -> Self:
        """Return an agent whose state is about to be loaded; the policy that it once began with may be gone."""
        agent = cls(env, seed, **{**hyperparameters, "init_from": None})
        agent.config = build(cls.Config, dict(hyperparameters), "agent.")
        return agent

    def facts(self) -> dict[str, Any]:
        """Return what identifies the policy that it began with."""
        if self._began_with is None:
            return {}
        return {"init_from": self.config.init_from, "init_from_sha256": self._began_with}

    def learn(
        self,
        env: gymnasium.Env[Any, Any] | int | None = None,
        decisions: int | None = None,
        callback: Callback | None = None,
        *,
        total_timesteps: int | None = None,
    ) -> Self:
        """See Agent.learn; epsilon falls over the decisions of the first call."""
        env, decisions = self.requested(env, decisions, total_timesteps)
        self.planned = self.planned or decisions
        return super().learn(env, decisions, callback)

    @property
    def epsilon(self) -> float:
        """Share of random actions now."""
        final: float = self.config.exploration_final_eps
        decided = self.learner.num_rewards
        if self.config.init_from is not None:
            return final
        if decided < self.config.learning_starts:
            return 1.0
        progress: float = min(1.0, decided / max(1.0, self.planned * self.config.exploration_fraction))
        return 1 - progress * (1 - final)

    def predict(self, observation: np.ndarray, action_masks: np.ndarray | None = None, deterministic: bool = False) -> Any:
        """See Agent.predict."""
        legal = self._legal(action_masks)
        if not deterministic and self.learner.uniform() < self.epsilon:
            choices = np.flatnonzero(legal)
            return int(choices[self.learner.integer(len(choices))])
        return int(np.where(legal, self.learner.values(observation), -np.inf).argmax())

    def learn_from(self, step: Transition) -> None:
        """Remember the transition, then take the gradient steps."""
        self.learner.remember(step, self._legal(step.next_masks))
        self.learner.update()

    def _legal(self, action_masks: np.ndarray | None) -> np.ndarray:
        return np.ones(self.num_actions, dtype=bool) if action_masks is None else action_masks

    def diagnostics(self, observation: np.ndarray, action_masks: np.ndarray) -> Diagnostics:
        """Return the Q-value of every action, in units of the rewards' spread, and epsilon."""
        return {"q": self.learner.values(observation).tolist(), "epsilon": self.epsilon}

    def explain(self, observation: np.ndarray, action_masks: np.ndarray, action: Any) -> Explanation:
        """Return whether another legal action has a higher Q-value, and the Q-value of this one."""
        values = self.learner.values(observation)
        return bool(values[int(action)] < values[action_masks].max()), float(values[int(action)])

    def metrics(self) -> dict[str, float]:
        """Return the mean loss of the decision's gradient steps, and the spread that rewards are measured in."""
        return self.learner.take_figures()

    def save_state(self, folder: Path) -> None:
        """Write networks, optimizer, replay buffer and generator."""
        self.learner.save(folder, planned=self.planned)

    def load_state(self, folder: Path) -> None:
        """Read them; a per_layer network of another depth comes without its replay buffer."""
        self.planned = self.learner.load(folder)
