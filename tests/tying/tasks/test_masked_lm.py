"""Hidden tokens: how many, in which way, whole words, and fixed ones for evaluation. The head of `hf`: test_hf_task.py."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tying import InputError, Trainer, tasks
from tying.data import tokenizers
from tying.data.corpora import DataConfig
from tying.models.config import BertConfig, GPTConfig, ViTConfig
from tying.tasks.config import MaskedLMConfig, TaskConfig
from tying.tasks.masked_lm import MaskedLM
from tying.tasks.masking import IGNORED, hide
from tying.training.config import OptimConfig, TrainerConfig

SMALL = BertConfig(num_layers=2, num_heads=2, width=16, context=32)
MASK = 50


@pytest.fixture
def make(text_file: Path) -> Any:
    def made(tokenizer: str = "byte", **options: Any) -> MaskedLM:
        data = DataConfig(path=str(text_file), tokenizer=tokenizer, vocab_size=300)
        task = tasks.make(MaskedLMConfig(**options), SMALL, data)
        assert isinstance(task, MaskedLM)
        return task

    return made


@pytest.mark.parametrize("whole_words", [False, True])
def test_shares_over_a_hundred_thousand_tokens(whole_words: bool) -> None:
    rows = torch.randint(0, MASK, (1000, 100), generator=torch.Generator().manual_seed(0))
    continues = np.random.default_rng(1).random(rows.shape) < 0.5 if whole_words else None
    shown, targets = hide(rows, 3, MASK, MASK, continues)
    chosen = targets != IGNORED
    assert chosen.sum(1).tolist() == [15] * 1000
    assert chosen.float().mean(0).std() < 0.02  # everywhere alike
    assert torch.equal(targets[chosen], rows[chosen]) and torch.equal(shown[~chosen], rows[~chosen])
    shares = [float((shown[chosen] == other).float().mean()) for other in (torch.tensor(MASK), targets[chosen])]
    assert shares == pytest.approx([0.8, 0.1 + 0.1 / MASK], abs=0.02)


def test_words_are_hidden_whole() -> None:
    rows = torch.arange(201).expand(50, 201)
    continues = np.broadcast_to(np.arange(201) % 3 != 0, rows.shape)  # words of three tokens: 30 are hidden, in 10 words
    chosen = hide(rows, 0, 999, 201, continues)[1] != IGNORED
    assert chosen.sum(1).tolist() == [30] * 50
    assert torch.equal(chosen.view(50, 67, 3).all(-1), chosen.view(50, 67, 3).any(-1))
    assert len({tuple(row) for row in chosen.tolist()}) == 50


def test_a_word_that_exceeds_the_number_is_hidden_in_part_only_where_nothing_else_fits() -> None:
    rows = torch.arange(20).expand(4, 20)
    one_word = np.ones(rows.shape, dtype=bool)
    assert (hide(rows, 0, 99, 20, one_word)[1] != IGNORED).nonzero()[:, 1].tolist() == [0, 1, 2] * 4
    one_word[:, -1] = False
    assert (hide(rows, 0, 99, 20, one_word)[1] != IGNORED).nonzero()[:, 1].tolist() == [19] * 4


@pytest.mark.parametrize("kind", ["byte", "char", "bpe"])
def test_words_of_a_text_are_found(kind: str) -> None:
    text = "naïve x_1 = foo(bar);\n\ttwice, Ünïcode 12"
    tokenizer = tokenizers.make(kind, 280, [text], [text])
    ids = tokenizers.encode(tokenizer, text)
    begins, ends = tokenizers.word_edges(tokenizer)
    groups: list[list[int]] = []
    for place, token in enumerate(ids):
        if place and ends[ids[place - 1]] and begins[token]:
            groups[-1].append(token)
        else:
            groups.append([token])
    found = [tokenizer.decode(group).strip() for group in groups]
    whole = [word for word in found if any(character.isalnum() for character in word)]
    assert whole == ["naïve", "x_1", "foo", "bar", "twice", "Ünïcode", "12"]


def test_marked_pieces_belong_to_the_word_before() -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers

    vocabulary = {"[UNK]": 0, "un": 1, "##want": 2, "##ed": 3, "a": 4, "!": 5}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    assert tokenizer.encode("unwanted a!").ids == [1, 2, 3, 4, 5]
    begins, ends = tokenizers.word_edges(tokenizer)
    assert begins.tolist() == [False, False, True, True, False, False]
    assert ends.tolist() == [False, True, True, True, True, False]


def test_the_task_hides_whole_words_of_its_corpus(make: Any) -> None:
    task = make(whole_words=True)
    tokens, targets = task.batch(0, 0, 200)
    text = torch.where(targets == IGNORED, tokens, targets)
    parts = (targets != IGNORED).tolist()
    cut = hidden = 0
    for ids, chosen in zip(text.tolist(), parts, strict=True):
        letters = [chr(c) if c < 128 else "é" for c in bytes_of(task, ids)]
        for place in range(1, len(ids)):
            inside = all(letter.isalnum() or letter == "_" for letter in letters[place - 1 : place + 1])
            cut += inside and chosen[place] != chosen[place - 1]
            hidden += inside and chosen[place]
    assert cut == 0 and hidden > 200


def bytes_of(task: MaskedLM, ids: list[int]) -> list[int]:
    table = {task.data.tokenizer.encode(chr(c)).ids[0]: c for c in range(128)}
    return [table.get(token, 200) for token in ids]


def test_the_mask_token_is_one_id_behind_the_vocabulary(make: Any) -> None:
    task = make()
    assert task.mask_token == task.data.vocab_size == 256
    model = task.build_model(0)
    assert model.embeddings.tokens.weight.shape == (257, 16)
    tokens, targets = task.batch(0, 0, 64)
    assert int(tokens.max()) == 256 and int(targets.max()) < 256
    with torch.no_grad():
        assert float(task.loss(model, (tokens, targets))) == pytest.approx(task.uninformed_loss, rel=0.05)
    assert task.uninformed_loss == math.log(257)


def test_masks_are_functions_of_seed_and_index_and_fixed_for_evaluation(make: Any) -> None:
    task, again = make(), make()
    again.batch(0, 7, 2)
    assert all(torch.equal(a, b) for a, b in zip(task.batch(4, 2, 3), again.batch(4, 2, 3), strict=True))
    assert not torch.equal(task.batch(4, 2, 3)[1], task.batch(5, 2, 3)[1])
    evaluated = [list(made.evaluation_batches("reward", 4, 2)) for made in (task, task, again)]
    for first, second, third in zip(*evaluated, strict=True):
        assert all(torch.equal(a, b) and torch.equal(a, c) for a, b, c in zip(first, second, third, strict=True))


def test_labels_that_are_not_hidden_do_not_count_and_metrics_say_masked(make: Any) -> None:
    task = make()
    model = task.build_model(0).eval()
    tokens, targets = task.batch(0, 0, 4)
    found = task.metrics(model, [(tokens, targets)])
    assert found.keys() == {"loss", "masked_ppl"} and found["masked_ppl"] == pytest.approx(math.exp(found["loss"]))
    with torch.no_grad():
        logits = model(tokens)
        by_hand = [-float(logits[place].log_softmax(-1)[targets[place]]) for place in map(tuple, (targets >= 0).nonzero())]
    assert found["loss"] == pytest.approx(sum(by_hand) / len(by_hand), rel=1e-5)
    assert task.size((tokens, targets)) == len(by_hand) == 4 * 5


def test_a_saved_folder_tells_the_size_of_the_vocabulary(make: Any, tmp_path: Path) -> None:
    task = make("bpe")
    task.save_assets(tmp_path)
    elsewhere = tasks.make(MaskedLMConfig(), SMALL, DataConfig(path="nowhere.txt"))
    shapes = [
        {name: p.shape for name, p in m.named_parameters()} for m in (elsewhere.load_model(tmp_path), task.build_model(0))
    ]
    assert shapes[0] == shapes[1]


def test_it_learns(tmp_path: Path) -> None:
    """Four letters in turn: hidden ones follow from their neighbours. Letters alone leave log(4) = 1.39 nats."""
    (tmp_path / "a.txt").write_text("abcd" * 2000, encoding="utf-8")
    model = BertConfig(num_layers=2, num_heads=2, width=32, context=16)
    task = tasks.make(MaskedLMConfig(), model, DataConfig(path=str(tmp_path / "a.txt"), tokenizer="char"))
    trainer = Trainer(task, TrainerConfig(iterations=150, batch_size=16), OptimConfig(learning_rate=1e-2), seed=0)
    trainer.rebind((0, 0))
    trainer.train(150)
    assert trainer.evaluate("test") < 0.7


def test_models_that_see_one_side_are_refused() -> None:
    with pytest.raises(InputError, match=r"^model\.name = 'gpt': task 'masked_lm' trains bert$"):
        MaskedLMConfig().check(GPTConfig())
    with pytest.raises(
        InputError, match=r"model\.name = 'bert': only task 'masked_lm' or 'sequence_classification' trains it"
    ):
        TaskConfig().check(SMALL)
    with pytest.raises(InputError, match=r"model\.name = 'vit': only task 'image_classification' trains it"):
        MaskedLMConfig().check(ViTConfig())
