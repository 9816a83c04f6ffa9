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

    Position t of a row predicts labels[:, t] from ids[:, : t + 1]. Padding is at the right: ids hold the tokenizer's
    padding id there and labels hold IGNORE.
    """

    ids: Tensor
    """int64 [B, T]."""
    labels: Tensor
    """int64 [B, T], IGNORE where nothing is predicted."""
    segments: Tensor | None = None
    """int64 [B, T] document number within the row (0, 1, …; padding -1), or None when no row holds two documents.

    Positions attend only within their segment; the position index restarts at 0 where the segment changes.
    """

    @property
    def count(self) -> int:
        """Supervised positions."""
        return int((self.labels != IGNORE).sum())

    def to(self, device: torch.device | str) -> Batch:
        """The batch on another device."""
        moved = None if self.segments is None else self.segments.to(device)
        return replace(self, ids=self.ids.to(device), labels=self.labels.to(device), segments=moved)


def bits_per_byte(nats: float, bytes_: int) -> float:
    """Total nats over the bytes of the original text, in bits: nats / (bytes · ln 2)."""
    return nats / (bytes_ * math.log(2))
