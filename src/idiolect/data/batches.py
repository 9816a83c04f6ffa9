"""Batches of next-token training and scoring, each a pure function of (data, seed, step).

B rows, T positions (the context), N tokens, n documents. S = E d1 E d2 E … dn E is the stream that `shards.Shards`
reads; a piece (start, length) of it has the inputs S[start : start + length] and the labels one position on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
import torch

from idiolect import seeds
from idiolect.data.batch import IGNORE, Batch
from idiolect.data.packing import Pieces
from idiolect.data.packing import packing as pack
from idiolect.data.shards import Shards
from idiolect.data.windows import Windows, windows
from idiolect.errors import UserError

Layout = Callable[[np.ndarray], Pieces]
"""The pieces of some examples, each of which fills a row."""


@dataclass(frozen=True)
class NextToken:
    """The micro-batches of each optimiser step.

    Slot i = step x rows + row; epoch = i // n; example = permutation(seed, epoch)[i % n]. So every epoch visits every
    example once, in an order of its own, and any step can be asked for without those before it.
    """

    shards: Shards
    layout: Layout
    n: int
    """Examples (rows) an epoch."""
    shared: bool
    """Whether an example may hold several documents; batches then carry segments."""
    context: int
    rows: int
    """Rows a step."""
    micro_batches: int
    seed: int
    begin_id: int
    """What stands for end-of-text among the inputs (where a document begins)."""
    end_id: int
    """What stands for it among the labels (where one ends)."""
    pad_id: int

    def epoch(self, step: int) -> int:
        """The epoch that the first row of `step` belongs to, from 0."""
        return step * self.rows // self.n

    def examples(self, step: int) -> np.ndarray:
        """The example in each row of a step, int64 [rows]."""
        return drawn(step * self.rows + np.arange(self.rows), self.n, self.seed)

    def __call__(self, step: int) -> list[Batch]:
        """The micro-batches of one step, each ids and labels [rows / micro_batches, T]."""
        parts = np.split(self.examples(step), self.micro_batches)
        return [self.batch(part) for part in parts]

    def batch(self, examples: np.ndarray) -> Batch:
        """The given examples [B] as a batch [B, T]."""
        row, starts, lengths = self.layout(examples)  # [P] each
        first = np.searchsorted(row, row)  # the first piece in the row of each
        before = np.cumsum(lengths) - lengths
        within = np.arange(lengths.sum()) - np.repeat(before, lengths)  # [K], for each of all K real positions
        source = np.repeat(starts, lengths) + within
        target = np.repeat(row * self.context + before - before[first], lengths) + within
        shape = (len(examples), self.context)
        ids, labels, segments = (np.full(shape, fill, dtype=np.int64) for fill in (self.pad_id, IGNORE, -1))
        ids.flat[target] = self.shards.at(source, self.begin_id)
        labels.flat[target] = self.shards.at(source + 1, self.end_id)
        segments.flat[target] = np.repeat(np.arange(len(row)) - first, lengths)
        shown = torch.from_numpy(segments) if self.shared else None
        return Batch(torch.from_numpy(ids), torch.from_numpy(labels), shown)


def drawn(slots: np.ndarray, n: int, seed: int) -> np.ndarray:
    """The example in each slot, int64 like `slots`: epoch = slot // n; example = permutation(seed, epoch)[slot % n]."""
    out = np.empty(slots.shape, dtype=np.int64)
    for epoch in np.unique(slots // n).tolist():
        inside = slots // n == epoch
        out[inside] = seeds.permute(slots[inside] % n, n, seeds.derive(seed, "epoch", epoch))
    return out


def next_token(
    shards: Shards,
    *,
    context: int,
    batch_tokens: int,
    micro_batches: int = 1,
    seed: int = 0,
    packing: Literal["documents", "stream"] = "documents",
    begin_id: int,
    end_id: int,
    pad_id: int,
) -> NextToken:
    """Training batches in which every token and every end-of-text of the corpus is a label once an epoch.

    packing "documents": each document begins after end-of-text, is cut into pieces of at most `context`, and shares a
    row with others that it does not see. "stream": windows of `context` positions of S, whatever they hold.
    A step has batch_tokens // context rows, at least one.
    Raises UserError when the text is shorter than one context, or `micro_batches` does not divide the rows.
    """
    if shards.labels < context:
        raise UserError(
            f"the training text has {shards.labels:,} tokens, fewer than one context of {context:,}",
            f"use more text, or a model.context of at most {shards.labels}",
        )
    rows = max(1, batch_tokens // context)
    if rows % micro_batches:
        nearest = max(d for d in range(1, min(micro_batches, rows) + 1) if rows % d == 0)
        raise UserError(
            f"train.micro_batches = {micro_batches} does not divide the {rows} rows of a batch "
            f"({batch_tokens:,} tokens in rows of {context:,})",
            f"use train.micro_batches={nearest}, or another train.batch_tokens",
        )
    if packing == "stream":
        layout: Layout = partial(_stream, shards.labels, context)
        n, shared = -(-shards.labels // context), False
    else:
        index = pack(shards, context)
        layout, n, shared = index.pieces, len(index), index.shared
    return NextToken(shards, layout, n, shared, context, rows, micro_batches, seed, begin_id, end_id, pad_id)


def _stream(labels: int, context: int, examples: np.ndarray) -> Pieces:
    """Window `example` of the stream in each row; the last window of the stream may be shorter."""
    starts = examples * context
    return Pieces(np.arange(len(examples)), starts, np.minimum(context, labels - starts))


@dataclass(frozen=True)
class HeldOut:
    """Held-out text in a fixed order; can be iterated again and again.

    Each of the first `labels` labels (a document's tokens, then its end-of-text) is scored once, in windows of
    `context` that do not reach across documents and begin every `stride` positions.
    """

    shards: Shards
    context: int
    stride: int
    rows: int
    begin_id: int
    end_id: int
    pad_id: int
    labels: int
    """How many labels are scored."""

    @property
    def ends(self) -> np.ndarray:
        """Where the documents that are scored end, int64; the last may be cut short."""
        whole = self.shards.ends[: np.searchsorted(self.shards.ends, self.labels, side="right")]
        return whole if whole[-1] == self.labels else np.append(whole, self.labels)

    def bytes(self, token_bytes: np.ndarray | None) -> int | None:
        """UTF-8 bytes of the original text that is scored.

        When a document is cut short, the bytes of its scored tokens come from token_bytes (int64 [V], bytes of text a
        token stands for); None when that is not given.
        """
        ends = self.shards.ends
        whole = int(np.searchsorted(ends, self.labels, side="right")) - 1
        if self.labels == ends[whole]:
            return int(self.shards.byte_ends[whole])
        if token_bytes is None:
            return None
        cut = self.shards.at(np.arange(ends[whole] + 1, self.labels + 1), self.end_id)
        return int(self.shards.byte_ends[whole] + token_bytes[cut].sum())

    def __iter__(self) -> Iterator[Batch]:
        """Batches of at most rows x context positions; short documents share a batch, each in a row of its own."""
        for block in windows(self.ends, self.context, self.stride):
            first = longest = 0
            for window, length in enumerate(block.lengths.tolist()):
                longest = max(longest, length)
                if window > first and (window - first + 1) * longest > self.rows * self.context:
                    yield self._batch(block, slice(first, window))
                    first, longest = window, length
            yield self._batch(block, slice(first, None))

    def _batch(self, block: Windows, some: slice) -> Batch:
        starts, lengths, seen = (column[some, None] for column in block)
        column = np.arange(lengths.max())
        source = starts + np.minimum(column, lengths - 1)  # [B, T]
        ids = np.where(column < lengths, self.shards.at(source, self.begin_id), self.pad_id)
        scored = (seen <= column) & (column < lengths)
        labels = np.where(scored, self.shards.at(source + 1, self.end_id), IGNORE)
        return Batch(torch.from_numpy(ids), torch.from_numpy(labels))


def held_out(
    shards: Shards,
    *,
    context: int,
    rows: int,
    begin_id: int,
    end_id: int,
    pad_id: int,
    stride: int | None = None,
    limit_tokens: int | None = None,
) -> HeldOut:
    """Batches that score every token and every end-of-text of `shards` once, or the first `limit_tokens` of them.

    Windows begin every `stride` positions of a document (default: the context, so that they do not overlap).
    """
    labels = min(shards.labels, limit_tokens or shards.labels)
    return HeldOut(shards, context, stride or context, rows, begin_id, end_id, pad_id, labels)
