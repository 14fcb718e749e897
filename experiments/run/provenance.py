"""Provenance: what makes figures here, as facts that are stored beside them."""

import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tying.tasks.base import Task

_PACKAGES = ("torch", "numpy", "gymnasium", "stable-baselines3", "sb3-contrib", "tokenizers", "transformers", "safetensors")


def made_by() -> dict[str, Any]:
    """Return Python, platform, processor, git revision and packages, JSON-ready."""
    packages: dict[str, str | None] = {}
    for name in _PACKAGES:
        try:
            packages[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            packages[name] = None
    return {
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "git": _git_revision(),
        "packages": packages,
    }


def inputs(task: "Task", agent: Any) -> dict[str, Any]:
    """Return what identifies the files that a run is made from: pairs of a name and a digest, see `Task.facts`."""
    # Another person's agent may have no such method.
    return {**task.facts(), **getattr(agent, "facts", dict)()}


def differences(known: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    """Return what figures depend on bit by bit and is other now, "torch 2.12.0, now 2.13.0"; empty where nothing is."""
    pairs = {name: (known.get(name), here.get(name)) for name in ("device", "processor", "threads", "git")}
    pairs["processes"] = (known.get("processes", 1), here.get("processes", 1))
    pairs["torch"] = (known["packages"].get("torch"), here["packages"].get("torch"))
    return ", ".join(f"{name} {then}, now {now}" for name, (then, now) in pairs.items() if then != now)


def _processor() -> str:
    """Return the processor's name; Linux alone hides it in a file."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def _git_revision() -> str | None:
    """Return the revision of this source tree, marked when it has uncommitted changes; None outside a checkout."""
    root = Path(__file__).parent
    try:
        shown = subprocess.run(
            ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40"], capture_output=True, text=True
        )
    except OSError:
        return None
    return shown.stdout.strip() or None
