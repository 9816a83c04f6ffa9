"""Cutting documents into windows that a model can hold; torch-free."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

BLOCK = 1 << 20
"""Windows (and documents) worked on at once."""


class Windows(NamedTuple):
    """Windows of the stream S: window w reads S[starts[w] : starts[w] + lengths[w]] and predicts one position on."""

    starts: np.ndarray
    """int64 [W], positions in S."""
    lengths: np.ndarray
    """int64 [W], positions read, at most the context."""
    seen: np.ndarray
    """int64 [W], leading predictions that an earlier window has made already."""


def windows(ends: np.ndarray, context: int, stride: int | None = None) -> Iterator[Windows]:
    """Every window of every document, in order, in blocks of bounded size.

    Document j has the labels S[ends[j] + 1 : ends[j + 1] + 1] (int64 [n + 1]): its tokens and the end-of-text after it.
    Its windows start at its beginning and every `stride` further (default: the context, so that they do not overlap);
    each label is predicted, unseen, in exactly one of them.
    """
    stride = stride or context
    for first in range(0, len(ends) - 1, BLOCK):
        edges = np.asarray(ends[first : first + BLOCK + 1])
        labels = np.diff(edges)
        counts = 1 + np.maximum(-(-(labels - context) // stride), 0)
        totals = np.cumsum(counts)
        for lowest in range(0, int(totals[-1]), BLOCK):
            window = np.arange(lowest, min(lowest + BLOCK, int(totals[-1])))
            document = np.searchsorted(totals, window, side="right")
            nth = window - (totals[document] - counts[document])
            lengths = np.minimum(context, labels[document] - nth * stride)
            yield Windows(edges[document] + nth * stride, lengths, np.where(nth > 0, context - stride, 0))
