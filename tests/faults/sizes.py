"""How much every fault test does for a change (`make test`) and at length (`make nightly`)."""

import math
import os

import pytest

CHANGE, NIGHTLY = "change", "nightly"

SIZES = {
    # of all runs together
    "kills": {CHANGE: 60, NIGHTLY: 1000},
    # of each
    "kills of a command": {CHANGE: 10, NIGHTLY: 100},
    # of each writer
    "crash states": {CHANGE: 3000, NIGHTLY: 100_000},
    # of all artefacts together
    "corruptions": {CHANGE: 3000, NIGHTLY: 100_000},
    # of all parsers together
    "malformed inputs": {CHANGE: 20_000, NIGHTLY: 2_000_000},
}
"""Besides, every operation of every writer fails with each of two errors; nightly, every two of them."""
SHARE = float(os.environ.get("IDIOLECT_FAULT_SHARE", "1"))
"""How much of it is done: less in a short night, and where the tests are repeated to see whether one is flaky."""

at_each_size = pytest.mark.parametrize(
    "size", [CHANGE, pytest.param(NIGHTLY, marks=[pytest.mark.nightly, pytest.mark.timeout(12 * 3600)])]
)
"""A test at both sizes; the argument `size` says which."""


def number_of(what, size, shared_by=1):
    """How many a test does, of as many as share them."""
    return math.ceil(SIZES[what][size] * SHARE / shared_by)


def some(cases, draw):
    """All cases, or the share of them, at least one."""
    cases = list(cases)
    return cases if SHARE >= 1 else draw.sample(cases, math.ceil(len(cases) * SHARE))
