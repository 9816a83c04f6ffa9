"""The rules of C4 and FineWeb for web pages, and the share of a page that is letters.

C4: Raffel et al. 2020, JMLR 21(140), section 2.2, and the code that made the set, which also removes citation marks,
notices of policies, and lines with words of more than a thousand characters.
FineWeb: Penedo et al. 2024, arXiv 2406.17557, section 3.6; its rule of line breaks is only in the code that made it.
"""

from __future__ import annotations

import re

from idiolect.text.document import Drop
from idiolect.text.filtering.gopher import repeated
from idiolect.text.filtering.page import Page
from idiolect.text.settings import C4Settings, FineWebSettings, SymbolSettings

ENDS = (".", "!", "?", '"', "'", "”", "’", "»", "。", "！", "？", "」", "؟", "۔", "।")
"""How a line ends that was written to be read: with a terminal punctuation mark or a closing quotation mark."""
ELLIPSES = ("...", "…")
CITATION = re.compile(r"\[(?:\d*|edit|citation needed)\]")
POLICIES = re.compile("terms of use|privacy policy|cookie policy|uses cookies|use of cookies|use cookies")
SENTENCE = re.compile(r"""(?<![.!?؟۔।])[.!?؟۔।]++["'”’»)\]]*+(?=\s|$)|[。！？]""")
"""The end of a sentence: ideographic marks need no space after them. A row of points is looked at once, from its first
on, as a page may have a million of them."""
FILLER = "lorem ipsum"
NO_LETTER = re.compile(r"[\W\d_]+")


def c4_lines(page: Page, settings: C4Settings) -> str:
    """The text without the lines that C4 leaves out, each stripped of white space and citation marks."""
    kept = (_c4_line(line.strip(), settings) for line in page.lines)
    return "\n".join(line for line in kept if line)


def _c4_line(line: str, settings: C4Settings) -> str:
    """What becomes of a line; empty when it is left out."""
    if settings.citations:
        line = CITATION.sub("", line)
    if settings.terminal_punctuation and (not line.endswith(ENDS) or line.endswith(ELLIPSES)):
        return ""
    words = line.split()
    if len(words) < settings.min_words_per_line or max(map(len, words), default=0) > settings.max_word_length:
        return ""
    lower = line.lower()
    if settings.javascript and "javascript" in lower:
        return ""
    return "" if settings.policies and POLICIES.search(lower) else line


def c4(page: Page, settings: C4Settings) -> Drop | None:
    """Drops placeholder text, code, and what has too few sentences; after c4_lines, as C4 does it."""
    if settings.lorem_ipsum and FILLER in page.text.lower():
        return Drop(FILLER)
    if settings.curly_brackets and "{" in page.text:
        return Drop("curly bracket")
    sentences = len(SENTENCE.findall(page.text))
    if sentences < settings.min_sentences:
        return Drop("few sentences", sentences)
    return None


def fineweb(page: Page, settings: FineWebSettings) -> Drop | None:
    """Drops lists, menus and pages that repeat their lines."""
    lines = page.full_lines
    if not lines:
        return Drop("no lines", 0)
    ended = sum(line.rstrip().endswith(ENDS) for line in lines) / len(lines)
    if ended <= settings.min_ended_lines:
        return Drop("few lines end in punctuation", ended)
    short = sum(len(line) < settings.short_line for line in lines) / len(lines)
    if short >= settings.max_short_lines:
        return Drop("many short lines", short)
    characters = len(page.text) - page.text.count("\n")
    again = sum(map(len, repeated(lines))) / characters
    if again >= settings.max_repeated_characters:
        return Drop("characters in repeated lines", again)
    breaks = page.text.count("\n") / len(page.pieces)
    if breaks > settings.max_line_breaks:
        return Drop("many line breaks", breaks)
    return None


def symbols(page: Page, settings: SymbolSettings) -> Drop | None:
    """Drops what is mostly digits, marks and white space: Laurençon et al. 2022 (ROOTS), arXiv 2303.03915."""
    if not page.text:
        return None
    share = sum(map(len, NO_LETTER.findall(page.text))) / len(page.text)
    return Drop("few letters", 1 - share) if share > settings.max_share else None
