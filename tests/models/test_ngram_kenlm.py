"""Kneser-Ney against KenLM itself.

The expected numbers are log10 probabilities of the KenLM Python package 0.3.0 reading the files that KenLM's lmplz
(commit 4cb443e) wrote from `made_text(300, 7)` with -o 1 to 4 (order 2 with --discount_fallback) and from the four
lines of TINY with -o 3 --discount_fallback; word i is spelt w<i>.
"""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from idiolect.models.ngram import NGram
from idiolect.models.ngram_smoothing import FALLBACK, adjusted_counts, discounts
from idiolect.models.settings import NGramSettings

END, PAD, UNKNOWN, FIRST = 0, 1, 2, 3
WORDS = 211


def made_text(sentences: int, seed: int) -> list[list[int]]:
    """Made sentences of word numbers below 211, the small ones common, from a linear congruential generator."""
    x, out = seed, []

    def draw(n: int) -> int:
        nonlocal x
        x = (1664525 * x + 1013904223) % 2**32
        return (x >> 16) * n >> 16

    for _ in range(sentences):
        word, text = draw(7), []
        for _ in range(1 + draw(7)):
            word = (word * 3 + draw(1 + draw(3))) % 31 if draw(3) else draw(1 + draw(1 + draw(211)))
            text.append(word)
        out.append(text)
    return out


TRAIN, TEST = made_text(300, 7), made_text(50, 11)
KNOWN = {word: FIRST + at for at, word in enumerate(sorted({word for text in TRAIN for word in text}))}


def ids(text: list[int]) -> list[int]:
    return [KNOWN.get(word, UNKNOWN) for word in text]


def documents(texts: list[list[int]]) -> SimpleNamespace:
    offsets = np.cumsum([0] + [len(text) for text in texts])
    return SimpleNamespace(ids=np.array([id_ for text in texts for id_ in text], dtype=np.uint32), offsets=offsets)


def fit(order: int) -> NGram:
    settings = NGramSettings(order=order)
    model = NGram(settings, FIRST + len(KNOWN), begin_id=END, end_id=END, pad_id=PAD)
    return model.fit(documents([ids(text) for text in TRAIN]))


def log10(model: NGram, text: list[int]) -> list[float]:
    return (model.score(torch.tensor([[END, *text, END]]))[0, 1:] / math.log(10)).tolist()


@pytest.mark.parametrize(("order", "total"), [(1, -372.1817), (2, -287.516), (3, -290.992), (4, -291.0529)])
def test_fifty_texts_have_kenlms_probability(order, total):
    model = fit(order)
    assert sum(sum(log10(model, ids(text))) for text in TEST) == pytest.approx(total, abs=2e-3)


@pytest.mark.parametrize(
    ("order", "text", "expected"),
    [
        (2, [3, 9], [-1.14757, -0.43036, -0.63046]),
        (3, [3, 9], [-1.14186, -0.37326, -0.46974]),
        (3, [1, 9, 29, 25, 13, 2, 6], [-1.25309, -2.88234, -1.79362, -0.1897, -0.46572, -2.37383, -0.5784, -0.54093]),
        (4, [1, 9, 29, 25, 13, 2, 6], [-1.25309, -2.77183, -1.79362, -0.47648, -0.44673, -2.45797, -0.5784, -0.54907]),
        (4, [7, 3, 21, 80], [-1.62998, -1.80752, -2.22121, -3.14675, -1.03401]),
        (4, [15], [-1.18765, -1.08648]),
    ],
)
def test_each_token_has_kenlms_probability(order, text, expected):
    assert log10(fit(order), ids(text)) == pytest.approx(expected, abs=2e-5)


def test_discounts_are_those_that_lmplz_prints():
    printed = {1: (0.526316, 1.64912, 0.368421), 2: (0.775229, 0.43372, 0.368919), 3: (0.813038, 0.748349, 2.2495)}
    printed[4] = (0.871275, 1.61277, 3)
    model = fit(4)
    for order, (counts, _) in enumerate(adjusted_counts(model.table.trie, model.counts), start=1):
        assert discounts(counts).tolist() == pytest.approx([0, *printed[order]], abs=1e-5)


def test_discounts_out_of_range_fall_back():
    assert discounts(np.array([1, 1, 2])).tolist() == [0, *FALLBACK]  # nothing was seen three times
    model = fit(2)  # lmplz: "2-gram discount out of range for adjusted count 3: -0.47477007"
    bigrams = list(adjusted_counts(model.table.trie, model.counts))[1][0]
    assert discounts(bigrams).tolist() == [0, *FALLBACK]


TINY = ["hay they eat", "we saw cows eat corn", "", "cows eat hay"]
TINY_IDS = {word: FIRST + at for at, word in enumerate(["hay", "they", "eat", "we", "saw", "cows", "corn"])}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("cows eat corn", [-0.7293, -0.10749, -0.44958, -0.09284]),
        ("they eat grass", [-1.36001, -0.25064, -1.88952, -0.63797]),
        ("", [-0.61965]),
    ],
)
def test_a_few_lines_and_an_empty_one(text, expected):
    model = NGram(NGramSettings(order=3), FIRST + len(TINY_IDS), begin_id=END, end_id=END, pad_id=PAD)
    model.fit(documents([[TINY_IDS[word] for word in line.split()] for line in TINY]))
    assert log10(model, [TINY_IDS.get(word, UNKNOWN) for word in text.split()]) == pytest.approx(expected, abs=2e-5)


def test_ids_that_never_occur_share_what_kenlm_gives_its_unknown_word():
    model = NGram(NGramSettings(order=1), FIRST + len(KNOWN) + 5, begin_id=END, end_id=END, pad_id=PAD)
    p = model.fit(documents([ids(text) for text in TRAIN])).table.weights.scores[0]
    assert p[UNKNOWN] == p[-1] > -math.inf
    assert p[PAD] == -math.inf
    assert np.exp(p).sum() == pytest.approx(1, abs=1e-12)
