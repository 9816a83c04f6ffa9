"""A document as filters look at it."""

from __future__ import annotations

import re
from functools import cached_property

from idiolect.text.document import Document

PARAGRAPHS = re.compile(r"\n{2,}")


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
    def lines(self) -> list[str]:
        """Its lines."""
        return self.text.split("\n")

    @cached_property
    def paragraphs(self) -> list[str]:
        """Its paragraphs, which blank lines set apart."""
        return PARAGRAPHS.split(self.text.strip())
