"""Texts with labels under our own encoder: the built-in functions, rows of one's own, metrics."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score, matthews_corrcoef

from tests.tying.rows import write_labelled
from tying import InputError, Trainer, tasks
from tying.data import functions, labelled
from tying.data.corpora import DataConfig, require
from tying.models.config import BertConfig
from tying.tasks.config import SequenceClassificationConfig
from tying.tasks.sequence_classification import SequenceClassification
from tying.training.config import OptimConfig, TrainerConfig

SMALL = BertConfig(num_layers=2, num_heads=2, width=16, context=16)


@pytest.fixture
def task(tmp_path: Path) -> SequenceClassification:
    made = task_of(path=str(write_labelled(tmp_path / "rows.tsv")), tokenizer="byte")
    return made


def task_of(**data: Any) -> SequenceClassification:
    made = tasks.make(SequenceClassificationConfig(), SMALL, DataConfig(**data))
    assert isinstance(made, SequenceClassification)
    return made


def test_functions_of_the_standard_library_are_labelled_by_package() -> None:
    data = labelled.read(DataConfig(corpus="python-functions"))
    assert data.labels == functions.PACKAGES
    texts = [text for rows in data.splits.values() for text, _ in rows]
    assert len(set(texts)) == len(texts) > 1200  # so that no function is in two splits
    assert all(text.startswith(("def ", "async def ")) for text in texts)
    counts = {label: sum(own == label for rows in data.splits.values() for _, own in rows) for label in data.labels}
    assert max(counts.values()) < 3 * min(counts.values())
    assert all({label for _, label in rows} == set(data.labels) for rows in data.splits.values())


def test_one_token_of_the_tasks_own_stands_before_each_text(task: SequenceClassification) -> None:
    tokens, mask, classes = task.batch(0, 0, 20)
    assert tokens.shape == mask.shape and tokens.shape[1] <= 16 and classes.shape == (20,)
    assert (tokens[:, 0] == 256).all() and (tokens[mask == 0] == 256).all() and int(tokens.max()) == 256
    assert (tokens[:, 1:][mask[:, 1:] == 1] < 256).all()
    assert task.build_model(0).embeddings.tokens.weight.shape == (257, 16)
    assert all(torch.equal(a, b) for a, b in zip(task.batch(0, 0, 20), task.batch(0, 0, 20), strict=True))


def test_metrics_are_scikit_learns_and_padding_changes_none(task: SequenceClassification) -> None:
    model = task.build_model(0).eval()
    found = task.metrics(model, task.evaluation_batches("train", 7))
    one_by_one = list(task.evaluation_batches("train", 1))
    assert task.metrics(model, one_by_one) == pytest.approx(found, rel=1e-5)
    with torch.no_grad():
        guessed = [int(model(tokens).argmax()) for tokens, _, _ in one_by_one]
    true = [int(classes) for _, _, classes in one_by_one]
    assert found.keys() == {"loss", "accuracy", "macro_f1", "mcc"}
    assert found["accuracy"] == np.mean([a == b for a, b in zip(true, guessed, strict=True)])
    assert found["macro_f1"] == f1_score(true, guessed, average="macro")
    assert found["mcc"] == matthews_corrcoef(true, guessed)
    only = np.zeros(4, dtype=int)
    assert task.judge(only, only) == {"accuracy": 1.0, "macro_f1": 1.0, "mcc": 0.0}


def test_it_learns(task: SequenceClassification) -> None:
    trainer = Trainer(task, TrainerConfig(iterations=60, batch_size=16), OptimConfig(learning_rate=3e-3), seed=0)
    trainer.rebind((0, 0))
    trainer.train(60)
    found = trainer.metrics("test")
    assert found.pop("loss") < 0.5 and found == {"accuracy": 1.0, "macro_f1": 1.0, "mcc": 1.0}


@pytest.mark.parametrize("tokenizer", ["char", "bpe"])
def test_a_saved_folder_gives_the_shape(task: SequenceClassification, tmp_path: Path, tokenizer: str) -> None:
    task = task_of(path=str(tmp_path / "rows.tsv"), tokenizer=tokenizer, vocab_size=280)
    task.require()
    task.save_assets(tmp_path)
    elsewhere = tasks.make(SequenceClassificationConfig(), SMALL, DataConfig(path="nowhere.tsv"))
    assert {n: p.shape for n, p in elsewhere.load_model(tmp_path).named_parameters()} == {
        n: p.shape for n, p in task.build_model(0).named_parameters()
    }


def test_data_of_another_task_are_refused(text_file: Path) -> None:
    for data in (DataConfig(), DataConfig(path=str(text_file))):
        with pytest.raises(InputError, match=r"one \.tsv or \.jsonl file"):
            SequenceClassificationConfig().require_data(data)
    for corpus in ("digits", "python-functions"):
        with pytest.raises(InputError, match=f"data.corpus = '{corpus}': no running text"):
            require(DataConfig(corpus=corpus))
