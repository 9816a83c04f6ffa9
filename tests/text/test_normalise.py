"""One way of writing a text."""

from __future__ import annotations

import re

import ftfy
import pytest
from ftfy.badness import MOJIBAKE_CATEGORIES, is_bad
from hypothesis import given, settings
from hypothesis import strategies as st

from idiolect.text.curation.normalise import _mender, normalise, repaired
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


KINDS = re.compile(f"[{''.join(MOJIBAKE_CATEGORIES.values())}ВГРСвЂΒΞΟ]")
MINDED = [chr(i) for i in range(0x80, 0x10000) if KINDS.match(chr(i))]
MIXED = st.text(
    st.sampled_from([*"aZ \n\r\t.\x00\x85\u0301\u2028"]) | st.sampled_from(MINDED) | st.characters(codec="utf-8")
)
BROKEN = MIXED.map(lambda text: text.encode("utf-8", "replace").decode("latin-1"))


@settings(deadline=None, max_examples=1000)
@given(MIXED | BROKEN, st.builds(NormaliseSettings, **dict.fromkeys(NormaliseSettings.model_fields, st.booleans())))
def test_twice_is_once(text: str, some: NormaliseSettings) -> None:
    for asked in (ALL, some):
        once = normalise(text, asked)
        assert normalise(once, asked) == once


@settings(deadline=None, max_examples=1000)
@given(MIXED | BROKEN | st.text(st.sampled_from("ВГРСΒΓΞΟвЂĂÃÂ œ°“”»€a")))
def test_what_is_not_looked_at_is_what_ftfy_would_leave(text: str) -> None:
    suspect, _ = _mender()
    for line in text.split("\n"):
        assert suspect(line) or not is_bad(line)
    assert repaired(text) == "\n".join(ftfy.fix_encoding(line) for line in text.split("\n"))


def test_every_pair_that_ftfy_minds_is_looked_at() -> None:
    suspect, _ = _mender()
    for first in MINDED:
        lines = [f"{first}{second} a{first}{second}a {first}{second}{second} {second}{first}²" for second in MINDED]
        assert [line for line in lines if is_bad(line) and not suspect(line)] == []


TEXTS = [
    "“It’s” – she said… 20 € • ½ × 3 °C ‘so’ «là» ‹ici› £5 ©2020™ §4 ¶ naïve—café",
    "Größe, Straße, ÄÖÜ äöü ß; ÇA VA À L’ŒUVRE; ÉÈÊË éèêë œuvre, Ñandú, SÃO João",
    "Příliš žluťoučký kůň; zażółć gęślą jaźń; İstanbul ığşç; ŐŰ őű; āčēģīķļņšūž",
    "Привет, «мир» — Ђорђе, Їжак, ВГРС; Ελλάδα, ΒΓΞΟ «καλή»; شكرا جزيلا؛ मेरा नाम",
    "汉字、かな。한국어 😀 ‰ † ‡ ˆ ˜ ¤ ¦ ¬ ¯ ¸ º ª ¹²³ ¼¾ µ ± ÷ √ ≈ ≠ ≤ ∂ ∆ ∞ ░▒▓│┤╣",
]
ENCODINGS = [
    *("latin-1", "cp1250", "cp1251", "cp1252", "cp1253", "cp1254", "cp1257"),
    *("iso-8859-2", "mac-roman", "cp437"),
]


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_text_of_the_wrong_encoding_is_mended_as_ftfy_mends_it(encoding: str) -> None:
    mended = 0
    for text in TEXTS:
        for cut in range(len(text)):  # any part of it, as the pairs around a cut differ
            for piece in (text[: cut + 1], text[cut:], text[cut : cut + 5]):
                broken = piece.encode("utf-8").decode(encoding, "replace").replace("\n", " ")
                for line in (piece, broken):
                    assert repaired(line) == ftfy.fix_encoding(line), line
                mended += broken != repaired(broken)
    assert mended > 100
