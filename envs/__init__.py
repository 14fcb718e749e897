"""Gymnasium environments in which one step is one tying decision.

`tying/LayerTying-v0` trains a Transformer; `tying/FormulaTying-v0` answers at once from a formula with a known best
pattern, for tests and for people who develop agents. Both have the same spaces.
"""

import gymnasium

from envs.base import EnvConfig, TyingEnv
from envs.formula import FormulaTyingEnv
from envs.layer_tying import LayerTyingEnv
from envs.presets import PRESETS, Setup
from envs.reward import RewardConfig

gymnasium.register("tying/LayerTying-v0", entry_point="envs.layer_tying:LayerTyingEnv")
gymnasium.register("tying/FormulaTying-v0", entry_point="envs.formula:FormulaTyingEnv")

__all__ = ["PRESETS", "EnvConfig", "FormulaTyingEnv", "LayerTyingEnv", "RewardConfig", "Setup", "TyingEnv"]
