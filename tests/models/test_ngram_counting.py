"""Counting block by block, against a plain Python count of the same text."""

from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest

from idiolect.models import ngram_counting, ngram_counts
from idiolect.models.ngram_counting import Stream, count
from idiolect.models.ngram_counts import Symbols

E, B, V = 0, 1, 7
"""End of text, a begin of text of its own, and the vocabulary."""


def made(seed: int) -> SimpleNamespace:
    generator = np.random.default_rng(seed)
    sizes = generator.integers(0, 13, 31)
    ids = generator.integers(2, V, sizes.sum()).astype(np.uint16)
    ids[generator.random(len(ids)) < 0.03] = E  # a text may hold the mark itself
    return SimpleNamespace(ids=ids, offsets=np.cumsum([0, *sizes]))


def read(documents: SimpleNamespace) -> list[int]:
    """E d1 E d2 E … dn E."""
    out = [E]
    for begin, end in zip(documents.offsets, documents.offsets[1:]):
        out += [*documents.ids[begin:end].tolist(), E]
    return out


def by_hand(stream: list[int], order: int) -> list[Counter]:
    """For k = 1 … order: each sequence of k tokens that has no E inside, an E at its front named B, and its count."""
    found = [Counter((token,) for token in stream[1:])]
    for k in range(2, order + 1):
        grams = (stream[at : at + k] for at in range(len(stream) - k + 1))
        found.append(Counter((B if g[0] == E else g[0], *g[1:]) for g in grams if E not in g[1:-1]))
    return found


def spelt(trie: ngram_counts.Trie, counts: list[np.ndarray]) -> list[Counter]:
    """The same from a trie."""
    names = [(token,) for token in range(V)]
    out = [Counter({name: int(n) for name, n in zip(names, counts[0]) if n})]
    for order in range(2, trie.order + 1):
        parent, token = trie.split(order)
        names = [(*names[p], w) for p, w in zip(parent.tolist(), token.tolist())]
        out.append(Counter(dict(zip(names, counts[order - 1].tolist(), strict=True))))
    return out


@pytest.mark.parametrize("block", [1, 2, 11, 64, 1000])
@pytest.mark.parametrize("order", [1, 2, 3, 5])
def test_blocks_of_any_size_count_what_python_counts(monkeypatch, block, order):
    monkeypatch.setattr(ngram_counting, "BLOCK", block)
    monkeypatch.setattr(ngram_counts, "PIECE", 3)
    documents = made(block)
    trie, counts = count(Stream(documents, Symbols(V, B, E, None)), order)
    trie.check()
    assert spelt(trie, counts) == by_hand(read(documents), order)


def test_the_stream_reads_any_piece():
    documents = made(5)
    whole, stream = read(documents), Stream(documents, Symbols(V, B, E, None))
    assert len(stream) == len(whole) and stream.whole().tolist() == whole
    for begin in range(0, len(whole), 7):
        assert stream.read(begin, begin + 11).tolist() == whole[begin : begin + 11]


def test_pieces_hold_all_nodes_and_keep_a_parents_together(monkeypatch):
    monkeypatch.setattr(ngram_counts, "PIECE", 3)
    trie, _ = count(Stream(made(7), Symbols(V, B, E, None)), 4)
    for order in (2, 3, 4):
        parts = list(trie.pieces(order))
        assert len(parts) > 1
        parent, token = trie.split(order)
        assert np.concatenate([p for _, p, _ in parts]).tolist() == parent.tolist()
        assert np.concatenate([t for _, _, t in parts]).tolist() == token.tolist()
        assert all(a[-1] < b[0] for (_, a, _), (_, b, _) in zip(parts, parts[1:]))
        assert [part.start for part, _, _ in parts[1:]] == [part.stop for part, _, _ in parts[:-1]]


def test_values_too_large_to_carry_their_index_are_sorted_too():
    values = np.random.default_rng(3).integers(0, 1 << 62, 101)
    values[::7] = values[0]
    ordered, by_value = ngram_counting.packed_sort(values)
    assert ordered.tolist() == sorted(values.tolist()) and values[by_value].tolist() == ordered.tolist()
    small, by_small = ngram_counting.packed_sort(values >> 40)
    assert small.tolist() == sorted((values >> 40).tolist())
    assert by_small.tolist() == np.argsort(values >> 40, kind="stable").tolist()
