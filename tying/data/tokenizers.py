"""Tokenizers: every kind is a `tokenizers.Tokenizer`, so all are saved, loaded and used in one way.

Texts come in pieces and may be of any length. They are cut at line ends, and very long lines between a word or a number
and what comes after it: no token of BPE crosses such a place, so the tokens are those of the whole text.
"""

import json
import os
import threading
from collections.abc import Iterable, Iterator
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from tying.errors import InputError
from tying.files import digest

KINDS = ("char", "byte", "bpe")
# Chunks are encoded in parallel, and a trained BPE never merges across a line's end anyway.
_CHUNK_LINES = 2_000
# The longest chunk, and the chunks encoded at once [characters]: each character takes up to 100 bytes of memory, and no
# interrupt is heeded in between.
_CHUNK_CHARS = 2**18
_BATCH_CHARS = _CHUNK_CHARS * min(os.cpu_count() or 1, 8)
# BPE training takes time quadratic in the length of a word, and text without spaces is one word [characters].
_LONGEST_WORD = 1_000
# Where str.splitlines ends a line.
_LINE_ENDS = "\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029"


def make(kind: str, vocab_size: int, train_text: Iterable[str], whole_text: Iterable[str]) -> Tokenizer:
    """Return a tokenizer.

    Args:
        kind: "char", "byte", "bpe", the path of a tokenizer.json, or the hub name of a pretrained tokenizer.
        vocab_size: Size of the BPE vocabulary; the other kinds have their own.
        train_text: What BPE is trained on, in pieces: the train split, so that nothing of the others leaks into the
            vocabulary.
        whole_text: What the characters are taken from, in pieces: all splits, since an unknown character has no token.

    Raises:
        InputError: If the tokenizer cannot be read or fetched.
    """
    if kind == "char":
        return _char({character for piece in whole_text for character in set(piece)})
    if kind == "byte":
        return _byte()
    if kind == "bpe":
        return _bpe(train_text, vocab_size)
    if Path(kind).is_file():
        return load(Path(kind))
    return _fetch(kind)


def load(path: Path) -> Tokenizer:
    """Read a tokenizer.json.

    Raises:
        InputError: If it is no tokenizer.
    """
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare exceptions
        reason = _first_line(error)
        raise InputError(f"{path}: not a tokenizer ({reason}); save it once more, or choose another tokenizer") from error


def vocab_size(tokenizer: Tokenizer) -> int:
    """Return the number of rows that an embedding needs: the largest token id + 1, also where ids have holes."""
    return int(max(tokenizer.get_vocab().values(), default=-1)) + 1


def sha256(tokenizer: Tokenizer) -> str:
    """Return the digest of what a tokenizer does, the same for all files of it."""
    # Whole texts are encoded without the two, which `encode_chunks` takes out.
    form = {name: part for name, part in json.loads(tokenizer.to_str()).items() if name not in ("truncation", "padding")}
    return digest(form)


def word_edges(tokenizer: Tokenizer) -> tuple[np.ndarray, np.ndarray]:
    """Return by token id whether a token begins, and whether it ends, with a part of a word: a letter, digit or underscore.

    A token belongs to the word of the token before if that ends, and it begins, with a part of a word. Tokenizers that mark
    the tokens inside words ("##ing") say it themselves.
    """
    form, _ = _form(tokenizer)
    marks = form["model"].get("continuing_subword_prefix") or ""
    is_part = _is_part_of_bytes if "ByteLevel" in json.dumps([form["pre_tokenizer"], form["decoder"]]) else _is_part
    begins, ends = (np.zeros(vocab_size(tokenizer), dtype=bool) for _ in range(2))
    for symbol, number in tokenizer.get_vocab().items():
        inside = symbol.removeprefix(marks)
        begins[number] = bool(inside) and (inside != symbol or not marks) and is_part(inside[0])
        ends[number] = bool(inside) and is_part(inside[-1])
    return begins, ends


def _is_part(character: str) -> bool:
    return character.isalnum() or character == "_"


def _is_part_of_bytes(symbol: str) -> bool:
    """Say whether a symbol of ByteLevel is part of a word: its bytes beyond ASCII are latin-1, or 290 and more."""
    return _is_part(symbol) if ord(symbol) < 0x80 else not 0x100 <= ord(symbol) < 290


def unknown_token(tokenizer: Tokenizer) -> int | None:
    """Return the id of the token that stands for all text that a tokenizer does not know, if it has one."""
    model = json.loads(tokenizer.to_str())["model"]
    if model.get("unk_id") is not None:
        return int(model["unk_id"])
    token = model.get("unk_token")
    return None if token is None else tokenizer.token_to_id(token)


def encode(tokenizer: Tokenizer, text: str) -> list[int]:
    """Return the token ids of a text of any length.

    Raises:
        InputError: If the text has a character that a character tokenizer does not know.
    """
    return [token for _, ids in encode_chunks(tokenizer, [text]) for token in ids.tolist()]


def encode_chunks(tokenizer: Tokenizer, pieces: Iterable[str]) -> Iterator[tuple[list[str], np.ndarray]]:
    """Yield chunks of a text and their token ids (uint32), in order; little memory, however long the text.

    Raises:
        InputError: If the text has a character that a character tokenizer does not know.
    """
    # Published tokenizers may cut or fill what they encode, as their model wants it; here the whole text counts.
    tokenizer.no_truncation()
    tokenizer.no_padding()
    table = _table(tokenizer)
    for chunks in _batches(_chunks(pieces)):
        ids = _encode(tokenizer, chunks) if table is None else _look_up(*table, chunks)
        if ids is None:
            known = tokenizer.get_vocab()
            unknown = sorted({character for chunk in chunks for character in chunk if character not in known})
            raise InputError(f"the tokenizer has no token for {unknown[:5]}")
        yield chunks, ids


def _encode(tokenizer: Tokenizer, chunks: list[str]) -> np.ndarray | None:
    try:
        encodings = tokenizer.encode_batch_fast(chunks, add_special_tokens=False)
    except Exception:  # the library raises bare exceptions
        return None
    return np.concatenate([np.array(encoding.ids, dtype=np.uint32) for encoding in encodings])


def _table(tokenizer: Tokenizer) -> tuple[str, np.ndarray] | None:
    """Return the encoding whose units a tokenizer of characters or bytes numbers, and their numbers; None for others.

    Numbers are looked up a hundred times faster than texts are tokenized. Units without one have -1.
    """
    form, vocabulary = _form(tokenizer)
    if form == _form(_byte())[0] and vocabulary.keys() == set(pre_tokenizers.ByteLevel.alphabet()):
        every_byte = "".join(map(chr, [*range(0x801), *range(0x1000, 0x10001, 0x1000), *range(0x40000, 0x110000, 0x40000)]))
        symbols = "".join(symbol for symbol, _ in tokenizer.pre_tokenizer.pre_tokenize_str(every_byte))
        table = np.full(0x100, -1)
        table[list(every_byte.encode())] = [vocabulary[symbol] for symbol in symbols]
        return "utf-8", table
    if form == _form(_char([]))[0] and all(len(symbol) == 1 for symbol in vocabulary):
        table = np.full(0x110000, -1)
        table[list(map(ord, vocabulary))] = list(vocabulary.values())
        return "utf-32-le", table
    return None


def _form(tokenizer: Tokenizer) -> tuple[dict[str, Any], dict[str, int]]:
    """Return all that a tokenizer is besides its vocabulary, and that."""
    form = json.loads(tokenizer.to_str())
    return form, form["model"].pop("vocab", {})


def _look_up(encoding: str, table: np.ndarray, chunks: list[str]) -> np.ndarray | None:
    units = np.frombuffer("".join(chunks).encode(encoding), np.uint8 if encoding == "utf-8" else np.uint32)
    ids = table[units]
    return None if ids.min(initial=0) < 0 else ids.astype(np.uint32)


def _chunks(pieces: Iterable[str]) -> Iterator[str]:
    """Yield a text in chunks of _CHUNK_LINES lines; those above _CHUNK_CHARS are cut."""
    held: list[str] = []
    num_lines = length = 0
    for line in _lines(pieces, _CHUNK_CHARS):
        held.append(line)
        length += len(line)
        num_lines += line[-1] in _LINE_ENDS
        if length > _CHUNK_CHARS:
            *chunks, rest = _cut("".join(held), _CHUNK_CHARS)
            yield from chunks
            held, length = [rest], len(rest)
        if num_lines == _CHUNK_LINES:
            yield "".join(held)
            held, num_lines, length = [], 0, 0
    if held:
        yield "".join(held)


def _batches(chunks: Iterable[str]) -> Iterator[list[str]]:
    """Yield chunks together as long as they are short, to be encoded in parallel."""
    held: list[str] = []
    length = 0
    for chunk in chunks:
        if held and length + len(chunk) > _BATCH_CHARS:
            yield held
            held, length = [], 0
        held.append(chunk)
        length += len(chunk)
    if held:
        yield held


def _lines(pieces: Iterable[str], longest: int) -> Iterator[str]:
    """Yield the lines of a text with their ends; longer ones are cut."""
    rest = ""
    for piece in pieces:
        *lines, rest = (rest + piece).splitlines(keepends=True) or [""]
        for line in lines:
            yield from _cut(line, longest)
        *parts, rest = _cut(rest, longest)
        yield from parts
    if rest:
        yield rest


def _cut(text: str, longest: int) -> Iterator[str]:
    """Yield a text in parts of at most `longest` characters, the last of them last even when it is empty."""
    start = 0
    while len(text) - start > longest:
        stop = next((p for p in range(start + longest, start, -1) if _is_boundary(text, p)), start + longest)
        yield text[start:stop]
        start = stop
    yield text[start:]


def _is_boundary(text: str, place: int) -> bool:
    """Say whether a word or a number ends at a place: GPT-2's pattern, that of ByteLevel, never matches across it."""
    before, after = text[place - 1], text[place]
    if before.isalpha():
        return not after.isalpha()
    return before.isnumeric() and not after.isnumeric()


def _fetch(name: str) -> Tokenizer:
    near = get_close_matches(name.lower(), KINDS, n=1)
    if near:  # no tokenizer of the hub is called so, and without a network it is long in answering
        raise InputError(f"data.tokenizer = {name!r}: not char, byte or bpe, and no such file; did you mean {near[0]!r}?")
    if name.endswith(".json"):
        raise InputError(f"data.tokenizer = {name!r}: no such file")
    try:
        return Tokenizer.from_pretrained(name)
    except Exception as error:  # the library raises bare exceptions
        raise InputError(
            f"data.tokenizer = {name!r}: not char, byte or bpe, no such file, and not to be had from the hub "
            f"({_first_line(error)})"
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or ["?"])[0]


def _char(characters: Iterable[str]) -> Tokenizer:
    tokenizer = Tokenizer(models.WordLevel({character: i for i, character in enumerate(sorted(characters))}))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    return tokenizer


def _byte() -> Tokenizer:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={symbol: i for i, symbol in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _bpe(pieces: Iterable[str], vocab_size: int) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()), show_progress=False
    )
    _interruptibly(tokenizer, trainer, _lines(pieces, _LONGEST_WORD))
    return tokenizer


def _interruptibly(tokenizer: Tokenizer, trainer: trainers.BpeTrainer, lines: Iterable[str]) -> None:
    """Train in a thread of its own: the library heeds no interrupt before it is done, the waiting main thread does."""
    failures: list[BaseException] = []
    stopped, ended = threading.Event(), threading.Event()

    def feed() -> Iterator[str]:
        for line in lines:
            if stopped.is_set():
                raise InterruptedError
            yield line

    def train() -> None:
        try:
            tokenizer.train_from_iterator(feed(), trainer)
        except BaseException as error:
            failures.append(error)
        finally:
            ended.set()

    try:
        threading.Thread(target=train, daemon=True).start()
        while not ended.wait(timeout=0.2):
            pass
    except BaseException:
        stopped.set()
        ended.wait(timeout=0.5)  # it stops reading, which takes the interpreter's lock, before the interpreter may end
        raise
    if failures:
        raise failures[0]
