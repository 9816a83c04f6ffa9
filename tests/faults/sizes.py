"""How much every fault test does for a change (`make test`) and at length (`make nightly`)."""

import pytest

CHANGE, NIGHTLY = "change", "nightly"

SIZES = {
    "kills": {CHANGE: 60, NIGHTLY: 1000},
    # of each writer
    "crash states": {CHANGE: 3000, NIGHTLY: 100_000},
    # of all artefacts together
    "corruptions": {CHANGE: 3000, NIGHTLY: 100_000},
    # at least, over all writers; nightly every pair of a writer's besides
    "failing operations": {CHANGE: 500, NIGHTLY: 500},
    # of all parsers together
    "malformed inputs": {CHANGE: 20_000, NIGHTLY: 2_000_000},
}

at_each_size = pytest.mark.parametrize(
    "size", [CHANGE, pytest.param(NIGHTLY, marks=[pytest.mark.nightly, pytest.mark.timeout(6 * 3600)])]
)
"""A test at both sizes; the argument `size` says which."""
