"""Near duplicates among the documents of all tasks: candidates that share a band, each compared in full."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from idiolect.text.duplicates import keys
from idiolect.text.duplicates.keyranges import KeyRanges
from idiolect.text.duplicates.partitions import Scatter
from idiolect.text.settings import NearSettings

FIRST, BEFORE = 4, 8
"""With how many documents of its band a document is compared: the first ones, and those just before it."""
NEXT = 3
"""Further bands by which the documents of a large band are ordered, so that like ones are neighbours."""
AT_ONCE = 16
"""Candidates that a document is compared with together."""
DOCUMENTS_AT_ONCE = 1 << 16
"""Documents whose candidates are read together."""


def duplicates(
    found: KeyRanges, scratch: Path, reasons: NDArray[np.uint8], settings: NearSettings
) -> Iterator[tuple[int, int]]:
    """(document, original): documents that are to be dropped, in order, each with the kept one that it is near to.

    A document is dropped when a candidate before it is kept and the Jaccard similarity of their sets of shingles is at
    least the threshold. `reasons` is 0 for documents that are kept, and the caller notes each that comes from here.
    """
    with Scatter(scratch / "pairs.partial", DOCUMENTS_AT_ONCE) as pairs:
        for stretch in found.ranges("near"):
            leaders = np.zeros((0, 3), np.uint64)
            for rows in stretch:
                rows = np.concatenate([leaders, rows[reasons[rows[:, 1].astype(np.int64)] == 0]])
                rows = rows[np.lexsort([rows[:, 1], rows[:, 0]])]
                first = _firsts(rows[:, 0])
                leaders = rows[np.arange(len(rows)) - first < FIRST]
                _candidates(found, rows, first, pairs, settings)
        for later, earlier in pairs.ordered():
            yield from _compared(found, later.astype(np.int64), earlier.astype(np.int64), reasons, settings.threshold)


def _firsts(column: NDArray[np.uint64]) -> NDArray[np.int64]:
    """For each place of a sorted column, the first place that holds the same."""
    new = np.ones(len(column), bool)
    new[1:] = column[1:] != column[:-1]
    return np.maximum.accumulate(np.where(new, np.arange(len(column)), 0))


def _candidates(
    found: KeyRanges, rows: keys.Rows, first: NDArray[np.int64], pairs: Scatter, settings: NearSettings
) -> None:
    """Adds the pairs of a range whose sizes allow the threshold. Rows are sorted by key and document."""
    places = np.arange(len(rows))
    ones = [np.maximum(places - lag, first) for lag in range(1, BEFORE + 1)]
    ones += [np.where(places - first > BEFORE + number, first + number, places) for number in range(FIRST)]
    _add(pairs, rows, ones, settings.threshold)
    large = np.bincount(first, minlength=len(rows))[first] > BEFORE + 1
    if not large.any():
        return
    rows = rows[large]
    first = _firsts(rows[:, 0])
    band = (rows[:, 0] // np.uint64(keys.SPAN // settings.bands)).astype(np.int64)
    places = np.arange(len(rows))
    others = found.bands(rows[:, 1].astype(np.int64))
    columns: list[NDArray[Any]] = [others[places, (band + k) % settings.bands] for k in range(NEXT, 0, -1)]
    rows = rows[np.lexsort([rows[:, 1], *columns, rows[:, 0]])]
    _add(pairs, rows, [np.maximum(places - lag, first) for lag in range(1, BEFORE + 1)], settings.threshold)


def _add(pairs: Scatter, rows: keys.Rows, others: list[NDArray[np.int64]], threshold: float) -> None:
    """Adds for each row the pairs with other rows, where the smaller set may be a threshold's share of the larger."""
    for other in others:
        here = np.flatnonzero(other != np.arange(len(rows)))
        one, two = rows[here], rows[other[here]]
        sizes = np.minimum(one[:, 2], two[:, 2]) / np.maximum(one[:, 2], two[:, 2])
        near = sizes >= threshold
        one, two = one[near, 1], two[near, 1]
        pairs.add(np.maximum(one, two), np.minimum(one, two))


def _compared(
    found: KeyRanges,
    later: NDArray[np.int64],
    earlier: NDArray[np.int64],
    reasons: NDArray[np.uint8],
    threshold: float,
) -> Iterator[tuple[int, int]]:
    """Goes through candidates in order: a document is compared with those before it that are kept."""
    bounds = np.flatnonzero(np.diff(later, prepend=-1, append=-1))
    for start, stop in zip(bounds[:-1].tolist(), bounds[1:].tolist()):
        number, others = int(later[start]), earlier[start:stop]
        others = others[reasons[others] == 0]
        if reasons[number] or not len(others):
            continue
        elements = found.elements(number)
        for few in np.split(others, range(AT_ONCE, len(others), AT_ONCE)):
            similar = similarities(elements, [found.elements(other) for other in few.tolist()])
            if len(near := few[similar >= threshold]):
                yield number, int(near[0])
                break


def similarities(one: NDArray[np.uint32], others: Sequence[NDArray[np.uint32]]) -> NDArray[np.float64]:
    """Of a set with each of others, sorted and not empty: the share of elements of either that are in both."""
    sizes = np.array([len(other) for other in others])
    together = np.concatenate(others)
    places = np.searchsorted(one, together)
    places[places == len(one)] = 0
    common = np.add.reduceat(one[places] == together, np.cumsum(sizes) - sizes, dtype=np.int64)
    return common / (len(one) + sizes - common)
