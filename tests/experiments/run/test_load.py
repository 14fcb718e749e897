"""load_run: a run's folder from Python."""

import shutil
from pathlib import Path

import pytest
import torch

import experiments
from agents.dqn import DQNAgent
from experiments import load_run, train
from experiments.run.load import Run
from tests.conftest import single_thread, words
from tests.experiments.runs import SMALL, agent_parameters, call_in, change, decisions, interrupted_after, read
from tying.errors import InputError


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run, and of one that was interrupted after five of eight decisions."""
    folder = tmp_path_factory.mktemp("load")
    (folder / "corpus.txt").write_text(words(6_000), encoding="utf-8")
    flags = [*SMALL, "--data.path", folder / "corpus.txt", "--binding.norms", "private", "--seed", "3"]
    assert call_in(folder, "train", *flags, "--agent", "dqn", "--out", "done") == 0
    with interrupted_after(5):
        assert call_in(folder, "train", *flags, "--agent", "random", "--out", "stopped") == 130
    return folder / "done"


@pytest.mark.parametrize("kind", [str, Path])
def test_a_run_is_read_by_its_path(finished: Path, kind: type) -> None:
    run = load_run(kind(finished))
    assert run.path == finished
    assert (run.config.preset, run.config.agent.name, run.config.run.seed) == ("tiny", "dqn", 3)
    assert run.config.to_json() == read(finished / "config.json")
    assert run.summary == read(finished / "final" / "summary.json")
    assert experiments.__all__ == ["load_run"]


def test_decisions_are_a_table_of_the_record(finished: Path) -> None:
    table, lines = load_run(finished).decisions, decisions(finished)
    assert len(table) == len(lines) == 8
    for name in ("decision", "iteration", "layer", "action", "explored", "reward", "reward_loss", "block_params"):
        assert table[name].tolist() == [line[name] for line in lines], name
    assert [list(pointers) for pointers in table["pointers"]] == [line["pointers"] for line in lines]
    assert {"wall_s", "cpu_s", "decision_s", "train_s"} <= set(table.columns)
    assert table["wall_s"].is_monotonic_increasing


@pytest.mark.usefixtures("one_thread")
def test_the_model_is_the_trained_one_tied_as_it_was(finished: Path) -> None:
    run = load_run(finished)
    batches = run.task.evaluation_batches("test", run.config.trainer.batch_size)
    with torch.no_grad():
        assert run.task.metrics(run.model, batches)["loss"] == run.summary["test_loss"]
    assert sum(p.numel() for p in run.model.parameters()) == run.summary["trainable_params"]
    assert not run.model.training
    assert run.model is run.model


def test_the_agent_is_the_one_at_the_end(finished: Path) -> None:
    agent = load_run(finished).agent
    assert isinstance(agent, DQNAgent)
    learned, saved = agent.model.policy.state_dict(), agent_parameters(finished)
    assert learned.keys() == saved.keys()
    assert all(torch.equal(learned[name], saved[name]) for name in saved)
    observation, _ = agent.env.reset(seed=0)
    assert int(agent.predict(observation, agent.env.unwrapped.action_masks(), deterministic=True)) in range(3)


def test_the_model_needs_no_agent(finished: Path, tmp_path: Path) -> None:
    """An agent may be of a package that is no longer there."""
    run = Path(shutil.copytree(finished, tmp_path / "run", symlinks=True))
    change(run / "config.json", ["resolved"], agent={"name": "gone_package:Agent"})
    loaded = load_run(run)
    assert torch.equal(next(loaded.model.parameters()), next(load_run(finished).model.parameters()))
    with pytest.raises(InputError, match="would import gone_package:Agent"):
        _ = loaded.config
    with pytest.raises(InputError, match="'gone_package:Agent' cannot be imported"):
        _ = load_run(run, trust=True).config


def test_of_an_unfinished_run_there_is_the_newest_checkpoint(finished: Path) -> None:
    run = load_run(finished.parent / "stopped")
    assert len(run.decisions) == 5
    pointers = read(run.path / "checkpoints" / "latest" / "state.json")["pointers"]
    assert pointers == decisions(run.path)[3]["pointers"]  # a checkpoint every second decision
    blocks = run.task.blocks(run.model)
    matrices = [next(p for p in block.parameters() if p.dim() == 2) for block in blocks]
    assert all(matrices[layer] is matrices[root] for layer, root in enumerate(pointers))
    with pytest.raises(InputError, match="not finished; resume it by"):
        _ = run.summary
    with pytest.raises(InputError):
        _ = run.agent


def test_a_folder_that_is_no_run_is_refused_at_once(finished: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not a run directory"):
        load_run(tmp_path)
    run = Path(shutil.copytree(finished.parent / "stopped", tmp_path / "run", symlinks=True))
    shutil.rmtree(run / "checkpoints")
    with pytest.raises(InputError, match="no model yet, not even a checkpoint"):
        _ = load_run(run).model
    change(run / "config.json", [], format=1)
    with pytest.raises(InputError, match="written by format 1, this version reads format 2"):
        load_run(run)


def test_train_returns_the_run(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with single_thread():
        again = train.main(["--config", str(finished / "config.json"), "--out", "again"])
    known = train.main(["--resume", str(finished)])
    assert isinstance(again, Run) and isinstance(known, Run)
    assert (again.path, known.path) == (Path("again"), finished)
    assert again.summary["test_loss"] == known.summary["test_loss"]
    assert f"{finished} is finished" in capsys.readouterr().out.replace("\n", "")


OPTIONS = {
    "--model.residual looped --model.depth-embedding sinusoid": ("dqn", "surrogate", "sequence:2"),
    "--model.norm-place post --model.residual admin --model.depth-embedding learned": ("dqn", "surrogate", "sequence:2"),
    "--model.norm-place post --model.residual deepnet": ("dqn", "sequence:2"),
    "--model.norm-place post --model.residual b2t": ("surrogate", "sequence:2"),
    "--model.halting act --model.depth-embedding learned": ("all_tied", "dqn --env.freeze-after 0", "cycle:1"),
}


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("options", OPTIONS)
def test_options_of_a_model_train_under_any_agent_and_are_read_back(tmp_path: Path, options: str) -> None:
    (tmp_path / "corpus.txt").write_text(words(6_000), encoding="utf-8")
    flags = [*SMALL, "--data.path", tmp_path / "corpus.txt", *options.split(), "--env.initial-pointers", "all_tied"]
    for number, agent in enumerate(OPTIONS[options]):
        assert call_in(tmp_path, "train", *flags, "--agent", *agent.split(), "--out", str(number)) == 0
        run = load_run(tmp_path / str(number))
        batches = run.task.evaluation_batches("test", run.config.trainer.batch_size)
        metrics = run.task.metrics(run.model, batches)
        assert {name: run.summary[f"test_{name}"] for name in metrics} == metrics
        assert sum(p.numel() for p in run.model.parameters()) == run.summary["trainable_params"]
        assert ("halting" in options) == ("mean_steps" in metrics)
        assert 1 <= metrics.get("mean_steps", 1) <= 3
