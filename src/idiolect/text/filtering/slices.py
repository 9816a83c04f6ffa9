"""Whom a filter hits: the rate of its flags by slice, with intervals.

A word list flags dialects that use its words otherwise (Sap et al. 2019, "The risk of racial bias in hate speech
detection"), so such a filter is looked at slice by slice before it may drop anything.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

Z = 1.959964
"""The normal distribution's 97.5% quantile: intervals hold the true rate 95 times of a hundred."""


def rates(counts: Mapping[str, Sequence[int]]) -> list[dict[str, Any]]:
    """The slices of a column, those that are flagged most first.

    counts: slice → (documents that a filter looked at, documents it flagged).

    Each row is {"value", "documents", "flagged", "rate", "low", "high", "stands_out"}: low and high are the rate's 95%
    interval, and a slice stands out when even low is above the rate of all other slices together.
    """
    documents, flagged = (sum(count[i] for count in counts.values()) for i in (0, 1))
    rows = []
    for value, (n, hits) in counts.items():
        low, high = wilson(hits, n)
        others = (flagged - hits) / (documents - n) if documents > n else 1.0
        rate = hits / n if n else 0.0
        row = {"value": value, "documents": n, "flagged": hits, "rate": rate, "low": low, "high": high}
        rows.append({**row, "stands_out": low > others})
    return sorted(rows, key=lambda row: (-row["rate"], -row["documents"], row["value"]))


def wilson(hits: int, n: int) -> tuple[float, float]:
    """The 95% score interval of a share of `hits` in `n`: Wilson 1927, equation for the two roots of

    (p - hits / n)² = Z² p (1 - p) / n. Without any draw it is all of [0, 1].
    """
    if n == 0:
        return 0.0, 1.0
    share, square = hits / n, Z * Z
    middle = (share + square / (2 * n)) / (1 + square / n)
    half = Z / (1 + square / n) * math.sqrt(share * (1 - share) / n + square / (4 * n * n))
    return max(0.0, middle - half), min(1.0, middle + half)
