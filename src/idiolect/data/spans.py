"""Batches of texts with spans left out, which the target restores: each a pure function of (data, seed, step).

Raffel et al. 2020 (T5, arXiv 1910.10683), section 3.1.4, with the lengths of spans and of what is between them drawn as
their code does (random_spans_noise_mask): "Thank you for inviting me to your party" becomes "Thank you <extra_id_0> me
to <extra_id_1>", and the target is "<extra_id_0> for inviting <extra_id_1> your party".

N tokens of a text, S positions of a source, T of a target, B rows, n windows.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from idiolect import seeds
from idiolect.data.batch import IGNORE, Batch
from idiolect.data.batches import drawn
from idiolect.data.padding import pad
from idiolect.data.shards import Shards
from idiolect.errors import UserError

HELD_OUT = 0
"""The seed of the held-out spans, whatever the run's is: runs are compared on the same ones."""


@dataclass(frozen=True)
class Corruption:
    """How texts are corrupted."""

    share: float
    """Of the tokens, left out."""
    mean_length: float
    """Tokens of a span, on average."""
    sentinels: np.ndarray
    """int64, the ids that stand for spans, in order."""
    start_id: int
    """What a target is written after."""
    end_id: int
    pad_id: int

    def counts(self, N: int) -> tuple[int, int]:
        """(tokens left out, spans they form) of N tokens, at least 2."""
        left_out = min(max(round(N * self.share), 1), N - 1)
        return left_out, min(max(round(left_out / self.mean_length), 1), left_out, N - left_out)

    def sizes(self, N: int) -> tuple[int, int]:
        """(positions of the source, of the target) of a text of N tokens, the end of each included."""
        left_out, spans = self.counts(N)
        return N - left_out + spans + 1, left_out + spans + 1

    def longest(self, source: int, target: int) -> int:
        """Tokens of the longest text whose source and target fit. Raises UserError when no text of two tokens does."""
        N = 1
        while all(has <= most for has, most in zip(self.sizes(N + 1), (source, target))):
            N += 1
        if N < 2:
            what = f"no text fits into a source of {source} and a target of {target} tokens"
            raise UserError(what, "raise model.context")
        if self.counts(N)[1] > len(self.sentinels):
            what = f"a text of {N} tokens has {self.counts(N)[1]} spans, more than the {len(self.sentinels)} sentinels"
            raise UserError(what, "raise task.sentinels or task.mean_length, or lower model.context")
        return N

    def left_out(self, N: int, draw: np.random.Generator) -> np.ndarray:
        """Which of N tokens are left out, bool [N]: the first never is, the last always."""
        tokens, spans = self.counts(N)
        lengths = np.stack((segments(N - tokens, spans, draw), segments(tokens, spans, draw)), axis=1)  # kept, left out
        return np.repeat(np.arange(2 * spans) % 2 == 1, lengths.ravel())


def segments(total: int, parts: int, draw: np.random.Generator) -> np.ndarray:
    """Lengths of at least 1 that sum to `total`, int64 [parts], every such sequence equally likely."""
    cuts = np.sort(draw.permutation(total - 1)[: parts - 1]) + 1
    return np.diff(np.concatenate(([0], cuts, [total])))


def corrupt(ids: np.ndarray, left_out: np.ndarray, sentinels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """ids [N] without the tokens of left_out [N] → (source, target): each run of these has a sentinel of its own.

    The source has the sentinel in the run's place, the target the sentinel and then the run.
    """
    begins = left_out & ~np.concatenate(([False], left_out[:-1]))
    number = np.cumsum(begins)
    source = np.where(begins, sentinels[number - 1], ids)[~left_out | begins]
    places = np.flatnonzero(begins[left_out])
    return source, np.insert(ids[left_out], places, sentinels[: len(places)])


def restore(source: np.ndarray, target: np.ndarray, sentinels: np.ndarray) -> np.ndarray:
    """The text that `corrupt` made a source and a target of; a sentinel that the target lacks stands for nothing."""
    marks = np.flatnonzero(np.isin(target, sentinels))
    runs = {int(target[i]): target[i + 1 : end] for i, end in zip(marks, [*marks[1:], len(target)])}
    known = set(sentinels.tolist())
    parts = [runs.get(i, target[:0]) if i in known else np.array([i]) for i in source.tolist()]
    return np.concatenate([target[:0], *parts]).astype(np.int64)


@dataclass(frozen=True)
class Spans:
    """Windows of a text, end-of-text between its documents, as sources and targets."""

    shards: Shards
    how: Corruption
    length: int
    """Tokens of a window; the last may have fewer."""

    @property
    def n(self) -> int:
        """Windows of two tokens or more."""
        whole, rest = divmod(self.shards.labels, self.length)
        return whole + (rest > 1)

    def batch(self, windows: np.ndarray, seed: int, draws: np.ndarray) -> Batch:
        """Windows [B], each corrupted by a draw of (seed, its number in draws [B]): sources [B, S], targets [B, T]."""
        how, rows = self.how, []
        for window, number in zip(windows.tolist(), draws.tolist(), strict=True):
            place = np.arange(window * self.length, min((window + 1) * self.length, self.shards.labels))
            draw = seeds.numpy_generator(seed, "spans", number)
            rows.append(corrupt(self.shards.at(1 + place, how.end_id), how.left_out(len(place), draw), how.sentinels))
        source, lengths = pad([np.append(row, how.end_id) for row, _ in rows], how.pad_id)
        ids, _ = pad([np.concatenate(([how.start_id], row)) for _, row in rows], how.pad_id)
        labels, _ = pad([np.append(row, how.end_id) for _, row in rows], IGNORE)
        equal = bool((lengths == source.shape[1]).all())
        return Batch(ids, labels, source=source, source_lengths=None if equal else lengths)


@dataclass(frozen=True)
class SpanBatches:
    """The micro-batches of each optimiser step; every epoch visits every window once, with spans of its own."""

    spans: Spans
    rows: int
    """Rows a step."""
    micro_batches: int
    seed: int

    def __call__(self, step: int) -> list[Batch]:
        """The micro-batches of one step."""
        slots = step * self.rows + np.arange(self.rows)
        windows = drawn(slots, self.spans.n, self.seed)
        return self.spans.batch(windows, self.seed, slots).split(self.micro_batches)


def span_batches(spans: Spans, *, batch_tokens: int, micro_batches: int, seed: int) -> SpanBatches:
    """Training batches of about `batch_tokens` positions of sources and targets together.

    Raises UserError when the text has no window of two tokens.
    """
    if not spans.n:
        raise UserError("the training text is shorter than two tokens", "use more text")
    positions = sum(spans.how.sizes(min(spans.length, spans.shards.labels)))
    rows = max(1, round(batch_tokens / positions / micro_batches)) * micro_batches
    return SpanBatches(spans, rows, micro_batches, seed)


def held_out_spans(spans: Spans, rows: int, limit_tokens: int | None = None) -> Iterator[Batch]:
    """Every window of the held-out text once, or those of its first tokens, with fixed spans."""
    n = spans.n if limit_tokens is None else min(spans.n, max(1, limit_tokens // spans.length))
    for first in range(0, n, rows):
        windows = np.arange(first, min(first + rows, n))
        yield spans.batch(windows, HELD_OUT, windows)
