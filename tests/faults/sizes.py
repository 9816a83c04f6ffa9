"""How much every fault test does for a change (`make test`) and at length (`make nightly`)."""

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
    # every operation of a writer fails with each of two errors, nightly every pair of them besides; so many at least
    "failing operations": {CHANGE: 20, NIGHTLY: 200},
    # of all parsers together
    "malformed inputs": {CHANGE: 20_000, NIGHTLY: 2_000_000},
}

at_each_size = pytest.mark.parametrize(
    "size", [CHANGE, pytest.param(NIGHTLY, marks=[pytest.mark.nightly, pytest.mark.timeout(6 * 3600)])]
)
"""A test at both sizes; the argument `size` says which."""
