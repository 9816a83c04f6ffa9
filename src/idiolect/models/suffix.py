"""An n-gram model without an n: every context of the text, however long, through one suffix array.

Shapes: B rows, W positions, R rows of the suffix array = tokens of the stream (see ngram_counts), n queries.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from idiolect.models.ngram_counting import Stream, packed_sort
from idiolect.models.ngram_counts import NONE, PIECE, Symbols, index_type, shift, slices, spread
from idiolect.models.ngram_smoothing import BackoffTable

CHUNK = 1 << 22
"""Most followers that `distributions` gathers at once, to bound its memory."""
LIMIT = 1000
"""How many tokens back a passage that occurs several times is followed, to bound the time on copied documents."""


class Match(NamedTuple):
    """The longest contexts that occur in the text and that the n-gram model cannot see whole."""

    at: np.ndarray
    """int64 [M]: the positions, in B * W, that have such a context before them; ascending."""
    first: np.ndarray
    """int64 [M]: its rows are [first, last)."""
    last: np.ndarray
    """int64 [M]."""
    times: np.ndarray
    """How many of these occurrences the position's own token follows, int64 [M]."""
    evidence: np.ndarray
    """Occurrences times the square of the length beyond the n-gram's context, float64 [M]."""


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

    def __init__(self, followers: np.ndarray, shorter: BackoffTable, counts: list[np.ndarray], strength: float) -> None:
        self.followers = followers
        """What follows each row, int32 [R]: 0 a boundary, id + 1 any other token, -1 the end of the stream."""
        self.shorter = shorter
        self.times = counts[max(shorter.trie.order - 2, 0)]
        """How often the contexts that the n-gram sees whole occur, int64 [n of order N - 1]."""
        self.strength = strength
        self.symbols = shorter.trie.symbols
        if shorter.trie.order == 2:  # as a context every boundary is `begin`
            self.times = self.times.copy()
            self.times[self.symbols.begin] = self.times[self.symbols.end]
        by_token = _by_token(followers + 1, self.symbols)
        for part in slices(len(by_token)):  # the sorted (token, row), in place
            by_token[part] += followers[by_token[part]].astype(np.int64) * len(followers)
        self._keys = by_token

    @classmethod
    def build(cls, stream: Stream, shorter: BackoffTable, counts: list[np.ndarray], strength: float) -> SuffixTable:
        """Of a stream E d1 E … dn E of R tokens, in some 30 bytes a token besides the stream."""
        R, symbols = len(stream), shorter.trie.symbols
        marked, followers = np.empty(R, dtype=np.int32), np.full(R, -1, dtype=np.int32)
        for part in slices(R):
            marked[part] = _marked(stream.read(part.start, part.stop), symbols)
        rows = suffix_rows(marked, symbols)
        for part in slices(R - 1):
            followers[rows[part]] = marked[1:][part]
        return cls(followers, shorter, counts, strength)

    def score(self, tokens: np.ndarray) -> np.ndarray:
        """log p(tokens[b, t] | tokens[b, :t]) for int64 [B, W] → float64 [B, W]; NONE begins a new text."""
        walk = list(self.shorter.trie.walk(tokens))
        out = self.shorter.score(tokens, walk)
        at, first, last, times, evidence = self._longest(tokens, walk)
        share = times * self.symbols.predicted()[tokens.flat[at]] / (last - first)
        with np.errstate(divide="ignore"):
            p = evidence * share + self.strength * np.exp(out.flat[at])
            out.flat[at] = np.log(p / (evidence + self.strength))
        return out

    def distributions(self, tokens: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """log p(· | tokens[row, : column + 1]) for each of n (row, column) → float64 [n, V]."""
        V = self.symbols.vocabulary
        out = self.shorter.distributions(tokens, rows, columns)
        ahead = np.pad(tokens, ((0, 0), (0, 1)), constant_values=NONE)  # the context after the last column
        match = self._longest(ahead, list(self.shorter.trie.walk(ahead)))
        wanted = rows * ahead.shape[1] + columns + 1
        found = np.searchsorted(match.at, wanted)
        matched = np.flatnonzero(np.append(match.at, NONE)[found] == wanted)
        _, first, last, _, evidence = (part[found[matched]] for part in match)
        parts = np.cumsum(last - first) // CHUNK
        for part in np.split(np.arange(len(matched)), np.flatnonzero(np.diff(parts)) + 1):
            at = matched[part]
            owner, members = spread(first[part], last[part])
            marked = self.followers[members]
            ids = np.where(marked == 0, self.symbols.end, marked - 1)
            share = np.bincount(owner * V + ids, minlength=len(at) * V).reshape(-1, V) / (last - first)[part, None]
            v = evidence[part, None]
            with np.errstate(divide="ignore"):
                out[at] = np.log((v * share + self.strength * np.exp(out[at])) / (v + self.strength))
        return out

    def _longest(self, tokens: np.ndarray, walk: list[tuple[np.ndarray, np.ndarray]]) -> Match:
        """The match before each position of tokens int64 [B, W]; `walk` is what the trie's gives for them."""
        N, W = self.shorter.trie.order, tokens.shape[1]
        nodes = [shift(self.symbols.as_context(k, walk[k - 1][1], tokens)).ravel() for k in (N - 1, N) if k]
        at = np.flatnonzero(nodes[-1] >= 0)  # the n-gram's own sequences are the first that it cannot see whole …
        if N > 1:
            at = at[self.times[nodes[0][at]] > 1]  # … beyond one that occurs several times
        tokens = tokens.ravel()
        marked, inside = _marked(tokens, self.symbols), ~self.symbols.boundary(tokens)
        inside[W - 1 :: W] = False  # no context is longer than a boundary, or goes on in the next row
        first = np.zeros(len(at), dtype=np.int64)
        last = first + len(self.followers)
        for back in range(N, 0, -1):
            at, _, _, first, last = self._extend(at, first, last, marked[at - back])
        at, first, last = (part[last > first] for part in (at, first, last))
        rows = np.zeros((4, len(tokens)), dtype=np.int64)  # of each position: first, last, and those with its own token
        length = np.zeros(len(tokens), dtype=np.int64)
        for depth in range(N, LIMIT):
            if not len(at):
                break
            at, first, last, begin, end = self._extend(at, first, last, marked[at])
            for row, part in zip(rows, (first, last, begin, end)):
                row[at] = part
            length[at] = depth
            on = (end > begin) & inside[at]
            at, first, last = at[on] + 1, begin[on], end[on]
            again = (length[at] == depth) & (rows[1, at] - rows[0, at] > 1)
            at, first, last = at[again], first[again], last[again]
        at = np.flatnonzero(length)
        first, last, begin, end = rows[:, at]
        goes_on = np.zeros(len(at), dtype=bool)  # whether the same places continue from the position before
        goes_on[1:] = (np.diff(at) == 1) & inside[at[:-1]] & (begin[:-1] == first[1:]) & (end[:-1] == last[1:])
        since = np.maximum.accumulate(np.where(goes_on, 0, np.arange(len(at))))
        beyond = length[at[since]] + at - at[since] - N + 1.0
        return Match(at, first, last, end - begin, (last - first) * beyond**2)

    def _extend(
        self, at: np.ndarray, first: np.ndarray, last: np.ndarray, marked: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Rows [first, last) of contexts → [begin, end) of the contexts and one more token each, all int64 [M].

        Gives back (at, first, last, begin, end) in ascending order of `begin`, provided that `first` ascends: so every
        search starts where the one before it ended, which takes an eighth of the time of a search anywhere.
        """
        by_token = _by_token(marked, self.symbols)
        at, first, last, base = at[by_token], first[by_token], last[by_token], marked[by_token] * len(self.followers)
        begin = self._keys.searchsorted(base + first)
        found = self._keys.take(begin, mode="clip") - base
        end = begin + ((first <= found) & (found < last))
        many = np.flatnonzero((end > begin) & (last - first > 1))
        end[many] = self._keys.searchsorted(base[many] + last[many])
        return at, first, last, begin, end


def _marked(tokens: np.ndarray, symbols: Symbols) -> np.ndarray:
    """Tokens with the boundary as 0, ids as id + 1 and NONE as V + 1, which occurs nowhere."""
    return np.where(symbols.boundary(tokens), 0, np.where(tokens < 0, symbols.vocabulary, tokens) + 1)


def _by_token(marked: np.ndarray, symbols: Symbols) -> np.ndarray:
    """The places of `marked` tokens in the order of the tokens, those of one token as they stand; int64."""
    if symbols.vocabulary + 1 < 1 << 16:
        marked = marked.astype(np.uint16)  # which numpy sorts by radix, ten times as fast
    return np.argsort(marked, kind="stable")


def suffix_rows(marked: np.ndarray, symbols: Symbols) -> np.ndarray:
    """The row of each position of a stream, [R]: its rank among all texts that end somewhere, read backwards.

    Boundaries (0) all differ, the last of the stream first, so that no comparison goes beyond one. Prefix doubling
    (Manber and Myers 1993), sorting only what is still tied (Larsson and Sadakane 2007), a bounded number of positions
    at a time: O(R log R) for each doubling up to the longest repeated passage.
    """
    kind = index_type(len(marked))
    boundary, sizes = np.flatnonzero(marked == 0), np.bincount(marked)
    rank = (np.cumsum(sizes) - sizes).astype(kind)[marked]  # of a tied group: the first row it will take
    rank[boundary] = np.append(np.arange(1, len(boundary)), 0)
    several = sizes > 1
    several[0] = False
    tied = _by_token(marked, symbols).astype(kind)  # in the order of their ranks, from here on
    tied = tied[several[marked[tied]]]
    length = 1
    while len(tied):
        tied = np.concatenate([_refined(rank, part, length) for part in _groups(rank, tied)])
        length *= 2
    return rank


def _groups(rank: np.ndarray, tied: np.ndarray) -> Iterator[np.ndarray]:
    """`tied` in pieces that cut no group of equal rank in two."""
    begin = 0
    while begin < len(tied):
        end = begin + PIECE
        while end < len(tied):
            other = rank[tied[end : end + PIECE]] != rank[tied[end - 1]]
            if other.any():
                end += int(other.argmax())
                break
            end += PIECE
        yield tied[begin:end]
        begin = end


def _refined(rank: np.ndarray, tied: np.ndarray, length: int) -> np.ndarray:
    """Ranks whole groups by the `length` tokens before those they agree in; what is tied still, by rank.

    The ranks before may be finer by now: they only tell apart what a later round would. A tie has no boundary within
    `length`, so something is before it.
    """
    group = rank[tied]
    new = np.append(True, group[1:] != group[:-1])
    at = np.arange(len(tied))
    begins = np.maximum.accumulate(np.where(new, at, 0))
    key, by_key = packed_sort((np.cumsum(new) - 1) * len(rank) + rank[tied - length])
    new = np.append(True, key[1:] != key[:-1])
    tied = tied[by_key]
    rank[tied] = group + np.maximum.accumulate(np.where(new, at, 0)) - begins
    return tied[~(new & np.append(new[1:], True))]
