"""The unigram model of pieces against pencil and paper, and against the library's own trainer."""

from __future__ import annotations

import json

import numpy as np
import pytest
from tokenizers import Tokenizer as Native
from tokenizers import models, pre_tokenizers, trainers

from idiolect.tokens import unigram
from idiolect.tokens.describe import byte_characters
from idiolect.tokens.unigram import Lattice, expected_counts, learn


def test_expected_counts_by_hand() -> None:
    """Words ab (twice) and a (once); pieces a, b, ab, each 1/3.

    ab: P[ab] = 1/3, P[a b] = 1/9, together 4/9; so ab with 3/4, a b with 1/4.
    Expected: a = 2 · 1/4 + 1 = 1.5, b = 2 · 1/4 = 0.5, ab = 2 · 3/4 = 1.5.
    """
    index = np.array([0, 1, 2, 0, 1])  # nodes of "ab", then of "a"
    lattice = Lattice(np.array([0, 1, 0, 3]), np.array([1, 2, 2, 4]), np.array([0, 1, 2, 0]), index)
    probability = np.full(3, 1 / 3)
    assert lattice.paths(probability).tolist() == pytest.approx([1, 1 / 3, 4 / 9, 1, 1 / 3])
    assert lattice.paths(probability, best=True).tolist() == pytest.approx([1, 1 / 3, 1 / 3, 1, 1 / 3])
    counts = expected_counts(lattice, lattice.backwards(), np.array([2.0, 1.0]), probability)
    assert counts.tolist() == pytest.approx([1.5, 0.5, 1.5])


def test_substrings_that_come_twice_are_the_seeds() -> None:
    """aaa once and ab twice: aa comes twice (overlapping), aaa once, ab twice."""
    pieces = dict(learn({b"aaa": 1, b"ab": 2}, 10_000))
    assert {piece for piece in pieces if len(piece) > 1} == {b"aa", b"ab"}
    assert len(pieces) == 258


def test_bytes_always_stay_and_the_best_pieces_with_them() -> None:
    words = {b"lecture": 50, b"lectures": 40, b"transform": 30, b"xyz": 2}
    pieces = [piece for piece, _ in learn(words, 260)]
    assert {piece for piece in pieces if len(piece) > 1} >= {b"lecture", b"transform"}
    assert {bytes([b]) for b in range(256)} <= set(pieces) and len(pieces) == 260


def test_probabilities_sum_to_one_and_are_sorted(corpus: list[str]) -> None:
    words: dict[bytes, int] = {}
    for word in " ".join(corpus[:60]).split(" "):
        words[word.encode()] = words.get(word.encode(), 0) + 1
    scores = [score for _, score in learn(words, 400)]
    assert scores == sorted(scores, reverse=True)
    assert np.exp(scores).sum() == pytest.approx(1, abs=1e-3)


def test_a_seed_limit_and_a_byte_limit_keep_the_most_frequent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unigram, "MOST_SEEDS", 2)
    assert {p for p, _ in learn({b"abc": 9, b"xy": 2}, 999) if len(p) > 1} == {b"abc", b"ab"}  # 27, then 18 (ab, bc)
    monkeypatch.setattr(unigram, "MOST_BYTES", 2)
    assert {p for p, _ in learn({b"abc": 1, b"xy": 2}, 999) if len(p) > 1} == {b"xy"}


def test_text_is_as_short_as_with_the_library(corpus: list[str]) -> None:
    """The library's trainer is the oracle for quality; its pieces differ from run to run, so only lengths compare."""
    native = Native(models.Unigram())
    native.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.UnigramTrainer(vocab_size=800, show_progress=False, initial_alphabet=alphabet)
    native.train_from_iterator(corpus, trainer)
    words = json.loads(trainer.__getstate__())["UnigramTrainer"]["words"]
    table = byte_characters()
    spelling = {byte: character for character, byte in table.items()}
    ours = learn({bytes(table[c] for c in word): count for word, count in words.items()}, 800)
    own = Native(models.Unigram([("".join(spelling[b] for b in piece), score) for piece, score in ours]))
    own.pre_tokenizer = native.pre_tokenizer
    text = "\n\n".join(corpus)
    assert len(own.encode(text).ids) < 1.03 * len(native.encode(text).ids)
