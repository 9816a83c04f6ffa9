"""Several sources in one run: each its share of the rows, a pure function of the row's number.

K sources of n_k examples, shares w_k that sum to 1, C slots in a cycle.

Of each cycle's C slots source k gets c_k, C w_k rounded by largest remainders, spread evenly: its j-th lies at about
(j + 1/2) C / c_k. So which source a slot belongs to, and how many slots of that source came before it, are computed
without looking at any other cycle.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from idiolect import seeds
from idiolect.data.batch import IGNORE, Batch
from idiolect.data.batches import drawn
from idiolect.data.settings import Weights

CYCLE = 4096
"""Slots in a cycle, about: shares are exact to one slot of them."""


def shares(sizes: Sequence[int], weights: Weights, cap: int | None = None) -> list[float]:
    """The share of each source of so many examples.

    proportional: as many as it has. equal: the same for all. capped: min(n_k, cap), examples-proportional mixing with
    an artificial limit (Raffel et al. 2020, T5, arXiv 1910.10683, section 3.5.2). Numbers: in their proportion.
    """
    if weights == "capped":
        raw: list[float] = [min(size, cap or size) for size in sizes]
    elif weights == "equal":
        raw = [1.0] * len(sizes)
    elif weights == "proportional":
        raw = [float(size) for size in sizes]
    else:
        raw = [float(weight) for weight in weights]
    return [weight / math.fsum(raw) for weight in raw]


def factor(weights: Weights | None) -> float | None:
    """What weights that are given as shares sum to, and are divided by to be shares; None of other weights."""
    if not isinstance(weights, tuple) or max(weights) > 1:
        return None
    return math.fsum(weights)


def epochs(sizes: Sequence[int], weights: Weights, tokens: float) -> list[dict[str, float | None]]:
    """How often each source of so many tokens is read while a model is trained on `tokens` of them all.

    "share" w_k of the rows, "epochs" w_k tokens / n_k, and "epochs_as_given", with the weight in the place of w_k,
    which is what tables print whose weights were rounded (Brown et al. 2020, GPT-3, arXiv 2005.14165, table 2.2).
    """
    total, wanted = factor(weights), shares(sizes, weights)
    return [
        {"share": share, "epochs": share * tokens / size, "epochs_as_given": total and total * share * tokens / size}
        for share, size in zip(wanted, sizes, strict=True)
    ]


def quota(wanted: Sequence[float], slots: int) -> np.ndarray:
    """How many of the slots each source gets, int64 [K]: its share rounded down, then one more for the largest
    remainders (Hamilton), the first of equal ones; the sum is `slots`."""
    exact = np.array(wanted) * slots
    counts = np.floor(exact + 1e-9).astype(np.int64)
    rest = slots - int(counts.sum())
    counts[np.argsort(-(exact - counts), kind="stable")[:rest]] += 1
    return counts


@dataclass(frozen=True)
class Mixture:
    """Which example stands in each slot, over the examples of all sources, numbered one source after another."""

    sizes: tuple[int, ...]
    """n_k."""
    wanted: tuple[float, ...]
    """w_k."""
    seed: int

    @cached_property
    def counts(self) -> np.ndarray:
        """c_k, int64 [K]."""
        return quota(self.wanted, CYCLE)

    @cached_property
    def _cycle(self) -> tuple[np.ndarray, np.ndarray]:
        """The source of each slot of a cycle, and how many of its slots came before, int64 [C] each."""
        places = [(np.arange(count) + 0.5) / count for count in self.counts.tolist() if count]
        sources = np.repeat(np.arange(len(self.counts)), self.counts)
        order = np.argsort(np.concatenate(places), kind="stable")
        before = np.concatenate([np.arange(count) for count in self.counts.tolist()])
        return sources[order], before[order]

    def sources(self, slots: np.ndarray) -> np.ndarray:
        """The source of each slot, int64 like `slots`."""
        return self._cycle[0][slots % CYCLE]

    def examples(self, slots: np.ndarray) -> np.ndarray:
        """The example in each slot, int64 like `slots`; each source has epochs of its own."""
        sources = self.sources(slots)
        within = slots // CYCLE * self.counts[sources] + self._cycle[1][slots % CYCLE]
        out, first = np.empty_like(within), 0
        for k, size in enumerate(self.sizes):
            here = sources == k
            out[here] = first + drawn(within[here], size, self.seed if k == 0 else seeds.derive(self.seed, "source", k))
            first += size
        return out

    def taken(self, slots: int) -> np.ndarray:
        """How many of the first `slots` slots each source has, int64 [K]."""
        cycles, rest = divmod(slots, CYCLE)
        return cycles * self.counts + np.bincount(self._cycle[0][:rest], minlength=len(self.sizes))

    def source_of(self, examples: np.ndarray) -> np.ndarray:
        """The source of each example, int64 like `examples`."""
        return np.searchsorted(np.cumsum(self.sizes), examples, side="right")


class Part(Protocol):
    """Rows of one source."""

    @property
    def n(self) -> int:
        """How many there are."""
        ...

    def batch(self, rows: np.ndarray, /) -> Batch:
        """Some of them [B] as a batch [B, T]."""
        ...


@dataclass(frozen=True)
class MixedRows:
    """Rows of several sources in one batch, as `batches.NextToken` has those of one."""

    parts: tuple[Part, ...]
    """The rows of each source."""
    mixture: Mixture
    rows: int
    """Rows a step."""
    micro_batches: int
    pad_id: int

    @property
    def seed(self) -> int:
        """The seed of the run."""
        return self.mixture.seed

    def taken(self, steps: int) -> np.ndarray:
        """How many rows each source has in so many steps, int64 [K]."""
        return self.mixture.taken(steps * self.rows)

    def examples(self, step: int) -> np.ndarray:
        """The example in each row of a step, int64 [rows]."""
        return self.mixture.examples(step * self.rows + np.arange(self.rows))

    def __call__(self, step: int) -> list[Batch]:
        """The micro-batches of one step."""
        return [self.batch(part) for part in np.split(self.examples(step), self.micro_batches)]

    def batch(self, examples: np.ndarray) -> Batch:
        """The given examples [B] as a batch [B, T], T that of the widest; segments where any source has them."""
        sources, first = self.mixture.source_of(examples), 0
        order, some = [], []
        for k, part in enumerate(self.parts):
            here = np.flatnonzero(sources == k)
            if len(here):
                order.append(here)
                some.append(part.batch(examples[here] - first))
            first += part.n
        width = max(batch.ids.shape[1] for batch in some)
        place = torch.from_numpy(np.argsort(np.concatenate(order)))

        def joined(parts: list[Tensor], fill: int) -> Tensor:
            return torch.cat([F.pad(part, (0, width - part.shape[1]), value=fill) for part in parts])[place]

        shown = any(batch.segments is not None for batch in some)
        return Batch(
            joined([batch.ids for batch in some], self.pad_id),
            joined([batch.labels for batch in some], IGNORE),
            joined([_segments(batch) for batch in some], -1) if shown else None,
        )


def _segments(batch: Batch) -> Tensor:
    """The segments of a batch, also of one whose rows hold a document each: up to its last label."""
    if batch.segments is not None:
        return batch.segments
    after = (batch.labels != IGNORE).flip(1).cumsum(1).flip(1)  # labels here and further on
    return -(after == 0).long()
