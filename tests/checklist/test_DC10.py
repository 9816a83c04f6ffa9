"""DC10: the overlap of every evaluation set with the training text, counted in sequences of words.

The expected numbers come from Python's own sets of tuples, over random words with planted overlaps.
"""

import json
import random
import re

import pytest

from idiolect.text.curation.curate import curate
from idiolect.text.document import Document
from idiolect.text.filtering.decontaminate import Overlap
from idiolect.text.filtering.filters import FILTERS, Resources
from idiolect.text.filtering.page import Page
from idiolect.text.settings import CurateSettings

WORDS = [
    "Ätna",
    "über",
    "don't",
    "3.14",
    "state-of-the-art",
    *(f"{a}{b}{c}" for a in "bdf" for b in "aeo" for c in "lmn"),
]


def grams(text, words=13):
    """The sequences of 13 words of a text."""
    found = re.findall(r"[^\W_]+", text.lower())
    return {tuple(found[i : i + words]) for i in range(len(found) - words + 1)}


def words(rng, number):
    return rng.choices(WORDS, k=number)


@pytest.fixture
def planted(tmp_path):
    """(settings, examples by set, documents): a third of the documents hold a piece of an example, altered or not."""
    rng = random.Random(1)
    sets = {}
    for name, size in (("quiz.jsonl", 101), ("exam.jsonl", 67)):
        examples = [" ".join(words(rng, rng.randrange(15, 60))) for _ in range(size)]
        rows = [{"id": n, "question": one, "answer": "B", "choices": ["A", "B"]} for n, one in enumerate(examples)]
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
        sets[name] = examples
    documents = []
    for number in range(300):
        inside = words(rng, rng.randrange(50, 200))
        if number % 3 == 0:
            example = rng.choice(sets[rng.choice(list(sets))]).split(" ")
            length = rng.randrange(9, 15)
            start = rng.randrange(len(example) - length + 1)
            place = rng.randrange(len(inside))
            inside[place:place] = [
                rng.choice([str, str.upper])(one) + rng.choice(["", ","]) for one in example[start : start + length]
            ]
        documents.append(rng.choice([" ", "\n", " - "]).join(inside))
    rng.shuffle(documents)
    about = {"filters": ["decontaminate"], "decontaminate": {"against": [str(tmp_path / name) for name in sets]}}
    return CurateSettings.model_validate(about), sets, documents


def test_DC10_overlap_of_every_evaluation_set(planted):
    settings, sets, documents = planted
    counted = Overlap(settings.decontaminate)
    for text in documents:
        counted.add(text)
    corpus = [grams(text) for text in documents]
    everything = set().union(*corpus)
    for name, report in counted.report().items():
        examples = [grams(one) for one in sets[name]]
        found = sum(bool(one & everything) for one in examples)
        assert 10 < found < len(examples)
        assert report["examples"] == len(examples) and report["short"] == 0
        assert report["found"] == found
        assert report["overlap"] == pytest.approx(found / len(examples))
        assert report["documents"] == sum(bool(one & set().union(*examples)) for one in corpus)


def test_DC10_a_filtered_corpus_overlaps_nothing(planted):
    settings, sets, documents = planted
    filter_ = FILTERS["decontaminate"](settings, Resources())
    everything = set().union(*(grams(one) for examples in sets.values() for one in examples))
    kept = [text for text in documents if filter_(Page(Document(text, "d:0", "d"))) is None]
    assert kept == [text for text in documents if not grams(text) & everything]
    assert 200 < len(kept) < 280
    after = Overlap(settings.decontaminate)
    for text in kept:
        after.add(text)
    assert all(report["found"] == report["documents"] == 0 for report in after.report().values())


@pytest.mark.parametrize("filters", [(), ("decontaminate",)])
def test_DC10_a_curation_reports_it(planted, tmp_path, filters):
    settings, sets, documents = planted
    (tmp_path / "heap.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in documents))
    about = {"filters": filters, "decontaminate": settings.decontaminate.model_dump(), "near": {"drop": False}}
    curate([tmp_path / "heap.jsonl"], tmp_path / "out", CurateSettings.model_validate(about), workers=1)
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    everything = set().union(*map(grams, documents))
    for name, examples in sets.items():
        assert report["overlap"][name]["found"] == sum(bool(grams(one) & everything) for one in examples)
    held = set().union(*(grams(one) for examples in sets.values() for one in examples))
    overlapping = sum(bool(grams(text) & held) for text in documents)
    assert report["documents_in"] - report["documents_out"] == (overlapping if filters else 0)
