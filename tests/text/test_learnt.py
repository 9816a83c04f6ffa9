"""The filters that learn first: quality, toxicity and perplexity."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from idiolect.errors import UserError
from idiolect.text.curation.sift import Job, Part, sample
from idiolect.text.document import Document, Drop
from idiolect.text.filtering.classifier import passages
from idiolect.text.filtering.filters import FILTERS, LEARN, NEED_SLICES, Resources
from idiolect.text.filtering.learnt import Listed
from idiolect.text.filtering.page import Filter, Page
from idiolect.text.settings import CurateSettings

SMALL = {"bits": 12, "epochs": 3, "passages": 500}
NOUNS = ("river", "house", "garden", "letter", "winter", "window", "mountain")
GOOD = [f"The {a} stood by the {b}, and the {c} was quiet." for a in NOUNS for b in NOUNS for c in NOUNS]
BAD = [f"{c} {b} BUY {a} now now {b} !!! {a}" for a in NOUNS for b in NOUNS for c in NOUNS]


def page(text: str, id: str = "t:0") -> Page:
    return Page(Document(text, id, "t"))


def made(name: str, folder: Path, heap: list[str], model: object = None, **settings: object) -> tuple[Filter, dict]:
    """The filter after it has learnt, and what it said of it."""
    checked = CurateSettings(filters=[name], classifier=SMALL, **{name: settings})
    resources = Resources(folder, model)  # type: ignore[arg-type]
    about = LEARN[name](checked, resources, lambda: iter(heap))
    return FILTERS[name](checked, resources), about


@pytest.fixture
def good(tmp_path: Path) -> tuple[str, ...]:
    path = tmp_path / "good.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in GOOD[::2]))
    return (str(path),)


def test_quality_keeps_what_is_like_the_good_text(tmp_path: Path, good: tuple[str, ...]) -> None:
    judge, about = made("quality", tmp_path, BAD[::2], good=good)
    assert about["auc"] > 0.99 and about["good"] == len(GOOD[::2])
    assert [judge(page(text)) for text in GOOD[1::2]] == [None] * len(GOOD[1::2])
    for text in BAD[1::2]:
        reason, value = judge(page(text)) or Drop("kept")
        assert reason == "unlike the good text" and isinstance(value, float) and 0 <= value < 0.5


def test_quality_keeps_good_documents_of_the_heap_it_learns_from(tmp_path: Path) -> None:
    """Half of the heap is prose; a classifier would know it again as heap had it learnt the very documents."""
    from pydoc_data.topics import topics

    draw = random.Random(3)
    texts = list(passages((topics[name] for name in sorted(topics)), 1500))
    draw.shuffle(texts)
    third = len(texts) // 3
    (tmp_path / "good.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts[:third]))
    junk = [" ".join(draw.sample(text.split(), len(text.split()))) for text in texts[third : 2 * third]]
    heap = [*texts[2 * third :], *junk]
    judge, about = made("quality", tmp_path, heap, good=[str(tmp_path / "good.jsonl")])
    dropped = [judge(page(text)) is not None for text in heap]
    rest = len(texts) - 2 * third
    assert sum(dropped[:rest]) < 0.3 * rest and sum(dropped[rest:]) > 0.95 * third
    assert 0.6 < about["auc"] < 0.9  # half of what it is measured on is good and called bad


def test_quality_by_chance_keeps_some_of_the_rest(tmp_path: Path, good: tuple[str, ...]) -> None:
    """GPT-3's rule: of documents of probability p, the share (2 - p)^-alpha is kept, the same ones each time."""
    judge, _ = made("quality", tmp_path, BAD[::2], good=good, rule="pareto", alpha=1.0)
    certain, _ = made("quality", tmp_path, BAD[::2], good=good, threshold=1.0)
    text = BAD[1]
    value = certain(page(text))[1]  # type: ignore[index]
    kept = [judge(page(text, f"t:{i}")) is None for i in range(4000)]
    assert abs(sum(kept) / 4000 - 1 / (2 - float(value))) < 0.04  # 5 standard deviations
    assert kept == [judge(page(text, f"t:{i}")) is None for i in range(4000)]


def test_the_heap_is_learnt_as_it_is_judged(tmp_path: Path) -> None:
    """Which half a document is of hangs on its text, so lines that are taken out are taken out before."""
    (tmp_path / "heap.jsonl").write_text(json.dumps({"text": "A  menu\nHere are five words and more."}) + "\n")
    job = Job("key", tmp_path, CurateSettings(clean=["c4"]), Resources(), len, False)
    part = Part(0, (("heap", str(tmp_path / "heap.jsonl"), "heap.jsonl", 0, None),))
    assert list(sample(job, [part])) == ["Here are five words and more."]


def test_quality_needs_good_text(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no good text"):
        made("quality", tmp_path, BAD)


@pytest.fixture
def words(tmp_path: Path) -> str:
    path = tmp_path / "words.txt"
    path.write_text("Blasted\n\n double Dutch\nx-rated\n猥亵\n", encoding="utf-8")
    return str(path)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("What a BLASTED day", "blasted"),
        ("either/blasted.or", "blasted"),
        ("He was unblasted, the blastedest.", None),
        ("all double\nDutch to me", "double dutch"),
        ("double the Dutch", None),
        ("A double, and a double-Dutch", None),
        ("(X-Rated)", "x - rated"),
        ("這是猥亵的", "猥亵"),
        ("", None),
    ],
)
def test_listed_words(tmp_path: Path, words: str, text: str, word: str | None) -> None:
    judge, about = made("toxicity", tmp_path, [], words=words)
    assert about == {}
    assert judge(page(text)) == (Drop("listed word", word) if word else None)


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=200))
def test_listed_words_are_looked_for_in_any_text(listed: Listed, text: str) -> None:
    found = listed.first(page(text))
    assert found in (None, "a b", "c", "鬼")
    assert listed.first(page(f"{text} C {text}")) is not None


@pytest.fixture(scope="module")
def listed(tmp_path_factory: pytest.TempPathFactory) -> Listed:
    path = tmp_path_factory.mktemp("words") / "words.txt"
    path.write_text("a b\nc\n鬼\n", encoding="utf-8")
    return Listed(path)


def test_a_classifier_of_labelled_texts(tmp_path: Path) -> None:
    path = tmp_path / "labelled.csv"
    rows = [
        f'"{text}",{label}' for text, label in [*((t, "fine") for t in GOOD[::2]), *((t, "rude") for t in BAD[::2])]
    ]
    path.write_text("\n".join(["comment,kind", *rows]) + "\n")
    judge, about = made(
        "toxicity", tmp_path, [], labelled=str(path), text_field="comment", label_field="kind", label="rude"
    )
    assert about["auc"] > 0.99
    assert all(judge(page(text)) is None for text in GOOD[1::2])
    assert all(judge(page(text))[0] == "toxic" for text in BAD[1::2])  # type: ignore[index]


def test_toxicity_needs_something_to_go_by(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="neither words nor labelled texts"):
        made("toxicity", tmp_path, [])
    (tmp_path / "empty.txt").write_text("\n \n")
    with pytest.raises(UserError, match="holds no words"):
        made("toxicity", tmp_path, [], words=str(tmp_path / "empty.txt"))
    with pytest.raises(ValueError, match="both"):
        CurateSettings(toxicity={"text_field": "label"})
    assert "toxicity" in NEED_SLICES


def words_of(text: str) -> float:
    """A stand-in of a model: as many words, as much perplexity."""
    return float(text) if text != "impossible" else math.inf


def test_perplexity_between_two_limits(tmp_path: Path) -> None:
    judge, about = made("perplexity", tmp_path, [], words_of, min=10.0, max=99.5)
    assert about == {"max": 99.5}
    assert judge(page("10")) is None and judge(page("9.9")) == Drop("low perplexity", 9.9)
    assert judge(page("99.5")) is None and judge(page("99.6")) == Drop("high perplexity", 99.6)
    assert judge(page("impossible")) == Drop("high perplexity", "infinite")


def test_perplexity_of_a_share(tmp_path: Path) -> None:
    heap = [str(number) for number in range(1, 41)]
    judge, about = made("perplexity", tmp_path, heap, words_of, keep=0.3)
    assert about == {"max": 12, "documents": 40}
    assert judge(page("12")) is None and judge(page("13")) == Drop("high perplexity", 13)
    judge, about = made("perplexity", tmp_path, heap, words_of, keep=0.3, max=5.0)
    assert about["max"] == 5


def test_perplexity_is_measured_on_some(tmp_path: Path) -> None:
    asked = []

    def model(text: str) -> float:
        asked.append(text)
        return float(text)

    def heap() -> Iterator[str]:
        yield from (str(number) for number in range(5000))

    settings = CurateSettings(filters=["perplexity"], perplexity={"keep": 0.5, "documents": 100})
    about = LEARN["perplexity"](settings, Resources(tmp_path, model), heap)
    assert len(asked) == about["documents"] == 100
    assert 1500 < about["max"] < 3500


def test_perplexity_needs_a_model(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no model"):
        made("perplexity", tmp_path, [])
    with pytest.raises(UserError, match="impossible"):
        made("perplexity", tmp_path, ["impossible"] * 3, words_of, keep=0.5)
    with pytest.raises(UserError, match="no text"):
        made("perplexity", tmp_path, [" "], words_of, keep=0.5)
