"""Folders of tiny pretrained models with tokenizers of their own, as save_pretrained writes them."""

from pathlib import Path

import torch
import transformers as tf
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

from tying.data.corpora import DataConfig
from tying.hf.config import OWN_TOKENIZER, HFConfig, HFTaskConfig
from tying.hf.task import Pretrained, make

VOCAB = 264  # more rows than the tokenizers have tokens
_SIZES = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 64, "vocab_size": VOCAB}


def make_folder(family: str, folder: Path) -> Path:
    """Write a tiny model of a family (gpt2, llama or bert), 3 layers of width 32, and its tokenizer of bytes."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        if family == "gpt2":
            config = tf.GPT2Config(
                n_embd=32, n_layer=3, n_head=4, n_positions=64, vocab_size=VOCAB, bos_token_id=0, eos_token_id=0
            )
            model = tf.GPT2LMHeadModel(config)
        elif family == "llama":
            model = tf.LlamaForCausalLM(tf.LlamaConfig(**_SIZES, bos_token_id=0, eos_token_id=0))
        else:
            model = tf.BertForMaskedLM(tf.BertConfig(**_SIZES, max_position_embeddings=64))
    model.save_pretrained(folder)
    _tokenizer(masks=family == "bert").save_pretrained(folder)
    return folder


def make_task(folder: Path, text: Path, head: str = "embedding") -> Pretrained:
    """Return the task of a folder's model on a text, 16 tokens at once."""
    data = DataConfig(path=str(text), tokenizer=OWN_TOKENIZER)
    task = make(HFTaskConfig(head=head), HFConfig(pretrained=str(folder), context=16), data)  # type: ignore[arg-type]
    task.require()
    return task


def _tokenizer(masks: bool) -> tf.PreTrainedTokenizerFast:
    specials = ["[PAD]", "[CLS]", "[SEP]", "[MASK]"] if masks else ["<|endoftext|>"]
    symbols = [*specials, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    made = Tokenizer(models.BPE(vocab={symbol: i for i, symbol in enumerate(symbols)}, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    if not masks:
        return tf.PreTrainedTokenizerFast(tokenizer_object=made, eos_token=specials[0])
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    return tf.PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]", mask_token="[MASK]"
    )
