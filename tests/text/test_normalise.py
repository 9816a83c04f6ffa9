"""One way of writing a text."""

from __future__ import annotations

import ftfy
import pytest
from ftfy.badness import MOJIBAKE_CATEGORIES, is_bad
from hypothesis import given, settings
from hypothesis import strategies as st

from idiolect.text.normalise import _mender, normalise, repaired
from idiolect.text.settings import NormaliseSettings

ALL = NormaliseSettings()
NONE = NormaliseSettings(repair=False, unicode=False, control=False, whitespace=False)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("cafÃ© â\x80\x99s", "café ’s"),
        ("a\u0308 e\u0301", "ä é"),
        ("a\x00b\x07c\ufeff\td", "abc\td"),
        ("one \t\r\n\r\n\r\n \n\n two\rthree\n \n", "one\n\n two\nthree"),
        ("\n\n  def f():\n\treturn 1", "  def f():\n\treturn 1"),
        ("plain “quoted” text – naïve, œuvre, Größe", "plain “quoted” text – naïve, œuvre, Größe"),
    ],
)
def test_by_hand(text: str, expected: str) -> None:
    assert normalise(text, ALL) == expected
    assert normalise(text, NONE) == text


MIXED = st.text(
    st.sampled_from([*"aZ \n\r\t.\x00\x85\u0301\u2028"])
    | st.sampled_from(sorted({c for kind in MOJIBAKE_CATEGORIES.values() for c in kind}))
    | st.characters(codec="utf-8")
)
BROKEN = MIXED.map(lambda text: text.encode("utf-8", "replace").decode("latin-1"))


@settings(deadline=None, max_examples=500)
@given(MIXED | BROKEN)
def test_twice_is_once(text: str) -> None:
    once = normalise(text, ALL)
    assert normalise(once, ALL) == once


@settings(deadline=None, max_examples=1000)
@given(MIXED | BROKEN | st.text(st.sampled_from("ВГРСΒΓΞΟвЂĂÃÂ œ°“”»€a")))
def test_what_is_not_looked_at_is_what_ftfy_would_leave(text: str) -> None:
    suspect, _ = _mender()
    for line in text.split("\n"):
        assert suspect(line) or not is_bad(line)
    assert repaired(text) == "\n".join(ftfy.fix_encoding(line) for line in text.split("\n"))
