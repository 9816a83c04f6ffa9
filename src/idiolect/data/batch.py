"""One batch, and how nats become bits per byte."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

IGNORE = -100
"""The label of a position that is not trained or scored (padding, masked prompts)."""


@dataclass(frozen=True)
class Batch:
    """B rows of T positions.

    What a label says of its position is the task's: for next tokens, labels[:, t] follows ids[:, : t + 1]. Padding is
    at the right: ids hold the tokenizer's padding id there and labels hold IGNORE.
    """

    ids: Tensor
    """int64 [B, T]."""
    labels: Tensor
    """int64 [B, T], or [B] where a row has one; IGNORE where nothing is predicted. Float32 [B] where it is a number."""
    segments: Tensor | None = None
    """int64 [B, T] document number within the row (0, 1, …; padding -1), or None when no row holds two documents.

    Positions attend only within their segment; the position index restarts at 0 where the segment changes.
    """

    lengths: Tensor | None = None
    """int64 [B] real positions of each row, for models that look to the right of a position; None: all are."""
    source: Tensor | None = None
    """What is read before the ids are written: int64 ids [B, S] or float frames [B, S, F]; padding at the right."""
    source_lengths: Tensor | None = None
    """int64 [B] real positions of each source."""
    negatives: Tensor | None = None
    """int64 [B, K] drawn ids that are learnt to be no labels."""

    @property
    def count(self) -> int:
        """Supervised labels."""
        return int((self.labels != IGNORE).sum())

    def split(self, parts: int) -> list[Batch]:
        """The rows as equal batches, in order. Raises ValueError unless `parts` divides them."""
        if len(self.ids) % parts:
            raise ValueError(f"{len(self.ids)} rows are not {parts} equal parts")
        held = {key: part.chunk(parts) for key, part in vars(self).items() if isinstance(part, Tensor)}
        return [replace(self, **{key: pieces[i] for key, pieces in held.items()}) for i in range(parts)]

    def to(self, device: torch.device | str) -> Batch:
        """The batch on another device."""
        return replace(self, **{k: part.to(device) for k, part in vars(self).items() if isinstance(part, Tensor)})


def bits_per_byte(nats: float, bytes_: int) -> float:
    """Total nats over the bytes of the original text, in bits: nats / (bytes · ln 2)."""
    return nats / (bytes_ * math.log(2))
