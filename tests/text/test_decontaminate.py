"""Evaluation sets are found in documents: sequences of words that an example and a document share."""

import json
import os
import random
from pathlib import Path

import pytest
from pydantic import ValidationError

from idiolect.errors import UserError
from idiolect.text.document import Document, Drop
from idiolect.text.filtering.decontaminate import Overlap, evaluation_sets, short_names
from idiolect.text.filtering.filters import FILTERS, Resources
from idiolect.text.filtering.page import Page
from idiolect.text.settings import CurateSettings, DecontaminateSettings

WORDS = [
    *("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve", "thirteen"),
    *("fourteen", "fifteen"),
]


def written(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def found(text, *against, **settings):
    return evaluation_sets(DecontaminateSettings(against=against, **settings)).found(text).tolist()


def test_thirteen_words_in_a_row_overlap_and_twelve_do_not(tmp_path):
    against = written(tmp_path / "a.jsonl", {"question": " ".join(WORDS), "answer": "yes"})
    before, after = "before it there is other text", "and after it there is more"
    for start, stop, overlaps in ((0, 13, True), (2, 15, True), (0, 12, False), (3, 15, False), (0, 15, True)):
        assert found(f"{before} {' '.join(WORDS[start:stop])} {after}", against) == [0] * overlaps
    broken = " ".join([*WORDS[:7], "other", *WORDS[7:]])
    assert found(broken, against) == []
    assert found(broken, against, words=8, min_words=1) == [0]


def test_case_punctuation_and_spacing_make_no_difference(tmp_path):
    against = written(tmp_path / "a.jsonl", {"text": " ".join(WORDS)})
    assert found("; ".join(WORDS).upper(), against) == [0]
    assert found("\n\n- ".join(WORDS), against) == [0]


def test_a_shorter_example_must_be_there_as_a_whole(tmp_path):
    eight, seven = " ".join(WORDS[:8]), " ".join(WORDS[:7])
    against = written(tmp_path / "a.jsonl", {"q": eight}, {"q": seven}, {"q": "", "n": 3})
    assert found(f"so {eight}!", against) == [0]
    assert found(f"so {seven}!", against) == []
    assert evaluation_sets(DecontaminateSettings(against=(against,))).short == [2]


def test_texts_of_an_example_count_by_themselves_unless_all_are_short(tmp_path):
    a, b, c = WORDS[:8], WORDS[8:13], WORDS[:5]
    against = written(
        tmp_path / "a.jsonl", {"q": " ".join(a), "a": [" ".join(b)]}, {"q": " ".join(b), "a": " ".join(c)}
    )
    assert found(" ".join(a), against) == [0]
    assert found(" ".join(b + c), against) == [1]
    assert found(" ".join(b), against) == []


def test_an_example_in_two_sets_is_found_in_both(tmp_path):
    one = written(
        tmp_path / "a.jsonl", {"q": "nothing of this is anywhere else at all, or is it"}, {"q": " ".join(WORDS)}
    )
    (tmp_path / "b.txt").write_text("A first paragraph with some eight words in it.\n\n" + ", ".join(WORDS) + "\n")
    sets = evaluation_sets(DecontaminateSettings(against=(one, str(tmp_path / "b.txt"))))
    assert [sets.place(number) for number in sets.found(" ".join(WORDS)).tolist()] == [
        ("a.jsonl", 1),
        ("b.txt", 1),
    ]


def test_the_filter_names_set_and_example(tmp_path):
    against = written(
        tmp_path / "quiz.jsonl", {"q": "eight words that nobody writes twice by chance"}, {"q": " ".join(WORDS)}
    )
    settings = CurateSettings.model_validate({"filters": ["decontaminate"], "decontaminate": {"against": [against]}})
    filter_ = FILTERS["decontaminate"](settings, Resources())
    assert filter_(Page(Document("See: " + " ".join(WORDS), "d:0", "d"))) == Drop("overlaps quiz.jsonl", 1)
    assert filter_(Page(Document("Nothing of it.", "d:1", "d"))) is None


def test_the_filter_needs_sets_that_can_be_read(tmp_path):
    with pytest.raises(ValidationError, match="decontaminate.against"):
        CurateSettings(filters=("decontaminate",))
    with pytest.raises(ValidationError, match="more than decontaminate.words"):
        DecontaminateSettings(words=7)
    with pytest.raises(UserError, match="does not exist"):
        found("text", str(tmp_path / "no.jsonl"))
    (tmp_path / "bad.jsonl").write_text('{"q": "fine"}\n{"q": \n')
    with pytest.raises(UserError, match="row 2: not JSON"):
        found("text", str(tmp_path / "bad.jsonl"))


def test_counts_of_tasks_add_up(tmp_path):
    rng = random.Random(1)
    rows = [" ".join(f"w{rng.randrange(10**6)}" for _ in range(20)) for _ in range(31)]
    settings = DecontaminateSettings(against=(written(tmp_path / "a.jsonl", *({"q": row} for row in rows)),))
    documents = [f"{rows[n]} and {rows[n + 1]}" for n in range(0, 22, 2)] + rows[:5] + ["something else"] * 7
    whole, first, second = Overlap(settings), Overlap(settings), Overlap(settings)
    for number, text in enumerate(documents):
        whole.add(text)
        (first if number % 3 else second).add(text)
    first.merge(json.loads(json.dumps(second.counted())))
    assert first.counted() == whole.counted()
    assert whole.report()["a.jsonl"] == {
        "examples": 31,
        "short": 0,
        "found": 22,
        "overlap": 22 / 31,
        "documents": 16,
    }


def test_a_set_that_was_written_anew_is_read_anew(tmp_path):
    against = written(tmp_path / "a.jsonl", {"q": " ".join(WORDS)})
    assert found(" ".join(WORDS), against) == [0]
    os.utime(written(tmp_path / "a.jsonl", {"q": "other"}), ns=(1, 1))
    assert found(" ".join(WORDS), against) == []


def test_files_of_one_name_are_told_apart_by_their_folders():
    paths = [Path("/sets/quiz/test.jsonl"), Path("/sets/exam/test.jsonl"), Path("/sets/exam/train.jsonl")]
    assert short_names(paths) == ["quiz/test.jsonl", "exam/test.jsonl", "exam/train.jsonl"]
    assert short_names(paths[1:]) == ["test.jsonl", "train.jsonl"]
    assert short_names([]) == []
