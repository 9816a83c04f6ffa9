"""Settings of a curation: what becomes of raw documents; torch-free."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from idiolect.config import Settings


class ReadingSettings(Settings):
    """How documents are found in files."""

    document: Literal["file", "paragraph", "line"] = "file"
    """What one document of a plain text file is; a row, page or record is always one document."""
    field: str = "text"
    """The field of a jsonl, csv or parquet row that holds the text."""


class NormaliseSettings(Settings):
    """How a text is written, whatever it says."""

    repair: bool = True
    """Mend text that was decoded with the wrong encoding."""


class LanguageSettings(Settings):
    """Which languages are kept."""

    keep: tuple[str, ...] = ()
    """ISO 639-1 codes of the languages that are kept; none: all of them."""


class UrlSettings(Settings):
    """Documents of one address."""

    drop: bool = True
    """Keep the first document of each address only."""


class ExactSettings(Settings):
    """Documents of one text."""

    drop: bool = True
    """Keep the first document of each text only."""


class NearSettings(Settings):
    """Documents of nearly one text."""

    drop: bool = True
    """Keep one of documents that are nearly the same."""
    threshold: float = Field(default=0.8, gt=0, le=1)
    """The Jaccard similarity of their shingles at which two documents are nearly the same."""


class LinesSettings(Settings):
    """Lines that come again and again."""

    drop: bool = False
    """Keep the first of equal lines, over all documents, only."""


class PrivacySettings(Settings):
    """What is told of persons."""

    redact: tuple[str, ...] = ()
    """Kinds of personal data that are replaced by a placeholder."""


class ConsentSettings(Settings):
    """Who agreed to what."""

    require_licence: bool = False
    """Leave out documents whose licence is not known."""


class CurateSettings(Settings):
    """A curation: the steps from raw documents to a corpus, in their order."""

    read: ReadingSettings = ReadingSettings()
    """How documents are found in files."""
    normalise: NormaliseSettings = NormaliseSettings()
    """How a text is written."""
    filters: tuple[str, ...] = ()
    """The filters a document must pass, in their order."""
    language: LanguageSettings = LanguageSettings()
    """The filter of languages."""
    consent: ConsentSettings = ConsentSettings()
    """Licences, robots.txt and removal lists."""
    privacy: PrivacySettings = PrivacySettings()
    """What is redacted."""
    url: UrlSettings = UrlSettings()
    """Documents of one address."""
    exact: ExactSettings = ExactSettings()
    """Documents of one text."""
    near: NearSettings = NearSettings()
    """Documents of nearly one text."""
    lines: LinesSettings = LinesSettings()
    """Lines that come again."""
