"""The unigram language model of pieces: Kudo 2018, "Subword Regularization", arXiv 1804.10959, section 3.2.

A word's probability is the sum over its segmentations x of Π p(x_i). From all substrings that come at least twice,
expectation maximisation (EM) finds p; then the pieces whose loss would cost the text least are dropped, and so on
until the asked number is left. Departs from the paper: loss of a piece = expected count · (log p - log of its best
other segmentation), as in SentencePiece; and all is summed in a fixed order, so that the same text always gives the
same pieces (the trainer of the library `tokenizers` visits words in the order of a randomly seeded hash table).

Shapes: n bytes of distinct words, W words, P pieces; N nodes, the boundaries between the bytes of each word (one more
than its bytes); E edges, each from node to node by a piece.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

LONGEST = 16
"""Bytes of the longest piece."""
LONGEST_WORD = 32
"""Longer words are cut; with FLOOR it keeps products of probabilities above the smallest float64 (1e-308)."""
FLOOR = 1e-9
"""Smallest probability of a piece."""
MOST_BYTES = 4 << 20
"""Bytes of distinct words that are learnt from, the most frequent words first."""
MOST_SEEDS = 1_000_000
"""Substrings to begin with, those of the largest count · length first."""
KEPT = 0.75
"""Share of the pieces that stay in each round."""
NO_PIECE = -1


class Lattice:
    """Edges between nodes; a row of nodes is one word, and all rows are walked side by side."""

    def __init__(self, start: np.ndarray, end: np.ndarray, piece: np.ndarray, index: np.ndarray) -> None:
        """start, end: nodes, int64 [E]. piece: int64 [E]. index: place of each node in its row, from 0, int64 [N]."""
        order = np.lexsort((start, end, index[end]))
        self.start, self.end, self.piece, self.index = start[order], end[order], piece[order], index
        depth = index[self.end]
        bounds = np.searchsorted(depth, np.arange(1, int(depth.max(initial=0)) + 2)).tolist()
        self._layers = []  # nodes of equal index: (their edges, where each node's edges begin, the nodes)
        for low, high in zip(bounds[:-1], bounds[1:], strict=True):
            begins = np.flatnonzero(np.diff(self.end[low:high], prepend=NO_PIECE))
            self._layers.append((slice(low, high), begins, self.end[low:high][begins]))

    def backwards(self) -> Lattice:
        """The same edges walked from the end; node i is here node N - 1 - i."""
        last = len(self.index) - 1
        nodes = np.diff(np.append(np.flatnonzero(self.index == 0), len(self.index)))
        index = (np.repeat(nodes, nodes) - 1 - self.index)[::-1]
        return Lattice(last - self.end, last - self.start, self.piece, index)

    def paths(self, probability: np.ndarray, best: bool = False) -> np.ndarray:
        """For each node the sum, or the largest, of the paths from its row's beginning to it, float64 [N].

        probability: of each piece, float64 [P]; a path's is the product over its edges.
        """
        combine = np.maximum if best else np.add
        out = (self.index == 0).astype(np.float64)
        for edges, begins, nodes in self._layers:
            out[nodes] = combine.reduceat(out[self.start[edges]] * probability[self.piece[edges]], begins)
        return out


def expected_counts(forwards: Lattice, backwards: Lattice, counts: np.ndarray, probability: np.ndarray) -> np.ndarray:
    """How often each piece is expected in the words, float64 [P]; counts: of each word, float64 [W]."""
    before, after = forwards.paths(probability), backwards.paths(probability)[::-1]
    first = forwards.index == 0
    word = np.cumsum(first)[forwards.start] - 1  # [E]
    share = before[forwards.start] * probability[forwards.piece] * after[forwards.end] / after[first][word]
    return np.bincount(forwards.piece, weights=share * counts[word], minlength=len(probability))


def learn(words: Mapping[bytes, int], size: int) -> list[tuple[bytes, float]]:
    """The best `size` pieces (all 256 bytes among them) and their log-probabilities, the likeliest first.

    words: how often each word comes. Fewer pieces come back when the words have fewer substrings that come twice.
    """
    text, length, counts = _laid_out(words)
    table, pieces, frequency = _substrings(text, length, counts)
    probability = np.maximum(frequency / max(frequency.sum(), 1), FLOOR)
    while True:
        forwards = _of_words(table, length)
        backwards = forwards.backwards()
        for _ in range(2):
            expected = expected_counts(forwards, backwards, counts, probability)
            probability = np.maximum(expected / max(expected.sum(), 1), FLOOR)
        if len(pieces) <= size:
            break
        loss = expected * (np.log(probability) - np.log(_best_other(table, pieces, probability)))
        loss[:256] = np.inf  # the bytes stay
        stay = np.sort(np.argsort(-loss, kind="stable")[: max(size, int(len(pieces) * KEPT))])
        number = np.full(len(pieces) + 1, NO_PIECE, dtype=np.int32)  # the last entry keeps NO_PIECE as it is
        number[stay] = np.arange(len(stay))
        table, pieces, probability = number[table], pieces[stay], probability[stay]
    spelled = [bytes([b]) for b in range(256)]
    spelled += [text[first : first + many].tobytes() for first, many in pieces[256:].tolist()]
    scores = np.log(probability).round(6).tolist()
    return sorted(zip(spelled, scores, strict=True), key=lambda item: (-item[1], item[0]))


def _laid_out(words: Mapping[bytes, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(the words' bytes one after the other, uint8 [n]; bytes of each word [W]; how often it comes, float64 [W])."""
    cut: dict[bytes, int] = {}
    for word, count in words.items():
        for start in range(0, len(word), LONGEST_WORD):
            part = word[start : start + LONGEST_WORD]
            cut[part] = cut.get(part, 0) + count
    chosen, room = [], MOST_BYTES
    for word, count in sorted(cut.items(), key=lambda item: (-item[1], item[0])):
        room -= len(word)
        if room < 0:
            break
        chosen.append((word, count))
    text = np.frombuffer(b"".join(word for word, _ in chosen), dtype=np.uint8)
    length = np.array([len(word) for word, _ in chosen], dtype=np.int64)
    return text, length, np.array([count for _, count in chosen], dtype=np.float64)


def _substrings(text: np.ndarray, length: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The 256 bytes and the substrings that come at least twice within words, at most MOST_SEEDS.

    Returns the table [LONGEST, n] of the piece of each length at each byte (or NO_PIECE), where each piece is first
    seen and how long it is [P, 2], and how often it comes [P]. The substrings of k + 1 bytes that come twice are
    among those of k bytes that do, a byte longer.
    """
    n = len(text)
    weight, stop = np.repeat(counts, length), np.repeat(np.cumsum(length), length)
    table = np.full((LONGEST, n), NO_PIECE, dtype=np.int32)
    table[0] = text
    pieces = [np.stack([np.full(256, 0), np.ones(256, dtype=np.int64)], axis=1)]
    frequency = [np.bincount(text, weights=weight, minlength=256)]
    at, name = np.arange(n), text.astype(np.int64)
    total = 256
    for many in range(2, LONGEST + 1):
        inside = at + many <= stop[at]
        at, name = at[inside], name[inside] * 256 + text[at[inside] + many - 1]
        _, first, name = np.unique(name, return_index=True, return_inverse=True)
        often = np.bincount(name, weights=weight[at], minlength=len(first))
        twice = often >= 2
        number = np.cumsum(twice) - 1
        pieces.append(np.stack([at[first[twice]], np.full(twice.sum(), many)], axis=1))
        frequency.append(often[twice])
        at, name = at[twice[name]], number[name[twice[name]]]
        table[many - 1, at] = total + name
        total += int(twice.sum())
    return _fewer(table, np.concatenate(pieces), np.concatenate(frequency))


def _fewer(table: np.ndarray, pieces: np.ndarray, frequency: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The same with at most MOST_SEEDS pieces beside the bytes."""
    if len(pieces) <= MOST_SEEDS + 256:
        return table, pieces, frequency
    worth = frequency * pieces[:, 1]
    worth[:256] = np.inf
    stay = np.sort(np.argsort(-worth, kind="stable")[: MOST_SEEDS + 256])
    number = np.full(len(pieces) + 1, NO_PIECE, dtype=np.int32)
    number[stay] = np.arange(len(stay))
    return number[table], pieces[stay], frequency[stay]


def _of_words(table: np.ndarray, length: np.ndarray) -> Lattice:
    """The lattice of all words: an edge for each piece at each byte."""
    longer, at = np.nonzero(table != NO_PIECE)
    start = at + np.repeat(np.arange(len(length)), length)[at]  # a word of k bytes has k + 1 nodes
    return Lattice(start, start + longer + 1, table[longer, at].astype(np.int64), _index(length))


def _best_other(table: np.ndarray, pieces: np.ndarray, probability: np.ndarray) -> np.ndarray:
    """The largest probability of a segmentation of each piece into other pieces, float64 [P]; 0 for single bytes."""
    first, length = pieces[:, 0], pieces[:, 1]
    node = np.cumsum(length + 1) - length - 1  # [P] the first node of each row
    start, end, inner = [], [], []
    for offset in range(LONGEST):
        for many in range(1, LONGEST + 1 - offset):
            row = np.flatnonzero((length >= offset + many) & (length > many))
            found = table[many - 1, first[row] + offset]
            row, found = row[found != NO_PIECE], found[found != NO_PIECE]
            start.append(node[row] + offset)
            end.append(node[row] + offset + many)
            inner.append(found.astype(np.int64))
    lattice = Lattice(np.concatenate(start), np.concatenate(end), np.concatenate(inner), _index(length))
    other = lattice.paths(probability, best=True)[node + length]
    return np.where(length == 1, 1.0, other)


def _index(length: np.ndarray) -> np.ndarray:
    """Rows of length + 1 nodes each: the place of every node in its row, int64 [N]."""
    nodes = length + 1
    return np.arange(nodes.sum()) - np.repeat(np.cumsum(nodes) - nodes, nodes)
