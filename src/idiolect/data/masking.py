"""Batches of tokens to fill in: some are hidden, each batch a pure function of (data, seed, step).

Devlin et al. 2019 (BERT, arXiv 1810.04805), section 3.1: of the tokens that are chosen, 80% become the mask, 10% some
other token and 10% stay as they are; all of them are predicted. The choice is drawn anew for every step, so it differs
from epoch to epoch (RoBERTa, arXiv 1907.11692, section 4.1).

B rows, T positions, V vocabulary; N tokens that may be chosen, W words.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from idiolect import seeds
from idiolect.data.batch import IGNORE, Batch
from idiolect.data.batches import HeldOut, NextToken
from idiolect.data.mixture import MixedRows
from idiolect.errors import UserError
from idiolect.tokens.tokenizer import Tokenizer

HIDDEN, REPLACED = 0.8, 0.1
"""Shares of the chosen tokens that become the mask, and another token."""
HELD_OUT = 0
"""The seed of held-out masks, whatever the run's is: runs are compared on the same ones."""


@dataclass(frozen=True)
class Masking:
    """Which tokens are hidden, and by what."""

    mask_id: int
    share: float
    """Of the tokens of a row."""
    content: np.ndarray
    """Whether each id stands for text, bool [V]: no other is chosen or put in another's place."""
    joins: np.ndarray | None
    """What makes tokens one word, bool [2, V] (see `Tokenizer.joins`), where whole words are chosen."""


def masking(tokenizer: Tokenizer, share: float, whole_words: bool) -> Masking:
    """The masking of a tokenizer's ids. Raises UserError when it has no mask token."""
    if tokenizer.mask_id is None:
        raise UserError("this tokenizer has no mask token", "train with a tokenizer that has one")
    return Masking(tokenizer.mask_id, share, tokenizer.content, tokenizer.joins if whole_words else None)


def choose(ids: np.ndarray, segments: np.ndarray | None, how: Masking, draw: np.random.Generator) -> np.ndarray:
    """Which tokens are to be predicted, bool [B, T], of ids [B, T] and, where rows hold several documents, segments.

    In each row words are taken in random order until they hold the share of its tokens (at least one); without
    `joins`, every token is a word.
    """
    chosen = np.zeros(ids.shape, dtype=bool)
    row, column = np.nonzero(how.content[ids])  # [N] each, row by row
    begins = np.ones(len(row), dtype=bool)
    if how.joins is not None:
        goes, open_ = how.joins[:, ids[row, column]]
        together = (row[1:] == row[:-1]) & (column[1:] == column[:-1] + 1)
        if segments is not None:
            together &= np.diff(segments[row, column]) == 0
        begins[1:] = ~(together & goes[1:] & open_[:-1])
    word = np.cumsum(begins) - 1  # [N], of W words
    order = np.lexsort((column, draw.random(int(begins.sum()))[word], row))
    tokens = np.bincount(row, minlength=len(ids))
    within = np.arange(len(row)) - np.repeat(np.cumsum(tokens) - tokens, tokens)  # place in its row, in random order
    starts = np.maximum.accumulate(np.where(begins[order], np.arange(len(row)), 0))  # where its word begins, likewise
    quota = np.maximum(1, np.floor(how.share * tokens + 0.5))
    taken = order[within[starts] < quota[row]]
    chosen[row[taken], column[taken]] = True
    return chosen


def hide(batch: Batch, how: Masking, draw: np.random.Generator) -> Batch:
    """A next-token batch as one to fill in: the chosen tokens are the labels, and hidden where they stand."""
    ids, real = batch.ids.numpy(), batch.labels != IGNORE
    segments = None if batch.segments is None else batch.segments.numpy()
    chosen = choose(ids, segments, how, draw)
    labels = np.where(chosen, ids, IGNORE)
    fate = draw.random(ids.shape)
    others = np.flatnonzero(how.content)
    shown = np.where(chosen & (fate < HIDDEN + REPLACED), others[draw.integers(len(others), size=ids.shape)], ids)
    shown[chosen & (fate < HIDDEN)] = how.mask_id
    lengths = real.sum(1)
    known = segments is not None or bool((lengths == ids.shape[1]).all())
    return Batch(torch.from_numpy(shown), torch.from_numpy(labels), batch.segments, lengths=None if known else lengths)


@dataclass(frozen=True)
class Masked:
    """The micro-batches of each optimiser step: the rows of next-token training, some of their tokens hidden."""

    rows: NextToken | MixedRows
    how: Masking

    def taken(self, steps: int) -> np.ndarray:
        """How many rows each source of a mixture has in so many steps, int64 [K]."""
        assert isinstance(self.rows, MixedRows)
        return self.rows.taken(steps)

    def __call__(self, step: int) -> list[Batch]:
        """The micro-batches of one step, each ids and labels [rows / micro_batches, T]."""
        draw = seeds.numpy_generator(self.rows.seed, "mask", step)
        whole = hide(self.rows.batch(self.rows.examples(step)), self.how, draw)
        return whole.split(self.rows.micro_batches)


def held_out_masks(held: HeldOut, how: Masking) -> Iterator[Batch]:
    """The held-out text with always the same tokens hidden, in the same way."""
    for number, batch in enumerate(held):
        yield hide(batch, how, seeds.numpy_generator(HELD_OUT, "held-out masks", number))
