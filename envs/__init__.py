"""Gymnasium environments in which one step is one tying decision.

`tying/LayerTying-v0` trains a Transformer; `tying/FormulaTying-v0` answers at once from a formula with a known best
pattern, and `tying/TyingBench-v0` from a table of all patterns, each trained from scratch: for tests and for people who
develop agents. `tying/Compressing-v0` ties and removes layers of a model that is trained already. All have the same spaces.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

import gymnasium

if TYPE_CHECKING:
    from envs.base import EnvConfig as EnvConfig
    from envs.base import TyingEnv as TyingEnv
    from envs.compressing import CompressingEnv as CompressingEnv
    from envs.config import TrainingConfig as TrainingConfig
    from envs.formula import FormulaTyingEnv as FormulaTyingEnv
    from envs.presets import PRESETS as PRESETS
    from envs.reward import RewardConfig as RewardConfig
    from envs.table import TableTyingEnv as TableTyingEnv
    from envs.training import LayerTyingEnv as LayerTyingEnv
    from tying.tyingbench import TyingBench as TyingBench

gymnasium.register("tying/LayerTying-v0", entry_point="envs.training:LayerTyingEnv")
gymnasium.register("tying/FormulaTying-v0", entry_point="envs.formula:FormulaTyingEnv")
gymnasium.register("tying/Compressing-v0", entry_point="envs.compressing:CompressingEnv")
gymnasium.register(
    "tying/TyingBench-v0", entry_point="envs.table:TableTyingEnv", vector_entry_point="envs.vector:TableTyingVectorEnv"
)

# Imported when they are asked for: command lines answer before torch is there.
_LAZY = {
    "CompressingEnv": "envs.compressing",
    "EnvConfig": "envs.base",
    "FormulaTyingEnv": "envs.formula",
    "LayerTyingEnv": "envs.training",
    "PRESETS": "envs.presets",
    "RewardConfig": "envs.reward",
    "TableTyingEnv": "envs.table",
    "TrainingConfig": "envs.config",
    "TyingBench": "tying.tyingbench",
    "TyingEnv": "envs.base",
}
__all__ = [
    "PRESETS",
    "CompressingEnv",
    "EnvConfig",
    "FormulaTyingEnv",
    "LayerTyingEnv",
    "RewardConfig",
    "TableTyingEnv",
    "TrainingConfig",
    "TyingBench",
    "TyingEnv",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'envs' has no attribute {name!r}")
    return getattr(import_module(_LAZY[name]), name)
