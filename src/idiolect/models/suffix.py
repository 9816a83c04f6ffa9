"""An n-gram model without an n: every context of the text, however long, through one suffix array.

Shapes: B rows, W positions, R rows of the suffix array = tokens of the stream (see ngram_counts), n queries.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from idiolect.models.ngram_counts import NONE, Symbols, shift, spread
from idiolect.models.ngram_smoothing import BackoffTable

CHUNK = 1 << 22
"""Most followers that `distributions` gathers at once, to bound its memory."""
LIMIT = 1000
"""How many tokens back a passage that occurs several times is followed, to bound the time on copied documents."""


class Match(NamedTuple):
    """The longest context before each position that occurs in the text and that the n-gram model cannot see whole."""

    first: np.ndarray
    """int64 [B, W]: its rows are [first, last), none when nothing longer than the n-gram's context matched."""
    last: np.ndarray
    """int64 [B, W]."""
    times: np.ndarray
    """How many of these occurrences the position's own token follows, int64 [B, W]."""
    evidence: np.ndarray
    """Occurrences times the square of the length beyond the n-gram's context, float64 [B, W]."""


class SuffixTable:
    """p(w | everything before w): a smoothed n-gram corrected by the longest match of any length.

    Liu et al. 2024 (infini-gram, arXiv 2401.17377, section 2) predict with the longest suffix of the context that
    occurs in the text: c(ctx w) / c(ctx), which is 0 for most words and makes the perplexity of a text infinite; they
    mix it with a neural model. Here it is mixed with the interpolated Kneser-Ney model of `order`, so that the
    distribution sums to 1 and is never 0:

        p(w) = (v c(ctx w) / c(ctx) + s p_KN(w)) / (v + s),    v = c(ctx) e^2

    with ctx the longest match, if longer than the order - 1 tokens that the n-gram sees, e the tokens it is longer by,
    s the strength. (The weight is ours: on words and on characters of Shakespeare it costs nothing against p_KN, and
    a passage copied from the text is predicted almost surely.) A match is not sought beyond the context that occurs
    once, since all longer ones predict the same; its length is counted from there on while the same place continues.

    Rows of the suffix array are the positions of the stream, sorted by the text that *ends* there read backwards, as
    far as its document's beginning; so all occurrences of a context are neighbours. Only the token that follows each
    row is kept (a Burrows-Wheeler transform): the rows of `context w` follow from those of `context` by two binary
    searches (backward search, Ferragina and Manzini 2000), for all positions of a batch at once.
    """

    def __init__(self, followers: np.ndarray, shorter: BackoffTable, strength: float) -> None:
        self.followers = followers
        """What follows each row, int32 [R]: 0 a boundary, id + 1 any other token, -1 the end of the stream."""
        self.shorter = shorter
        self.strength = strength
        self.symbols = shorter.trie.symbols
        by_token = np.argsort(followers, kind="stable")
        self._keys = followers[by_token].astype(np.int64) * len(followers) + by_token  # sorted (token, row)

    @classmethod
    def build(cls, tokens: np.ndarray, shorter: BackoffTable, strength: float) -> SuffixTable:
        """Of a stream E d1 E … dn E, int64 [R]."""
        marked = _marked(tokens, shorter.trie.symbols)
        rows = suffix_rows(marked)
        followers = np.full(len(tokens), -1, dtype=np.int32)
        followers[rows[:-1]] = marked[1:]
        return cls(followers, shorter, strength)

    def score(self, tokens: np.ndarray) -> np.ndarray:
        """log p(tokens[b, t] | tokens[b, :t]) for int64 [B, W] → float64 [B, W]; NONE before a row's first token."""
        match = self._longest(tokens)
        share = match.times * self.symbols.predicted()[tokens] / np.maximum(match.last - match.first, 1)
        p = np.exp(self.shorter.score(tokens))
        with np.errstate(divide="ignore"):
            return np.log((match.evidence * share + self.strength * p) / (match.evidence + self.strength))

    def distributions(self, tokens: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """log p(· | tokens[row, : column + 1]) for each of n (row, column) → float64 [n, V]."""
        V = self.symbols.vocabulary
        out = self.shorter.distributions(tokens, rows, columns)
        ahead = np.concatenate([tokens, np.full((len(tokens), 1), NONE)], axis=1)  # the context after the last column
        first, last, _, evidence = (part[rows, columns + 1] for part in self._longest(ahead))
        matched = np.flatnonzero(last > first)
        parts = np.cumsum((last - first)[matched]) // CHUNK
        for at in np.split(matched, np.flatnonzero(np.diff(parts)) + 1):
            owner, members = spread(first[at], last[at])
            marked = self.followers[members]
            ids = np.where(marked == 0, self.symbols.end, marked - 1)
            share = np.bincount(owner * V + ids, minlength=len(at) * V).reshape(-1, V) / (last - first)[at, None]
            v = evidence[at, None]
            with np.errstate(divide="ignore"):
                out[at] = np.log((v * share + self.strength * np.exp(out[at])) / (v + self.strength))
        return out

    def _longest(self, tokens: np.ndarray) -> Match:
        """The match before each position of tokens int64 [B, W]."""
        order, none = self.shorter.trie.order, np.zeros_like(tokens)
        first, last, times, length = none, none, none, none
        for depth, (begin, end, followed) in enumerate(self._walk(tokens)):
            if depth >= order:
                used = end > begin
                first, last = np.where(used, begin, first), np.where(used, end, last)
                times, length = np.where(used, followed, times), np.where(used, depth, length)
        marked = _marked(tokens, self.symbols)
        goes_on = (last > first) & (shift(self.symbols.boundary(tokens)) == 0)
        for mine, extended in ((first, self._extend(first, marked)), (last, self._extend(last, marked))):
            goes_on &= mine == shift(extended)
        at = np.arange(tokens.shape[1])
        since = np.maximum.accumulate(np.where(goes_on, 0, at), axis=1)
        length = np.take_along_axis(length, since, 1) + at - since
        return Match(first, last, times, (last - first) * (length - order + 1.0) ** 2)

    def _walk(self, tokens: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """For d = 0, 1, …, before each position of tokens int64 [B, W], all int64 [B, W]: (first, last, times).

        [first, last) are the rows of the last d tokens, empty where that context does not occur or a shorter one occurs
        once; `times` how many of these occurrences the position's own token follows.
        """
        marked, boundary = _marked(tokens, self.symbols), self.symbols.boundary(tokens)
        first, last = np.zeros_like(tokens), np.full_like(tokens, len(self.followers))
        for depth in range(LIMIT):
            used = last > first
            if not used.any():
                break
            begin, end = np.zeros_like(tokens), np.zeros_like(tokens)
            begin[used] = self._extend(first[used], marked[used])
            end[used] = self._extend(last[used], marked[used])
            yield first, last, end - begin
            if depth:
                begin[boundary] = end[boundary] = 0  # no context is longer than a boundary
            again = last - first > 1
            first, last = np.where(again, shift(begin), 0), np.where(again, shift(end), 0)

    def _extend(self, row: np.ndarray, marked: np.ndarray) -> np.ndarray:
        """Where rows of a context begin or end → where those of the context and one more token do."""
        return np.searchsorted(self._keys, marked * len(self.followers) + row)


def _marked(tokens: np.ndarray, symbols: Symbols) -> np.ndarray:
    """Tokens with the boundary as 0, ids as id + 1 and NONE as V + 1, which occurs nowhere."""
    return np.where(symbols.boundary(tokens), 0, np.where(tokens < 0, symbols.vocabulary, tokens) + 1)


def suffix_rows(marked: np.ndarray) -> np.ndarray:
    """The row of each position of a stream, int64 [R]: its rank among all texts that end somewhere, read backwards.

    Boundaries (0) all differ, the last of the stream first, so that no comparison goes beyond one. Prefix doubling
    (Manber and Myers 1993), sorting only what is still tied (Larsson and Sadakane 2007): O(R log R) for each doubling
    up to the longest repeated passage.
    """
    R, boundary = len(marked), np.flatnonzero(marked == 0)
    sizes = np.bincount(marked)
    rank = (np.cumsum(sizes) - sizes)[marked]  # of a tied group: the first row it will take
    rank[boundary] = np.append(np.arange(1, len(boundary)), 0)
    tied = np.flatnonzero((sizes[marked] > 1) & (marked > 0))
    length = 1
    while len(tied):
        key = rank[tied] * R + rank[tied - length]  # a tie has no boundary within `length`, so something is before it
        order = np.argsort(key)
        tied, key = tied[order], key[order]
        new = np.append(True, key[1:] != key[:-1])
        group = np.append(True, key[1:] // R != key[:-1] // R)
        at = np.arange(len(tied))
        begins = np.maximum.accumulate(np.where(new, at, 0)), np.maximum.accumulate(np.where(group, at, 0))
        rank[tied] = key // R + begins[0] - begins[1]
        tied = tied[~(new & np.append(new[1:], True))]
        length *= 2
    return rank
