"""Settings of the data a model is trained on."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from idiolect.config import Settings


class DataSettings(Settings):
    """Which text, how it is cut into documents, and how documents fill the rows of a batch."""

    train: tuple[Path, ...] = Field(min_length=1)
    """Files or folders of text (txt, md, jsonl, parquet; also .gz and .zst)."""
    validation: Path | float = 0.1
    """A file or folder held out, or the share of the training text (its last documents) to hold out."""
    document: Literal["file", "paragraph", "line"] = "file"
    """What one document of a plain text file is; a row of jsonl or parquet is always one document."""
    field: str = "text"
    """The field of a jsonl or parquet row that holds the text."""
    packing: Literal["documents", "stream"] = "documents"
    """documents: several documents share a row without seeing one another; stream: windows of one endless text."""
