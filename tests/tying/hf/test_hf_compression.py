"""Compressing models of transformers: layers removed, questions, embeddings."""

import copy
from pathlib import Path

import pytest
import torch
import transformers as tf
from folders import make_folder, make_task
from hf_models import CAUSAL, USUAL

import tying.hf
from tests.conftest import words
from tests.tying.compression.perturbed import make_model
from tying import InputError
from tying.compression import BlockWalk, Sources
from tying.compression.healing import Healing
from tying.hf.embedding import embed
from tying.training.config import BindingConfig, TrainerConfig

pytestmark = pytest.mark.usefixtures("one_thread")
HEADS = [("gpt2", "causal_lm"), ("llama", "causal_lm"), ("bert", "masked_lm"), ("bert", "embedding"), ("gpt2", "embedding")]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hf")
    for family in ("gpt2", "llama", "bert"):
        make_folder(family, folder / family)
    (folder / "corpus.txt").write_text(words(6_000), encoding="utf-8")
    return folder


@pytest.mark.filterwarnings("ignore:.*has no weights for pooler")
@pytest.mark.parametrize(("family", "head"), HEADS)
def test_questions_are_answered_as_if_they_were_done(root: Path, family: str, head: str) -> None:
    task = make_task(root / family, root / "corpus.txt", head)
    model, batches = make_model(task, 0.1).eval(), list(task.evaluation_batches("reward", 4, 2))
    walk = BlockWalk(task, model, batches)
    for text in ("0 0 2", "2 2 2", "1 - 1", "0 1 -", "- 2 2"):
        sources = Sources.parse(text)
        trainer = Healing(task, model, sources, BindingConfig(), 0.0).trainer(TrainerConfig(iterations=1), None, 0)
        trainer.model.eval()
        assert walk.loss(sources) == pytest.approx(task.metrics(trainer.model, batches)["loss"], abs=1e-6), text


@pytest.mark.parametrize("family", ["gpt2", "llama", "qwen2", "qwen3", "gemma2", "gemma3_text", "olmo2", "mixtral"])
def test_a_decoder_without_layers_is_the_chain_of_the_others(family: str, tmp_path: Path) -> None:
    config = tf.AutoConfig.for_model(family, **{**CAUSAL[family], "bos_token_id": 1, "eos_token_id": 2})
    torch.manual_seed(0)
    model = tf.AutoModelForCausalLM.from_config(config).eval()
    cut = copy.deepcopy(model)
    tying.hf.remove_layers(cut, [1, 2])
    tokens = torch.arange(12)[None]
    stack = next(iter(tying.hf.find_stacks(model).values()))
    for layer in (1, 2):  # the original, its layers passing on what they get
        stack.blocks[layer].forward = lambda hidden, *args, **kwargs: hidden  # type: ignore[assignment]
    with torch.no_grad():
        expected = model(tokens, use_cache=False).logits
        assert torch.equal(cut(tokens, use_cache=False).logits, expected)
        cut.save_pretrained(tmp_path)
        again = tf.AutoModelForCausalLM.from_pretrained(tmp_path).eval()
        assert torch.equal(again(tokens, use_cache=False).logits, expected)
        cached = again.generate(tokens, max_new_tokens=4, min_new_tokens=4, do_sample=False, pad_token_id=0)
        plain = again.generate(tokens, max_new_tokens=4, min_new_tokens=4, do_sample=False, pad_token_id=0, use_cache=False)
    assert torch.equal(cached, plain)  # the layers' numbers in the cache are right


def test_lists_of_layers_in_the_configuration_follow() -> None:
    kinds = ["full_attention", "sliding_attention", "full_attention", "sliding_attention"]
    config = tf.Gemma2Config(**{**USUAL, "num_key_value_heads": 2, "head_dim": 8, "layer_types": kinds})
    model = tf.Gemma2ForCausalLM(config)
    tying.hf.remove_layers(model, [0])
    assert model.config.num_hidden_layers == 3
    assert model.config.layer_types == kinds[1:]
    assert [layer.self_attn.layer_idx for layer in model.model.layers] == [0, 1, 2]


def test_wrong_layers_and_bound_models_are_refused_and_left() -> None:
    model = tf.GPT2LMHeadModel(tf.GPT2Config(**CAUSAL["gpt2"]))
    for layers in ([4], [-1], range(4)):
        with pytest.raises(InputError, match=r"cannot be removed: transformer\.h has layers 0 to 3"):
            tying.hf.remove_layers(model, layers)
    binding = tying.hf.tie(model, "0 0 2 2")
    with pytest.raises(InputError, match="is bound"):
        tying.hf.remove_layers(model, [1])
    assert len(model.transformer.h) == binding.num_layers == 4


def test_a_layer_that_the_others_need_is_refused() -> None:
    model = tf.T5EncoderModel(tf.T5Config(d_model=32, d_kv=8, d_ff=64, num_layers=3, num_heads=4, vocab_size=99))
    with pytest.raises(InputError, match=r"layer 0 cannot be removed: the model needs its .*relative_attention_bias"):
        tying.hf.remove_layers(model, [0])
    tying.hf.remove_layers(model, [1])
    assert len(model.encoder.block) == 2


@pytest.mark.filterwarnings("ignore:.*has no weights for pooler")
def test_the_original_keeps_its_own_embeddings(root: Path) -> None:
    task = make_task(root / "bert", root / "corpus.txt")
    model = task.build_model(0).eval()
    for batch in task.evaluation_batches("test", 4, 2):
        assert task.size(batch) == len(batch[0]) == 4
        with torch.no_grad():
            assert float(task.loss(model, batch)) == pytest.approx(0, abs=1e-6)
            assert 0 < float(task.loss(make_model(task, 0.1).eval(), batch)) <= 2
            assert embed(model, batch[0]).norm(dim=-1) == pytest.approx(torch.ones(4))
    first, again = task.batch(3, 1, 4), task.batch(3, 1, 4)
    assert all(torch.equal(*pair) for pair in zip(first, again, strict=True))
    assert task.uninformed_loss == 1.0
