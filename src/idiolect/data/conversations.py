"""Conversations as rows of ids, several of them packed into a row of a batch without their seeing one another.

n conversations, R packed rows, B rows of a batch, T positions.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from idiolect.data.batch import IGNORE, Batch
from idiolect.data.batches import drawn
from idiolect.data.examples import Ragged
from idiolect.data.packing import fill
from idiolect.data.padding import pad
from idiolect.errors import UserError


@dataclass(frozen=True)
class Conversations:
    """n conversations: row i reads all its ids but the last and predicts those that its mask says."""

    ids: Ragged
    """At least two of each."""
    mask: Ragged
    """1 for each id that is predicted, 0 for the others; the first is never."""

    @classmethod
    def of(cls, rows: Iterable[tuple[np.ndarray, np.ndarray]]) -> Conversations:
        """From (ids [T], mask [T]) of each."""
        kept = list(rows)
        return cls(Ragged.of([ids for ids, _ in kept]), Ragged.of([mask for _, mask in kept]))

    @classmethod
    def joined(cls, parts: Sequence[Conversations]) -> Conversations:
        """Several, one after another."""
        return (
            parts[0]
            if len(parts) == 1
            else cls.of((part.ids[i], part.mask[i]) for part in parts for i in range(len(part)))
        )

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def lengths(self) -> np.ndarray:
        """Positions that each takes, int64 [n]."""
        return self.ids.lengths - 1

    @property
    def labels(self) -> np.ndarray:
        """All the ids that are predicted, int32 [N]."""
        first = self.ids.ends[:-1]
        counted = self.mask.ids.astype(bool)
        counted[first] = False
        return self.ids.ids[counted]

    def row(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        """(what is read, what is predicted or IGNORE) of one conversation, int64 [T] each."""
        ids, mask = self.ids[i].astype(np.int64), self.mask[i]
        return ids[:-1], np.where(mask[1:] == 1, ids[1:], IGNORE)

    def batch(self, some: Sequence[int] | np.ndarray, pad_id: int) -> Batch:
        """Some of them, each in a row of its own: ids and labels [B, T]."""
        rows = [self.row(int(i)) for i in some]
        (ids, _), (labels, _) = pad([read for read, _ in rows], pad_id), pad([said for _, said in rows], IGNORE)
        return Batch(ids, labels)


@dataclass(frozen=True)
class Packed:
    """The micro-batches of each optimiser step.

    Slots are filled with packed rows as in `batches.NextToken`: each epoch has each row once, in an order of its own.
    """

    conversations: Conversations
    order: np.ndarray
    """int64 [n], the conversations in the order of their rows."""
    ends: np.ndarray
    """int64 [R + 1]: packed row r holds order[ends[r] : ends[r + 1]]."""
    width: int
    """T: the positions of the fullest row."""
    rows: int
    """Rows a step."""
    micro_batches: int
    seed: int
    pad_id: int

    @property
    def n(self) -> int:
        """R, the packed rows."""
        return len(self.ends) - 1

    @property
    def shared(self) -> bool:
        """Whether some row holds two conversations."""
        return len(self.order) > len(self.ends) - 1

    def __call__(self, step: int) -> list[Batch]:
        """The micro-batches of one step, each ids and labels [rows / micro_batches, T]."""
        slots = step * self.rows + np.arange(self.rows)
        return [self.batch(part) for part in np.split(drawn(slots, len(self.ends) - 1, self.seed), self.micro_batches)]

    def batch(self, rows: np.ndarray) -> Batch:
        """The given packed rows [B] as a batch [B, T], with segments where rows are shared."""
        shape = (len(rows), self.width)
        ids, labels, segments = (np.full(shape, value, dtype=np.int64) for value in (self.pad_id, IGNORE, -1))
        for b, row in enumerate(rows.tolist()):
            place = 0
            for segment, i in enumerate(self.order[self.ends[row] : self.ends[row + 1]].tolist()):
                read, said = self.conversations.row(i)
                here = slice(place, place + len(read))
                ids[b, here], labels[b, here], segments[b, here] = read, said, segment
                place += len(read)
        shown = torch.from_numpy(segments) if self.shared else None
        return Batch(torch.from_numpy(ids), torch.from_numpy(labels), shown)


def packed(
    conversations: Conversations, *, context: int, batch_tokens: int, micro_batches: int, seed: int, pad_id: int
) -> Packed:
    """Batches of about `batch_tokens` positions; every conversation takes at most `context` of them.

    Raises UserError when there are no conversations.
    """
    if not len(conversations):
        raise UserError("there are no conversations to learn from", "give files with conversations in them")
    lengths = conversations.lengths
    row = fill(lengths, context)
    order = np.argsort(row, kind="stable")
    ends = np.concatenate([[0], np.cumsum(np.bincount(row))])
    width = int(np.bincount(row, weights=lengths).max())
    rows = max(1, round(batch_tokens / width / micro_batches)) * micro_batches
    return Packed(conversations, order, ends, width, rows, micro_batches, seed, pad_id)
