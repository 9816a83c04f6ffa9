"""Counting token sequences, with numpy alone: a trie of sorted integer arrays.

The stream of a corpus is E d1 E d2 E … dn E (E = end of text): each document is read after one E and ends with one. As
context E is what others call <s>, as the token predicted it is </s>; no sequence reaches across it.

Shapes: B rows, W positions, n_k distinct sequences of k tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np

NONE = -1
"""No such node; as a token: nothing was read there."""


class Documents(Protocol):
    """What is counted: the ids of consecutive documents, stored without end-of-text."""

    @property
    def ids(self) -> np.ndarray:
        """All tokens, integers [tokens]."""
        ...

    @property
    def offsets(self) -> np.ndarray:
        """Where each document begins, and the end: int64 [documents + 1]."""
        ...


@dataclass(frozen=True)
class Symbols:
    """The ids that are not text."""

    vocabulary: int
    """V, the number of ids."""
    begin: int
    """What a text is read after."""
    end: int
    """What ends a text; often the same id as `begin`."""
    pad: int | None
    """Never predicted."""

    def boundary(self, tokens: np.ndarray) -> np.ndarray:
        """Where `tokens` separates documents, bool of the same shape."""
        return (tokens == self.end) | (tokens == self.begin)

    def as_context(self, order: int, nodes: np.ndarray, tokens: np.ndarray) -> np.ndarray:
        """Nodes of sequences ending at `tokens` as contexts of what follows: nothing longer than E survives an E."""
        return np.where(self.boundary(tokens), self.begin if order == 1 else NONE, nodes)

    def predicted(self) -> np.ndarray:
        """Ids that may have probability, bool [V]: all but padding, and but `begin` where it is an id of its own."""
        allowed = np.ones(self.vocabulary, dtype=bool)
        if self.pad is not None:
            allowed[self.pad] = False
        allowed[self.begin] = self.begin == self.end
        return allowed


def stream(documents: Documents, symbols: Symbols) -> np.ndarray:
    """E d1 E d2 E … dn E as int64 [tokens + documents + 1]."""
    ids = np.asarray(documents.ids, dtype=np.int64)
    offsets = np.asarray(documents.offsets, dtype=np.int64)
    if ids.size and not 0 <= int(ids.min()) <= int(ids.max()) < symbols.vocabulary:
        raise ValueError(f"ids must lie in [0, {symbols.vocabulary})")
    return np.insert(ids, offsets, symbols.end)


@dataclass(frozen=True)
class Trie:
    """Distinct sequences of 1 … N tokens. Node numbers count from 0 in each order; a node of order 1 is its token.

    A node of order k > 1 is the place of `parent * V + last token` in the sorted array keys[k - 2], where parent is the
    node of its first k - 1 tokens; so the continuations of a context lie side by side.
    """

    symbols: Symbols
    keys: tuple[np.ndarray, ...]
    """int64 [n_k] for k = 2 … N."""

    @property
    def order(self) -> int:
        """N, the longest sequence."""
        return len(self.keys) + 1

    def nodes(self, order: int) -> int:
        """n_k, the number of nodes of one order."""
        return self.symbols.vocabulary if order == 1 else len(self.keys[order - 2])

    def check(self) -> None:
        """Raises ValueError unless every array is sorted and every parent exists."""
        for order, keys in enumerate(self.keys, start=2):
            ends = keys[[0, -1]] // self.symbols.vocabulary if len(keys) else np.zeros(2)
            if (np.diff(keys) <= 0).any() or ends[0] < 0 or ends[1] >= max(self.nodes(order - 1), 1):
                raise ValueError(f"the sequences of {order} tokens are not in order")

    def split(self, order: int) -> tuple[np.ndarray, np.ndarray]:
        """(parent, last token) of every node of an order above 1, int64 [n_k] each."""
        parent, token = np.divmod(self.keys[order - 2], self.symbols.vocabulary)
        return parent, token

    def find(self, order: int, parents: np.ndarray, tokens: np.ndarray) -> np.ndarray:
        """The nodes of `parents` followed by `tokens` (one shape), NONE where that was never counted."""
        if order == 1:
            return tokens
        keys = self.keys[order - 2]
        if not len(keys):
            return np.full(tokens.shape, NONE)
        wanted = np.where(parents >= 0, parents * self.symbols.vocabulary + tokens, NONE)
        at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
        return np.where(keys[at] == wanted, at, NONE)

    def followers(self, order: int, contexts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """All children of `contexts` (nodes of order - 1, [n]): for each, the index into `contexts`, and its node."""
        keys, V = self.keys[order - 2], self.symbols.vocabulary
        first = np.searchsorted(keys, contexts * V)
        return spread(first, np.searchsorted(keys, (contexts + 1) * V))

    def walk(self, tokens: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """For order 1 … N, over every position of tokens int64 [B, W] (NONE: nothing there): (contexts, nodes).

        nodes[b, t] is the sequence of `order` tokens that ends at t, contexts[b, t] that of order - 1 before it; NONE
        where it was never counted or would reach across a boundary.
        """
        nodes = tokens
        yield np.full(tokens.shape, NONE), nodes
        for order in range(2, self.order + 1):
            contexts = shift(self.symbols.as_context(order - 1, nodes, tokens))
            nodes = self.find(order, contexts, tokens)
            yield contexts, nodes

    def suffixes(self) -> Iterator[np.ndarray]:
        """For order 2 … N: the node of each sequence without its first token, int64 [n_k]."""
        previous = np.empty(0, dtype=np.int64)
        for order in range(2, self.order + 1):
            parent, token = self.split(order)
            previous = token if order == 2 else self.find(order - 1, previous[parent], token)
            yield previous


def shift(nodes: np.ndarray) -> np.ndarray:
    """Each row one place to the right: what stands before each position, NONE before the first."""
    out = np.full(nodes.shape, NONE)
    out[:, 1:] = nodes[:, :-1]
    return out


def spread(first: np.ndarray, last: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The ranges [first[i], last[i]) laid end to end: (i, member) of each member, int64."""
    sizes = last - first
    owner = np.repeat(np.arange(len(first)), sizes)
    return owner, np.arange(len(owner)) + np.repeat(first - (np.cumsum(sizes) - sizes), sizes)


def read_so_far(tokens: np.ndarray, symbols: Symbols) -> np.ndarray:
    """How many tokens of its document have been read after each position of tokens [B, W], a boundary counting 1."""
    at = np.arange(tokens.shape[1])
    begins = np.where(tokens < 0, at + 1, np.where(symbols.boundary(tokens), at, 0))
    return at - np.maximum.accumulate(begins, axis=1) + 1


def count(tokens: np.ndarray, order: int, symbols: Symbols) -> tuple[Trie, list[np.ndarray]]:
    """All sequences of 1 … `order` tokens in a stream int64 [M], and how often each occurs: int64 [n_k] per order.

    The first token of the stream is context only. Takes about 50 bytes a token while it counts, and keeps 16 bytes a
    distinct sequence.
    """
    V = symbols.vocabulary
    row = tokens[None]
    keys: list[np.ndarray] = []
    counts = [np.bincount(tokens[1:], minlength=V)]
    nodes = row
    for k in range(2, order + 1):
        contexts = shift(symbols.as_context(k - 1, nodes, row))[0]
        at = np.flatnonzero(contexts >= 0)
        if len(counts[-1]) > np.iinfo(np.int64).max // V:
            raise ValueError("too many distinct sequences for 64-bit node numbers")
        distinct, inverse, times = _distinct(contexts[at] * V + tokens[at])
        keys.append(distinct)
        counts.append(times)
        nodes = np.full(row.shape, NONE)
        nodes[0, at] = inverse
    return Trie(symbols, tuple(keys)), counts


def _distinct(values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(sorted distinct values, index of each value among them, how often each occurs); half the time of np.unique."""
    by_value = np.argsort(values)
    ordered = values[by_value]
    new = np.ones(len(values), dtype=bool)
    new[1:] = ordered[1:] != ordered[:-1]
    inverse = np.empty(len(values), dtype=np.int64)
    inverse[by_value] = np.cumsum(new) - 1
    begins = np.flatnonzero(new)
    return ordered[begins], inverse, np.diff(np.append(begins, len(values)))
