"""The task `hf`: pretrained models under our trainer, by each of its heads."""

import math
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import transformers as tf
from folders import VOCAB, make_folder
from rows import write_labelled

import tying.hf
from tests.conftest import words
from tests.experiments.runs import change
from tying import InputError, Trainer
from tying.data.corpora import DataConfig
from tying.hf.config import HFConfig, HFTaskConfig
from tying.hf.saving import records
from tying.hf.task import Pretrained, make
from tying.models.config import GPTConfig
from tying.tasks.config import TaskConfig
from tying.training import checkpoint
from tying.training.config import BindingConfig, TrainerConfig

HEADS = {"gpt2": "causal_lm", "llama": "causal_lm", "bert": "masked_lm"}
# The folder of BERT is of a masked language model, which has no pooler; a classifier needs one.
pytestmark = pytest.mark.filterwarnings("ignore:.*has no weights for bert.pooler")
CONFIG = TrainerConfig(iterations=20, batch_size=4, device="cpu")


@pytest.fixture(autouse=True)
def _one_thread(one_thread: None) -> Iterator[None]:
    yield


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hf")
    for family in HEADS:
        make_folder(family, folder / family)
    (folder / "corpus.txt").write_text(words(6_000), encoding="utf-8")
    for name in ("rows.tsv", "rows.jsonl"):
        write_labelled(folder / name)
    return folder


def task_of(root: Path, family: str, head: str | None = None, data: str | None = None, **model: Any) -> Pretrained:
    head = head or HEADS[family]
    data = data or ("rows.tsv" if head == "classification" else "corpus.txt")
    settings = DataConfig(path=str(root / data), tokenizer="pretrained")
    return make(HFTaskConfig(head=head), HFConfig(pretrained=str(root / family), context=16, **model), settings)


ALL = [*HEADS.items(), *((family, "classification") for family in HEADS)]


@pytest.mark.parametrize(("family", "head"), ALL)
def test_a_model_starts_from_its_weights_and_leaves_the_generators_alone(root: Path, family: str, head: str) -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    task = task_of(root, family, head)
    models = [task.build_model(seed) for seed in (0, 0, 1)]
    skeleton = task.build_model(seed=None)
    assert torch.equal(torch.get_rng_state(), before)
    theirs = tying.hf.from_pretrained(root / family).state_dict()
    first, again, other = (dict(model.named_parameters()) for model in models)
    drawn = set(first) - set(theirs)
    assert bool(drawn) == (head == "classification")
    assert all(torch.equal(first[name], theirs[name]) for name in first.keys() - drawn)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert all(torch.equal(first[name], other[name]) for name in first if name not in drawn)
    assert not drawn or any(not torch.equal(first[name], other[name]) for name in drawn)
    blocks = [[p.shape for p in torch.nn.ModuleList(task.blocks(m)).parameters()] for m in (skeleton, models[0])]
    assert blocks[0] == blocks[1] and len(task.blocks(skeleton)) == task.num_layers == 3
    assert {parameter.device.type for parameter in skeleton.parameters()} == {"meta"}


@pytest.mark.parametrize(("family", "head"), ALL)
def test_training_tied_checkpoints_and_exports(root: Path, family: str, head: str, tmp_path: Path) -> None:
    def new() -> Trainer:
        return Trainer(task_of(root, family, head), CONFIG, seed=1)

    made, again = new(), new()
    made.rebind((0, 1, 0))
    made.train(5)
    checkpoint.save(made, tmp_path / "checkpoint")
    checkpoint.load(again, tmp_path / "checkpoint")
    assert [done.loss for done in again.train(3)] == [done.loss for done in made.train(3)]
    made.model.eval()
    made.task.export(made.model, tmp_path)
    auto = made.task.auto
    back = tying.hf.from_pretrained(tmp_path / "hf", getattr(tf, auto)).eval()
    batch = next(iter(made.task.evaluation_batches("test", 4)))
    with torch.no_grad():
        assert torch.equal(made.task.loss(back, batch), made.task.loss(made.model, batch))
    assert len(list(back.parameters())) == len(list(made.model.parameters()))
    (entry,) = records(back).values()
    assert entry["pointers"] == "0 1 0"
    assert tf.AutoTokenizer.from_pretrained(tmp_path / "hf")("no")["input_ids"]
    tying.hf.untied(back).save_pretrained(tmp_path / "plain")
    plain = getattr(tf, auto).from_pretrained(tmp_path / "plain").eval()
    with torch.no_grad():
        assert torch.equal(made.task.loss(plain, batch), made.task.loss(made.model, batch))
    if head == "classification":
        assert back.config.id2label == {0: "a", 1: "b"}
    # Nothing of the export is left: the trainer goes on, and so does a run that starts from what was saved tied.
    assert [done.loss for done in again.train(1)] == [done.loss for done in made.train(1)]
    assert "save_pretrained" not in vars(made.model)


def test_low_rank_deltas_are_merged_into_the_export(root: Path, tmp_path: Path) -> None:
    made = Trainer(task_of(root, "llama"), CONFIG, binding=BindingConfig(delta_rank=2))
    made.rebind((0, 1, 0))
    made.train(2)
    made.model.eval()
    made.task.export(made.model, tmp_path)
    plain = tf.AutoModelForCausalLM.from_pretrained(tmp_path / "hf").eval()
    assert plain.num_parameters() == made.independent_params and not records(plain)
    batch = next(iter(made.task.evaluation_batches("test", 4)))
    with torch.no_grad():
        torch.testing.assert_close(made.task.loss(plain, batch), made.task.loss(made.model, batch))
    with pytest.raises(InputError, match=r"is the weight of an nn\.Linear"):  # GPT-2's are Conv1D
        Trainer(task_of(root, "gpt2"), CONFIG, binding=BindingConfig(delta_rank=2))


def test_a_model_that_was_saved_tied_starts_untied(root: Path, tmp_path: Path) -> None:
    model = tying.hf.from_pretrained(root / "gpt2")
    tying.hf.tie(model, "0 0 2")
    model.save_pretrained(tmp_path / "tied")
    tf.AutoTokenizer.from_pretrained(root / "gpt2").save_pretrained(tmp_path / "tied")
    (tmp_path / "corpus.txt").write_text(words(3_000), encoding="utf-8")
    task = task_of(tmp_path, "tied", "causal_lm")
    trainer = Trainer(task, CONFIG)
    assert str(trainer.pointers) == "0 1 2"
    assert trainer.independent_params == sum(p.numel() for p in tying.hf.from_pretrained(root / "gpt2").parameters())
    own = dict(trainer.model.named_parameters())
    assert torch.equal(own["transformer.h.1.ln_1.weight"], own["transformer.h.0.ln_1.weight"])
    task.save_assets(tmp_path / "run")
    assert not hasattr(task.load_model(tmp_path / "run").config, "layer_tying")


def test_a_saved_folder_gives_the_shape_without_the_pretrained_model(root: Path, tmp_path: Path) -> None:
    for family, head in ALL:
        task = task_of(root, family, head)
        task.save_assets(tmp_path / family / head)
        elsewhere = make(task.config, HFConfig(pretrained="/nowhere", num_layers=3, context=16), DataConfig())
        model = elsewhere.load_model(tmp_path / family / head)
        shapes = [{name: p.shape for name, p in m.named_parameters()} for m in (model, task.build_model(0))]
        assert shapes[0] == shapes[1]


@pytest.mark.parametrize(("family", "head"), ALL)
def test_facts_tell_another_model_or_tokenizer_of_the_same_name(root: Path, tmp_path: Path, family: str, head: str) -> None:
    def facts() -> dict[str, Any]:
        return task_of(tmp_path, family, head).facts()

    shutil.copytree(root, tmp_path, dirs_exist_ok=True)
    before = facts()
    assert before == facts()
    digests = {name for name in before if name.endswith("_sha256")}
    assert digests == {"corpus_sha256", "tokenizer_sha256", "pretrained_sha256"}
    change(tmp_path / family / "config.json", [], transformers_version="4.0", initializer_range=0.5)
    assert {name for name in digests if facts()[name] != before[name]} == {"pretrained_sha256"}
    path = tmp_path / family / "tokenizer.json"
    path.write_text(path.read_text(encoding="utf-8").replace('"a": ', '"? ": ').replace('"e": ', '"a": '), encoding="utf-8")
    assert {name for name in digests if facts()[name] != before[name]} == {"pretrained_sha256", "tokenizer_sha256"}


def test_causal_loss_is_the_models_own(root: Path) -> None:
    task = task_of(root, "llama")
    model = task.build_model(0).requires_grad_(False)
    tokens, targets = task.batch(0, 3, 2)
    whole = torch.cat([tokens, targets[:, -1:]], dim=1)
    assert float(task.loss(model, (tokens, targets))) == pytest.approx(float(model(whole, labels=whole).loss), rel=1e-6)
    assert task.uninformed_loss == math.log(257)


def test_recomputation_changes_no_gradient(root: Path) -> None:
    gradients = []
    for recompute in (False, True):
        trainer = Trainer(task_of(root, "gpt2"), replace(CONFIG, recompute=recompute))
        assert trainer.model.is_activation_checkpointing == recompute
        gradients.append([done.grad_norm for done in trainer.train(3)])
    assert gradients[0] == pytest.approx(gradients[1], rel=1e-5)


# Masked language models.


def test_masks_hide_the_right_share_in_the_right_way(root: Path) -> None:
    task = task_of(root, "bert")
    task.model_config = replace(task.model_config, context=62)
    tokens, targets = task.batch(0, 0, 200)
    texts, _ = task.data.batch(0, 0, 200, 60)
    assert tokens.shape == (200, 62) and {*tokens[:, 0].tolist()} == {1} and {*tokens[:, -1].tolist()} == {2}
    hidden = targets != -100
    assert hidden.sum(1).tolist() == [9] * 200  # 15 % of 60, in each row
    assert not hidden[:, [0, -1]].any()
    assert hidden.float().mean(0)[1:-1].std() < 0.05  # everywhere alike
    assert torch.equal(targets[hidden], texts[hidden[:, 1:-1]])
    assert torch.equal(tokens[:, 1:-1][~hidden[:, 1:-1]], texts[~hidden[:, 1:-1]])
    shares = [float(part.float().mean()) for part in (tokens[hidden] == 3, tokens[hidden] == targets[hidden])]
    assert shares == pytest.approx([0.8, 0.1], abs=0.03)
    assert task.size((tokens, targets)) == 1800


def test_masked_batches_are_functions_of_seed_and_index(root: Path) -> None:
    task, again = task_of(root, "bert"), task_of(root, "bert")
    again.batch(0, 7, 2)
    for one, other in zip(task.batch(4, 2, 3), again.batch(4, 2, 3), strict=True):
        assert torch.equal(one, other)
    assert not torch.equal(task.batch(4, 2, 3)[1], task.batch(4, 3, 3)[1])
    assert not torch.equal(task.batch(4, 2, 3)[1], task.batch(5, 2, 3)[1])
    evaluated = [list(made.evaluation_batches("reward", 4)) for made in (task, task, again)]
    for first, second, third in zip(*evaluated, strict=True):
        assert all(torch.equal(a, b) and torch.equal(a, c) for a, b, c in zip(first, second, third, strict=True))


def test_masked_loss_counts_hidden_tokens_alone_and_metrics_are_their_mean(root: Path) -> None:
    task = task_of(root, "bert")
    model = task.build_model(0)
    batches = list(task.evaluation_batches("test", 4))
    total = count = 0.0
    with torch.no_grad():
        for tokens, targets in batches:
            logits = model(input_ids=tokens).logits
            total += float(F.cross_entropy(logits.transpose(1, 2), targets, ignore_index=-100, reduction="sum"))
            count += int((targets != -100).sum())
        assert task.metrics(model, batches)["loss"] == pytest.approx(total / count, rel=1e-5)


def test_parts_of_a_masked_batch_add_up_to_it(root: Path) -> None:
    task = task_of(root, "bert")
    model = task.build_model(0).eval().requires_grad_(False)
    batch = task.batch(0, 0, 4)
    parts = [task.loss(model, tuple(t[i : i + 1] for t in batch)) for i in range(4)]
    assert float(sum(parts) / 4) == pytest.approx(float(task.loss(model, batch)), rel=1e-6)


# Classifiers.


@pytest.mark.parametrize("data", ["rows.tsv", "rows.jsonl"])
def test_rows_are_read_split_and_labelled(root: Path, data: str) -> None:
    task = task_of(root, "bert", "classification", data)
    task.require()
    splits = task.data.splits
    assert {name: len(rows) for name, rows in splits.items()} == {"train": 96, "reward": 12, "test": 12}
    assert task.data.labels == ("a", "b")
    assert len({row for rows in splits.values() for row in rows}) == 120
    assert all(len({label for _, label in rows}) == 2 for rows in splits.values())  # the file is sorted by label
    assert all(("b" if text.startswith("Yes") else "a") == label for rows in splits.values() for text, label in rows)
    tokens, mask, classes = task.batch(0, 0, 8)
    assert tokens.shape == mask.shape and tokens.shape[1] <= 16 and classes.shape == (8,)
    assert (tokens[mask == 0] == 0).all() and (tokens[:, 0] == 1).all()
    assert all(torch.equal(a, b) for a, b in zip(task.batch(0, 0, 8), task.batch(0, 0, 8), strict=True))


def test_padding_changes_no_loss_and_accuracy_is_counted(root: Path) -> None:
    for family in HEADS:
        task = task_of(root, family, "classification")
        model = task.build_model(0).eval()
        batches = list(task.evaluation_batches("test", 5))
        singles = list(task.evaluation_batches("test", 1))
        with torch.no_grad():
            found, one_by_one = task.metrics(model, batches), task.metrics(model, singles)
            right = [int(model(tokens).logits.argmax()) == int(label) for tokens, _, label in singles]
        assert found["loss"] == pytest.approx(one_by_one["loss"], rel=1e-5)
        assert found["accuracy"] == one_by_one["accuracy"] == sum(right) / 12


def test_a_classifier_learns(root: Path) -> None:
    task = task_of(root, "bert", "classification")
    trainer = Trainer(task, replace(CONFIG, iterations=60, batch_size=16), seed=0)
    trainer.rebind((0, 0, 0))
    trainer.train(60)
    assert trainer.metrics("test")["accuracy"] == 1.0


# What is refused.


def refused(call: Any, *arguments: Any, **options: Any) -> str:
    with pytest.raises(InputError) as caught:
        call(*arguments, **options)
    (line,) = caught.value.lines
    return line


def test_folders_that_are_no_models_are_refused(root: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").write_text("{")
    (tmp_path / "layerless").mkdir()
    (tmp_path / "layerless" / "config.json").write_text("{}")
    assert "no such folder" in refused(HFConfig, pretrained=str(tmp_path / "nowhere"))
    assert "has no config.json" in refused(HFConfig, pretrained=str(tmp_path / "empty"))
    assert "unreadable" in refused(HFConfig, pretrained=str(tmp_path / "broken"))
    assert "give model.num_layers" in refused(HFConfig, pretrained=str(tmp_path / "layerless"))
    assert "not to be had from the hub (" in refused(HFConfig, pretrained="nobody/nothing")
    wrong = task_of(root, "gpt2", num_layers=2)
    assert "model.num_layers = 2: " in refused(wrong.require)
    assert "model.num_layers = 2: transformer.h" in refused(wrong.build_model, 0)
    assert "model.context = 99: " in refused(HFConfig(pretrained=str(root / "bert"), context=99).require)
    assert "model.pretrained is missing" in refused(make, HFTaskConfig(), HFConfig(), DataConfig())
    assert "trains model 'hf' alone" in refused(HFTaskConfig().check, GPTConfig())
    assert "add --task hf" in refused(TaskConfig().check, HFConfig())


def test_models_of_another_kind_are_refused(root: Path, tmp_path: Path) -> None:
    assert "no mask token" in refused(task_of(root, "gpt2", "masked_lm").require)
    assert "AutoModelForMaskedLM" in refused(task_of(root, "gpt2", "masked_lm").build_model, 0)
    model = tf.GPT2LMHeadModel.from_pretrained(root / "gpt2")
    state = {name: value for name, value in model.state_dict().items() if "h.2.ln_1" not in name}
    model.save_pretrained(tmp_path / "part", state_dict=state)
    tf.AutoTokenizer.from_pretrained(root / "gpt2").save_pretrained(tmp_path / "part")
    assert "no weights for transformer.h.2.ln_1.bias" in refused(task_of(tmp_path, "part", "causal_lm").build_model, 0)
    small = tf.GPT2LMHeadModel(tf.GPT2Config(n_embd=8, n_layer=3, n_head=2, n_positions=64, vocab_size=100))
    small.save_pretrained(tmp_path / "small")
    tf.AutoTokenizer.from_pretrained(root / "gpt2").save_pretrained(tmp_path / "small")
    (tmp_path / "corpus.txt").write_text(words(3_000), encoding="utf-8")
    assert "has 257 tokens" in refused(task_of(tmp_path, "small", "causal_lm").require)
    assert VOCAB > 257  # more rows than tokens are allowed


def test_a_head_that_is_missing_is_told_and_starts_at_random(root: Path, tmp_path: Path) -> None:
    tf.BertModel.from_pretrained(root / "bert").save_pretrained(tmp_path / "headless")
    tf.AutoTokenizer.from_pretrained(root / "bert").save_pretrained(tmp_path / "headless")
    with pytest.warns(UserWarning, match=r"has no weights for cls\.predictions.*: they start at random"):
        model = task_of(tmp_path, "headless", "masked_lm").build_model(0)
    theirs = tf.BertModel.from_pretrained(root / "bert").state_dict()
    assert torch.equal(
        model.state_dict()["bert.embeddings.word_embeddings.weight"], theirs["embeddings.word_embeddings.weight"]
    )


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.tsv", "no tab\n", "line 1 is not a text, a tab and a label"),
        ("a.tsv", "text\tlabel\nx\ty\nz\t\n", "line 3 is not"),
        ("a.jsonl", '{"text": 1, "label": 2}\n', "line 1 is not"),
        ("a.jsonl", "{\n", "line 1 is not"),
        ("a.tsv", "x\ty\nz\ty\n", "2 rows with 1 labels"),
        ("a.tsv", "x\ty\nz\tw\n", "too few"),
    ],
)
def test_rows_that_cannot_be_read_are_refused(root: Path, tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text)
    task = make(
        HFTaskConfig(head="classification"),
        HFConfig(pretrained=str(root / "bert"), context=16),
        DataConfig(path=str(tmp_path / name), tokenizer="pretrained"),
    )
    assert message in refused(task.require)
    assert "one .tsv or .jsonl file" in refused(task.config.require_data, DataConfig(path=str(root / "corpus.txt")))
