"""Examples of unequal length as batches, each a pure function of (data, seed, step).

B rows, n examples, N ids.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

import numpy as np

from idiolect import seeds
from idiolect.data.batch import Batch
from idiolect.data.batches import drawn
from idiolect.data.mixture import Mixture
from idiolect.errors import UserError

POOL = 64
"""Steps whose examples are sorted by length together, so that rows of a batch are about equally long."""


@dataclass(frozen=True)
class Ragged:
    """Rows of ids (or of frames) of unequal length, end to end."""

    ids: np.ndarray
    """int32 [N], or frames float32 [N, F]."""
    ends: np.ndarray
    """int64 [n + 1]: row i is ids[ends[i] : ends[i + 1]]."""

    @classmethod
    def of(cls, rows: Iterable[np.ndarray]) -> Ragged:
        """Rows of ids, [T] each."""
        kept = list(rows)
        ends = np.concatenate([[0], np.cumsum([len(row) for row in kept], dtype=np.int64)])
        return cls(np.concatenate([np.empty(0, np.int32), *kept]).astype(np.int32), ends)

    def __len__(self) -> int:
        return len(self.ends) - 1

    def __getitem__(self, row: int) -> np.ndarray:
        return self.ids[self.ends[row] : self.ends[row + 1]]

    @property
    def lengths(self) -> np.ndarray:
        """int64 [n]."""
        return np.diff(self.ends)


@dataclass(frozen=True)
class Pooled:
    """The micro-batches of each optimiser step.

    Slots are filled as in `batches.NextToken`: every epoch visits every example once, in an order of its own. The slots
    of POOL steps are then sorted by length, cut into steps, and the steps put into an order of the pool's own.
    """

    lengths: np.ndarray
    """int64 [n], what an example takes of a row."""
    layout: Callable[[np.ndarray], Batch]
    """Examples int64 [B] → the batch that holds them."""
    rows: int
    """Rows a step."""
    micro_batches: int
    seed: int
    mixture: Mixture | None = None
    """Which example stands in a slot where the examples are of several sources; None: they are one."""

    def taken(self, steps: int) -> np.ndarray:
        """How many rows each source of a mixture has in so many steps, int64 [K]."""
        assert self.mixture is not None
        pools, rest = divmod(steps, POOL)
        had = self.mixture.taken(pools * POOL * self.rows)
        for step in range(steps - rest, steps):
            had = had + np.bincount(self.mixture.source_of(self.examples(step)), minlength=len(had))
        return had

    def examples(self, step: int) -> np.ndarray:
        """The example in each row of a step, int64 [rows], the shorter first."""
        pool, place = divmod(step, POOL)
        slots = np.arange(pool * POOL * self.rows, (pool + 1) * POOL * self.rows)
        drawing = partial(drawn, n=len(self.lengths), seed=self.seed) if self.mixture is None else self.mixture.examples
        examples = drawing(slots)
        examples = examples[np.argsort(self.lengths[examples], kind="stable")]
        turn = int(seeds.permute(np.array([place]), POOL, seeds.derive(self.seed, "pool", pool))[0])
        return examples[turn * self.rows : (turn + 1) * self.rows]

    def __call__(self, step: int) -> list[Batch]:
        """The micro-batches of one step."""
        return [self.layout(part) for part in np.split(self.examples(step), self.micro_batches)]


def pooled(
    lengths: np.ndarray,
    layout: Callable[[np.ndarray], Batch],
    *,
    batch_tokens: int,
    micro_batches: int,
    seed: int,
    mixture: Mixture | None = None,
) -> Pooled:
    """Batches of about `batch_tokens` positions, all of the same number of rows: batch_tokens over the mean length.

    Raises UserError when there are no examples.
    """
    if not len(lengths):
        raise UserError("there are no examples to learn from", "give files with examples in them")
    rows = max(1, round(batch_tokens / float(lengths.mean()) / micro_batches)) * micro_batches
    return Pooled(lengths, layout, rows, micro_batches, seed, mixture)


def in_order(lengths: np.ndarray, positions: int) -> list[np.ndarray]:
    """Every example once, the shorter first, in groups of at most `positions` with their padding, or of one."""
    groups: list[np.ndarray] = []
    order = np.argsort(lengths, kind="stable")
    first = 0
    for last in range(1, len(order) + 1):
        if last == len(order) or (last + 1 - first) * lengths[order[last]] > positions:
            groups.append(order[first:last])
            first = last
    return groups
