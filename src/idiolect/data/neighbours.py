"""Batches of words and the words around them, each a pure function of (data, seed, step).

A place is a position of the text; its words are those up to `window` before and after it in the same document. What
the tokenizer does not know is no word: word2vec, too, leaves out what is rare.

B places, C = 2 x window words around each, K drawn words, V vocabulary, N tokens, S the stream of `shards.Shards`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from idiolect import seeds
from idiolect.data.batch import Batch
from idiolect.data.batches import drawn
from idiolect.data.shards import Shards

NOISE = 0.75
"""Negative words are drawn by their count to this power (Mikolov et al. 2013, arXiv 1310.4546, section 2.2)."""


@dataclass(frozen=True)
class Neighbours:
    """The micro-batches of each optimiser step.

    Slot i = step x places + place; epoch = i // N; token = permutation(seed, epoch)[i % N]: every token is visited once
    an epoch. What `subsample` leaves out is no row, so a batch has fewer rows than places. CBOW (`inward`) reads the
    words around a place (ids [B, C], right-padded, with lengths) and its label is the word there; skip-gram reads the
    word there (ids [B, 1]) and has a row for each word around it.
    """

    shards: Shards
    inward: bool
    """Whether the words around a place predict it (CBOW) or it predicts them (skip-gram)."""
    window: int
    dynamic: bool
    """Whether each place draws its window from 1 to `window`."""
    subsample: float
    """The threshold t of Mikolov et al. 2013, arXiv 1310.4546, eq. 5; 0 keeps every word."""
    negatives: int
    """Words drawn for each label; 0 draws none."""
    places: int
    """Places a step."""
    micro_batches: int
    seed: int
    counts: np.ndarray
    """How often each word occurs in the training text, int64 [V]; 0 for what is no word."""
    pad_id: int

    @cached_property
    def kept(self) -> np.ndarray:
        """The probability that an occurrence of each word is kept, float64 [V]: min(1, √(t / f)), f its share.

        Eq. 5 of the paper; what is no word has 0.
        """
        share = self.counts / max(1, self.counts.sum())
        kept = np.sqrt(self.subsample / np.maximum(share, self.subsample)) if self.subsample else 1.0
        return np.where(share > 0, kept, 0.0)

    @cached_property
    def noise(self) -> np.ndarray:
        """The distribution that negative words are drawn from, summed up: float64 [V]."""
        total = np.cumsum(self.counts**NOISE)
        return total / total[-1]

    @cached_property
    def _offsets(self) -> np.ndarray:
        """Tokens before the end of each document, int64 [n]."""
        return self.shards.offsets[1:]

    def epoch(self, step: int) -> int:
        """The epoch that the first place of `step` belongs to, from 0."""
        return step * self.places // self.shards.tokens

    def tokens(self, step: int) -> np.ndarray:
        """The token at each place of a step, int64 [places], from 0 to N - 1."""
        slots = step * self.places + np.arange(self.places)
        return drawn(slots, self.shards.tokens, self.seed)

    def __call__(self, step: int) -> list[Batch]:
        """The micro-batches of one step."""
        whole = self.batch(self.tokens(step), seeds.numpy_generator(self.seed, "neighbours", step))
        parts = {k: v.tensor_split(self.micro_batches) for k, v in vars(whole).items() if isinstance(v, torch.Tensor)}
        return [Batch(**dict(zip(parts, some))) for some in zip(*parts.values())]

    def batch(self, tokens: np.ndarray, draw: np.random.Generator) -> Batch:
        """The given tokens as a batch."""
        document = np.searchsorted(self._offsets, tokens, side="right")
        centre = tokens + document + 1  # in S, where an end-of-text stands before every document
        words = self._words(centre, draw)
        keep = words >= 0
        centre, words, document = centre[keep], words[keep], document[keep]
        around = np.r_[-self.window : 0, 1 : self.window + 1]
        reach = draw.integers(1, self.window + 1, len(centre)) if self.dynamic else np.full(len(centre), self.window)
        places = centre[:, None] + around
        inside = (np.abs(around) <= reach[:, None]) & (places > self.shards.ends[document, None])
        inside &= places < self.shards.ends[document + 1, None]
        others = np.full(places.shape, -1)
        others[inside] = self._words(places[inside], draw)
        real = others >= 0
        if self.inward:
            lengths = real.sum(1)
            ids = np.full(others.shape, self.pad_id)
            ids[np.arange(others.shape[1]) < lengths[:, None]] = others[real]
            ids, lengths, labels = ids[lengths > 0], lengths[lengths > 0], words[lengths > 0]
        else:
            ids = np.repeat(words, real.sum(1))[:, None]
            labels = others[real]
            lengths = np.ones(len(labels), dtype=np.int64)
        noise = np.searchsorted(self.noise, draw.random((len(labels), self.negatives)), side="right")
        return Batch(
            torch.from_numpy(ids),
            torch.from_numpy(labels),
            lengths=torch.from_numpy(lengths),
            negatives=torch.from_numpy(noise) if self.negatives else None,
        )

    def _words(self, positions: np.ndarray, draw: np.random.Generator) -> np.ndarray:
        """The words at positions [K] of S, int64, -1 for those that subsampling leaves out and those that are none."""
        words = self.shards.at(positions, 0)
        return np.where(draw.random(len(words)) < self.kept[words], words, -1)
