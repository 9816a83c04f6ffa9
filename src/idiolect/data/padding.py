"""Rows of unequal length in one rectangle, and sentences of words as such a rectangle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from idiolect.data.batch import IGNORE, Batch
from idiolect.errors import UserError

PAD = "<PAD>"


def pad(rows: Sequence[Sequence[int] | np.ndarray], pad_id: int) -> tuple[Tensor, Tensor]:
    """Rows of ids → (ids int64 [B, T] filled up at the right with `pad_id`, lengths int64 [B]); T is the longest."""
    lengths = [len(row) for row in rows]
    ids = np.full((len(rows), max(lengths, default=0)), pad_id, dtype=np.int64)
    for row, length, out in zip(rows, lengths, ids, strict=True):
        out[:length] = row
    return torch.from_numpy(ids), torch.tensor(lengths, dtype=torch.int64)


def shifted(rows: Sequence[Sequence[int] | np.ndarray], pad_id: int) -> Batch:
    """A batch that predicts each row's next id from those before: row [a, b, c] reads [a, b] and its labels are [b, c].

    Padding is `pad_id` in ids and IGNORE in labels, so it is never predicted; being at the right, it is never read by
    a model that looks to the left.
    """
    ids, _ = pad([row[:-1] for row in rows], pad_id)
    labels, _ = pad([row[1:] for row in rows], IGNORE)
    return Batch(ids, labels)


class Sentences(NamedTuple):
    """Sentences as a batch of ids."""

    ids: Tensor
    """int64 [B, block]."""
    lengths: Tensor
    """Words of each sentence, int64 [B]."""
    vocabulary: Mapping[str, int]
    """The id of each word, and of PAD."""


def sentences(
    texts: Sequence[Sequence[str]], block: int, *, pad_id: int = 0, vocabulary: Mapping[str, int] | None = None
) -> Sentences:
    """Sentences of words → ids [B, block]: cut what is longer than `block`, fill up what is shorter, look up each word.

    Without a vocabulary one is built from the words left after cutting: PAD gets `pad_id`, the words the other ids in
    the order of their code points (capitals first). Raises UserError for a word that a given vocabulary does not hold,
    and for a `pad_id` that would leave a gap behind the words.
    """
    cut = [list(words[:block]) for words in texts]
    if vocabulary is None:
        words = sorted({word for row in cut for word in row})
        if not 0 <= pad_id <= len(words):
            raise UserError(f"padding cannot have the id {pad_id}", f"give it one from 0 to {len(words)}")
        words.insert(pad_id, PAD)
        vocabulary = {word: i for i, word in enumerate(words)}
    elif missing := {PAD, *(word for row in cut for word in row)} - vocabulary.keys():
        raise UserError(f"the vocabulary does not hold {min(missing)!r}", "build it from these sentences too")
    lengths = torch.tensor([len(row) for row in cut], dtype=torch.int64)
    ids, _ = pad([[vocabulary[word] for word in row + [PAD] * (block - len(row))] for row in cut], vocabulary[PAD])
    return Sentences(ids, lengths, vocabulary)
