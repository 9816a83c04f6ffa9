"""Settings of a tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from idiolect.config import Settings

Kind = Literal["word", "char", "byte", "bpe", "wordpiece", "unigram"]


class TokenizerSettings(Settings):
    """How text is cut into tokens."""

    kind: Kind = "bpe"
    """word, char, byte, bpe (byte-level), wordpiece or unigram."""
    size: int = Field(default=4096, ge=3, le=4_000_000)
    """Tokens in the vocabulary, special ones included; a limit for word and char, no effect on byte (always 258)."""
    pattern: str | None = None
    """Regular expression that cuts text before pieces are learnt; for word, it matches the words and the rest is
    dropped. Only the last part of each alternative may repeat without bound. Not for char and byte."""
    lowercase: bool = False
    """Lower-case the text first; the tokenizer is then lossy and says so."""
    sample: int = Field(default=128_000_000, ge=1)
    """Bytes of text that are learnt from at most; of a longer text, stretches (or documents) drawn evenly from all of
    it. Bounds the memory of learning; no effect on char and byte, which take none."""
    from_: Path | None = Field(default=None, alias="from")
    """A folder with a tokenizer.json (or GPT-2's two files, or BERT's vocab.txt) to use instead of learning one."""

    model_config = {"populate_by_name": True}
