"""An n-gram model without an n: every context of the text, however long, through one suffix array.

Shapes: B rows, W positions, R rows of the suffix array = tokens of the stream (see ngram_counts), n queries.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from idiolect.models.ngram_counting import Stream
from idiolect.models.ngram_counts import NONE, Symbols, shift, spread
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
        by_token = np.argsort(followers, kind="stable")
        self._keys = followers[by_token].astype(np.int64) * len(followers) + by_token  # sorted (token, row)
        self._kind = np.uint16 if self.symbols.vocabulary + 1 < 1 << 16 else np.int64

    @classmethod
    def build(cls, stream: Stream, shorter: BackoffTable, counts: list[np.ndarray], strength: float) -> SuffixTable:
        """Of a stream E d1 E … dn E of R tokens."""
        marked = _marked(stream.whole(), shorter.trie.symbols)
        rows = suffix_rows(marked)
        followers = np.full(len(stream), -1, dtype=np.int32)
        followers[rows[:-1]] = marked[1:]
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
        by_token = np.argsort(marked.astype(self._kind), kind="stable")  # a radix sort for 16 bits
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
