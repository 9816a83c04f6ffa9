"""DC5: whom the toxicity filter flags is shown, by slice and with intervals, before it may drop anything."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from idiolect import api
from idiolect.errors import Exit, UserError

WORDS = ["time", "way", "year", "work", "day", "part", "case", "group", "place", "point", "fact", "hand"]
PLANTED = {"one": (400, 20), "other": (400, 60), "rare": (7, 1)}
"""Dialect → documents, and how many of them hold a listed word: three times as many in the second."""


def prose(draw: random.Random, *more: str) -> str:
    words = [*(f"{draw.choice(WORDS)}{draw.randrange(10**6)}" for _ in range(30)), *more]
    draw.shuffle(words)
    return " ".join(words)


@pytest.fixture
def heap(tmp_path: Path) -> list[str]:
    """Writes the documents and the word list; the overrides that ask for the filter."""
    draw = random.Random(5)
    rows = [
        {"dialect": dialect, "text": prose(draw, *["frightful"] * (number < flagged))}
        for dialect, (documents, flagged) in PLANTED.items()
        for number in range(documents)
    ]
    draw.shuffle(rows)
    (tmp_path / "heap.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "words.txt").write_text("Frightful\n")
    return ['curate.filters=["toxicity"]', f"curate.toxicity.words={tmp_path / 'words.txt'}"]


def test_DC5_the_filter_drops_nothing_without_a_report_by_slice(tmp_path: Path, heap: list[str]) -> None:
    given, out = [tmp_path / "heap.jsonl"], tmp_path / "corpus"
    with pytest.raises(UserError, match="no slices") as without:
        api.curate(given, out, overrides=heap, workers=1)
    assert without.value.code == Exit.BAD_INPUT
    asked = [*heap, 'curate.slices=["dialect"]']
    with pytest.raises(UserError, match="before its flags were seen") as unseen:
        api.curate(given, out, overrides=asked, workers=1)
    assert "--dry-run" in unseen.value.mend and not out.exists()

    api.curate(given, out, overrides=asked, dry_run=True, workers=1)
    report = json.loads((out / "report.json").read_text())
    assert not (out / "text").exists()  # nothing was made yet
    rows = {row["value"]: row for row in report["slices"]["toxicity"]["dialect"]}
    assert {value: (row["documents"], row["flagged"]) for value, row in rows.items()} == PLANTED
    one, other, rare = rows["one"], rows["other"], rows["rare"]
    assert other["rate"] / one["rate"] == pytest.approx(3)
    # Wilson's intervals of 20 and of 60 in 400, by scipy
    assert (one["low"], one["high"]) == pytest.approx((0.032597, 0.075964), abs=1e-6)
    assert (other["low"], other["high"]) == pytest.approx((0.118345, 0.188314), abs=1e-6)
    assert other["stands_out"] and not one["stands_out"] and not rare["stands_out"]
    page = (out / "report.html").read_text()
    assert "11.8% – 18.8%" in page and "more than the others" in page

    with pytest.raises(UserError, match="before its flags were seen"):  # that report is of other settings
        api.curate(given, out, overrides=[*asked, "curate.near.drop=false"], workers=1)
    made = api.curate(given, out, overrides=asked, workers=1)
    assert made["dropped"] == {"listed word": 81} and made["documents_out"] == 807 - 81


def test_DC5_other_text_needs_another_report(tmp_path: Path, heap: list[str]) -> None:
    given, out, asked = [tmp_path / "heap.jsonl"], tmp_path / "corpus", [*heap, 'curate.slices=["dialect"]']
    api.curate(given, out, overrides=asked, dry_run=True, workers=1)
    with open(given[0], "a") as file:
        file.write(json.dumps({"dialect": "one", "text": prose(random.Random(6))}) + "\n")
    with pytest.raises(UserError, match="before its flags were seen"):
        api.curate(given, out, overrides=asked, workers=1)
