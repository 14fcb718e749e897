"""Scripts that a person runs, and what runs and studies leave behind. `load_run` reads a run's folder."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from experiments.run.load import load_run as load_run

__all__ = ["load_run"]


def __getattr__(name: str) -> Any:
    if name != "load_run":
        raise AttributeError(f"module 'experiments' has no attribute {name!r}")
    from experiments.run.load import load_run

    return load_run
