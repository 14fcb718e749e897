"""`python -m experiments.train` as a person runs it: what it leaves behind, and what does not depend on the agent."""

import itertools
import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from envs.presets import PRESETS
from experiments import load_run
from tests.conftest import Finished, Scripts
from tests.experiments.runs import SMALL, call_in, config_of, decisions, mistake, read, weights
from tests.tying.rows import write_labelled
from tying import tasks
from tying.config import override
from tying.errors import InputError
from tying.pointers import Pointers
from tying.training import checkpoint
from tying.training.trainer import Trainer

pytestmark = pytest.mark.e2e

SEED = 3
# Dropout, since its masks must not depend on the agent either.
TINY = ("--preset", "tiny", "--seed", str(SEED), "--model.dropout", "0.1")
FLAGS = {
    "default": ["--agent", "dqn"],
    "sequence": ["--agent", "sequence:2"],
    "independent": ["--agent", "independent"],
    "frozen random": ["--agent", "random", "--env.freeze-after", "0"],
    "frozen dqn": ["--agent", "dqn", "--env.freeze-after", "0"],
    "frozen independent": ["--agent", "independent", "--env.freeze-after", "0"],
}
SUMMARY = {
    "agent": str,
    "seed": int,
    "preset": str,
    "task": str,
    "pointers": list,
    "num_layers": int,
    "num_unique_layers": int,
    "effective_blocks": float,
    "trainable_params": int,
    "trainable_block_params": int,
    "independent_params": int,
    "independent_block_params": int,
    "iterations": int,
    "tokens": int,
    "decisions": int,
    "changes": int,
    "test_loss": float,
    "test_ppl": float,
    "test_bits_per_byte": float,
    "reward_loss": float,
    "wall_s": float,
    "train_s": float,
    "evaluate_s": float,
    "decision_s": float,
    "references": dict,
}


@pytest.fixture(scope="module")
def runs(scripts: Scripts, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Finished runs of the tiny preset, each in the runs/ of a folder of its own."""
    folders = {name: tmp_path_factory.mktemp(name.replace(" ", "-")) for name in FLAGS}
    processes = {name: scripts.start("train", *TINY, *FLAGS[name], cwd=folders[name]) for name in ("default", "frozen dqn")}
    for process in processes.values():
        finished = scripts.wait(process)
        assert (finished.status, finished.err) == (0, "")
    for name in FLAGS.keys() - processes.keys():  # the same, inside this process
        assert call_in(folders[name], "train", *TINY, *FLAGS[name]) == 0
    return {name: next((folder / "runs").iterdir()) for name, folder in folders.items()}


@pytest.fixture(scope="module")
def run(runs: dict[str, Path]) -> Path:
    """The run of a learning agent."""
    return runs["default"]


# What a run leaves behind.


def test_folder_is_named_after_the_run(run: Path) -> None:
    preset, agent, seed, moment = run.name.split("__")
    assert (preset, agent, seed) == ("tiny", "dqn", f"s{SEED}")
    assert len(moment) == len("20250131-235959")


def test_every_artefact_is_there(run: Path) -> None:
    names = {str(path.relative_to(run)) for path in run.rglob("*")}
    assert names >= {
        "config.json",
        "command.txt",
        "versions.json",
        "decisions.jsonl",
        "checkpoints/latest",
        "final/summary.json",
        "final/model.safetensors",
        "final/pointers.json",
    }
    assert any(name.startswith("tb/events.out.tfevents") for name in names)
    assert (run / "checkpoints" / "latest").resolve() == (run / "checkpoints" / "000010").resolve()
    assert not any(name.endswith(".tmp") for name in names)


def test_what_was_run_by_what(run: Path) -> None:
    command = (run / "command.txt").read_text()
    assert command.endswith(" -m experiments.train --preset tiny --seed 3 --model.dropout 0.1 --agent dqn\n")
    versions = read(run / "versions.json")
    assert versions.keys() >= {"git", "packages", "device", "corpus_sha256"}
    assert versions["corpus_sha256"] == read(run / "final" / "summary.json")["corpus_sha256"]
    config = read(run / "config.json")
    assert config == config_of(*TINY, "--agent", "dqn").to_json()
    assert config["chosen"] == {"preset": "tiny", "run.seed": SEED, "model.dropout": 0.1, "agent.name": "dqn"}


@pytest.mark.parametrize("name", FLAGS)
def test_summary_has_its_keys(runs: dict[str, Path], name: str) -> None:
    summary = read(runs[name] / "final" / "summary.json")
    assert {key: type(summary[key]) for key in SUMMARY} == SUMMARY


def test_summary_says_what_was_asked_for(run: Path) -> None:
    summary = read(run / "final" / "summary.json")
    assert (summary["agent"], summary["seed"], summary["preset"]) == ("dqn", SEED, "tiny")
    assert (summary["iterations"], summary["tokens"], summary["decisions"]) == (40, 40 * 8 * 32, 10)
    lines = decisions(run)
    patterns = [[0, 1, 2, 3], *(line["pointers"] for line in lines)]
    assert summary["changes"] == sum(one != other for one, other in itertools.pairwise(patterns))
    assert summary["test_ppl"] == math.exp(summary["test_loss"])
    # Bytes are the tokens of this preset.
    assert summary["test_bits_per_byte"] == pytest.approx(summary["test_loss"] / math.log(2))
    assert 0 < summary["train_s"] < summary["wall_s"]


def test_three_clocks_make_up_the_time_and_do_not_overlap(run: Path) -> None:
    lines = [json.loads(line) for line in (run / "decisions.jsonl").read_text().splitlines()]
    for before, line in itertools.pairwise(lines):
        parts = [line[name] for name in ("train_s", "evaluate_s", "decision_s")]
        assert min(parts) > 0
        assert sum(parts) == pytest.approx(line["wall_s"] - before["wall_s"])


def test_decisions_are_numbered_and_whole(run: Path) -> None:
    lines = decisions(run)
    assert [line["decision"] for line in lines] == list(range(10))
    assert [line["iteration"] for line in lines] == list(range(4, 41, 4))
    assert [line["layer"] for line in lines] == [1, 2, 3] * 3 + [1]  # the cursor walks the layers
    assert all(line.keys() >= {"action", "pointers", "reward", "reward_terms", "reward_loss"} for line in lines)
    for line in lines:
        assert line["reward"] == pytest.approx(sum(line["reward_terms"].values()))


def test_pointers_are_the_same_everywhere(run: Path) -> None:
    pointers = read(run / "final" / "pointers.json")
    assert read(run / "final" / "summary.json")["pointers"] == pointers
    assert read(run / "checkpoints" / "latest" / "state.json")["pointers"] == pointers
    assert decisions(run)[-1]["pointers"] == pointers


@pytest.mark.parametrize("name", FLAGS)
def test_loss_falls(runs: dict[str, Path], name: str) -> None:
    assert read(runs[name] / "final" / "summary.json")["test_loss"] < math.log(256) - 1
    losses = [line["reward_loss"] for line in decisions(runs[name])]
    assert losses[-1] < losses[0] - 0.5


@pytest.mark.parametrize("name", FLAGS)
def test_counts_are_those_of_the_stored_weights(runs: dict[str, Path], name: str) -> None:
    summary = read(runs[name] / "final" / "summary.json")
    stored = load_file(runs[name] / "final" / "model.safetensors")
    of_blocks = {key: value for key, value in stored.items() if key.startswith("h.")}
    layers = {int(key.split(".")[1]) for key in of_blocks}
    assert layers == set(summary["pointers"])
    assert summary["num_unique_layers"] == len(layers)
    assert summary["effective_blocks"] == Pointers(summary["pointers"]).effective_blocks
    assert summary["trainable_params"] == sum(value.numel() for value in stored.values())
    assert summary["trainable_block_params"] == sum(value.numel() for value in of_blocks.values())


def test_independent_counts_are_those_of_the_untied_run(runs: dict[str, Path]) -> None:
    untied = read(runs["independent"] / "final" / "summary.json")
    for run in runs.values():
        summary = read(run / "final" / "summary.json")
        assert summary["independent_params"] == untied["trainable_params"]
        assert summary["independent_block_params"] == untied["trainable_block_params"]


def test_fixed_strategy_is_in_force_from_the_first_window_on(runs: dict[str, Path]) -> None:
    assert {tuple(line["pointers"]) for line in decisions(runs["sequence"])} == {(0, 0, 2, 2)}


# What does not depend on the agent.


def test_swapping_the_agent_changes_neither_weights_nor_data_order(runs: dict[str, Path]) -> None:
    frozen = [run for name, run in runs.items() if name.startswith("frozen")]
    assert len({weights(run) for run in frozen}) == 1
    losses = [[line["train_loss"] for line in decisions(run)] for run in frozen]
    assert losses[0] == losses[1] == losses[2]


@pytest.mark.usefixtures("one_thread")
def test_conventional_training_is_a_plain_run_without_an_agent(runs: dict[str, Path], tmp_path: Path) -> None:
    config = override(PRESETS["tiny"], {"model.dropout": 0.1})
    task = tasks.make(config.task, config.model, config.data)
    trainer = Trainer(task, config.trainer, config.optim, config.binding, SEED)
    trainer.train(config.trainer.iterations)
    checkpoint.save_tensors(trainer.state_dict()["model"], tmp_path / "plain.safetensors")
    assert (tmp_path / "plain.safetensors").read_bytes() == weights(runs["independent"])
    assert weights(runs["independent"]) == weights(runs["frozen random"])
    assert trainer.evaluate("test") == read(runs["independent"] / "final" / "summary.json")["test_loss"]


def test_own_config_makes_the_same_run_again(train: Callable[..., Finished], run: Path, tmp_path: Path) -> None:
    assert train("--config", run / "config.json", "--out", "again").status == 0
    assert read(tmp_path / "again" / "config.json") == read(run / "config.json")
    assert decisions(tmp_path / "again") == decisions(run)
    assert weights(tmp_path / "again") == weights(run)


def test_a_classifier_begins_with_the_weights_and_the_tokenizer_of_a_run(
    train: Callable[..., Finished], text_file: Path, tmp_path: Path
) -> None:
    """Of tied layers, each begins with the weights that it used; another size is refused before anything is made."""
    small = [*SMALL, "--model.context", "16", "--seed", "1"]
    first = [*small, "--task", "masked_lm", "--data.path", text_file, "--data.tokenizer", "bpe", "--data.vocab-size", "300"]
    assert train(*first, "--agent", "0 1 1", "--out", "first").status == 0
    second = [*small, "--task", "sequence_classification", "--model.init-from", "first", "--lr", "1e-12"]
    second += ["--data.path", write_labelled(tmp_path / "rows.tsv"), "--agent", "independent"]
    assert train(*second, "--out", "second").status == 0
    assert (tmp_path / "second" / "tokenizer.json").read_bytes() == (tmp_path / "first" / "tokenizer.json").read_bytes()
    before, after = (load_file(tmp_path / name / "final" / "model.safetensors") for name in ("first", "second"))
    assert not any(name.startswith("h.2.") for name in before)
    for name, value in after.items():
        if not name.startswith("head."):
            own = before[name.replace("h.2.", "h.1.")]
            torch.testing.assert_close(value, own, rtol=0, atol=1e-9)
    finished = train(*second, "--model.width", "16", "--out", "third")
    assert (finished.status, len(finished.err.splitlines())) == (2, 1) and not (tmp_path / "third").exists()
    assert "model.init_from = 'first': of other sizes: embeddings." in finished.err
    assert "no folder of a run" in mistake(*second, "--model.init-from", "nowhere")
    assert "task 'masked_lm' begins anew" in mistake(*first, "--model.init-from", "first")
    (tmp_path / "first" / "final" / "model.safetensors").write_bytes(b"damaged")
    assert "model.safetensors: damaged" in train(*second, "--out", "third").err


def test_other_seed_is_another_run(train: Callable[..., Finished], run: Path, tmp_path: Path) -> None:
    assert train("--config", run / "config.json", "--out", "other", "--seed", "4").status == 0
    assert weights(tmp_path / "other") != weights(run)


# A task that generates its data.

HOPS = (
    "--preset p-hop --model.width 8 --model.num-layers 3 --model.context 16 --trainer.iterations 8 --trainer.batch-size 4 "
    "--env.decision-interval 2 --task.eval-sequences 20 --out run"
).split()


def test_a_generated_task_is_trained_as_any_other(train: Callable[..., Finished]) -> None:
    finished = train(*HOPS, "--agent", "random", "--task.hops", "2")
    assert (finished.status, finished.err) == (0, "")
    assert "corpus p-hop induction (2 hops, 4 letters): reading ..." in finished.out
    assert "counting models" not in finished.out and "test accuracy" in finished.out
    assert "reward loss 1." in finished.out and "perplexity" not in finished.out
    summary = read(Path("run") / "final" / "summary.json")
    assert (summary["task"], summary["references"], summary["tokens"]) == ("p_hop", {}, 8 * 4 * 16)
    assert not {"test_ppl", "test_bits_per_byte"} & summary.keys()
    run = load_run("run")
    found = run.task.metrics(run.model, run.task.evaluation_batches("test", 4))
    assert found == {"loss": pytest.approx(summary["test_loss"]), "accuracy": pytest.approx(summary["test_accuracy"])}
    with pytest.raises(InputError, match="the model of task 'p_hop' does not continue text"):
        run.sample("a")


def test_a_generated_task_reads_no_text(train: Callable[..., Finished], tmp_path: Path) -> None:
    finished = train(*HOPS, "--agent", "random", "--data.path", "corpus.txt")
    assert (finished.status, finished.err.count("\n")) == (2, 1)
    assert "data.path = 'corpus.txt': task 'p_hop' generates its data" in finished.err
    assert not list(tmp_path.iterdir())
