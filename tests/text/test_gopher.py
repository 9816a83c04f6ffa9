"""Gopher's rules: just inside each threshold, and just outside."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from idiolect.text.document import Document, Drop
from idiolect.text.filtering import gopher
from idiolect.text.filtering.page import Page
from idiolect.text.settings import GopherQualitySettings, GopherRepetitionSettings

FILLER = ["".join(letters) for letters in product("bcdfg", repeat=3)]
"""125 words of three letters, all different, none of them common."""


def page(text: str) -> Page:
    return Page(Document(text, "t:0", "t"))


def quality(text: str, **settings: object) -> Drop | None:
    return gopher.quality(page(text), GopherQualitySettings(**settings))


def repetition(text: str, **settings: object) -> Drop | None:
    return gopher.repetition(page(text), GopherRepetitionSettings(**settings))


def prose(count: int, *more: str) -> str:
    """`count` words, two of them common, and what is given besides."""
    return " ".join(["the", "and", *FILLER[: count - 2], *more])


def test_words_are_counted_without_marks() -> None:
    assert quality(prose(50)) is None
    assert quality(prose(49)) == Drop("few words", 49)
    assert quality(prose(49, "!")) == Drop("few words", 49)
    assert quality(prose(53), max_words=53) is None
    assert quality(prose(54), max_words=53) == Drop("many words", 54)
    assert quality("", min_words=0) == Drop("few words", 0)


def test_mean_length_of_words() -> None:
    assert quality(prose(50), min_word_length=3) is None  # all have three letters
    assert quality(prose(49, "I")) == Drop("short words", 148 / 50)
    ten = ["b" * 10] * 50
    assert quality(" ".join(["the", "and", *ten, "c" * 24])) is None  # 3 + 3 + 500 + 24 = 530 letters in 53 words
    assert quality(" ".join(["the", "and", *ten, "c" * 25])) == Drop("long words", 531 / 53)


@pytest.mark.parametrize(("mark", "reason"), [("#", "many hashes"), ("…", "many ellipses")])
def test_symbols_per_word(mark: str, reason: str) -> None:
    assert quality(prose(53, *[mark] * 5), max_ellipsis_lines=1) is None  # 5 of 58 words and marks
    assert quality(prose(53, *[mark] * 6), max_ellipsis_lines=1) == Drop(reason, 6 / 59)


def in_lines(marked: int, *, before: str = "", after: str = "") -> str:
    """Ten lines of six words, the first `marked` of them with a mark."""
    words = prose(60).split()
    rows = [" ".join(words[i : i + 6]) for i in range(0, 60, 6)]
    return "\n".join(before * (i < marked) + row + after * (i < marked) for i, row in enumerate(rows))


def test_bullet_points() -> None:
    assert quality(in_lines(9, before=" • ")) is None
    assert quality(in_lines(10, before=" • ")) == Drop("many bullet points", 1.0)
    assert quality(in_lines(9, before="• ") + "\n\n \n") is None  # blank lines are none


@pytest.mark.parametrize("mark", ["…", "... "])
def test_lines_that_end_in_an_ellipsis(mark: str) -> None:
    assert quality(in_lines(3, after=mark)) is None
    assert quality(in_lines(4, after=mark)) == Drop("many lines end in an ellipsis", 0.4)


def test_words_with_letters() -> None:
    assert quality(prose(43, *["123"] * 10)) is None  # 43 of 53
    assert quality(prose(42, *["123"] * 11)) == Drop("few words with letters", 42 / 53)
    assert quality(prose(50, *["1st"] * 50)) is None  # one letter is enough
    assert quality(prose(50, *["!"] * 13)) == Drop("few words with letters", 50 / 63)


def test_common_words() -> None:
    assert quality(prose(50).replace("and", "cow")) == Drop("few common words", 1)
    assert quality(prose(50).replace("and", "the")) == Drop("few common words", 1)  # different ones count
    assert quality(prose(50).replace("and", "with")) is None
    assert quality(prose(50).replace("and", "cow"), common_words=["cow", "the"]) is None


def parts(separator: str, whole: int) -> str:
    """Four parts, the second of which is the first again, of `whole` characters."""
    rest = whole - 40 - 3 * len(separator) - 30
    return separator.join(["a" * 20, "a" * 20, "b" * 30, "c" * rest])


@pytest.mark.parametrize(("separator", "name"), [("\n\n", "paragraphs"), ("\n", "lines")])
def test_repeated_paragraphs_and_lines(separator: str, name: str) -> None:
    unique = [word * 9 for word in FILLER]
    assert repetition(separator.join(["x"] * 4 + unique[:6])) is None  # three of ten stood before
    assert repetition(separator.join(["x"] * 5 + unique[:5])) == Drop(f"repeated {name}", 0.4)
    assert repetition(parts(separator, 100)) is None  # 20 of 100 characters
    assert repetition(parts(separator, 99)) == Drop(f"characters in repeated {name}", 20 / 99)


@pytest.mark.parametrize(
    ("run", "times", "limit"), [("ab cd", 4, 0.2), ("ab cd", 2, 0.1), ("ab c ef", 3, 0.21), ("a b c de", 2, 0.16)]
)
def test_the_most_frequent_run(run: str, times: int, limit: float) -> None:
    n = run.count(" ") + 1
    limits = {"top_runs": [1.0] * (n - 2) + [limit], "repeated_runs": []}
    between = [word * 2 for word in FILLER[: times - 1]]
    text = " ".join(part for pair in zip([run] * times, [*between, ""]) for part in pair)
    exact = text + "z" * (100 - len(text))
    assert len(exact) == 100 and round(times * len(run)) == round(limit * 100)
    assert repetition(exact, **limits) is None
    assert repetition(exact[:-1], **limits) == Drop(f"frequent run of {n} words", times * len(run) / 99)


def test_a_run_that_comes_once_is_not_frequent() -> None:
    assert repetition("two words") is None


@pytest.mark.parametrize(("n", "limit"), [(5, 0.15), (7, 0.21), (10, 0.3)])
def test_runs_that_stood_before(n: int, limit: float) -> None:
    limits = {"top_runs": [1.0] * 3, "repeated_runs": [1.0] * (n - 5) + [limit]}
    run = " ".join(FILLER[:n])
    text = f"{run} xy {run} "
    exact = text + "z" * (100 - len(text))  # 3 n of 100 characters
    assert repetition(exact, **limits) is None
    assert repetition(exact[:-1], **limits) == Drop(f"repeated runs of {n} words", 3 * n / 99)


def test_no_character_counts_twice() -> None:
    """Eleven times "ab": the runs from the second and from the seventh word stood before; the others overlap them."""
    text = " ".join(["ab"] * 11)
    assert repetition(text, top_runs=[1.0] * 3, repeated_runs=[0.6]) == Drop("repeated runs of 5 words", 20 / 32)


def plainly(words: list[str], n: int) -> int:
    """The characters of runs of n words that stood before, as the rule says it."""
    seen: set[tuple[str, ...]] = set()
    place = characters = 0
    while place + n <= len(words):
        run = tuple(words[place : place + n])
        characters += sum(map(len, run)) if run in seen else 0
        place += n if run in seen else 1
        seen.add(run)
    return characters


@given(st.lists(st.sampled_from(["a", "bc", "def"]), max_size=60), st.integers(2, 7))
def test_looking_at_fewer_places_finds_the_same(words: list[str], n: int) -> None:
    text = " ".join(words)
    none = {"lines": 1, "line_characters": 1, "top_runs": [], "repeated_runs": [1.0] * (n - 2) + [0.0]}
    found = repetition(text, **none)
    characters = plainly(words, n)
    assert found == (Drop(f"repeated runs of {n} words", characters / len(text)) if characters else None)


@given(st.lists(st.sampled_from(["a", "bc", "def", "ghij"]), min_size=1, max_size=60), st.integers(2, 5))
def test_looking_at_fewer_places_finds_the_most_frequent(words: list[str], n: int) -> None:
    text = " ".join(words)
    runs = [" ".join(words[i : i + n]) for i in range(len(words) - n + 1)]
    often = max(map(runs.count, runs), default=1)
    found = repetition(text, lines=1, line_characters=1, top_runs=[1.0] * (n - 2) + [0.0], repeated_runs=[])
    if often > 1:
        top = next(run for run in runs if runs.count(run) == often)
        assert found == Drop(f"frequent run of {n} words", min(1.0, often * len(top) / len(text)))
    else:
        assert found is None
