"""experiments.compress: from a trained model to a smaller one on disk."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import tying.hf
from experiments import load_run
from experiments.compression import pipeline
from experiments.run.config import dump
from tests.conftest import Finished, Scripts, words
from tests.experiments.runs import SMALL, config_of, contents, read, until
from tests.tying.hf.folders import make_folder, make_task
from tying.compression import Sources, rules
from tying.compression.divergence import Divergence
from tying.compression.search import every
from tying.files import write_json
from tying.tasks.base import Task

pytestmark = pytest.mark.filterwarnings("ignore:.*has no weights for (bert.)?pooler")
Call = Callable[..., Finished]
SHORT = ("--trainer.iterations", "6", "--trainer.batch-size", "4", "--reward.num-batches", "2", "--test-batches", "3")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("compress")
    for family in ("gpt2", "bert"):
        make_folder(family, folder / family)
    (folder / "corpus.txt").write_text(words(6_000), encoding="utf-8")
    return folder


@pytest.fixture
def pretrained(root: Path) -> tuple[str, ...]:
    return (str(root / "bert"), *SHORT, "--data.path", str(root / "corpus.txt"), "--model.context", "16")


def summary(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "summary.json").read_text())
    return found


def queries(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "queries.jsonl").read_text().splitlines()]


@torch.no_grad()
def loss_of(task: Task, model: torch.nn.Module) -> float:
    """Return what a summary says of a model: the loss on its batches of the test split."""
    return task.metrics(model, task.evaluation_batches("test", 4, 3))["loss"]


def figures(folder: Path) -> dict[str, Any]:
    """Return a summary without its clocks."""
    return {name: value for name, value in summary(folder).items() if name not in ("wall_s", "memory_mib")}


def test_an_encoder_goes_to_two_of_three_sets(call: Call, pretrained: tuple[str, ...], root: Path, tmp_path: Path) -> None:
    done = call("compress", *pretrained, "--unique", "2", "--out", "out", "--heal-rules", "--seeds", "3")
    assert done.status == 0, done.err
    found = summary(tmp_path / "out")
    assert found["num_sets"] == 2
    assert found["share"] == pytest.approx(2 / 3)
    kept = [source for source in found["sources"] if source is not None]
    assert found["effective_blocks"] == found["sizes"][0]["effective_blocks"] == (2 if len(kept) == 2 else 1 + 2**0.46)
    assert found["original"] == pytest.approx(0, abs=1e-6)
    assert set(found["references"]) >= {"best tying", "best removal", "sequence:2", "drop_first", "drop_last"}
    for name, reference in found["references"].items():
        assert len(reference["pointers"]) == 3, name
        assert reference["zero_shot"] > 0
        assert len(reference["healed_seeds"]) == 3
    lines = queries(tmp_path / "out")
    assert found["queries"] == sum(line["split"] == "reward" for line in lines)
    assert len({(line["split"], line["sources"]) for line in lines}) == len(lines)
    page = (tmp_path / "out" / "report.html").read_text()
    assert found["verdict"].split(".")[0].replace("'", "&#39;") in page
    assert "At equal parameters" in done.out
    # The saved model comes back as it was measured.
    model = tying.hf.from_pretrained(tmp_path / "out" / "model")
    assert loss_of(make_task(root / "bert", root / "corpus.txt"), model.eval()) == pytest.approx(found["healed"], abs=1e-6)
    assert len(model.encoder.layer) == sum(source is not None for source in found["sources"])


def test_a_copy_of_one_layer_is_a_model_too(call: Call, pretrained: tuple[str, ...], tmp_path: Path) -> None:
    done = call("compress", *pretrained, "--unique", "1", "--out", "out")
    assert done.status == 0, done.err
    removal = summary(tmp_path / "out")["references"]["best removal"]
    assert sum(source is not None for source in removal["sources"]) == 1
    assert removal["healed"] > 0
    assert "it runs 1 layer instead of 3." in summary(tmp_path / "out")["verdict"]
    tying.hf.from_pretrained(tmp_path / "out" / "model")


@pytest.mark.parametrize("after", [1, 12])
def test_an_interrupted_search_resumes_with_nothing_asked_twice(
    call: Call, pretrained: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    assert call("compress", *pretrained, "--unique", "2", "--out", "whole").status == 0
    asked: list[Sources] = []
    original = pipeline.BlockWalk.loss

    def loss(self: Any, sources: Sources) -> float:
        asked.append(sources)
        if len(asked) == after + 2:  # both walks ask for the original when they are made
            raise KeyboardInterrupt
        return original(self, sources)

    with monkeypatch.context() as patched:
        patched.setattr(pipeline.BlockWalk, "loss", loss)
        done = call("compress", *pretrained, "--unique", "2", "--out", "out")
        assert done.status == 130
    assert f"to resume: python -m experiments.compress {' '.join(pretrained)} --unique 2 --out out\n" in done.err
    assert 0 < read(tmp_path / "out" / "clock.json")["wall_s"] < 1_000
    write_json(tmp_path / "out" / "clock.json", {"wall_s": 1_000.0})  # as if it had worked for so long
    assert call("compress", *pretrained, "--unique", "2", "--out", "out").status == 0
    assert summary(tmp_path / "out")["wall_s"] > 1_000 > summary(tmp_path / "whole")["wall_s"]
    assert figures(tmp_path / "out") == figures(tmp_path / "whole")
    assert sorted((tmp_path / "out" / "queries.jsonl").read_text().splitlines()) == sorted(
        (tmp_path / "whole" / "queries.jsonl").read_text().splitlines()
    )


@pytest.mark.parametrize(("short", "where"), [("0.1", "healing-model"), ("0.5", "healing-*-s0")])
def test_an_interrupted_healing_resumes_bit_by_bit(
    call: Call, pretrained: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, short: str, where: str
) -> None:
    """That of the whole budget, and a short one that is long."""
    from experiments.compression import healings

    monkeypatch.setattr(healings, "_MOST_UNSAVED", 9)
    flags = ("--unique", "2", "--short", short, "--trainer.iterations", "20")
    assert call("compress", *pretrained, *flags, "--out", "whole").status == 0
    saved = healings.checkpoint.save

    def save(trainer: Any, folder: Path) -> None:
        saved(trainer, folder)
        if trainer.iteration == 8:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(healings.checkpoint, "save", save)
        assert call("compress", *pretrained, *flags, "--out", "out").status == 130
    (interrupted,) = (tmp_path / "out").glob(f"{where}/8")
    write_json(interrupted.with_name("clock.json"), {"wall_s": 1_000.0})  # as if it had taken so long
    done = call("compress", *pretrained, *flags, "--out", "out")
    assert done.status == 0, done.err
    assert figures(tmp_path / "out") == figures(tmp_path / "whole")
    lines = (tmp_path / "out" / "healed.jsonl").read_text().splitlines()
    assert [json.loads(line)["train_s"] > 1_000 for line in lines].count(True) == 1
    mine, other = tmp_path / "out" / "model", tmp_path / "whole" / "model"
    assert sorted(path.name for path in mine.iterdir()) == sorted(path.name for path in other.iterdir())
    assert all(path.read_bytes() == (other / path.name).read_bytes() for path in mine.glob("*.safetensors"))
    assert not list((tmp_path / "out").glob("healing-*"))


def test_a_killed_compression_ends_as_if_nothing_had_happened(
    call: Call, scripts: Scripts, pretrained: tuple[str, ...], tmp_path: Path
) -> None:
    flags = ("compress", *pretrained, "--unique", "2", "--trainer.iterations", "60", "--out")
    process = scripts.start(*flags, "out", cwd=tmp_path)
    until(lambda: process.poll() is not None or bool(list(tmp_path.glob("out/healing-model/[0-9]*"))))
    process.kill()
    scripts.wait(process)
    (tmp_path / "out" / ".model.1-2.tmp").mkdir()  # a copy that it was about to save
    for name in ("out", "whole"):
        assert call(*flags, name).status == 0
    assert figures(tmp_path / "out") == figures(tmp_path / "whole")
    ours, theirs = contents(tmp_path / "out"), contents(tmp_path / "whole")
    assert {path.relative_to(tmp_path / "out") for path in ours} == {
        path.relative_to(tmp_path / "whole") for path in theirs
    }
    assert ours[tmp_path / "out/model/model.safetensors"] == theirs[tmp_path / "whole/model/model.safetensors"]


def test_a_finished_compression_is_shown_again_and_not_changed(
    call: Call, pretrained: tuple[str, ...], tmp_path: Path
) -> None:
    words_ = ("compress", *pretrained, "--unique", "2", "1", "--seeds", "3", "--out", "out")
    first = call(*words_)
    before = contents(tmp_path / "out")
    again = call(*words_)
    assert again.status == 0, again.err
    assert contents(tmp_path / "out") == before
    shown = first.out[first.out.index("2 of 3 sets of block") :]
    assert shown.count("of 3 sets of block weights") == 2
    assert again.out[again.out.index("2 of 3 sets of block") :] == shown
    shutil.rmtree(tmp_path / "out" / "model-1")  # it is made again
    assert call(*words_).status == 0
    assert contents(tmp_path / "out").keys() == before.keys()


@pytest.fixture
def run(call: Call, root: Path, tmp_path: Path) -> Path:
    data = ("--data.path", str(root / "corpus.txt"), "--trainer.iterations", "8")
    assert call("train", "--preset", "tiny", "--agent", "sandwich", *data, "--out", "run").status == 0
    return tmp_path / "run"


def test_a_run_goes_to_a_run_that_samples(call: Call, run: Path, tmp_path: Path) -> None:
    done = call("compress", run, *SHORT, "--target", "0.5", "--out", "out")
    assert done.status == 0, done.err
    found, made = summary(tmp_path / "out"), load_run(tmp_path / "out" / "model")
    kept = [source for source in found["sources"] if source is not None]
    assert made.summary["num_layers"] == len(kept)
    assert made.summary["num_unique_layers"] == len(set(kept)) <= 2
    assert made.summary["test_loss"] == found["healed"]
    assert loss_of(made.task, made.model) == pytest.approx(found["healed"], abs=1e-6)
    assert call("sample", tmp_path / "out" / "model", "--num-tokens", "5").status == 0


def test_tied_layers_remember_by_deltas_that_count(call: Call, run: Path, tmp_path: Path) -> None:
    deltas = ("--no-removing", "--binding.delta-rank", "2", "--shortlist", "1")
    done = call("compress", run, *SHORT, "--unique", "2", *deltas, "--out", "out")
    assert done.status == 0, done.err
    found, made = summary(tmp_path / "out"), load_run(tmp_path / "out" / "model")
    blocks = made.summary["trainable_block_params"] / made.summary["independent_block_params"]
    assert found["share"] == pytest.approx(blocks)
    assert found["share"] > 0.5
    assert loss_of(made.task, made.model) == pytest.approx(found["healed"], abs=1e-6)
    # As asked without deltas, the same pattern loses more.
    assert call("compress", run, *SHORT, "--unique", "2", "--no-removing", "--shortlist", "1", "--out", "no").status == 0
    assert found["zero_shot"] < summary(tmp_path / "no")["zero_shot"]


def test_the_share_has_what_stays_with_each_layer(call: Call, run: Path, tmp_path: Path) -> None:
    attention = ("--binding.share", "attention", "--shortlist", "1", "--no-removing")
    done = call("compress", run, *SHORT, "--unique", "1", *attention, "--out", "out")
    assert done.status == 0, done.err
    found, made = summary(tmp_path / "out"), load_run(tmp_path / "out" / "model").summary
    assert found["share"] == made["trainable_block_params"] / made["independent_block_params"]
    assert found["share"] > 0.6  # all feed-forwards, of two thirds
    left = 1 - (made["independent_params"] - made["trainable_params"]) / made["independent_params"]
    assert f"keeps {left:.0%} of all parameters" in found["verdict"]


def test_an_encoder_with_deltas_is_saved_untied(
    call: Call, pretrained: tuple[str, ...], root: Path, tmp_path: Path
) -> None:
    deltas = ("--no-removing", "--binding.delta-rank", "2", "--shortlist", "1")
    done = call("compress", *pretrained, "--unique", "1", *deltas, "--out", "out")
    assert done.status == 0, done.err
    found, model = summary(tmp_path / "out"), tying.hf.from_pretrained(tmp_path / "out" / "model")
    layers = model.encoder.layer
    assert not torch.equal(layers[0].attention.self.query.weight, layers[1].attention.self.query.weight)
    assert torch.equal(layers[0].attention.self.query.bias, layers[1].attention.self.query.bias)
    assert loss_of(make_task(root / "bert", root / "corpus.txt"), model.eval()) == pytest.approx(found["healed"], abs=1e-6)


def test_damage_is_the_divergence_from_the_original_too(call: Call, run: Path, tmp_path: Path) -> None:
    done = call("compress", run, *SHORT, "--target", "0.5", "--objective", "kl", "--out", "out")
    assert done.status == 0, done.err
    found, made = summary(tmp_path / "out"), load_run(tmp_path / "out" / "model")
    assert found["original"] == 0
    assert found["objective"] == "kl"
    original = load_run(run)
    with torch.no_grad():
        batches = list(made.task.evaluation_batches("test", 4, 3))
        divergence = Divergence(original.task, original.model).metrics(made.model, batches)["loss"]
        loss = made.task.metrics(made.model, batches)["loss"]
    assert found["healed"] == pytest.approx(divergence, abs=1e-6)
    assert made.summary["test_loss"] == pytest.approx(loss, abs=1e-6)  # a run's losses are those of its task


def test_a_run_of_a_pretrained_model_goes_to_a_folder_of_transformers(call: Call, root: Path, tmp_path: Path) -> None:
    flags = ("--preset", "tiny", "--task", "hf", "--model.pretrained", str(root / "gpt2"), "--model.context", "16")
    data = ("--data.path", str(root / "corpus.txt"), "--trainer.iterations", "4", "--agent", "0 0 2")
    assert call("train", *flags, *data, "--out", "hf run").status == 0
    done = call("compress", "hf run", *SHORT, "--unique", "1", "--out", "out")
    assert done.status == 0, done.err
    assert "--out" in (tmp_path / "out" / "report.html").read_text()
    model = tying.hf.from_pretrained(tmp_path / "out" / "model")
    kept = [source for source in summary(tmp_path / "out")["sources"] if source is not None]
    assert len(model.transformer.h) == len(kept)


MODULE = """
import torch
from tests.tying.compression.perturbed import make_model, make_task
from pathlib import Path

def make():
    task = make_task(Path({folder!r}), num_layers=9)
    return make_model(task), task

def wrong():
    return 3

def shallow():
    task = make_task(Path({folder!r}))
    return make_model(task), task

def without_task():
    model, task = shallow()
    batches = {{split: list(task.evaluation_batches(split, 4, number)) for split, number in SIZES.items()}}
    return model, lambda model, batch: model.loss(*batch), batches, *PATH

SIZES = dict(train=5, reward=2, test=3)
PATH = ()
"""


def test_another_persons_model_of_nine_layers(call: Call, write_module: Callable[[str, str], str], tmp_path: Path) -> None:
    write_module("theirs", MODULE.format(folder=str(tmp_path)))
    done = call("compress", "theirs:make", *SHORT, "--unique", "8", "7", "--out", "out")
    assert done.status == 0, done.err
    found = summary(tmp_path / "out")
    assert [size["num_sets"] for size in found["sizes"]] == [8, 7]
    assert (tmp_path / "out" / "model" / "model.safetensors").is_file()
    assert (tmp_path / "out" / "model-7" / "pointers.json").is_file()
    assert found["sizes"][1]["healed"] > 0
    refused = call("compress", "theirs:wrong", "--out", "other")
    assert refused.status == 2
    assert "returned a int: expected a model and its" in refused.err


@pytest.mark.parametrize("path", ["()", '("h",)'])
def test_a_model_with_its_loss_and_batches_is_compressed_as_with_its_task(
    call: Call, write_module: Callable[[str, str], str], tmp_path: Path, path: str
) -> None:
    write_module("theirs", MODULE.format(folder=str(tmp_path)).replace("PATH = ()", f"PATH = {path}"))
    for name in ("shallow", "without_task"):
        done = call("compress", f"theirs:{name}", *SHORT, "--unique", "2", "--out", name)
        assert done.status == 0, done.err
    task, own = (
        {(line["split"], line["sources"]): line["loss"] for line in map(json.loads, file.read_text().splitlines())}
        for file in (tmp_path / name / "queries.jsonl" for name in ("shallow", "without_task"))
    )
    common = task.keys() & own.keys()  # the test split is asked for what healing chose, and that is of other batches
    assert len(common) > 50
    assert all(own[key] == task[key] for key in common)
    found = summary(tmp_path / "without_task")
    assert found["healed"] < found["zero_shot"]
    assert (tmp_path / "without_task" / "model" / "model.safetensors").is_file()


@pytest.mark.parametrize("search", ["dqn", "local", "random", "additive", "surrogate", "greedy", "cross_entropy"])
def test_an_agent_searches(call: Call, pretrained: tuple[str, ...], tmp_path: Path, search: str) -> None:
    flags = ("--search", search, "--decisions", "30", "--unique", "2", "--out", "out")
    done = call("compress", *pretrained, *flags)
    assert done.status == 0, done.err
    assert summary(tmp_path / "out")["search"] == search
    agent = read(tmp_path / "out" / "config.json")["resolved"]["agent"]["name"]
    assert agent == {"local": "local_search"}.get(search, search)
    assert summary(tmp_path / "out")["num_sets"] == 2
    asked = {Sources.parse(line["sources"]) for line in queries(tmp_path / "out") if line["split"] == "reward"}
    within = {sources for sources in asked if 0 < sources.num_sets <= 2}
    by_rule = {*rules.tyings(3, 2).values(), *rules.removals(3, 2).values()}
    assert within - by_rule  # the agent's own
    if search in ("additive", "greedy"):  # every way to tie or remove one of three layers
        assert set(every(3, 2)) <= within


def test_without_removal_all_layers_stay(call: Call, pretrained: tuple[str, ...], tmp_path: Path) -> None:
    assert call("compress", *pretrained, "--no-removing", "--unique", "1", "--out", "out").status == 0
    assert all("-" not in line["sources"] for line in queries(tmp_path / "out"))


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--reward.param_weight", "1"), "--reward.param_weight=1: --target or --unique says how many parameters"),
        (("--target", "0"), "--target 0.0: allowed are shares above 0 and below 1"),
        (("--target", "0.3"), "--target 0.3: the model has 3 sets; the least is 0.334, 1 set"),
        (("--target", "0.5", "0.1"), "--target 0.1: the model has 3 sets; the least is 0.334, 1 set"),
        (("--unique", "3"), "--unique 3: the model has 3 sets; allowed are 1 to 2"),
        (("--unique", "1", "4"), "--unique 4: the model has 3 sets; allowed are 1 to 2"),
        (("--unique", "0"), "--unique 0: a model keeps at least 1 set"),
        (("--target", "0.5", "--unique", "2"), "--target and --unique are both set"),
        (("--search", "dqm"), "dqm"),
        (("--objective", "kl"), "--objective kl: it is for causal language models"),
        (("--sort", "1"), "unknown flag --sort"),
        (("--shortlist", "x"), "shortlist"),
        (("--binding.delta-rank", "2", "--binding.delta-start", "zero"), "ties of trained layers remember them"),
        (
            ("--binding.delta-rank", "2", "--search", "dqn"),
            "binding.delta_rank = 2: --search dqn is charged for sets",
        ),
    ],
)
def test_bad_input_is_one_line(
    call: Call, pretrained: tuple[str, ...], tmp_path: Path, flags: tuple[str, ...], words: str
) -> None:
    done = call("compress", *pretrained, "--out", "out", *flags)
    assert done.status == 2
    assert words in done.err
    assert all(line.startswith("error: ") for line in done.err.splitlines())
    assert not (tmp_path / "out" / "config.json").exists()


@pytest.mark.parametrize("rank", ["0", "4"])
def test_an_agent_that_would_decide_ranks_is_refused_before_anything_is_read(
    call: Call, root: Path, tmp_path: Path, rank: str
) -> None:
    ranked = ("--binding.delta-rank", rank, "--env.action-mode", "cursor_rank", "--search", "dqn")
    done = call("compress", root / "bert", "--out", "out", *ranked)
    assert (done.status, done.err.count("\n")) == (2, 1)
    assert "env.action_mode = 'cursor_rank': an agent that searches has no deltas" in done.err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "setting", ["kv_sharing = 'cla:2'", "kv_sharing = 'tied'", "attention_sharing = 'cla:2'", "residual = 'looped'"]
)
def test_a_run_whose_layers_depend_on_each_other_is_refused(call: Call, tmp_path: Path, setting: str) -> None:
    run = tmp_path / "run"
    run.mkdir()
    flag = f"--model.{setting.replace('_', '-').replace(' = ', '=')}".replace("'", "")
    (run / "config.json").write_text(dump(config_of(*SMALL, flag)))
    (run / "decisions.jsonl").touch()
    done = call("compress", run, "--out", "out")
    assert (done.status, done.err.count("\n")) == (2, 1)
    assert f"model.{setting}: a block depends on the others" in done.err
    assert not (tmp_path / "out").exists()


def test_folders_that_hold_something_else_are_refused(call: Call, pretrained: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").write_text("dear diary")
    assert "exists and is not empty" in call("compress", *pretrained, "--out", "full").err
    assert call("compress", *pretrained, "--unique", "2", "--out", "out").status == 0
    lines = len((tmp_path / "out" / "queries.jsonl").read_text().splitlines())
    assert "other settings" in call("compress", *pretrained, "--unique", "1", "--out", "out").err
    assert "--out is missing" in call("compress", *pretrained).err
    assert "no such folder" in call("compress", "./nowhere", "--out", "else").err
    with (tmp_path / "out" / "queries.jsonl").open("a") as file:
        file.write('{"split": 3}\n')
    assert f"line {lines + 1} is damaged" in call("compress", *pretrained, "--unique", "2", "--out", "out").err


def test_a_compression_of_another_model_or_text_is_not_resumed(
    call: Call, root: Path, tmp_path: Path, pretrained: tuple[str, ...]
) -> None:
    folder, text = shutil.copytree(root / "bert", tmp_path / "bert"), tmp_path / "own.txt"
    text.write_bytes((root / "corpus.txt").read_bytes())
    words_ = (str(folder), *SHORT, "--data.path", str(text), "--model.context", "16", "--unique", "2", "--out", "out")
    assert call("compress", *words_).status == 0
    text.write_text(words(6_000, seed=1), encoding="utf-8")
    assert "measured with another model, text or settings" in call("compress", *words_).err
    text.write_bytes((root / "corpus.txt").read_bytes())
    weights = load_file(folder / "model.safetensors")
    name = next(name for name in weights if name.endswith("layer.0.output.dense.weight"))
    save_file({**weights, name: weights[name] + 1e-4}, folder / "model.safetensors", {"format": "pt"})
    assert "measured with another model, text or settings" in call("compress", *words_).err


def test_questions_that_a_kill_cut_short_are_asked_again(call: Call, pretrained: tuple[str, ...], tmp_path: Path) -> None:
    assert call("compress", *pretrained, "--unique", "2", "--out", "out").status == 0
    before = figures(tmp_path / "out")
    path = tmp_path / "out" / "queries.jsonl"
    path.write_bytes(path.read_bytes()[:-20])
    (tmp_path / "out" / "summary.json").unlink()
    assert call("compress", *pretrained, "--unique", "2", "--out", "out").status == 0
    assert figures(tmp_path / "out") == before
    assert len({json.loads(line)["sources"] for line in path.read_text().splitlines()}) > 3
