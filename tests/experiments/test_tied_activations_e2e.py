"""Runs whose keys and values follow the pointers: comparisons, the size of the cache, the saved model."""

from collections.abc import Callable
from pathlib import Path

import pytest

from experiments import load_run
from tests.conftest import Finished
from tests.experiments.runs import KINDS, SMALL, read
from tying import Pointers

pytestmark = pytest.mark.e2e

Call = Callable[..., Finished]


def test_searches_and_fixed_patterns_in_a_comparison(call: Call, text_file: Path, tmp_path: Path) -> None:
    flags = [*SMALL, *KINDS["kv_tied"].split(), "--binding.share", "kv", "--data.path", text_file]
    agents = ("dqn", "local_search", "sequence:2", "independent")
    done = call("compare", "--agents", *agents, "--seeds", "1", *flags, "--jobs", "1", "--no-shallow", "--out", "c")
    assert done.status == 0, done.err
    folders = list((tmp_path / "c" / "runs").iterdir())
    assert len(folders) == 4
    for folder in folders:
        run, summary = load_run(folder), read(folder / "final" / "summary.json")
        pointers = Pointers(summary["pointers"])
        assert summary["cache_bytes_per_token"] == 2 * pointers.num_unique * 2 * 2 * 4  # heads of keys and values, D, bytes
        cache = run.model.make_cache()  # type: ignore[operator]
        found = run.task.metrics(run.model, run.task.evaluation_batches("test", run.config.trainer.batch_size))
        assert found["loss"] == pytest.approx(summary["test_loss"], rel=1e-12)
        tokens = next(iter(run.task.evaluation_batches("test", 1)))[0]
        run.model(tokens, cache)
        assert cache.num_bytes == summary["cache_bytes_per_token"] * tokens.numel()
        total = sum(terms["cache"] for terms in run.decisions["reward_terms"])
        first = run.decisions["previous_pointers"].iloc[0]
        assert total == pytest.approx(-0.3 * (pointers.num_unique - Pointers(first).num_unique) / 3)
        assert len(run.sample("a", 5)) >= 5
