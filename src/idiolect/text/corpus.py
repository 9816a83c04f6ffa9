"""A body of text that can be read again and again, and cut into training and held-out text."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from idiolect import files
from idiolect.errors import UserError
from idiolect.text.document import Document
from idiolect.text.passport import Passport, of_documents
from idiolect.text.read import Unit, files_of, kind_of, read


@dataclass(frozen=True)
class Range:
    """A stretch of a corpus: documents or (of its only document) characters start ≤ i < stop."""

    unit: Literal["documents", "characters"]
    start: int
    stop: int

    def of(self, documents: Iterable[Document]) -> Iterator[Document]:
        """The documents, parts of documents or pieces of parts that lie in the range."""
        position = 0
        for document in documents:
            if position >= self.stop:
                return
            if self.unit == "documents":
                if position >= self.start:
                    yield document
                position += document.last
                continue
            first, last = max(self.start - position, 0), self.stop - position
            position += len(document.text)
            text = document.text[first:last]
            if text:
                yield document._replace(text=text, last=document.last or position >= self.stop)


class Corpus:
    """The documents of some files; iterating reads them again from the disk.

    Raises UserError, on iterating, for everything that `text.read.read` refuses.
    """

    def __init__(
        self,
        paths: Sequence[Path | str],
        document: Unit = "file",
        field: str = "text",
        ranges: tuple[Range, ...] = (),
    ) -> None:
        self.files = files_of(paths)
        self.document: Unit = document
        self.field = field
        self.ranges = ranges

    def __iter__(self) -> Iterator[Document]:
        documents: Iterator[Document] = read(self.files, document=self.document, field=self.field)
        for stretch in self.ranges:
            documents = stretch.of(documents)
        return documents

    def passports(self) -> Iterator[Passport]:
        """One of each document, in their order; of a document that is cut, the whole one's."""
        return of_documents(self)

    @functools.cached_property
    def fingerprint(self) -> str:
        """SHA-256 over the content and kind of the files and the way they are read, not over their names."""
        settings = [self.document, self.field, [[r.unit, r.start, r.stop] for r in self.ranges]]
        digest = hashlib.sha256(json.dumps(settings).encode())
        for path in self.files:
            digest.update(f"{kind_of(path)} {_sha256(path)}\n".encode())
        return digest.hexdigest()

    def split(self, share: float) -> tuple[Corpus, Corpus]:
        """(training text, held-out text): the last `share` of the documents is held out.

        Of n documents int(n · (1 - share)) stay; a lone document is cut after int(characters · (1 - share)).
        Raises UserError when either half would hold no text.
        """
        if not 0 < share < 1:
            raise UserError(f"a share of {share} cannot be held out", "give a share between 0 and 1, for example 0.1")
        documents = characters = 0
        for found in self:
            documents += found.last
            characters += len(found.text)
        unit: Literal["documents", "characters"] = "documents" if documents > 1 else "characters"
        total = documents if documents > 1 else characters
        cut = int(total * (1 - share))
        halves = (self._within(Range(unit, 0, cut)), self._within(Range(unit, cut, total)))
        for half, name in zip(halves, ("training", "held-out"), strict=True):
            if not any(found.text.strip() for found in half):
                raise UserError(
                    f"holding out a share of {share} of {total} {unit} leaves no {name} text",
                    "give more text, another share, or a file of its own to hold out",
                )
        return halves

    def _within(self, stretch: Range) -> Corpus:
        return Corpus(self.files, self.document, self.field, (*self.ranges, stretch))


def _sha256(path: Path) -> str:
    try:
        return files.sha256(path)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}", "check the path and its permissions") from None
