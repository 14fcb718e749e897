"""Tokenizers: every kind is a `tokenizers.Tokenizer`, so all are saved, loaded and used in one way."""

from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from tying.errors import InputError

# Chunks are encoded in parallel, and a trained BPE never merges across a line's end anyway.
_CHUNK_LINES = 2_000


def make(kind: str, vocab_size: int, train_text: str, whole_text: str) -> Tokenizer:
    """Return a tokenizer.

    Args:
        kind: "char", "byte", "bpe", the path of a tokenizer.json, or the hub name of a pretrained tokenizer.
        vocab_size: Size of the BPE vocabulary; the other kinds have their own.
        train_text: What BPE is trained on: the train split, so that nothing of the others leaks into the vocabulary.
        whole_text: What the characters are taken from: all splits, since an unknown character has no token.

    Raises:
        InputError: If the tokenizer cannot be read or fetched.
    """
    if kind == "char":
        return _char(whole_text)
    if kind == "byte":
        return _byte()
    if kind == "bpe":
        return _bpe(train_text, vocab_size)
    if Path(kind).is_file():
        return load(Path(kind))
    try:
        return Tokenizer.from_pretrained(kind)
    except Exception as error:  # the library raises bare exceptions
        raise InputError(
            f"data.tokenizer = {kind!r}: not char, byte or bpe, no such file, and not to be had from the hub "
            f"({(str(error).splitlines() or ['?'])[0]})"
        ) from error


def load(path: Path) -> Tokenizer:
    """Read a tokenizer.json."""
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare exceptions
        raise InputError(f"{path}: not a tokenizer ({error})") from error


def encode(tokenizer: Tokenizer, text: str) -> list[int]:
    """Return the token ids of a text of any length.

    Raises:
        InputError: If the text has a character that a character tokenizer does not know.
    """
    # Published tokenizers may cut or fill what they encode, as their model wants it; here the whole text counts.
    tokenizer.no_truncation()
    tokenizer.no_padding()
    lines = text.splitlines(keepends=True)
    chunks = ["".join(lines[start : start + _CHUNK_LINES]) for start in range(0, len(lines), _CHUNK_LINES)]
    try:
        encodings = tokenizer.encode_batch_fast(chunks, add_special_tokens=False)
    except Exception as error:  # the library raises bare exceptions
        known = tokenizer.get_vocab()
        strange = sorted({character for character in text if character not in known})
        raise InputError(f"the tokenizer has no token for {strange[:5]}") from error
    return [token for encoding in encodings for token in encoding.ids]


def _char(text: str) -> Tokenizer:
    tokenizer = Tokenizer(models.WordLevel({character: i for i, character in enumerate(sorted(set(text)))}))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    return tokenizer


def _byte() -> Tokenizer:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={symbol: i for i, symbol in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _bpe(text: str, vocab_size: int) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()), show_progress=False
    )
    tokenizer.train_from_iterator(text.splitlines(keepends=True), trainer)
    return tokenizer
