"""DC2: what each filter kept and dropped, in documents and tokens; what survives; the reasons; thresholds.

The expected rows are counted by hand over documents that were written to pass or to fail one filter each.
"""

from __future__ import annotations

import json
import random
from pathlib import Path

import duckdb
import pytest

from idiolect import api, config
from idiolect.recipes.curate import load_curation

NOUNS = ["time", "way", "year", "work", "day", "part", "case", "group", "place", "point", "fact", "hand", "house"]
VERBS = ["keeps", "holds", "finds", "makes", "takes", "sees", "knows", "turns"]


def prose(number: int, sentences: int = 12) -> str:
    """Sentences of nine words that tell two texts apart."""
    draw = random.Random(number)
    some = (draw.choice(NOUNS) + draw.choice(NOUNS) for _ in range(9999))
    return " ".join(
        f"The {next(some)} of the {next(some)} {draw.choice(VERBS)} that {next(some)} with." for _ in range(sentences)
    )


GOOD = [prose(number) for number in range(11)]  # 108 words each
BAD = {
    "few words": [prose(100, 5), prose(101, 4)],  # 45 and 36 words
    "few common words": [" ".join(NOUNS * 4 + VERBS)],  # 60 words
    "frequent run of 2 words": [prose(102, 6) + " call now" * 40],  # 54 + 80 words
    "curly bracket": [prose(103) + " while (true) { i++; }"],  # 108 + 5 words
    "few sentences": [prose(104, 12).replace(".", "")],  # 108 words
    "many short lines": ["\n".join(f"The {a} of {b} with {c}." for a, b, c in zip(NOUNS, NOUNS[1:], NOUNS[2:]))],  # 66
}
FILTERS = ("gopher_quality", "gopher_repetition", "c4", "fineweb")
DROPPED = {
    "gopher_quality": {"few words": (2, 81), "few common words": (1, 60)},
    "gopher_repetition": {"frequent run of 2 words": (1, 134)},
    "c4": {"curly bracket": (1, 113), "few sentences": (1, 108)},
    "fineweb": {"many short lines": (1, 66)},
}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    folder = tmp_path_factory.mktemp("DC2")
    texts = [*GOOD, *(text for some in BAD.values() for text in some)]
    random.Random(0).shuffle(texts)
    (folder / "heap.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    asked = [f"curate.filters={json.dumps(FILTERS)}"]
    return folder / "corpus", api.curate([folder / "heap.jsonl"], folder / "corpus", overrides=asked, workers=1)


def test_DC2_every_filter_has_its_row(corpus: tuple[Path, dict]) -> None:
    report = json.loads((corpus[0] / "report.json").read_text())
    found = {(row["step"], row["reason"]): (row["documents"], row["tokens"]) for row in report["dropped_by"]}
    assert found == {(step, reason): sizes for step, some in DROPPED.items() for reason, sizes in some.items()}
    left = {row["step"]: (row["documents"], row["tokens"]) for row in report["funnel"]}
    whole = 18, 11 * 108 + 81 + 60 + 134 + 113 + 108 + 66
    assert left["read"][0] == whole[0] and left["written cleanly"] == whole
    for step in FILTERS:
        for documents, tokens in DROPPED[step].values():
            whole = whole[0] - documents, whole[1] - tokens
        assert left[step] == whole
    assert left["the corpus"] == (11, 11 * 108)


def test_DC2_what_survives_is_said(corpus: tuple[Path, dict]) -> None:
    folder, result = corpus
    assert (result["documents_in"], result["documents_out"]) == (18, 11)
    page = (folder / "report.html").read_text()
    assert "61.1%" in page  # 11 of 18
    assert all(name in page for name in FILTERS)


def test_DC2_what_was_dropped_is_kept_with_its_reason(corpus: tuple[Path, dict]) -> None:
    rows = duckdb.execute(f"SELECT text, step, reason FROM read_parquet('{corpus[0]}/dropped/*.parquet')").fetchall()
    by_text = {text: (step, reason) for text, step, reason in rows}
    steps = {reason: step for step, reasons in DROPPED.items() for reason in reasons}
    assert by_text == {text: (steps[reason], reason) for reason, some in BAD.items() for text in some}


def test_DC2_thresholds_are_in_the_recipe(corpus: tuple[Path, dict], tmp_path: Path) -> None:
    text = config.dump(load_curation("curate"))
    for line in ("min_words = 50", "max_symbols = 0.1", "top_runs = [0.2, 0.18, 0.16]", "min_sentences = 3"):
        assert line in text
    asked = ['curate.filters=["gopher_quality"]', "curate.gopher_quality.min_words=45"]
    result = api.curate([corpus[0].with_name("heap.jsonl")], tmp_path / "other", overrides=asked, workers=1)
    assert result["dropped"]["few words"] == 1  # that of 36 words only
