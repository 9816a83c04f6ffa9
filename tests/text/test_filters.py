"""What holds for every filter, and the length of a document."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from idiolect.text.document import Document, Drop
from idiolect.text.filtering import filters, web_rules
from idiolect.text.filtering.filters import CLEANERS, FILTERS, LEARN, Resources
from idiolect.text.filtering.page import Page
from idiolect.text.settings import C4Settings, CurateSettings, LengthSettings

ANY = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=200),
    st.text(st.sampled_from("a. \n\t…•#{'\"-0"), max_size=200),
)


def page(text: str) -> Page:
    return Page(Document(text, "t:0", "t"))


@pytest.mark.parametrize("name", sorted(FILTERS.keys() - LEARN.keys()))
@given(text=ANY)
def test_no_filter_fails_on_any_text(name: str, text: str) -> None:
    found = FILTERS[name](CurateSettings(), Resources())(page(text))
    assert found is None or isinstance(found, Drop)


HOSTILE = [
    "." * 10**5 + "x",
    "a" + "-" * 10**5 + "!",
    "a'" * 10**5,
    "[1" * 10**5,
    "a." * 10**5,
    "\n" * 10**5,
    "·…" * 10**5,
]


@pytest.mark.timeout(20)
@pytest.mark.parametrize("text", HOSTILE, ids=[text[:2] + text[-1] for text in HOSTILE])
def test_time_grows_with_the_length_only(text: str) -> None:
    """Each takes a tenth of a second; were it quadratic, a quarter of an hour."""
    for name in sorted(FILTERS.keys() - LEARN.keys()):
        FILTERS[name](CurateSettings(), Resources())(page(text))
    web_rules.c4_lines(page(text), C4Settings(terminal_punctuation=False, min_words_per_line=0, max_word_length=10**9))


def test_every_filter_is_on_the_page_about_them() -> None:
    page = (Path(__file__).parents[2] / "docs/filters.md").read_text(encoding="utf-8")
    assert [name for name in [*FILTERS, *CLEANERS] if f"`{name}`" not in page] == []


@given(text=ANY)
def test_no_cleaner_fails_on_any_text(text: str) -> None:
    for make in CLEANERS.values():
        left = make(CurateSettings())(page(text))
        assert isinstance(left, str) and len(left) <= len(text)


def test_length() -> None:
    limits = LengthSettings(min_characters=3, max_characters=11, min_words=2, max_words=5)

    def length(text: str) -> Drop | None:
        return filters.length(page(text), limits)

    assert length("a b") is None and length("ab") == Drop("few characters", 2)
    assert length("abcde  fghi") is None and length("abcde  fghij") == Drop("many characters", 12)
    assert length("abc") == Drop("few words", 1)
    assert length("a b c d e") is None and length("a b c d e f") == Drop("many words", 6)
