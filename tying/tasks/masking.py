"""Hiding tokens, for masked language models (Devlin et al. 2019, arXiv 1810.04805).

Shapes: B batch, N tokens of a text.
"""

import numpy as np
import torch
from torch import Tensor

# Share of tokens to predict; of these, hidden by the mask token, and replaced by a random one. The others stay as they are.
MASKED, HIDDEN, REPLACED = 0.15, 0.8, 0.1
IGNORED = -100  # a target that no loss counts


def hide(
    rows: Tensor, seed: int, mask_token: int, vocab_size: int, continues: np.ndarray | None = None
) -> tuple[Tensor, Tensor]:
    """Choose tokens to predict, the same number in every row, so that parts of a batch weigh the same, and hide them.

    Args:
        rows: Texts, (B, N) int64.
        seed: Of the choice.
        mask_token: Stands for a hidden token.
        vocab_size: Random tokens are below it.
        continues: (B, N), whether a token belongs to the word of the token before: words are then chosen whole, in a random
            order, and passed over where they would exceed the number. It is missed only where no word is short enough.

    Returns:
        What the model sees and what it predicts (IGNORED elsewhere), (B, N) each.
    """
    generator = np.random.Generator(np.random.PCG64(seed))
    number = max(1, round(MASKED * rows.shape[1]))
    order = generator.permuted(np.arange(rows.shape[1])[None].repeat(len(rows), 0), axis=1)
    if continues is None:
        places = torch.from_numpy(order[:, :number])
        chosen = torch.zeros(rows.shape, dtype=torch.bool).scatter(1, places, True)
    else:
        picked = [_whole_words(*row, number) for row in zip(order, continues, strict=True)]
        chosen = torch.from_numpy(np.stack(picked))
    fate = torch.from_numpy(generator.random(rows.shape))
    others = torch.from_numpy(generator.integers(0, vocab_size, rows.shape))
    shown = torch.where(fate < HIDDEN, mask_token, torch.where(fate < HIDDEN + REPLACED, others, rows))
    return torch.where(chosen, shown, rows), torch.where(chosen, rows, IGNORED)


def _whole_words(order: np.ndarray, continues: np.ndarray, number: int) -> np.ndarray:
    """Return which tokens of a text are chosen, (N,); of a text of long words alone, the beginning of one."""
    starts = np.flatnonzero(~continues | (np.arange(len(continues)) == 0))
    lengths = np.diff(starts, append=len(continues))
    word_of = np.cumsum(np.isin(np.arange(len(continues)), starts)) - 1
    chosen = np.zeros(len(continues), dtype=bool)
    left = number
    words = word_of[order]
    for word in words[np.sort(np.unique(words, return_index=True)[1])]:  # long words are drawn as often as their tokens
        if lengths[word] <= left:
            chosen[starts[word] : starts[word] + lengths[word]] = True
            left -= int(lengths[word])
    if left == number:
        first = starts[words[0]]
        chosen[first : first + number] = True
    return chosen
