"""DC3: duplicates at the level of address, document and line: all that were planted are found, and nothing else.

Near duplicates are planted at similarities that Python's own sets give, so that none is a matter of the method.
"""

import random
import re
import unicodedata

import numpy as np
import pytest

from idiolect.text.duplicates import deduplicate
from idiolect.text.duplicates.keys import KeyWriter
from idiolect.text.settings import CurateSettings

TASKS = 7
WORDS = [f"{a}{b}{c}{d}" for a in "bdfgklmnprst" for b in "aeiouéü" for c in "lmnrst" for d in "aeio"]
SITE = "https://www.example.org"


def text(rng, words=101, lines=11):
    """Random words in lines, each line long enough to count."""
    found = rng.choices(WORDS, k=words)
    cuts = sorted(rng.sample(range(5, words - 4, 5), lines - 1))
    return "\n".join(" ".join(found[a:b]) for a, b in zip([0, *cuts], [*cuts, words]))


def spellings(rng, page):
    """Other ways to write an address."""
    return rng.choice(
        [
            f"HTTPS://WWW.Example.org/{page}?b=1&a=2",
            f"{SITE}:443/{page}?a=2&b=1",
            f"{SITE}/{page}/?a=2&b=1",
            f"{SITE}/{page}?a=2&b=1#part-{rng.randrange(99)}",
            f"{SITE}/{page}?a=2&utm_source=s{rng.randrange(99)}&b=1&fbclid={rng.randrange(99)}",
        ]
    )


def respaced(rng, one):
    """The same text with other white space, or taken apart into base letters and accents."""
    if rng.random() < 0.5:
        return unicodedata.normalize("NFD", one)
    return "\r\n\r\n".join(re.sub(" ", "  ", line) for line in one.split("\n")) + "\n"


def decided(folder, documents, settings):
    """The reason of every document and the lines left out, the documents dealt to several tasks."""
    bounds = [len(documents) * task // TASKS for task in range(TASKS + 1)]
    tasks = [folder / f"{task}" for task in range(TASKS)]
    for task, start, stop in zip(tasks, bounds, bounds[1:]):
        writer = KeyWriter(task, settings)
        for one, url in documents[start:stop]:
            writer.add(one, url)
        writer.close()
    (folder / "out").mkdir()
    deduplicate.decide(tasks, folder / "out", settings)
    reasons, lines = [], {}
    for task, start in enumerate(bounds[:-1]):
        found = deduplicate.decisions(folder / "out", task)
        reasons += [deduplicate.REASONS[reason] for reason in found.reasons]
        lines |= {start + document: removed for document, removed in found.lines.items()}
    return reasons, lines


def only(level, **about):
    """Settings with one level switched on."""
    levels = {name: {"drop": name == level} for name in ("url", "exact", "near", "lines")}
    return CurateSettings.model_validate(levels | {level: {"drop": True} | about})


def in_any_order(rng, firsts, repeats):
    """(documents, whether each repeats an earlier one): the first ones and their repeats, mixed."""
    mixed = [(0, one) for one in firsts] + [(1, one) for one in repeats]
    rng.shuffle(mixed)
    seen, planted = set(), []
    for _, (of, _) in mixed:
        planted.append(of in seen)
        seen.add(of)
    return [document for _, (_, document) in mixed], planted


def test_DC3_addresses(tmp_path):
    rng = random.Random(1)
    firsts = [(n, (text(rng), f"{SITE}/{n}?a=2&b=1")) for n in range(211)]
    repeats = [(n, (text(rng), spellings(rng, n))) for n in rng.choices(range(211), k=101)]
    firsts += [(1000 + n, (text(rng), None)) for n in range(53)]
    firsts += [(2000 + n, (text(rng), f"{SITE}/{n}?a=2&b=2")) for n in range(53)]
    documents, planted = in_any_order(rng, firsts, repeats)
    reasons, _ = decided(tmp_path, documents, only("url"))
    assert reasons == ["duplicate address" if one else "" for one in planted]


def test_DC3_documents(tmp_path):
    rng = random.Random(2)
    texts = [text(rng) for _ in range(211)]
    firsts = [(n, (one, f"{SITE}/{n}")) for n, one in enumerate(texts)]
    firsts += [(1000 + n, (one.replace("e", "i", 1), None)) for n, one in enumerate(texts[:53])]
    repeats = [(n, (respaced(rng, texts[n]), None)) for n in rng.choices(range(211), k=101)]
    documents, planted = in_any_order(rng, firsts, repeats)
    reasons, _ = decided(tmp_path, documents, only("exact"))
    assert reasons == ["duplicate text" if one else "" for one in planted]


def test_DC3_lines(tmp_path):
    rng = random.Random(3)
    seen, expected, documents = set(), {}, []
    boilerplate = [" ".join(rng.choices(WORDS, k=7)) for _ in range(13)]
    for number in range(211):
        lines = text(rng).split("\n")
        for line in rng.sample(boilerplate, 2):
            lines.insert(rng.randrange(len(lines)), f" {line}" if rng.random() < 0.5 else line)
        lines.insert(rng.randrange(len(lines)), "* * *")
        for place, line in enumerate(lines):
            if line.strip() in seen and len(line.strip()) >= 20:
                expected.setdefault(number, []).append(place)
            seen.add(line.strip())
        documents.append(("\n".join(lines), None))
    assert sum(map(len, expected.values())) >= 2 * 211 - len(boilerplate)
    reasons, lines = decided(tmp_path, documents, only("lines"))
    assert lines == expected and not any(reasons)


def shingles(one):
    """The sequences of five words of a text."""
    words = re.findall(r"\w+", one.lower())
    return {tuple(words[i : i + 5]) for i in range(len(words) - 4)}


@pytest.fixture(scope="module")
def pairs():
    """(one, other, similarity): texts with the same words at one end, of similarities between 0.55 and 0.98."""
    rng = random.Random(4)
    found = []
    for number in range(1500):
        words = rng.choices(WORDS, k=211)
        share = int(211 * rng.uniform(0.72, 0.99))
        other = words[:share] + rng.choices(WORDS, k=211 - share)
        one, other = " ".join(words), " ".join(other)
        a, b = shingles(one), shingles(other)
        found.append((one, other, len(a & b) / len(a | b)))
    return found


@pytest.mark.parametrize("threshold", [0.8, 0.6])
def test_DC3_near_duplicates(tmp_path, pairs, threshold):
    documents = [(one, None) for one, _, _ in pairs] + [(other, None) for _, other, _ in pairs]
    reasons, _ = decided(tmp_path, documents, only("near", threshold=threshold))
    assert not any(reasons[: len(pairs)])
    dropped = np.array([bool(reason) for reason in reasons[len(pairs) :]])
    similarity = np.array([similar for *_, similar in pairs])
    owed = similarity >= threshold
    assert owed.sum() > 300 and (~owed).sum() > 150
    assert not dropped[~owed].any()
    assert dropped[similarity >= 0.8].mean() >= 0.97
    if threshold < 0.8:  # by Leskovec et al., chapter 3, with the default bands and rows
        there = (similarity >= 0.65) & (similarity < 0.75)
        near = CurateSettings().near
        expected = 1 - (1 - similarity[there] ** near.rows) ** near.bands
        assert dropped[there].mean() == pytest.approx(expected.mean(), abs=0.06)
