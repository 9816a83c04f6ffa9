"""One document of text."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple


class Document(NamedTuple):
    """A text that is read, scored and trained on as a whole. A tuple, as a corpus can have a million a second."""

    text: str
    """The text, without the separator that set it apart in its file."""
    id: str
    """The file's name and the number of the document in it, from 0: `plays.txt:3`."""
    source: str
    """The path of the file it came from."""
    last: bool = True
    """False on all but the final part of a text too long for one piece; its parts follow one another."""
    metadata: Mapping[str, Any] = MappingProxyType({})
    """The other fields of a jsonl or parquet row."""


class Drop(NamedTuple):
    """Why a document is left out."""

    reason: str
    """What is wrong with it, in a few words that are the same for all such documents: `few words`."""
    value: float | str | None = None
    """What was found, where a threshold decided: 31."""
