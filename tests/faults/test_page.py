"""docs/reliability.md is what was counted, and what was counted is enough."""

import json

import page
import parsers
import pytest
import test_crashstates
import test_io
import test_kill
import test_longruns


@pytest.fixture
def counts():
    return json.loads(page.COUNTS.read_text())


def test_the_page_is_what_was_counted(counts):
    assert page.PAGE.read_text() == page.page(counts), "run tests/faults/page.py"
    assert all(number >= least for _, _, number, least, _ in page.figures(counts))


def test_every_case_was_counted(counts):
    assert counts["kills"].keys() == test_kill.TARGETS.keys()
    assert counts["kills of commands"].keys() == {*test_kill.COMMANDS, "curate"}
    assert counts["crash states"].keys() == test_crashstates.CASES.keys()
    assert counts["I/O faults"].keys() > test_io.IO_CASES.keys()
    assert counts["malformed"].keys() == parsers.PARSERS.keys() == page.PARSERS.keys()
    assert counts["long runs"].keys() > {name.replace("_", " ") for name in test_longruns.PROMISES}
    every = {*test_crashstates.MUTANTS, *test_io.IO_MUTANTS, *test_kill.MUTANTS, *test_longruns.MUTANTS}
    assert counts["mutants"].keys() > every


def test_every_fault_names_tests_and_counts_that_there_are(counts):
    for fault, _, tests, tried in page.FAULTS:
        for name in tests.split(", "):
            assert page.COUNTS.with_name(name).exists()
        for name in tried:
            assert name in page.TRIES.keys() & counts.keys() or name in counts["long runs"], (fault, name)


def test_too_few_cases_are_told(counts):
    counts["malformed"].popitem()
    assert any("FEWER THAN 20,000" in line for line in page.printed(counts))
