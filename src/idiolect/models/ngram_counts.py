"""Token sequences that occur in a text: a trie of sorted integer arrays, in numpy alone.

A text reads E d1 E d2 E … dn E (E = end of text; see ngram_counting): as context E is what others call <s>, as the
token predicted it is </s>; no sequence reaches across it.

Shapes: B rows, W positions, n_k distinct sequences of k tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

NONE = -1
"""No such node; as a token: nothing was read there."""
PIECE = 1 << 18
"""Nodes that are worked on at once, so that what is only passing stays in the processor's cache."""


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
            if (keys[1:] <= keys[:-1]).any() or ends[0] < 0 or ends[1] >= max(self.nodes(order - 1), 1):
                raise ValueError(f"the sequences of {order} tokens are not in order")

    def split(self, order: int) -> tuple[np.ndarray, np.ndarray]:
        """(parent, last token) of every node of an order above 1, int64 [n_k] each."""
        parent, token = np.divmod(self.keys[order - 2], self.symbols.vocabulary)
        return parent, token

    def pieces(self, order: int) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
        """All nodes of an order above 1 as (nodes, parent, last token), a bounded number at a time.

        Nodes of one parent come together.
        """
        keys, V, begin = self.keys[order - 2], self.symbols.vocabulary, 0
        while begin < len(keys):
            end = len(keys)
            if begin + PIECE < end:
                parent = keys[begin + PIECE] // V
                end = int(keys.searchsorted(parent * V))
                end = end if end > begin else int(keys.searchsorted((parent + 1) * V))
            part = slice(begin, end)
            yield part, *np.divmod(keys[part], V)
            begin = end

    def find(self, order: int, parents: np.ndarray, tokens: np.ndarray) -> np.ndarray:
        """The nodes of `parents` followed by `tokens` (one shape), NONE where that was never counted."""
        if order == 1:
            return tokens
        keys, nodes = self.keys[order - 2], np.full(tokens.size, NONE)
        asked = np.flatnonzero((parents >= 0) & (tokens >= 0))  # of the high orders, few
        if len(keys) and len(asked):
            wanted = parents.take(asked) * self.symbols.vocabulary + tokens.take(asked)
            at = keys.searchsorted(wanted)
            nodes[asked] = np.where(keys.take(at, mode="clip") == wanted, at, NONE)
        return nodes.reshape(tokens.shape)

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
        """For order 2 … N: the node of each sequence without its first token, int32 (int64 beyond 2^31) [n_k]."""
        shorter = np.empty(0, dtype=np.int64)
        for order in range(2, self.order + 1):
            suffix = np.empty(self.nodes(order), dtype=index_type(self.nodes(order - 1)))
            for part, parent, token in self.pieces(order):
                suffix[part] = token if order == 2 else self.find(order - 1, shorter[parent].astype(np.int64), token)
            shorter = suffix
            yield suffix


def slices(size: int) -> Iterator[slice]:
    """0 … size in slices of PIECE."""
    return (slice(begin, min(begin + PIECE, size)) for begin in range(0, size, PIECE))


def index_type(size: int) -> type[np.signedinteger]:
    """The smaller type that numbers `size` things."""
    return np.int32 if size < 1 << 31 else np.int64


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
