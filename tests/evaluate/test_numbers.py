"""Figures of numbers, by hand and beside scipy."""

import numpy as np
import pytest
from scipy import stats

from idiolect.evaluate.numbers import mean_squared_error, pearson, ranks, spearman


def test_by_hand():
    assert mean_squared_error([1, 2, 4], [2, 2, 1]) == pytest.approx(10 / 3)
    assert pearson([1, 2, 3], [10, 20, 30]) == pytest.approx(1)
    assert pearson([1, 2, 3], [1, 0, 1]) == pytest.approx(0)
    assert pearson([1, 1, 1], [1, 2, 3]) is None and spearman([1, 2, 3], [5, 5, 5]) is None
    assert ranks([10, 7, 10, 3]) == [3.5, 2, 3.5, 1]
    assert spearman([1, 2, 3, 4], [1, 8, 27, 64]) == pytest.approx(1)


def test_beside_scipy():
    draw = np.random.default_rng(3)
    truth, guess = draw.integers(0, 7, 53).tolist(), draw.integers(0, 5, 53).tolist()
    assert pearson(truth, guess) == pytest.approx(stats.pearsonr(truth, guess).statistic)
    assert spearman(truth, guess) == pytest.approx(stats.spearmanr(truth, guess).statistic)
