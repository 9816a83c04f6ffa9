"""LM3: an unconstrained softmax fitted by gradient converges to the count table; count_w / p_w is one constant."""

import importlib
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from idiolect.models.build import build
from idiolect.models.settings import NGramSettings

LESSONS = Path(__file__).parents[2] / "examples" / "lessons"
COWS_EAT = {"corn": 4, "grass": 3, "hay": 2, "if": 1, "which": 1}


@pytest.fixture
def lesson(monkeypatch):
    monkeypatch.syspath_prepend(LESSONS)
    return importlib.import_module("counting")


def test_LM3_the_gradient_finds_the_count_table(lesson):
    counts, contexts, words = lesson.as_matrix(lesson.count(lesson.LINES))
    fitted = lesson.fit(counts)
    row = dict(zip(words, fitted[contexts.index(("cows", "eat"))].tolist()))
    assert len(contexts) > 20 and len(words) > 20
    for word in words:
        assert row[word] == pytest.approx(COWS_EAT.get(word, 0) / 11, abs=1e-3)
    assert (fitted - counts / counts.sum(1, keepdim=True)).abs().max() <= 1e-3
    torch.testing.assert_close(fitted.sum(1), torch.ones(len(contexts), dtype=torch.float64))


def test_LM3_count_over_probability_is_the_multiplier_eleven(lesson):
    counts, contexts, words = lesson.as_matrix(lesson.count(lesson.LINES))
    fitted = lesson.fit(counts)[contexts.index(("cows", "eat"))]
    ratios = [n / float(fitted[words.index(word)]) for word, n in COWS_EAT.items()]
    assert ratios == pytest.approx([11.0] * 5, rel=2e-3)
    assert max(ratios) - min(ratios) < 0.02


def test_LM3_the_gradient_finds_what_the_ngram_family_counts(lesson):
    """The same lines as ids through the n-gram family without smoothing: its table is what the gradient found."""
    counts, contexts, words = lesson.as_matrix(lesson.count(lesson.LINES))
    fitted = lesson.fit(counts)
    lines = [re.findall(r"[\w-]+", line.lower()) for line in lesson.LINES]
    ids = {word: i + 2 for i, word in enumerate(sorted({word for line in lines for word in line}))}
    flat = np.array([ids[word] for line in lines for word in line])
    offsets = np.cumsum([0, *map(len, lines)])
    model = build(NGramSettings(order=3, smoothing="mle"), len(ids) + 2)
    model.fit(SimpleNamespace(ids=flat, offsets=offsets))
    for row, (u, v) in enumerate(contexts):
        logits, _ = model.step(torch.tensor([[ids[u], ids[v]]]), model.init_state(1, 2), last=True)
        counted = logits[0, 0].exp()
        ended = float(counted[0])  # the family counts the end of a line as a word too; the lesson does not
        counted = counted[[ids[word] for word in words]] / (1 - ended)
        torch.testing.assert_close(counted, fitted[row], atol=1e-3, rtol=0)


def test_LM3_no_other_distribution_is_more_likely(lesson):
    """The count table is the constrained optimum: any way off it along the simplex lowers the likelihood."""
    counts = torch.tensor([4.0, 3.0, 2.0, 1.0, 1.0], dtype=torch.float64)
    best = (counts * (counts / 11).log()).sum()
    for i in range(5):
        for j in range(5):
            if i != j:
                moved = counts / 11
                moved[i], moved[j] = moved[i] + 0.01, moved[j] - 0.01
                assert (counts * moved.log()).sum() < best
