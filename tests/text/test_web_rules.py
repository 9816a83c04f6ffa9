"""C4's and FineWeb's rules: just inside each threshold, and just outside."""

from __future__ import annotations

import pytest

from idiolect.text.document import Document, Drop
from idiolect.text.filtering import web_rules
from idiolect.text.filtering.page import Page
from idiolect.text.settings import C4Settings, FineWebSettings, SymbolSettings


def page(text: str) -> Page:
    return Page(Document(text, "t:0", "t"))


def lines(text: str, **settings: object) -> str:
    return web_rules.c4_lines(page(text), C4Settings(**settings))


def c4(text: str, **settings: object) -> Drop | None:
    return web_rules.c4(page(text), C4Settings(**settings))


def fineweb(text: str, **settings: object) -> Drop | None:
    return web_rules.fineweb(page(text), FineWebSettings(**settings))


@pytest.mark.parametrize("end", [".", "!", "?", '"', "'", "”", "。"])
def test_c4_keeps_lines_that_end_as_sentences_do(end: str) -> None:
    good = f"One two three four five{end}"
    assert lines(f"A menu\n  {good} \nNo end of a line\n{good}") == f"{good}\n{good}"


@pytest.mark.parametrize(
    "line",
    [
        "One two three four.",
        "One two three four five",
        "One two three four five...",
        "One two three four five:",
        "You must enable JavaScript for this.",
        "By going on you accept our Terms of Use.",
        "This site uses cookies to be nice.",
        f"One two three four {'w' * 1000}.",
        "",
    ],
)
def test_c4_leaves_lines_out(line: str) -> None:
    good = "One two three four five."
    assert lines(f"{good}\n{line}\n{good}") == f"{good}\n{good}"


def test_c4_lines_at_their_thresholds() -> None:
    longest = f"One two three four {'w' * 999}."
    assert lines(longest) == longest
    assert lines("One two.", min_words_per_line=2) == "One two."
    assert lines("One", min_words_per_line=1, terminal_punctuation=False) == "One"
    assert lines("Scripts of Javascript are kept here.", javascript=False) == "Scripts of Javascript are kept here."
    assert lines("We have a cookie policy here.", policies=False) == "We have a cookie policy here."


def test_c4_takes_citations_out() -> None:
    assert lines("It is so.[1] It was so.[citation needed][edit][]") == "It is so. It was so."
    assert lines("It is so.[1] It was so.", citations=False) == "It is so.[1] It was so."
    assert lines("It is [sic] as it was before.") == "It is [sic] as it was before."


def test_c4_counts_sentences() -> None:
    assert c4("One. Two! Three?") is None
    assert c4("One. Two.") == Drop("few sentences", 2)
    assert c4("Version 1.2.3 of idiolect.text is out") == Drop("few sentences", 0)
    assert c4('"One." "Two!" (Three.)\nFour') is None
    assert c4("一。二！三？四") is None
    assert c4("", min_sentences=0) is None


def test_c4_drops_placeholders_and_code() -> None:
    assert c4("One. Two. Three. Lorem Ipsum dolor.") == Drop("lorem ipsum")
    assert c4("One. Two. Three. Lorem Ipsum dolor.", lorem_ipsum=False) is None
    assert c4("One. Two. Three. if (x) {") == Drop("curly bracket")
    assert c4("One. Two. Three. if (x) {", curly_brackets=False) is None


def long(number: int, end: str = "") -> str:
    """A line of 40 characters."""
    return f"line {number:03} has quite a few words in it".ljust(40 - len(end), "x") + end


def test_fineweb_wants_lines_that_end() -> None:
    ended = [long(i, ".") for i in range(3)]
    assert fineweb("\n".join([*ended, *map(long, range(3, 24))])) is None  # 3 of 24: 0.125
    assert fineweb("\n".join([*ended, *map(long, range(3, 25))])) == Drop("few lines end in punctuation", 0.12)
    assert fineweb("\n \n") == Drop("no lines", 0)


def test_fineweb_wants_long_lines() -> None:
    short = [f"{i:028}." for i in range(67)]  # of 29 characters
    longer = [long(i, ".") for i in range(34)]
    assert fineweb("\n".join(short[:66] + longer)) is None
    assert fineweb("\n".join(short + longer[:33])) == Drop("many short lines", 0.67)
    assert fineweb("\n".join([f"{i:029}." for i in range(67)] + longer[:33])) is None  # of 30


def test_fineweb_wants_different_lines() -> None:
    different = [long(i, ".") for i in range(10)]
    assert fineweb("\n".join([*different, different[0]])) is None  # 40 of 440 characters
    assert fineweb("\n".join([*different[:9], different[0]])) == Drop("characters in repeated lines", 0.1)


def test_fineweb_wants_lines_of_several_words() -> None:
    wide = [f"{'w' * 20} {i:03} {'v' * 10}" for i in range(7)]  # three words each
    assert fineweb("\n".join(wide), min_ended_lines=0, max_line_breaks=6 / 21) == Drop(
        "few lines end in punctuation", 0
    )
    wide = [line + "." for line in wide]  # and a mark: 6 breaks, 28 words and marks
    assert fineweb("\n".join(wide), max_line_breaks=6 / 28) is None
    assert fineweb("\n".join(wide), max_line_breaks=0.21) == Drop("many line breaks", 6 / 28)


def test_symbols() -> None:
    def symbols(text: str) -> Drop | None:
        return web_rules.symbols(page(text), SymbolSettings())

    assert symbols("abcéüß12 .") is None
    assert symbols("abcéü12_ .") == Drop("few letters", 0.5)
    assert symbols("") is None
