"""What a causal transformer remembers of a text.

Shapes: B rows, T positions, L layers, K key/value heads, d head width, S slots.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class KeyValues:
    """What a decoder remembers: each layer's keys (already rotated) and values, and nothing else.

    Token t of a row lies in slot t, or behind a soft prompt's, which come before all texts. The last slot is spare:
    what padding writes past the end lands there, so that a step needs no branch on the data. Bytes:
    2 · L · B · K · (S + 1) · d · bytes of one number.

    Where a text's rotations change as it grows (longrope), keys and values must then be made anew, from its ids.
    """

    lengths: Tensor
    """int64 [B]; of the text alone."""
    keys: list[Tensor]
    """A layer each, [B, K, S + 1, d]."""
    values: list[Tensor]
    """A layer each, [B, K, S + 1, d]."""
    used: int = 0
    """No row is longer than this; known without asking the device."""
    ids: Tensor | None = None
    """int64 [B, S + 1], where texts may have to be read anew: what each row has consumed."""
    long: Tensor | None = None
    """bool [B], likewise: whether a row's keys have the rotations of a long text."""
    before: int = 0
    """Slots of what comes before every text: a soft prompt."""

    @property
    def ends(self) -> Tensor:
        """The slot that each row's next token takes, int64 [B]."""
        return self.lengths + self.before if self.before else self.lengths

    @property
    def capacity(self) -> int:
        """Tokens a row can hold (S), a soft prompt's among them."""
        return self.keys[0].shape[2] - 1

    def select(self, rows: Tensor) -> KeyValues:
        """A new state whose row i is a copy of row rows[i]."""
        keys, values = [k[rows] for k in self.keys], [v[rows] for v in self.values]
        ids, long = (None if part is None else part[rows] for part in (self.ids, self.long))
        return KeyValues(self.lengths[rows], keys, values, self.used, ids, long, self.before)

    def put(self, rows: Tensor, other: KeyValues) -> None:
        """Copies row i of `other` into slot rows[i]. Raises ValueError when its tokens do not fit."""
        if other.used > self.capacity:
            raise ValueError(f"{other.used} tokens do not fit into a state of {self.capacity}")
        for mine, theirs in zip(self.keys + self.values, other.keys + other.values):
            mine[rows, :, : other.used] = theirs[:, :, : other.used]
        if self.ids is not None and self.long is not None and other.ids is not None and other.long is not None:
            self.ids[rows, : other.used], self.long[rows] = other.ids[:, : other.used], other.long
        self.lengths[rows] = other.lengths
        self.used = int(self.ends.max())

    def truncate(self, lengths: Tensor) -> None:
        """Goes back to `lengths` [B]; the slots beyond are overwritten before they are read."""
        self.lengths = lengths.to(self.lengths.device, torch.int64, copy=True)
        self.used = int(self.ends.max())

    def grow(self, T: int, lengths: Tensor | None) -> None:
        """Counts T more positions as used. Raises ValueError when a row's real tokens do not fit."""
        used = self.used + T
        if used > self.capacity:  # perhaps only padding reaches past the end: ask the rows (this waits for the device)
            used = int((self.ends + (T if lengths is None else lengths)).max())
        if used > self.capacity:
            raise ValueError(f"{used} tokens do not fit into a state of {self.capacity}")
        self.used = used
