"""Rates by slice, with intervals."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from idiolect.text.filtering.slices import rates, wilson


@pytest.mark.parametrize(
    ("hits", "n", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_intervals_as_published(hits: int, n: int, low: float, high: float) -> None:
    """Newcombe 1998, "Two-sided confidence intervals for the single proportion", table I, method 3."""
    assert wilson(hits, n) == pytest.approx((low, high), abs=5e-5)
    assert wilson(n - hits, n) == pytest.approx((1 - high, 1 - low), abs=5e-5)


@given(st.integers(0, 10**9), st.integers(0, 10**9))
def test_an_interval_holds_its_share(hits: int, more: int) -> None:
    n = hits + more
    low, high = wilson(hits, n)
    assert 0 <= low <= high <= 1
    if n:
        assert low - 1e-12 <= hits / n <= high + 1e-12


def test_a_slice_stands_out_against_the_others() -> None:
    first, second, third = rates({"x": [1000, 30], "y": [1000, 90], "z": [7, 1]})
    assert [row["value"] for row in (first, second, third)] == ["z", "y", "x"]
    assert (second["documents"], second["flagged"], second["rate"]) == (1000, 90, 0.09)
    assert second["stands_out"] and second["low"] > 31 / 1007
    assert not first["stands_out"]  # one of seven tells nothing
    assert not third["stands_out"]


def test_one_slice_alone_stands_out_against_nobody() -> None:
    (only,) = rates({"x": [10, 10]})
    assert not only["stands_out"] and only["rate"] == 1
    assert rates({}) == []
    (empty,) = rates({"x": [0, 0]})
    assert (empty["rate"], empty["low"], empty["high"], empty["stands_out"]) == (0, 0, 1, False)
