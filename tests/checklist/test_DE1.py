"""DE1: ancestral sampling until the end of text draws from the model's own distribution over texts."""

import math
from collections import Counter

import pytest

from idiolect.decode.generate import complete
from idiolect.decode.settings import DecodeSettings
from idiolect.testing import TableModel, WordTokenizer

stats = pytest.importorskip("scipy.stats")

A, B = 2, 3
TOKENIZER = WordTokenizer(["a", "b"])
MODEL = TableModel(
    4, {(0,): {A: 0.5, B: 0.3, 0: 0.2}, (A,): {B: 0.6, 0: 0.4}, (B,): {A: 0.25, 0: 0.75}, (B, A): {0: 1.0}}
)
# by the chain rule; a b a ends for sure, b a as well
TEXTS = {
    "": 0.2,
    "a": 0.5 * 0.4,
    "b": 0.3 * 0.75,
    "b a": 0.3 * 0.25,
    "a b": 0.5 * 0.6 * 0.75,
    "a b a": 0.5 * 0.6 * 0.25,
}
N = 8000


def test_DE1_frequencies_of_whole_texts_are_their_probabilities():
    assert math.isclose(sum(TEXTS.values()), 1)
    found = complete(MODEL, TOKENIZER, [""] * N, DecodeSettings(seed=11))
    assert {f.finish_reason for f in found} == {"stop"}  # until end-of-text, all of them
    counts = Counter(f.text for f in found)
    assert counts.keys() <= TEXTS.keys()
    observed, expected = [counts[text] for text in TEXTS], [N * p for p in TEXTS.values()]
    assert stats.chisquare(observed, expected).pvalue > 0.01


def test_DE1_logprobs_of_each_drawn_text_are_the_models_exactly():
    for found in complete(MODEL, TOKENIZER, [""] * 200, DecodeSettings(seed=3)):
        assert math.isclose(math.exp(sum(found.logprobs)), TEXTS[found.text], rel_tol=1e-12)


def test_DE1_the_seed_decides_and_another_seed_draws_anew():
    def texts(seed):
        return [f.text for f in complete(MODEL, TOKENIZER, [""] * 50, DecodeSettings(seed=seed))]

    assert texts(4) == texts(4) != texts(5)
