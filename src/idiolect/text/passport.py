"""Which documents a model was trained on: a passport of each, in one file beside the model's weights.

    documents.jsonl.gz    gzip members, one for each text that the model, or one that it was made from, was trained on:
                          {"corpus": FINGERPRINT}                          what the lines below it were
                          {"id": …, "url": …, "source": …, "licence": …}   a document, in the order of the text
                          {"unknown": NAME}                                a model whose documents are not known

A model that starts from another has that one's file before its own: what went in stays in. The bytes depend on the
documents alone.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from idiolect.errors import UserError
from idiolect.text.document import Document
from idiolect.text.stream import chunks, lines

FILE = "documents.jsonl.gz"
TOGETHER = 1000
"""Lines that are packed at once."""


class Passport(NamedTuple):
    """What is kept of a document."""

    id: str
    """Its id in the corpus; of a text without one, its file's name and its number there."""
    url: str | None = None
    """Where it was read."""
    source: str | None = None
    """The crawl or collection it comes from, or its file's name."""
    licence: str | None = None
    """As the corpus has it."""

    def json(self) -> dict[str, str]:
        """The fields that are there."""
        return {name: value for name, value in self._asdict().items() if value is not None}


class Listed(NamedTuple):
    """Documents of which only the passports are still there."""

    fingerprint: str
    listed: tuple[Passport, ...]

    def passports(self) -> Iterator[Passport]:
        """All of them."""
        return iter(self.listed)


class Section(NamedTuple):
    """What the documents after it belong to."""

    corpus: str | None = None
    """The fingerprint of the text that they are."""
    unknown: str | None = None
    """A model that was gone out from, of which no documents are known."""


def passport(row: Mapping[str, Any], place: str, file: str, texts: Collection[str] = ()) -> Passport:
    """The passport of a row, or of a document's other fields, at a place (`plays.txt:3`) in a file of that name.

    texts: fields that are learnt from, and so say nothing about the document, whatever they are called.
    """
    row = {name: row.get(name) for name in ("id", "url", "source", "licence", "license") if name not in texts}
    named = row.get("id")
    known = isinstance(named, (str, int)) and not isinstance(named, bool) and named != ""
    return Passport(
        str(named) if known else place,
        _said(row, "url"),
        _said(row, "source") or file,
        _said(row, "licence") or _said(row, "license"),
    )


def _said(row: Mapping[str, Any], name: str) -> str | None:
    value = row.get(name)
    return value if isinstance(value, str) and value else None


def of_documents(documents: Iterable[Document]) -> Iterator[Passport]:
    """The passports of documents, of one that comes in parts once."""
    fresh = True
    for document in documents:
        if fresh:
            yield passport(document.metadata, document.id, Path(document.source).name)
        fresh = document.last


def write(file: BinaryIO, section: Section, passports: Iterable[Passport] = ()) -> None:
    """Adds a section to an open file, in bounded memory."""
    with gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=0) as packed:
        head = {name: value for name, value in section._asdict().items() if value is not None}
        held = [_line(head)]
        for one in passports:
            held.append(_line(one.json()))
            if len(held) >= TOGETHER:
                packed.write(b"".join(held))
                held = []
        packed.write(b"".join(held))


def _line(value: Mapping[str, str]) -> bytes:
    return json.dumps(value, ensure_ascii=True, separators=(",", ":")).encode("ascii") + b"\n"


def read(path: Path) -> Iterator[Section | Passport]:
    """The sections of a file and the documents of each. Raises UserError for a file that is damaged."""
    for number, line in enumerate(lines(chunks(path), path, b"\n"), start=1):
        try:
            row = json.loads(line)
            yield Passport(**row) if "id" in row else Section(**row)
        except (ValueError, TypeError, RecursionError):
            raise UserError(f"{path}: line {number} is no document", "restore the model from a copy") from None
