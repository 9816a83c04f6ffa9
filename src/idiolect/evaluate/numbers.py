"""How near guessed numbers come to true ones."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def mean_squared_error(truth: Sequence[float], guess: Sequence[float]) -> float:
    """The mean of the squared distances, in the square of the numbers' unit."""
    return float(np.mean(np.square(np.subtract(truth, guess))))


def pearson(truth: Sequence[float], guess: Sequence[float]) -> float | None:
    """The correlation: covariance over the product of the deviations; None where one of them does not vary."""
    x, y = (np.asarray(values, dtype=np.float64) - np.mean(values) for values in (truth, guess))
    most = float(np.sqrt((x @ x) * (y @ y)))
    return float(x @ y) / most if most else None


def spearman(truth: Sequence[float], guess: Sequence[float]) -> float | None:
    """The correlation of the ranks; equal values share the mean of their ranks. None as above."""
    return pearson(ranks(truth), ranks(guess))


def ranks(values: Sequence[float]) -> list[float]:
    """The rank of each value, from 1; equal ones have the mean of theirs."""
    _, inverse, counts = np.unique(np.asarray(values), return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[inverse].tolist()
