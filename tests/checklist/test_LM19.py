"""LM19: on order-3 Markov DNA of known entropy H, three families reach a perplexity within 2% of 2^H; uniform has 4."""

import importlib
import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

LESSONS = Path(__file__).parents[2] / "examples" / "lessons"


@pytest.fixture
def dna(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(LESSONS)
    monkeypatch.setenv("IDIOLECT_CACHE", str(tmp_path / "cache"))
    return importlib.import_module("dna")


def test_LM19_uniform_is_four_exactly(dna):
    assert dna.guess_evenly("ACGT" * 2**13) == 4.0
    assert 2 ** dna.entropy_rate(np.full((64, 4), 0.25)) == pytest.approx(4.0, abs=1e-12)


def test_LM19_the_entropy_rate_by_hand(dna):
    """A stays A with 0.9, C goes to A with 0.5; so A is 5/6 of the text, and H = 5/6 h(0.1) + 1/6 h(0.5)."""
    table = np.zeros((64, 4))
    table[:, :2] = 0.9, 0.1
    table[1::4, :2] = 0.5, 0.5  # contexts that end with C
    h = -0.9 * math.log2(0.9) - 0.1 * math.log2(0.1)
    assert dna.entropy_rate(table) == pytest.approx(5 / 6 * h + 1 / 6, abs=1e-9)


def test_LM19_the_text_has_the_frequencies_of_the_table(dna):
    table = dna.draw_table(np.random.default_rng(5))
    text = dna.write_dna(table, 60_000, np.random.default_rng(7))
    after = Counter(zip(text, text[1:], text[2:], text[3:]))
    seen = sum(n for (x, y, z, _), n in after.items() if (x, y, z) == ("G", "A", "T"))
    expected = table[16 * 2 + 4 * 0 + 3]
    for w, letter in enumerate("ACGT"):
        share = after["G", "A", "T", letter] / seen
        assert abs(share - expected[w]) < 4 * math.sqrt(expected[w] * (1 - expected[w]) / seen) + 1e-9


@pytest.mark.slow
def test_LM19_every_family_finds_the_entropy_of_dna(dna, tmp_path):
    rng = np.random.default_rng(0)
    table = dna.draw_table(rng)
    best = 2 ** dna.entropy_rate(table)
    train, test = dna.write_dna(table, 200_000, rng), dna.write_dna(table, 2**15, rng)
    text = tmp_path / "dna.txt"
    text.write_text(train)
    found = {name: dna.measure(dna.learn(name, text, tmp_path / name), test) for name in dna.FAMILIES}
    assert 2 < best < 3.2  # far from 4: there is something to find
    for name in ("4-gram", "LSTM", "transformer"):
        assert found[name] == pytest.approx(best, rel=0.02), name
    assert found["3-gram"] > 1.1 * best  # two letters back are not enough
