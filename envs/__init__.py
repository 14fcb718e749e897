"""Gymnasium environments in which one step is one tying decision.

`tying/LayerTying-v0` trains a Transformer; `tying/FormulaTying-v0` answers at once from a formula with a known best
pattern, and `tying/TyingBench-v0` from a table of all patterns, each trained from scratch: for tests and for people who
develop agents. All have the same spaces.
"""

import gymnasium

from envs.base import EnvConfig, TyingEnv
from envs.formula import FormulaTyingEnv
from envs.layer_tying import LayerTyingEnv
from envs.presets import PRESETS, Setup
from envs.reward import RewardConfig
from envs.table_tying import TableTyingEnv
from envs.tyingbench import TyingBench

gymnasium.register("tying/LayerTying-v0", entry_point="envs.layer_tying:LayerTyingEnv")
gymnasium.register("tying/FormulaTying-v0", entry_point="envs.formula:FormulaTyingEnv")
gymnasium.register("tying/TyingBench-v0", entry_point="envs.table_tying:TableTyingEnv")

__all__ = [
    "PRESETS",
    "EnvConfig",
    "FormulaTyingEnv",
    "LayerTyingEnv",
    "RewardConfig",
    "Setup",
    "TableTyingEnv",
    "TyingBench",
    "TyingEnv",
]
