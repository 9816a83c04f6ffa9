"""The verbs `tokenizer train`, `encode` and `decode`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from idiolect import files
from idiolect.text.corpus import Corpus
from idiolect.tokens import learn
from idiolect.tokens.settings import TokenizerSettings
from idiolect.tokens.tokenizer import Tokenizer


def train_tokenizer(
    text: Sequence[Path | str], out: Path | str, settings: TokenizerSettings | None = None
) -> dict[str, Any]:
    """Learns a tokenizer from files of text and saves it to the folder `out`; returns what it is.

    Raises UserError for text that cannot be read or is too little for the vocabulary, and when `out` is in the way.
    """
    settings = settings or TokenizerSettings()
    corpus = Corpus(text)
    tokenizer = learn.train((document.text for document in corpus), settings)
    with files.new_folder(Path(out)) as aside:
        tokenizer.save(aside)
    return {
        "folder": str(out),
        "kind": tokenizer.kind,
        "size": tokenizer.size,
        "lossless": tokenizer.lossless,
        "loses": list(tokenizer.loses),
    }


def encode(tokenizer: Path | str, text: str) -> dict[str, Any]:
    """{"ids", "tokens"} of a text."""
    found = Tokenizer.load(Path(tokenizer))
    ids = found.encode(text)
    return {"ids": ids, "tokens": found.pieces(ids)}


def decode(tokenizer: Path | str, ids: Sequence[int]) -> str:
    """The text of ids."""
    return Tokenizer.load(Path(tokenizer)).decode(list(ids))
