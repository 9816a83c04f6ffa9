"""A document as filters look at it."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cached_property

from idiolect.text.document import Document, Drop
from idiolect.text.filtering.language import language_of

PARAGRAPHS = re.compile(r"\n{2,}")
LETTER = r"[^\W\d_]"
APART = "|".join(
    [
        rf"(?<={LETTER})(?:[-–—~]+|,)(?={LETTER})",  # well-known, one,two
        rf"[:<>=/](?={LETTER})",  # key=value, and/or; but 12:30
        r"(?<=[a-z])\.(?=[A-Z])",  # the end.The next; but idiolect.text
        r"\.\.+|…",
        r"(?<=\d)[+\-*^](?=[\d-])",  # 2+2
        r"['’](?:[sm]|re|ve|ll)\b|(?<=n)['’]t\b",  # it's, don't; but banish'd
    ]
)
"""What stands between two words with no space about it. Other marks there join what they stand between."""
PIECES = re.compile(
    rf"""\S(?:
        (?<=\w)\w*                                             # a word,
        (?:(?=[^\w\s])(?!{APART})[^\w\s]+\w+)*                #   with what is joined to it,
        (?:(?<=[^\w'’]{LETTER})\.)?                           #   and the point of an initial
      | (?<=['’])(?:[stm]|re|ve|ll)\b                         # the rest of a contraction
      | (?<=[-/\\@|~^+.])[-/\\@|~^+.]*                         # a rule, an arrow, an ellipsis
      |)                                                      # any other mark""",
    re.VERBOSE,
)
"""Words and punctuation marks, each apart: close to what spaCy's tokenizer makes of English, in one expression."""


class Page:
    """A document with its words, lines and paragraphs, each found once, when first asked for."""

    def __init__(self, document: Document) -> None:
        self.document = document
        self.text = document.text

    @cached_property
    def words(self) -> list[str]:
        """Its words, as white space sets them apart."""
        return self.text.split()

    @cached_property
    def pieces(self) -> list[str]:
        """Its words and punctuation marks, each apart."""
        return PIECES.findall(self.text)

    @cached_property
    def lines(self) -> list[str]:
        """Its lines."""
        return self.text.split("\n")

    @cached_property
    def full_lines(self) -> list[str]:
        """Its lines that are not blank."""
        return [line for line in self.lines if line and not line.isspace()]

    @cached_property
    def paragraphs(self) -> list[str]:
        """Its paragraphs, which blank lines set apart."""
        text = self.text.strip()
        return PARAGRAPHS.split(text) if "\n\n\n" in text else text.split("\n\n")

    @cached_property
    def language(self) -> tuple[str, float]:
        """Its language, an ISO 639-1 code, and how probable that is. Raises UserError without py3langid."""
        return language_of(self.text)


Filter = Callable[[Page], Drop | None]
"""None keeps a document; a Drop says why it is left out."""
Cleaner = Callable[[Page], str]
"""What is left of the text of a document."""
