"""Counting the token sequences of a text, block by block, in memory that grows with what is different in it.

A text of n documents reads E d1 E d2 E … dn E (E = end of text): each document is read after one E and ends with one.

Shapes: M tokens of a block, n_k distinct sequences of k tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from idiolect.models.ngram_counts import Symbols, Trie, slices

BLOCK = 1 << 22
"""Tokens counted at once; about 60 bytes each."""


class Ids(Protocol):
    """An array of integers, or what gives one for every slice."""

    def __len__(self) -> int: ...

    def __getitem__(self, range_: slice, /) -> np.ndarray: ...


class Documents(Protocol):
    """What is counted: the ids of consecutive documents, stored without end-of-text."""

    @property
    def ids(self) -> Ids:
        """All tokens, integers [tokens]."""
        ...

    @property
    def offsets(self) -> np.ndarray:
        """Where each document begins, and the end: int64 [documents + 1]."""
        ...


class Stream:
    """E d1 E d2 E … dn E, of tokens + documents + 1 positions, which exists nowhere as a whole."""

    def __init__(self, documents: Documents, symbols: Symbols) -> None:
        self.symbols, self._ids, offsets = symbols, documents.ids, np.asarray(documents.offsets, dtype=np.int64)
        self._ends = offsets + np.arange(len(offsets))

    def __len__(self) -> int:
        return len(self._ids) + len(self._ends)

    def read(self, begin: int, end: int) -> np.ndarray:
        """The tokens at positions [begin, end), int64; none lie beyond the last. ValueError for an id outside V."""
        end = min(end, len(self))
        first, last = np.searchsorted(self._ends, [begin, end]).tolist()
        out = np.full(end - begin, self.symbols.end, dtype=np.int64)
        text = np.ones(end - begin, dtype=bool)
        text[self._ends[first:last] - begin] = False
        ids = np.asarray(self._ids[begin - first : end - last])
        if ids.size and not 0 <= int(ids.min()) <= int(ids.max()) < self.symbols.vocabulary:
            raise ValueError(f"ids must lie in [0, {self.symbols.vocabulary})")
        out[text] = ids
        return out

    def whole(self) -> np.ndarray:
        """All tokens."""
        return self.read(0, len(self))


@dataclass
class Counted:
    """Distinct sequences of 1 … N tokens, and how often each occurs; `Trie` says how they are numbered."""

    keys: list[np.ndarray]
    """int64 [n_k] for k = 2 … N."""
    counts: list[np.ndarray]
    """int64 [n_k] for k = 1 … N."""
    blocks: int = 1
    """How many blocks were counted into it."""


def count(stream: Stream, order: int) -> tuple[Trie, list[np.ndarray]]:
    """All sequences of 1 … `order` tokens, and how often each occurs: int64 [n_k] per order.

    The first token of the stream is context only. Blocks are counted one by one; two results of as many blocks are
    merged into one, so that each sequence is merged log2(blocks) times. What is kept takes 16 bytes a distinct
    sequence, in two results as a rule; what is passing, some 50 bytes a sequence of the order being merged.
    """
    piles: list[Counted] = []
    for begin in range(0, len(stream) - 1, BLOCK):
        starts = min(BLOCK, len(stream) - 1 - begin)
        piles.append(_count(stream.read(begin, begin + starts + max(order - 1, 1)), starts, order, stream.symbols))
        while len(piles) > 1 and piles[-1].blocks == piles[-2].blocks:
            piles.append(_merged(piles.pop(), piles.pop(), stream.symbols.vocabulary))
    while len(piles) > 1:
        piles.append(_merged(piles.pop(), piles.pop(), stream.symbols.vocabulary))
    return Trie(stream.symbols, tuple(piles[0].keys)), piles[0].counts


def _count(tokens: np.ndarray, starts: int, order: int, symbols: Symbols) -> Counted:
    """The sequences that begin at the first `starts` tokens of a block."""
    V, boundary = symbols.vocabulary, symbols.boundary(tokens)
    found = Counted([], [np.bincount(tokens[1 : starts + 1], minlength=V)])
    at = np.arange(starts)
    nodes = np.where(boundary[:starts], symbols.begin, tokens[:starts])
    for k in range(2, order + 1):
        if k > 2:  # a sequence that ends with a boundary goes no further
            on = ~boundary[at + (k - 2)]
            at, nodes = at[on], nodes[on]
        if len(found.counts[-1]) > np.iinfo(np.int64).max // V:
            raise ValueError("too many distinct sequences for 64-bit node numbers")
        nodes *= V
        nodes += tokens[at + (k - 1)]
        ordered, by_key = packed_sort(nodes)
        at = at[by_key]
        new = np.ones(len(at), dtype=bool)
        new[1:] = ordered[1:] != ordered[:-1]
        begins = np.flatnonzero(new)
        found.keys.append(ordered[begins])
        found.counts.append(np.diff(begins, append=len(at)))
        nodes = np.cumsum(new)
        nodes -= 1
    return found


def packed_sort(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(the values in ascending order, the index of each): one sort of value and index packed, where they fit."""
    bits = max(len(values) - 1, 0).bit_length()
    if len(values) and int(values.max()) < 1 << (63 - bits):
        packed = values << bits
        packed |= np.arange(len(values))
        packed.sort()
        return packed >> bits, packed & ((1 << bits) - 1)
    by_value = np.argsort(values, kind="stable")
    return values[by_value], by_value


def _merged(a: Counted, b: Counted, V: int) -> Counted:
    """Both together; a and b are used up, order by order, so that what is held grows by one order only."""
    out = Counted([], [a.counts.pop(0) + b.counts.pop(0)], a.blocks + b.blocks)
    places: list[np.ndarray] = []
    while a.keys:
        keys = a.keys.pop(0), b.keys.pop(0)
        for old, to in zip(keys, places):  # at first the parents are tokens, which keep their numbers
            _renumber(old, to, V)
        union, times, *places = _union(keys, (a.counts.pop(0), b.counts.pop(0)))
        out.keys.append(union)
        out.counts.append(times)
    return out


def _renumber(keys: np.ndarray, to: np.ndarray, V: int) -> None:
    """Gives the parents of sorted keys their new numbers, in place."""
    for part in slices(len(keys)):
        piece = keys[part]
        parent = piece // V
        piece += (to[parent] - parent) * V


def _union(keys: tuple[np.ndarray, np.ndarray], counts: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, ...]:
    """Two sets of sorted keys and their counts → (keys, counts, where each key of the first lies, of the second)."""
    (mine, theirs), (mine_times, their_times) = keys, counts
    at = mine.searchsorted(theirs)
    fresh = mine.take(at, mode="clip") != theirs if len(mine) else np.ones(len(theirs), dtype=bool)
    at += np.cumsum(fresh)
    at -= fresh
    old = np.ones(len(mine) + np.count_nonzero(fresh), dtype=bool)
    old[at[fresh]] = False
    union, times = np.empty(len(old), dtype=np.int64), np.zeros(len(old), dtype=np.int64)
    union[old], union[at] = mine, theirs
    times[old] = mine_times
    times[at] += their_times
    return union, times, np.flatnonzero(old), at
