"""The language of a text, and the filter of it."""

from __future__ import annotations

import pytest

from idiolect.text.document import Document, Drop
from idiolect.text.filtering import filters, language
from idiolect.text.filtering.language import code, language_of
from idiolect.text.filtering.page import Page
from idiolect.text.settings import LanguageSettings

TEXTS = {
    "en": "It is not known who was the first to draw a map of these islands, but it was long before they were named.",
    "de": "Es ist nicht bekannt, wer als Erster eine Karte dieser Inseln zeichnete, aber es geschah vor langer Zeit.",
    "fr": "On ne sait pas qui a dessiné la première carte de ces îles, mais ce fut bien avant qu'elles aient un nom.",
    "es": "No se sabe quién dibujó el primer mapa de estas islas, pero fue mucho antes de que tuvieran un nombre.",
    "ru": "Неизвестно, кто первым нарисовал карту этих островов, но это было задолго до того, как они получили имя.",
    "zh": "没有人知道是谁最先画出了这些岛屿的地图，但那是在它们有名字之前很久的事。",
}


@pytest.mark.parametrize("code", TEXTS)
def test_languages(code: str) -> None:
    found, probability = language_of(TEXTS[code])
    assert found == code and 0.6 < probability <= 1


@pytest.mark.parametrize("text", ["", "12 + 34 = 46", "\n\n"])
def test_what_has_no_letters_has_no_language(text: str) -> None:
    assert language_of(text) == ("und", 1.0)


def test_a_long_text_is_judged_by_its_beginning_middle_and_end() -> None:
    text = f"{'a' * 5000}{'b' * 600}{'c' * 5000}"
    seen = language.sample(text, 900)
    assert len(seen) == 902
    assert seen.split("\n") == ["a" * 300, "b" * 300, "c" * 300]
    assert language.sample("short", 900) == "short"
    assert language_of(TEXTS["de"] * 5000)[0] == "de"


def test_the_filter_of_languages() -> None:
    def judge(text: str, **settings: object) -> Drop | None:
        return filters.language(Page(Document(text, "t:0", "t")), LanguageSettings(**settings))

    assert judge("12") is None
    assert judge(TEXTS["de"], keep=["de", "fr"]) is None
    assert judge(TEXTS["en"], keep=["de", "fr"]) == Drop("other language", "en")
    probability = language_of(TEXTS["en"])[1]
    assert judge(TEXTS["en"], keep=["en"], min_probability=probability) is None
    assert judge(TEXTS["en"] * 2, keep=["en"], min_probability=1.0) is not None


@pytest.mark.parametrize(
    ("stated", "expected"),
    [
        ("de", "de"),
        ("deu,eng", "de"),
        ("en-GB", "en"),
        ("zh_Hant-TW; q=1", "zh"),
        ("JPN", "ja"),
        ("ceb", "ceb"),  # has three letters only
        ("Old Norse, mostly", "Old Norse, mostly"),
    ],
)
def test_languages_that_are_stated_by_a_code(stated: str, expected: str) -> None:
    assert code(stated) == expected
