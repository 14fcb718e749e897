"""How far it is from the script to the optimizer's step: each frame is a function that a reader has to open."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conftest import ROOT, Finished

FLOORS = tuple(str(ROOT / floor) for floor in ("tying", "envs", "agents", "experiments"))


def frames_of_ours() -> list[str]:
    """Return the functions of ours that are being executed, the outermost first."""
    frame = sys._getframe(1)
    found = []
    while frame is not None:
        code = frame.f_code
        if code.co_filename.startswith(FLOORS):
            found.append(f"{Path(code.co_filename).relative_to(ROOT)}:{code.co_name}")
        frame = frame.f_back  # type: ignore[assignment]
    return found[::-1]


@pytest.mark.parametrize("agent", ["sequence:2", "random"])
def test_from_the_script_to_the_step_are_eight_frames(
    train: Callable[..., Finished], text_file: Path, monkeypatch: pytest.MonkeyPatch, agent: str
) -> None:
    stacks: set[tuple[str, ...]] = set()
    step = torch.optim.AdamW.step

    def look(self: torch.optim.AdamW, *arguments: Any, **others: Any) -> Any:
        stacks.add(tuple(frames_of_ours()))
        return step(self, *arguments, **others)

    monkeypatch.setattr(torch.optim.AdamW, "step", look)
    settings = "--preset tiny --trainer.iterations 4 --env.decision-interval 2 --model.width 8".split()
    done = train(*settings, "--data.path", text_file, "--agent", agent, "--out", "run")
    assert done.status == 0, done.err
    (frames,) = stacks  # every step is taken from the same place
    frames = frames[frames.index("experiments/train.py:main") :]
    assert len(frames) + 1 <= 8, frames  # the step itself is the last
    assert frames[-1].startswith("tying/training/trainer.py")
