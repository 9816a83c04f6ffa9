"""Documents and lines that come again are found, whichever task they are in, and nothing else is."""

import random
import re

import numpy as np
import pytest

from idiolect.errors import UserError
from idiolect.text.duplicates import deduplicate, minhash
from idiolect.text.duplicates.deduplicate import REASONS
from idiolect.text.duplicates.keys import KeyWriter
from idiolect.text.duplicates.near import similarities
from idiolect.text.settings import CurateSettings

ALL = CurateSettings().model_copy(update={"lines": CurateSettings().lines.model_copy(update={"drop": True})})
WORDS = [f"{a}{b}{c}" for a in "bdfgk" for b in "aeiou" for c in "lmnrstx"]


def settings(**levels):
    """Settings with only the levels that are named, each with its settings."""
    off = {level: {"drop": False} for level in ("url", "exact", "near", "lines")}
    return CurateSettings.model_validate(off | {level: {"drop": True} | about for level, about in levels.items()})


def decided(folder, documents, asked, cuts=()):
    """(reason, original) of every document, and the lines left out; tasks end at `cuts`."""
    bounds = [0, *cuts, len(documents)]
    tasks = []
    for number, (start, stop) in enumerate(zip(bounds, bounds[1:])):
        tasks.append(folder / f"task-{number}")
        writer = KeyWriter(tasks[-1], asked)
        for text, url in documents[start:stop]:
            writer.add(text, url)
        writer.close()
    out = folder / "out"
    out.mkdir()
    counts = deduplicate.decide(tasks, out, asked)
    reasons, lines = [], {}
    for number, start in enumerate(bounds[:-1]):
        found = deduplicate.decisions(out, number)
        reasons += [(REASONS[r], int(o)) for r, o in zip(found.reasons, found.originals)]
        lines |= {start + document: removed for document, removed in found.lines.items()}
        for document in range(len(found.reasons)):
            assert deduplicate.place(out, start + document) == (number, document)
    assert counts.documents == len(documents)
    assert counts.dropped == {name: sum(r == name for r, _ in reasons) for name in REASONS if name}
    assert counts.lines == sum(map(len, lines.values()))
    assert {path.name for path in out.iterdir()} <= {"reasons.npy", "originals.npy", "bounds.npy", "lines.bin"}
    return reasons, lines


def random_text(rng, words=120):
    return " ".join(rng.choices(WORDS, k=words))


def sets_of(text, words=5):
    """The shingles of a text as a set of tuples."""
    found = re.findall(r"[^\W_]+", text.lower())
    return {tuple(found[i : i + words]) for i in range(max(1, len(found) - words + 1))}


def similarity(one, two):
    return len(one & two) / len(one | two)


def changed(rng, text, words):
    """The text with that many words exchanged for new ones."""
    found = text.split(" ")
    for place in rng.sample(range(len(found)), words):
        found[place] = f"new{rng.randrange(10**9)}"
    return " ".join(found)


def test_levels_come_in_their_order_and_the_first_is_kept(tmp_path):
    one, two, three = (random_text(random.Random(seed)) for seed in range(3))
    documents = [
        (one, "http://a.org/x"),
        (two, "http://A.org:80/x/?utm_source=y"),  # the address of 0; so it is no reason to drop 2
        (two, "http://a.org/y"),
        (two + " ", None),  # the text of 2
        (one.upper(), None),  # nearly 0
        (three, None),
        (two.replace(" ", "\n\n"), ""),
    ]
    expected = [("", -1), ("duplicate address", 0), ("", -1), ("duplicate text", 2), ("near duplicate", 0), ("", -1)]
    expected.append(("duplicate text", 2))
    assert decided(tmp_path, documents, CurateSettings())[0] == expected


def test_each_level_has_its_switch(tmp_path):
    text = random_text(random.Random(1))
    documents = [(text, "http://a.org"), (text, "http://a.org/"), (text, None), (text.title(), None)]
    wanted = {
        "url": ["", "duplicate address", "", ""],
        "exact": ["", "duplicate text", "duplicate text", ""],
        "near": ["", "near duplicate", "near duplicate", "near duplicate"],
        "lines": [""] * 4,
    }
    for level, reasons in wanted.items():
        (tmp_path / level).mkdir()
        found, lines = decided(tmp_path / level, documents, settings(**{level: {}}))
        assert [reason for reason, _ in found] == reasons
        assert lines == ({1: [0], 2: [0]} if level == "lines" else {})


def test_texts_are_compared_in_one_spelling(tmp_path):
    documents = [
        ("Caf\u00e9 au  lait\n", None),
        ("Cafe\u0301 au\tlait", None),
        ("Cafe au lait", None),
        ("café au lait", None),
    ]
    found, _ = decided(tmp_path, documents, settings(exact={}))
    assert [reason for reason, _ in found] == ["", "duplicate text", "", ""]


def test_lines_that_come_again(tmp_path):
    long, other = "This line says what every page says.", "And this one is on two pages only, not more."
    documents = [
        (f"{long}\nshort\nfirst page of them all, with words\n{long}", None),
        (f"short\n  {long}  \nsecond page of them all, with words", None),
        (f"{other}\n{long}", "http://a.org"),
        (f"{other}\nthis page has the address of another", "http://a.org"),
        (other, None),
    ]
    asked = settings(url={}, lines={"min_characters": 20})
    found, lines = decided(tmp_path, documents, asked, cuts=[1, 2, 4])
    assert [reason for reason, _ in found] == ["", "", "", "duplicate address", ""]
    assert lines == {0: [3], 1: [1], 2: [1], 4: [0]}
    assert deduplicate.without_lines(documents[1][0], lines[1]) == "short\nsecond page of them all, with words"
    assert deduplicate.without_lines(documents[4][0], lines[4]) == ""


def test_nothing_is_no_error(tmp_path):
    assert decided(tmp_path, [], ALL) == ([], {})
    (tmp_path / "empty").mkdir()
    found, lines = decided(tmp_path / "empty", [("", None), ("...", None), ("", None)], ALL, cuts=[0, 1, 1])
    assert [reason for reason, _ in found] == ["", "", "duplicate text"] and not lines


@pytest.fixture(scope="module")
def planted():
    """Documents with changed copies of earlier ones at known similarities, in one order."""
    rng = random.Random(7)
    documents = [random_text(rng, rng.randrange(100, 200)) for _ in range(200)]
    copies = [changed(rng, documents[rng.randrange(200)], rng.randrange(1, 5)) for _ in range(400)]
    mixed = documents + copies
    rng.shuffle(mixed)
    return [(text, None) for text in mixed]


def test_near_duplicates_are_found_and_nothing_else(tmp_path, planted):
    found, _ = decided(tmp_path, planted, settings(near={}), cuts=[300])
    sets = [sets_of(text) for text, _ in planted]
    kept = [number for number, (reason, _) in enumerate(found) if not reason]
    owed = missed = 0
    for number, (reason, original) in enumerate(found):
        if reason:  # it repeats an earlier document that is kept
            assert original < number and found[original] == ("", -1)
            assert similarity(sets[number], sets[original]) >= 0.8
            owed += 1
        elif any(similarity(sets[number], sets[other]) >= 0.8 for other in kept if other < number):
            owed += 1
            missed += 1
    assert owed > 150 and missed <= 0.03 * owed


def test_one_task_decides_what_many_do(tmp_path, planted):
    results = []
    for number, cuts in enumerate(([], [1], [307, 307, 401], range(1, 600, 37))):
        (tmp_path / str(number)).mkdir()
        results.append(decided(tmp_path / str(number), planted, ALL, cuts))
    assert all(result == results[0] for result in results)


def test_ranges_and_windows_decide_what_one_range_does(tmp_path, planted, monkeypatch):
    lines = [(f"{text}\nA line that is on every page of the site.", None) for text, _ in planted]
    for folder in ("one", "many"):
        (tmp_path / folder).mkdir()
    whole = decided(tmp_path / "one", lines, ALL, cuts=[300])
    for name, size in (("keys.RUN", 101), ("keyranges.AT_ONCE", 211), ("deduplicate.LINES_AT_ONCE", 307)):
        monkeypatch.setattr(f"idiolect.text.duplicates.{name}", size)
    monkeypatch.setattr("idiolect.text.duplicates.near.DOCUMENTS_AT_ONCE", 13)
    assert decided(tmp_path / "many", lines, ALL, cuts=[300]) == whole
    assert len(whole[1]) > 300


def test_a_template_on_many_pages_hides_no_duplicates(tmp_path):
    """All pages share half their words, so every band has many of them; those that are nearly equal are still met."""
    rng = random.Random(3)
    template = random_text(rng, 150)
    pages = [f"{template} {random_text(rng, 60)}" for _ in range(600)]
    copies = [changed(rng, rng.choice(pages), 1) for _ in range(200)]
    found, _ = decided(tmp_path, [(text, None) for text in pages + copies], settings(near={}))
    assert sum(bool(reason) for reason, _ in found[:600]) == 0
    assert sum(bool(reason) for reason, _ in found[600:]) >= 190


def test_one_document_many_times_is_met_part_by_part(tmp_path, monkeypatch):
    """Its bands have more rows than are read at once, so all later parts meet the first document of the first."""
    monkeypatch.setattr("idiolect.text.duplicates.keyranges.AT_ONCE", 53)
    rng = random.Random(5)
    first, other = random_text(rng, 150), random_text(rng, 150)
    documents = [(f"{first} copy {number}", None) for number in range(300)]
    documents[200] = (other, None)
    found, _ = decided(tmp_path, documents, settings(near={}), cuts=[7, 150])
    expected = [("near duplicate", 0)] * 300
    expected[0] = expected[200] = ("", -1)
    assert found == expected


def test_bands_meet_as_often_as_they_should():
    """The share of pairs that share a band is 1 - (1 - J^rows)^bands; J is counted, not estimated."""
    rng = np.random.default_rng(5)
    bands, rows, size, pairs = 7, 3, 100, 2000
    for common in (60, 80, 90):
        drawn = rng.integers(0, 1 << 32, (pairs, 2 * size - common), np.uint64)
        one, two = drawn[:, :size], drawn[:, size - common :]
        keys = []
        for side in (one, two):
            elements, counts = minhash.sets(side.ravel() << np.uint64(32), np.full(pairs, size))
            keys.append(minhash.band_keys(elements, counts, bands, rows))
        similar = common / (2 * size - common)
        expected = 1 - (1 - similar**rows) ** bands
        assert (keys[0] == keys[1]).any(1).mean() == pytest.approx(expected, abs=0.04)


def test_similarities_by_hand():
    one, same, two, none, within = ([1, 2, 3, 5], [1, 2, 3, 5], [2, 3, 5, 7, 11], [4, 9], [5])
    sets = [np.array(elements, np.uint32) for elements in (same, two, none, within)]
    assert similarities(np.array(one, np.uint32), sets).tolist() == [1, 3 / 6, 0, 1 / 4]


def test_keys_that_are_not_whole_or_of_other_settings_are_refused(tmp_path):
    writer = KeyWriter(tmp_path / "keys", ALL)
    writer.add("some text", None)
    with pytest.raises(UserError, match="no whole set of keys"):
        deduplicate.decide([tmp_path / "keys"], tmp_path, ALL)
    writer.close()
    with pytest.raises(UserError, match="other settings"):
        deduplicate.decide([tmp_path / "keys"], tmp_path, settings(near={"rows": 5}))
