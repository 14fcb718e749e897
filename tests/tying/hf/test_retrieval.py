"""The example of retrieval: what it ranks, and how it scores."""

import importlib.util
import shutil
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import transformers as tf
from folders import make_folder

import tying.hf
from tying import InputError

EXAMPLE = Path(__file__).resolve().parents[3] / "examples" / "retrieval.py"


@pytest.fixture(scope="module")
def retrieval() -> ModuleType:
    spec = importlib.util.spec_from_file_location("retrieval", EXAMPLE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_scores_count_first_places_and_ranks(retrieval: ModuleType) -> None:
    cosines = np.array([[0.9, 0.1, 0.2], [0.8, 0.5, 0.1], [0.3, 0.2, 0.1]])  # own documents come first, second, third
    first, rank, same = retrieval.scores(cosines, cosines)
    assert (first, rank, same) == pytest.approx((1 / 3, (1 + 1 / 2 + 1 / 3) / 3, 1.0))
    assert retrieval.scores(cosines, -cosines)[2] == pytest.approx(-1.0)


@pytest.mark.filterwarnings("ignore:.*has no weights for pooler")
def test_a_copy_is_scored_beside_its_original(
    retrieval: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = retrieval.pairs()
    assert len(texts) == len({query for query, _ in texts}) == retrieval._MOST
    assert all(min(len(query), len(document)) >= retrieval._SHORTEST for query, document in texts)
    folder = make_folder("bert", tmp_path / "bert")
    model = tf.AutoModel.from_pretrained(folder)
    tying.hf.tie(model, "0 0 0")
    model.save_pretrained(tmp_path / "tied")
    for path in folder.glob("tokenizer*"):
        shutil.copy(path, tmp_path / "tied" / path.name)
    monkeypatch.setattr(retrieval, "pairs", lambda: texts[:20])
    found = retrieval.main([str(folder), str(tmp_path / "tied")])
    assert found[str(folder)][2] == pytest.approx(1.0)
    assert found[str(tmp_path / "tied")][2] < 1
    assert "20 docstrings" in capsys.readouterr().out
    with pytest.raises(InputError, match="no model"):
        retrieval.main([str(tmp_path)])
